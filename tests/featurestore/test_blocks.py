"""The worker's side: cutting clips into blocks, and writing some of a block's clips."""

import multiprocessing
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from featurestore import arrays
from featurestore import store as store_module
from featurestore.blocks import missing, runs, write_clips
from featurestore.errors import StoreNotFound, StoreUnreadable, UsageError
from featurestore.schema import DONE, FAILED
from featurestore.store import create
from tests.featurestore.making import expected, features, make, read, video, write


@given(st.lists(st.booleans(), max_size=40), st.integers(1, 9))
def test_runs_are_the_wanted_clips_cut_at_blocks(wanted: list[bool], block: int) -> None:
    mask = np.array(wanted, dtype=bool)
    cut = runs(mask, block)
    assert [clip for run in cut for clip in run] == np.flatnonzero(mask).tolist()
    assert all(run.start // block == (run.stop - 1) // block for run in cut)
    assert cut == runs(np.flatnonzero(mask), block)
    # No two runs could have been one.
    assert all(a.stop < b.start or b.start % block == 0 for a, b in pairwise(cut))


def test_what_is_missing() -> None:
    status = np.array([0, 1, 2, 0, 2], np.uint8)
    live = np.array([1, 1, 1, 0, 0], bool)
    assert missing(status, live).tolist() == [True, False, False, False, False]
    assert missing(status, live, retry_failed=True).tolist() == [True, False, True, False, False]


@pytest.mark.parametrize("stretch", [1, 4, 7, 1000])
def test_what_is_missing_is_told_a_stretch_at_a_time(
    tmp_path: Path, stretch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "STRETCH", stretch)
    store = make(tmp_path / "x.zarr", [5, 9, 3], names=["r3d"], block=3)
    store.append([video("v0", 4)])
    store.commit()
    store.mark("r3d", np.array([6, 7, 15]), DONE)
    store.mark("r3d", np.array([8]), FAILED)
    for retry in (False, True):
        wanted = missing(store.status("r3d"), store.live(), retry_failed=retry)
        assert list(store.missing("r3d", retry_failed=retry)) == runs(wanted, 3)


def test_clips_of_one_block_come_in_pieces(tmp_path: Path) -> None:
    store = make(tmp_path / "x.zarr", [9], names=["r3d"])
    for clips in ([1], [0], [2, 3], [8], [4, 5, 6, 7]):
        write(store, "r3d", clips)
    np.testing.assert_array_equal(read(store.url)["r3d"].values, expected("r3d", 9, range(9)))


def test_it_sees_the_array_grow_and_the_store_made_anew(tmp_path: Path) -> None:
    import shutil

    store = make(tmp_path / "x.zarr", [2], names=["r3d"])
    write(store, "r3d", range(2))
    store.append([video("late", 3)])
    store.commit()
    write(store, "r3d", range(2, 5))
    np.testing.assert_array_equal(read(store.url)["r3d"].values, expected("r3d", 5, range(5)))
    shutil.rmtree(store.url)
    with pytest.raises(StoreNotFound):
        write_clips(store.url, "r3d", 0, features("r3d", [0]))
    again = make(tmp_path / "x.zarr", [9], names=["r3d"], block=2, fused="copy")
    write(again, "r3d", range(9))
    np.testing.assert_array_equal(read(again.url)["r3d"].values, expected("r3d", 9, range(9)))


def test_metadata_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make(tmp_path / "x.zarr", [20], names=["swin", "r3d", "swin_r3d"])
    opened = []
    original = arrays.open_array

    def counted(root: Path, name: str) -> zarr.Array[Any]:
        opened.append(name)
        return original(root, name)

    monkeypatch.setattr(arrays, "open_array", counted)
    for clip in range(20):
        write_clips(store.url, "r3d", clip, features("r3d", [clip]))
    assert opened == ["r3d"]


@pytest.mark.parametrize(
    ("start", "shape", "message"),
    [
        (3, (2, 10, 512), "clips 3 to 4 are not in one block of 4 clips of a store of 9 clips"),
        (8, (2, 10, 512), "clips 8 to 9 are not in one block of 4 clips of a store of 9 clips"),
        (-1, (1, 10, 512), "not in one block"),
        (0, (1, 10, 511), r"expected features of shape \(clips, 10, 512\), got \(1, 10, 511\)"),
        (0, (1, 5, 512), "expected features of shape"),
        (0, (0, 10, 512), "expected features of shape"),
        (0, (10, 512), "expected features of shape"),
    ],
)
def test_what_cannot_be_written(
    tmp_path: Path, start: int, shape: tuple[int, ...], message: str
) -> None:
    store = make(tmp_path / "x.zarr", [9], names=["r3d"])
    with pytest.raises(UsageError, match=message):
        write_clips(store.url, "r3d", start, np.zeros(shape, np.float32))
    assert read(store.url)["r3d"].isnull().all()


def test_no_such_store_or_array(tmp_path: Path) -> None:
    store = create(tmp_path / "x.zarr", dataset="x", block=4)
    for url, name in ((store.url, "r3d"), (tmp_path / "y.zarr", "r3d"), (store.url, "timm_x")):
        with pytest.raises(StoreNotFound, match="no such array or store"):
            write_clips(url, name, 0, np.zeros((1, 10, 512), np.float32))


@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_a_damaged_chunk_is_not_written_over(tmp_path: Path, damage: str) -> None:
    store = make(tmp_path / "x.zarr", [4], names=["r3d"])
    write(store, "r3d", range(2))
    chunk = Path(store.url) / "r3d/c/0/0/0"
    content = chunk.read_bytes()
    flipped = bytes([content[0] ^ 1]) + content[1:]
    chunk.write_bytes({"flip": flipped, "cut": content[:1000], "empty": b""}[damage])
    with pytest.raises(StoreUnreadable, match=r"x\.zarr.*r3d: is damaged"):
        write(store, "r3d", [2])
    # All its clips at once need nothing of what was there.
    write(store, "r3d", range(4))
    np.testing.assert_array_equal(read(store.url)["r3d"].values, expected("r3d", 4, range(4)))


def test_leftovers_of_killed_writers_do_not_disturb(tmp_path: Path) -> None:
    store = make(tmp_path / "x.zarr", [4], names=["swin", "r3d", "swin_r3d"])
    write(store, "r3d", [0])
    (Path(store.url) / "r3d/c/0/0/0.abc.partial").write_bytes(b"x")
    (Path(store.url) / "r3d/c/1.partial").write_bytes(b"x")
    write(store, "r3d", [1])
    np.testing.assert_array_equal(
        read(store.url)["swin_r3d"][..., 1024:].values, expected("r3d", 4, [0, 1])
    )


def _write_one_by_one(url: str, clips: list[int]) -> None:
    for clip in clips:
        write_clips(url, "r3d", clip, features("r3d", [clip]))


def test_writers_of_one_block_lose_nothing_of_each_other(tmp_path: Path) -> None:
    """A worker of a killed command and one of the next may be at the same block."""
    store = make(tmp_path / "x.zarr", [32], names=["r3d"], block=32)
    context = multiprocessing.get_context("spawn")
    writers = [
        context.Process(target=_write_one_by_one, args=(store.url, list(range(first, 32, 3))))
        for first in range(3)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
        assert writer.exitcode == 0
    np.testing.assert_array_equal(read(store.url)["r3d"].values, expected("r3d", 32, range(32)))


def test_threads_of_one_worker_lose_nothing_either(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    store = make(tmp_path / "x.zarr", [16], names=["r3d"], block=16)
    with ThreadPoolExecutor(4) as pool:
        for part in [pool.submit(_write_one_by_one, store.url, [clip]) for clip in range(16)]:
            part.result()
    np.testing.assert_array_equal(read(store.url)["r3d"].values, expected("r3d", 16, range(16)))


def test_all_nan_and_fill_values_are_written(tmp_path: Path) -> None:
    """Or a chunk's absence would mean two things, and its links would dangle."""
    store = make(tmp_path / "x.zarr", [4], names=["swin", "r3d", "swin_r3d"])
    write_clips(store.url, "r3d", 0, np.full((4, 10, 512), np.nan, np.float32))
    assert (Path(store.url) / "swin_r3d/c/0/0/2").exists()
    array = zarr.open_array(Path(store.url) / "r3d", mode="r")
    assert array.nchunks_initialized == 1
