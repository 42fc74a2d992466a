"""What is taken from a video's other clips: against scipy video by video, and block by block."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter1d
from scipy.stats import rankdata

from detector.rows import Columns, FileRows, SmoothedRows, kept, smoothed, spans
from detector.smoothing import highest, maximum, ranks, smooth
from detector.videos import Videos, bounds_of, grouped
from featurestore.errors import UsageError


@given(st.lists(st.integers(1, 30), min_size=1, max_size=8), st.integers(1, 25))
@settings(max_examples=60)
def test_smoothing_in_blocks_is_smoothing_whole(counts: list[int], size: int) -> None:
    bounds = bounds_of(counts)
    rows = np.random.default_rng(sum(counts)).normal(size=(sum(counts), 3))
    whole = smooth(rows, bounds, 1.5)
    for begin, end in pairwise(bounds):
        np.testing.assert_array_equal(
            whole[begin:end], gaussian_filter1d(rows[begin:end], 1.5, axis=0, mode="nearest")
        )
    blocks = SmoothedRows(rows, bounds, 1.5)
    cut = np.concatenate([blocks[span] for span in spans(len(rows), size)])
    np.testing.assert_array_equal(cut, whole)
    np.testing.assert_array_equal(smoothed(rows, bounds, 1.5)[:], whole)
    assert smooth(rows, bounds, 0) is rows


def test_ranks_and_extremes() -> None:
    values, bounds = np.array([3.0, 1, 2, 2, 9, 5]), bounds_of([4, 1, 1])
    wanted = [*rankdata(values[:4]) / 4, 1, 1]
    np.testing.assert_array_equal(ranks(values, bounds), wanted)
    np.testing.assert_array_equal(highest(values, bounds), [3, 9, 5])
    np.testing.assert_array_equal(maximum(values, bounds), [3, 9, 5])
    ten = np.arange(11.0)
    assert highest(ten, bounds_of([11]))[0] == np.mean([10, 9, 8])  # a fifth of 11, rounded up
    assert highest(ten[:10], bounds_of([10]))[0] == np.mean([9, 8])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_in_a_file(dtype: type, monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:  # type: ignore[no-untyped-def]
    blocks = [np.random.default_rng(i).normal(size=(n, 4)).astype(dtype) for i, n in
              enumerate((3, 0, 7))]  # fmt: skip
    whole = np.concatenate(blocks)
    assert isinstance(kept(blocks, 10, 4), np.ndarray)
    monkeypatch.setattr("detector.rows.IN_MEMORY_BYTES", 100)
    rows = kept(iter(blocks), 10, 4, tmp_path)
    assert isinstance(rows, FileRows)
    assert not list(tmp_path.iterdir()), "the file has no name: nothing stays after a kill"
    assert rows.shape == (10, 4)
    for span in (slice(None), slice(2, 5), slice(9, 99), slice(4, 4)):
        np.testing.assert_array_equal(rows[span], whole[span])
        np.testing.assert_array_equal(Columns(rows, 2)[span], whole[span, :2])
    assert rows[:].dtype == np.float64


def test_clips_in_any_order_are_brought_together() -> None:
    order, names, bounds = grouped(["b", "a", "b", "a", "c"])
    assert order.tolist() == [1, 3, 0, 2, 4]
    assert names == ("a", "b", "c")
    assert bounds.tolist() == [0, 2, 4, 5]
    with pytest.raises(UsageError, match="one video a clip"):
        grouped(np.zeros((2, 2)))
    with pytest.raises(UsageError, match="no clips"):
        grouped([])


def test_folds_go_by_names_not_by_place() -> None:
    labels = np.array([0, 1, 0, 0, 1, 0, 0, 0], np.int8)
    names = ("h", "a", "c", "b", "d", "e", "f", "g")
    videos = Videos(names, labels, bounds_of(np.ones(8)))
    its = dict(zip(names, videos.folds.tolist(), strict=True))
    assert its == {"a": 0, "d": 1, "b": 0, "c": 1, "e": 2, "f": 3, "g": 4, "h": 0}
