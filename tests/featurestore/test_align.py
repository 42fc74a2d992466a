"""Clip scores and frame labels under three conventions, and against published arrays."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore import align
from featurestore.align import CONVENTIONS, Convention
from featurestore.clips import clip_count, clip_starts
from featurestore.errors import UsageError
from featurestore.splits import TEST, read_csv

conventions = st.sampled_from(CONVENTIONS)

# Frames of Ped2's videos, in the order of their names.
PED2_TEST = [180, 180, 150, 180, 150, 180, 180, 180, 120, 150, 180, 180]
PED2_TRAIN = [120, 150, 150, 180, 180, 150, 150, 120, 180, 180, 180, 180, 180, 150, 150, 150]


@pytest.mark.parametrize(
    ("frames", "counts"),
    [(0, (0, 0, 0)), (1, (1, 0, 16)), (16, (16, 16, 16)), (40, (40, 32, 48)), (48, (48, 48, 48))],
)
def test_frames_that_count(frames: int, counts: tuple[int, int, int]) -> None:
    assert tuple(align.frame_count(frames, of) for of in CONVENTIONS) == counts
    for of, count in zip(CONVENTIONS, counts, strict=True):
        assert align.frame_labels(np.zeros(frames, np.int8), of).shape == (count,)
        assert align.frame_scores(np.zeros(clip_count(frames)), frames, of).shape == (count,)


def test_the_last_clip_gives_only_the_frames_that_no_other_has() -> None:
    scores = [0.0, 1.0, 2.0]  # clips at 0, 16 and 24
    assert align.frame_scores(scores, 40).tolist() == [0] * 16 + [1] * 16 + [2] * 8
    assert align.frame_scores(scores, 40, "floor").tolist() == [0] * 16 + [1] * 16
    assert align.frame_scores(scores[:2], 40, "floor").tolist() == [0] * 16 + [1] * 16
    assert align.frame_scores(scores, 40, "ceil").tolist() == [0] * 16 + [1] * 16 + [2] * 16
    assert align.frame_scores([7.0], 3).tolist() == [7] * 3
    assert np.isnan(align.frame_scores([0.0, np.nan], 20)[16:]).all()
    assert align.frame_scores(np.zeros(3, np.float32), 40).dtype == np.float32


def test_labels_of_the_tail() -> None:
    labels = np.arange(40) % 7
    assert align.frame_labels(labels, "floor").tolist() == labels[:32].tolist()
    assert align.frame_labels(labels, "ceil").tolist() == [*labels, *[labels[-1]] * 8]
    assert align.frame_labels(labels).tolist() == labels.tolist()


@given(st.lists(st.integers(0, 1), max_size=100), conventions)
def test_labels_there_and_back(labels: list[int], of: Convention) -> None:
    aligned = align.frame_labels(np.array(labels, np.int8), of)
    back = align.labels_as_decoded(aligned, len(labels), of)
    kept = align.frame_count(len(labels), "floor") if of == "floor" else len(labels)
    assert back.tolist() == labels[:kept] + [-1] * (len(labels) - kept)


@given(st.integers(1, 400))
def test_clips_are_spans_too(frames: int) -> None:
    """`ours` is the rule of spans (the first one to hold a frame has it) on our own clips."""
    starts = clip_starts(frames)
    scores = np.arange(len(starts), dtype=float)
    by_spans = align.span_scores(scores, starts, np.minimum(starts + 16, frames), frames)
    assert by_spans.tolist() == align.frame_scores(scores, frames).tolist()


@given(st.integers(1, 2000), st.integers(1, 40))
def test_segments_hold_every_frame(frames: int, segments: int) -> None:
    starts, stops = align.segment_spans(frames, segments)
    assert (starts < stops).all()
    assert np.isfinite(align.span_scores(np.arange(segments), starts, stops, frames)).all()
    # As those who average 32 segments cut them: runs of whole clips, at least one clip each.
    clips = clip_count(frames)
    cuts = np.linspace(0, clips, segments + 1, dtype=int)
    for i in range(segments):
        run = range(cuts[i], max(cuts[i] + 1, cuts[i + 1]))
        assert (starts[i], stops[i]) == (16 * run.start, min(16 * run.stop, frames))


def test_segments_of_a_video_of_unknown_length() -> None:
    starts, stops = align.segment_spans(0, 3)
    assert starts.tolist() == stops.tolist() == [-1] * 3
    with pytest.raises(UsageError, match="reach from -1 to -1 in 0 frames"):
        align.span_scores(np.zeros(3), starts, stops, 0)


@given(st.lists(st.integers(0, 100), min_size=1, max_size=9), conventions)
def test_the_convention_is_found_by_the_count(frames: list[int], of: Convention) -> None:
    length = sum(align.frame_count(count, of) for count in frames)
    found = align.convention_of(frames, length)
    assert found is not None
    assert [align.frame_count(c, found) for c in frames] == [
        align.frame_count(c, of) for c in frames
    ]
    assert align.convention_of([10, 20], 31) is None


@pytest.mark.parametrize(
    ("scores", "frames", "of"),
    [([1.0], 40, "ours"), ([1.0, 2.0], 40, "ours"), ([1.0, 2.0], 40, "ceil"), ([[1.0]], 3, "ours")],
)
def test_scores_that_are_not_of_this_video(
    scores: list[float], frames: int, of: Convention
) -> None:
    with pytest.raises(UsageError, match=rf"{frames} frames has \d clips, got scores of shape"):
        align.frame_scores(scores, frames, of)


def test_no_such_convention() -> None:
    with pytest.raises(UsageError, match="'round' is no convention; these are: ours, floor, ceil"):
        align.frame_count(20, "round")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="has 32 labels under 'floor'"):
        align.labels_as_decoded(np.zeros(40), 40, "floor")


def test_published_ped2_is_the_floor_rule(shared_data: Path) -> None:
    masks = np.load(shared_data / "labels" / "MNAD_frame_labels_ped2.npy")[0]
    edges = np.cumsum([0, *PED2_TEST])
    truth = {f"Test{i + 1:03d}": masks[edges[i] : edges[i + 1]] for i in range(12)}
    truth |= {f"Train{i + 1:03d}": np.zeros(count) for i, count in enumerate(PED2_TRAIN)}
    split = read_csv(shared_data / "splits" / "ped2_weak_FatemeBameri_s6.csv")
    ours = [align.frame_labels(truth[video], "floor") for video in split.videos(TEST)]
    published = np.load(shared_data / "labels" / "FatemeBameri_gt_s6_ped2.npy")
    np.testing.assert_array_equal(np.concatenate(ours), published)
    assert (len(published), int(published.sum())) == (2816, 687)


def test_published_shanghaitech_is_the_ceil_rule(shared_data: Path) -> None:
    masks = np.load(shared_data / "labels" / "shanghaitech_test_frame_mask.npz")
    split = read_csv(shared_data / "splits" / "shanghaitech_weak.csv")
    abnormal = [v for v in split.videos(TEST) if split.labels[v]]
    assert len(abnormal) == 44
    ours = np.concatenate([align.frame_labels(masks[video], "ceil") for video in abnormal])
    assert len(ours) == 17_968
    for name in ("RTFM_gt-sh", "TEVAD_gt-sh2"):
        published = np.load(shared_data / "labels" / f"{name}.npy")
        np.testing.assert_array_equal(ours, published[:17_968])
        assert published[17_968:].sum() == 0
