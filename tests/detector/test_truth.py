"""Test videos and their ground truth from a store, under each convention of frames."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from detector.evaluation import evaluate
from detector.truth import named_split, scored_by, truths_of
from featurestore.catalog import NewVideo
from featurestore.errors import SplitError, UsageError
from featurestore.labels import ABNORMAL, NORMAL, UNKNOWN, Truth
from featurestore.splits import TEST, TRAIN, Split
from featurestore.store import create

FRAMES = {"a": 40, "b": 20, "c": 16, "d": 33}


@pytest.fixture
def url(tmp_path: Path) -> Path:
    store = create(tmp_path / "x.zarr", dataset="x", block=4)
    # b comes twice: the first file was replaced by one of 20 frames.
    old = [NewVideo("b", "b.avi", 50)]
    store.append(old)
    store.append([NewVideo(name, f"{name}.avi", count) for name, count in FRAMES.items()])
    store.commit()
    anomalous = np.zeros(40, np.int8)
    anomalous[30:] = 1
    store.set_truth(
        [
            Truth("a", ABNORMAL, anomalous, "test"),
            Truth("b", NORMAL, np.zeros(20, np.int8), "test"),
            Truth("d", UNKNOWN, None, "test"),
        ]
    )
    parts = {"a": TEST, "b": TEST, "c": TRAIN, "d": TEST}
    store.set_split(Split("half", parts, {"c": NORMAL}, "test"))
    store.set_split(Split("none", {"c": TRAIN}, {}, "test"))
    store.commit()
    return tmp_path / "x.zarr"


def opened(url: Path) -> xr.Dataset:
    return xr.open_zarr(url, chunks=None)


def test_test_videos_of_a_split(url: Path) -> None:
    ds = opened(url)
    assert named_split(ds, "half") == {"a": TEST, "b": TEST, "c": TRAIN, "d": TEST}
    found = truths_of(ds, named_split(ds, "half"))
    assert found.names == ("a", "b", "d")
    assert found.rows == (1, 2, 4)  # row 0 is the b that was replaced
    assert found.labels.tolist() == [ABNORMAL, NORMAL, UNKNOWN]
    assert [len(y) for y in found.frame_labels] == [40, 20, 33]
    assert found.frame_labels[0].sum() == 10
    assert (found.frame_labels[2] == UNKNOWN).all()
    assert found.first == (50, 90, 126)


def test_scores_are_those_of_the_videos_frames(url: Path) -> None:
    found = truths_of(opened(url), {"b": TEST, "a": TEST, "d": TEST})
    score = np.arange(159.0)
    of = scored_by(found, score, score / 200)
    assert of.names == ("a", "b", "d")
    np.testing.assert_array_equal(of.scores[0], np.arange(50.0, 90))
    np.testing.assert_array_equal(of.scores[1], np.arange(90.0, 110))
    assert of.calibrated is not None
    np.testing.assert_array_equal(of.calibrated[1], np.arange(90.0, 110) / 200)
    measured = evaluate(of, resamples=5)
    assert (measured.frames, measured.unknown_frames) == (60, 33)
    assert measured.overall.auc == pytest.approx(1 - 200 / 500)  # a's last ten beat a's, not b's


@pytest.mark.parametrize(
    ("convention", "lengths", "anomalous"),
    [("ours", (40, 20, 33), 10), ("floor", (32, 16, 32), 2), ("ceil", (48, 32, 48), 18)],
)
def test_conventions(url: Path, convention: str, lengths: tuple[int, ...], anomalous: int) -> None:
    found = truths_of(opened(url), named_split(opened(url), "half"))
    of = scored_by(found, np.arange(159.0), convention=convention)
    assert tuple(map(len, of.scores)) == tuple(map(len, of.frame_labels)) == lengths
    assert (of.frame_labels[0] == 1).sum() == anomalous
    if convention == "ceil":
        assert (of.scores[0][40:] == 89).all()


def test_frames_that_came_later_have_no_score(url: Path) -> None:
    found = truths_of(opened(url), named_split(opened(url), "half"))
    measured = evaluate(scored_by(found, np.arange(100.0)), resamples=5)
    assert measured.unscored_frames == 10  # half of b
    assert measured.unscored_videos == 1  # d


def test_errors_name_what_is_there(url: Path) -> None:
    ds = opened(url)
    with pytest.raises(SplitError, match="no split 'x'; it has half, none"):
        named_split(ds, "x")
    with pytest.raises(SplitError, match="no video of the split is there to test"):
        truths_of(ds, named_split(ds, "none"))
    with pytest.raises(SplitError, match="not in the store: e"):
        truths_of(ds, {"e": TEST})
    with pytest.raises(UsageError, match="one number a frame"):
        scored_by(truths_of(ds, {"a": TEST}), np.zeros((2, 2)))
    without = ds.drop_vars(["split", "split_name"])
    with pytest.raises(SplitError, match="it has none"):
        named_split(without, "half")
