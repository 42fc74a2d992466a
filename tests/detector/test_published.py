"""Evaluation on published ground truth: lengths, conventions, and what is known about both."""

import csv
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from detector.evaluation import evaluate
from detector.scored import scored


def ped2(folder: Path) -> dict[str, np.ndarray]:
    """Frame labels of Ped2's twelve test videos, from the masks."""
    masks = np.load(folder / "ped2" / "masks.npz")
    names = [n for n in masks.files if not n.endswith("prefix")]
    return {n: masks[n].reshape(len(masks[n]), -1).any(axis=1).astype(np.int8) for n in names}


def split(path: Path, part: str) -> list[tuple[str, int]]:
    with path.open() as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == part]
    return [(row["video"], int(row["label"] == "abnormal")) for row in rows]


def test_shanghaitech_perfect_video_level_classifier(shared_data: Path) -> None:
    """On all 199 test videos, every frame once: 141,870 frames, and the 96.45 % of the table."""
    with (shared_data / "splits" / "shanghaitech_weak_test_frames.csv").open() as file:
        rows = list(csv.DictReader(file))
    truth = np.load(shared_data / "labels" / "shanghaitech_gt_test_callbarian.npz")
    frames = [(truth[row["video"]] > 0).astype(np.int8) for row in rows]
    assert [len(y) for y in frames] == [int(row["frames"]) for row in rows]
    labels = [int(row["label"] == "abnormal") for row in rows]
    rng = np.random.default_rng(0)
    scores = [np.repeat(rng.normal(size=len(y) // 16 + 1), 16)[: len(y)] for y in frames]
    found = evaluate(scored(scores, frames, labels, names=[row["video"] for row in rows]))
    assert (found.frames, found.anomalous_frames) == (141_870, 7_962)
    assert (found.abnormal_videos, found.normal_videos) == (44, 155)
    assert found.perfect.auc == pytest.approx(0.9645, abs=5e-5)
    y, s = np.concatenate(frames), np.concatenate(scores)
    assert found.overall.auc == pytest.approx(roc_auc_score(y, s))
    # Guessing: the interval holds a half.
    assert found.overall.auc_interval is not None
    assert found.overall.auc_interval[0] < 0.5 < found.overall.auc_interval[1]


@pytest.mark.parametrize(
    ("file", "entries", "anomalous", "perfect"),
    [
        ("RTFM_gt-sh.npy", 142_912, 8_028, 0.963154),
        ("TEVAD_gt-sh2.npy", 143_888, 8_028, 0.963418),
        ("WSTD-VAD_gt-sh.npy", 140_704, 7_932, 0.962206),
    ],
)
def test_shanghaitech_conventions(
    shared_data: Path, file: str, entries: int, anomalous: int, perfect: float
) -> None:
    """The same videos under three published conventions: which one it is moves a perfect
    video-level classifier by 0.2 points."""
    truth = (np.load(shared_data / "labels" / file) > 0).astype(np.int8)
    assert (len(truth), int(truth.sum())) == (entries, anomalous)
    frames = [truth[:17_968], truth[17_968:]]  # abnormal videos come first
    by_label = [np.ones(17_968), np.zeros(entries - 17_968)]
    found = evaluate(scored(by_label, frames, [1, 0]), resamples=1)
    assert found.overall.auc == pytest.approx(perfect, abs=1e-6)
    assert found.perfect.auc == found.overall.auc
    assert found.inside.auc == 0.5
    assert found.overall.auc == roc_auc_score(truth, np.concatenate(by_label))


def test_ceil_convention_repeats_the_last_label(shared_data: Path) -> None:
    """The first 17,968 published entries are the 44 abnormal videos' masks, padded to clips."""
    rows = split(shared_data / "splits" / "shanghaitech_weak.csv", "test")
    masks = np.load(shared_data / "labels" / "shanghaitech_test_frame_mask.npz")
    abnormal = [(masks[name] > 0).astype(np.int8) for name, label in rows if label]
    padded = [np.pad(y, (0, -len(y) % 16), mode="edge") for y in abnormal]
    published = np.load(shared_data / "labels" / "RTFM_gt-sh.npy")[:17_968]
    clips = [np.random.default_rng(n).normal(size=len(y) // 16) for n, y in enumerate(padded)]
    np.testing.assert_array_equal(np.concatenate(padded), published > 0)
    found = evaluate(scored([np.repeat(c, 16) for c in clips], padded, [1] * 44))
    expected = roc_auc_score(published > 0, np.repeat(np.concatenate(clips), 16))
    assert found.overall.auc == pytest.approx(expected)
    assert found.inside == found.overall  # there are no others
    assert (found.frames, found.anomalous_frames) == (17_968, 8_028)


def test_ped2_floor_convention(shared_data: Path) -> None:
    """The floor rule over the published list gives the published array, and so its figures."""
    truth = ped2(shared_data)
    assert sum(len(y) for y in truth.values()) == 2010
    assert sum(int(y.sum()) for y in truth.values()) == 1648
    rows = split(shared_data / "splits" / "ped2_weak_FatemeBameri_s6.csv", "test")
    lengths = {
        p.stem: len(np.load(p, mmap_mode="r"))
        for p in (shared_data / "features" / "ped2_movinet_a0_10crop").glob("*.npy")
    }
    # All of Ped2's videos have 120, 150 or 180 frames: 8, 10 or 12 clips.
    of_clips = {8: 120, 10: 150, 12: 180}
    frames = [truth.get(name, np.zeros(of_clips[lengths[name]], np.int8)) for name, _ in rows]
    frames = [y[: len(y) // 16 * 16] for y in frames]
    published = np.load(shared_data / "labels" / "FatemeBameri_gt_s6_ped2.npy")
    np.testing.assert_array_equal(np.concatenate(frames), published)
    rng = np.random.default_rng(0)
    scores = [np.repeat(rng.normal(size=len(y) // 16), 16) for y in frames]
    found = evaluate(scored(scores, frames, [label for _, label in rows]))
    assert (found.frames, found.anomalous_frames) == (2816, 687)
    s = np.concatenate(scores)
    assert found.overall.auc == pytest.approx(roc_auc_score(published, s))
    assert found.overall.ap == pytest.approx(average_precision_score(published, s))


def test_ped2_videos_that_are_anomalous_throughout(shared_data: Path) -> None:
    """008 to 011: no AUC of their own."""
    truth = ped2(shared_data)
    rng = np.random.default_rng(0)
    scores = [rng.normal(size=len(y)) for y in truth.values()]
    found = evaluate(scored(scores, list(truth.values()), [1] * 12), resamples=100)
    assert found.all_anomalous_videos == 4
    assert found.inside_mean_videos == 8
    own = [roc_auc_score(y, s) for y, s in zip(truth.values(), scores, strict=True) if not y.all()]
    assert found.inside_mean == pytest.approx(np.mean(own))
    assert found.video_auc is None
