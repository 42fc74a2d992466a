"""A store that lies on an object store (moto's S3, on loopback): as on a disk, value for value."""

import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from featurestore import inhand
from featurestore import place as places
from featurestore.blocks import write_clips
from featurestore.errors import (
    NotAStore,
    ProvenanceMismatch,
    StoreNotFound,
    StoreUnreadable,
    UsageError,
)
from featurestore.lock import locked, writer
from featurestore.mend import mend
from featurestore.place import Place, place_of
from featurestore.runs import delete_run, read_run, run_names, write_run
from featurestore.schema import DONE, FAILED, MISSING
from featurestore.splits import Split
from featurestore.store import Store, create, open_store
from featurestore.verify import verify
from tests import s3
from tests.featurestore.making import MADE_BY, features, make, read, video, write
from tests.featurestore.test_runs import columns

pytest.importorskip("obstore", reason="pip install .[objects]")

NAMES = ["swin", "r3d", "swin_r3d"]


Opened = Callable[[str], xr.Dataset]


@pytest.fixture
def opened(s3_server: s3.Server) -> Opened:
    """Opens a store as an analyst does."""
    return lambda url: s3.stock(url, s3_server)


@pytest.fixture
def bucket(s3_server: s3.Server) -> Iterator[str]:
    """A bucket with nothing in it, which this process has the keys to."""
    before = places.in_use()
    places.use(s3_server.options)
    yield s3_server.bucket(f"there-{uuid.uuid4().hex}")
    places.use(before)


def same(one: xr.Dataset, other: xr.Dataset) -> None:
    xr.testing.assert_identical(*(d.drop_attrs(deep=False) for d in (one, other)))


def life(url: Path | str) -> Store:
    """What may befall a store: videos added and replaced, blocks completed, labels, splits, runs,
    failures, a fused array and a backbone that come late."""
    store = make(url, (3, 2, 4), names=["swin", "r3d"])
    write(store, "swin", range(9))
    write(store, "r3d", range(2, 7))
    store.add_fused("swin_r3d")
    store.append([video("v1", 2), video("late", 3)])
    store.commit()
    store.set_split(Split("weak", {"v0": 0, "v2": 1}, {"v0": 0, "v2": 1}, "made up"))
    store.commit()
    write(store, "r3d", [0, 1, *range(7, 14)])
    write(store, "swin", range(9, 14), mark=False)
    store.mark("swin", range(9, 12), DONE)
    store.mark("swin", [3, 12, 13], FAILED)
    store.update_videos({2: {"state": "damaged", "reason": "damaged at frame 12"}})
    write_run(url, "early", columns(), {"detector": "none"})
    write_run(url, "early", columns(), {"detector": "none"}, replace=True)
    write_run(url, "gone", columns(), {})
    delete_run(url, "gone")
    store = open_store(url, "a")
    store.add_features("timm_x", 70, MADE_BY)
    store.commit()
    write_clips(url, "timm_x", 0, features("timm_x", [0, 1], 70))
    store.mark("timm_x", [0, 1], DONE)
    return store


def test_a_store_there_is_the_same_as_one_here(bucket: str, opened: Opened, tmp_path: Path) -> None:
    here, there = life(tmp_path / "x.zarr"), life(f"{bucket}/features/x.zarr")
    assert (there.fused, there.fused_arrays) == ("copy", ("swin_r3d",))
    same(opened(there.url), read(tmp_path / "x.zarr"))
    assert there.label_counts() == here.label_counts()
    assert run_names(there.url) == run_names(tmp_path / "x.zarr") == ("early",)
    runs = [read_run(url, "early") for url in (there.url, tmp_path / "x.zarr")]
    assert runs[0].attributes == runs[1].attributes
    for name, column in runs[0].columns.items():
        np.testing.assert_array_equal(column.values, runs[1].columns[name].values)
    # Byte for byte, too; and nothing lies outside the store.
    place = place_of(there.url)
    keys = [one["path"] for page in place.objects.list() for one in page]
    assert all(key.startswith("features/x.zarr/") for key in keys)
    folders = [tmp_path / "x.zarr" / name / "c" for name in (*NAMES, "timm_x")]
    chunks = sorted(p for folder in folders for p in folder.rglob("*") if p.is_file())
    assert len(chunks) > 20
    for path in chunks:
        name = path.relative_to(tmp_path / "x.zarr").as_posix()
        content = (place / name).read_bytes()
        assert content == path.read_bytes(), name
    assert verify(there.url).problems == []
    assert there.stored_bytes("r3d") == sum(
        p.stat().st_size for p in (tmp_path / "x.zarr/r3d/c").rglob("*") if p.is_file()
    )


def test_stock_readers_open_it(
    bucket: str, opened: Opened, s3_server: s3.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`xarray.open_zarr("s3://...")` through fsspec, with the usual environment variables."""
    from obstore.fsspec import register

    url = f"{bucket}/x.zarr"
    store = make(url, names=NAMES)
    write(store, "swin", range(10))
    for name, value in s3_server.env.items():
        monkeypatch.setenv(name, value)
    register("s3")
    options = {"client_options": {"allow_http": True}}
    found = xr.open_zarr(url, chunks=None, storage_options=options).load()
    xr.testing.assert_identical(found, opened(url))
    np.testing.assert_array_equal(found["swin"][:10], features("swin", range(10)))


def test_a_change_that_was_not_committed_is_undone(
    bucket: str, opened: Opened, tmp_path: Path
) -> None:
    url = f"{bucket}/x.zarr"
    for where in (url, tmp_path / "x.zarr"):
        store = make(where, names=NAMES)
        write(store, "swin", range(10))
    before = opened(url)
    store = open_store(url, "a")
    store.append([video("late", 40), video("later", 3)])
    store.add_features("s3d", 1024, MADE_BY)
    store.mark("swin", range(10, 50), DONE)
    write_clips(url, "swin", 12, features("swin", range(12, 16)))
    write_clips(url, "swin", 10, features("swin", range(10, 12)))
    (place_of(url) / "scores/half/clip_score/zarr.json").write_bytes(b"{}")
    xr.testing.assert_identical(opened(url), before)
    store = open_store(url, "a")
    keys = place_of(url).sizes()
    assert not [key for key in keys if key.startswith(("s3d", "scores/half", "swin/c/3"))]
    store.append([video("other", 4)])
    store.commit()
    here = open_store(tmp_path / "x.zarr", "a")
    here.append([video("other", 4)])
    here.commit()
    same(opened(url), read(tmp_path / "x.zarr"))
    assert (store.status("swin") == DONE).sum() == 10


def test_a_store_that_was_not_finished_is_none(bucket: str, opened: Opened) -> None:
    url = f"{bucket}/features/x.zarr"
    with pytest.raises(StoreNotFound, match="there is no store"):
        open_store(url)
    left = place_of(url)
    for name in ("video/zarr.json", "swin/c/0/0/0", "swin_r3d/c/0/0/0"):
        (left / name).write_bytes(b"left by a command that was killed")
    with pytest.raises(StoreNotFound, match="there is no store"):
        open_store(url)
    store = make(url, names=NAMES)
    assert np.isnan(opened(url)["swin_r3d"]).all()
    with pytest.raises(UsageError, match="there is a store already"):
        create(url, dataset="x", block=4)
    (left / "video/c/0").remove()
    with pytest.raises(StoreUnreadable, match="video/c/0: is missing"):
        open_store(url)
    (place_of(f"{bucket}/y.zarr") / "notes.txt").write_bytes(b"of somebody else")
    with pytest.raises(NotAStore, match="something else"):
        create(f"{bucket}/y.zarr", dataset="x", block=4)
    with pytest.raises(UsageError, match="no links"):
        create(f"{bucket}/z.zarr", dataset="x", block=4, fused="link")
    assert store.fused == "copy"


def test_writers_of_one_block_lose_nothing(bucket: str, opened: Opened) -> None:
    """A worker that outlived its command, and one of the next."""
    store = make(f"{bucket}/x.zarr", (8,), names=NAMES, block=8)
    threads = [
        threading.Thread(target=write, args=(store, "swin", [clip]), kwargs={"mark": False})
        for clip in range(8)
    ]
    # Each as if it were a process of its own.
    from featurestore import blocks

    blocks._one_at_a_time, kept = _NoLock(), blocks._one_at_a_time  # type: ignore[assignment]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        blocks._one_at_a_time = kept
    found = opened(store.url)
    np.testing.assert_array_equal(found["swin"], features("swin", range(8)))
    np.testing.assert_array_equal(found["swin_r3d"][..., :1024], features("swin", range(8)))


class _NoLock:
    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        pass


def test_features_made_in_another_way_take_the_place(bucket: str, opened: Opened) -> None:
    store = make(f"{bucket}/x.zarr", names=NAMES)
    write(store, "swin", range(10))
    write(store, "r3d", range(10))
    planned = store.fingerprint("swin")
    store.replace_features("swin", {**MADE_BY, "engine": "openvino"})
    store.commit()
    found = opened(store.url)
    assert np.isnan(found["swin"]).all()
    assert np.isnan(found["swin_r3d"][..., :1024]).all()
    np.testing.assert_array_equal(found["swin_r3d"][:10, :, 1024:], features("r3d", range(10)))
    with pytest.raises(ProvenanceMismatch, match="replaced by another command"):
        write_clips(store.url, "swin", 0, features("swin", [0]), fingerprint=planned)
    write_clips(store.url, "swin", 0, features("swin", [0]), fingerprint=store.fingerprint("swin"))


def test_the_lock_is_the_one_of_the_url(bucket: str) -> None:
    url = f"{bucket}/x.zarr"
    with locked(url):
        assert "process" in (writer(url) or "")
        assert place_of(f"{url}.lock").exists()
    assert writer(url) is None
    assert not place_of(f"{url}.lock").exists()


def test_what_a_killed_driver_had_in_hand_is_blank_for_the_next_command(
    bucket: str, opened: Opened, s3_server: s3.Server
) -> None:
    store = make(f"{bucket}/x.zarr", (40,), names=NAMES)
    write(store, "swin", range(5))
    write(store, "r3d", range(4))
    inhand.put(store.url, [1, 2, 5, 99])  # 99: of rows that were never committed
    for name in ("swin", "r3d"):
        write(store, name, range(5, 12), mark=False)
    before = s3_server.requests()
    open_store(store.url, "a")
    found = s3_server.requests() - before
    assert found["LIST"] <= 2  # of no chunks
    seen = opened(store.url)
    np.testing.assert_array_equal(seen["swin"][:5], features("swin", range(5)))
    assert np.isnan(seen["swin"][5:]).all()
    assert np.isnan(seen["r3d"][4:]).all()
    np.testing.assert_array_equal(seen["swin_r3d"][:5, :, :1024], features("swin", range(5)))
    assert np.isnan(seen["swin_r3d"][5:]).all()
    assert not place_of(f"{store.url}.inhand").exists()
    assert verify(store.url).problems == []
    for junk in (b"", b"[]", b'{"blocks": ["1", -1, 2.5, null]}'):
        place_of(f"{store.url}.inhand").write_bytes(junk)
        open_store(store.url, "a")


def test_repair_blanks_what_was_never_marked(bucket: str, opened: Opened) -> None:
    """As a worker leaves it that outlives its command."""
    store = make(f"{bucket}/x.zarr", names=NAMES)
    for name in ("swin", "r3d"):
        write(store, name, range(10))
    store.mark("r3d", [2, 7, 8], MISSING)
    (told,) = verify(store.url).problems
    assert "3 clips (of v0, v2) with values that were never marked done" in str(told)
    with locked(store.url):
        lines = mend(verify(store.url, alone=True))
    assert lines == ["r3d: 3 clips that were never marked done are blanked"]
    assert verify(store.url).problems == []
    seen = opened(store.url)
    assert np.isnan(seen["r3d"][[2, 7, 8]]).all()
    assert np.isnan(seen["swin_r3d"][[2, 7, 8], :, 1024:]).all()
    np.testing.assert_array_equal(seen["r3d"][[0, 9]], features("r3d", [0, 9]))


def test_verify_finds_and_mends(bucket: str, opened: Opened) -> None:
    url = f"{bucket}/x.zarr"
    store = make(url, names=NAMES)
    for name in ("swin", "r3d"):
        write(store, name, range(10))
    store.set_split(Split("weak", {"v0": 0, "v2": 1}, {"v0": 0, "v2": 1}, "made up"))
    store.commit()
    assert verify(url).problems == []
    root = place_of(url)

    def damage(where: Place) -> None:
        content = bytearray(where.read_bytes())
        content[99 % len(content)] ^= 1
        where.write_bytes(bytes(content))

    damage(root / "r3d/c/1/0/0")
    damage(root / "swin_r3d/c/0/0/1")
    (root / "swin_r3d/c/2/0/0").remove()
    (root / "swin/c/0/0/0").remove()
    (root / "clip_start/c/0").remove()
    (root / "notes.txt").write_bytes(b"of somebody else")
    (root / "s3d/zarr.json").write_bytes(b"left")
    with locked(url):
        found = verify(url, alone=True)
        told = {problem.where: problem.what for problem in found.problems}
        assert "r3d/c/1/0/0" in told
        assert "notes.txt" in told
        assert "s3d" in told
        assert "clip_start" in told
        assert any("swin_r3d/c/2/0/0" in where for where in told)
        mend(found)
    left = verify(url).problems
    assert [problem.where for problem in left] == ["notes.txt"]
    store = open_store(url, "a")
    assert set(np.flatnonzero(store.status("r3d") == MISSING)) >= {4, 5, 6, 7}
    write(store, "swin", range(10))
    write(store, "r3d", range(10))
    (root / "notes.txt").remove()
    assert verify(url).problems == []
    expected: Any = np.concatenate([features(n, range(10)) for n in ("swin", "r3d")], axis=2)
    np.testing.assert_array_equal(opened(url)["swin_r3d"], expected)


def test_requests_are_few_and_chunks_are_never_listed(bucket: str, s3_server: s3.Server) -> None:
    store = make(f"{bucket}/x.zarr", (64,), names=NAMES, block=32)
    before = s3_server.requests()
    for name in ("swin", "r3d"):
        write(store, name, range(64))
    found = s3_server.requests() - before
    # Of each of two blocks three chunks of parts and three of the fused array; two marks.
    assert found["PUT"] == 2 * (3 + 3) + 2
    # Has the array, has the store changed? For each block and backbone.
    assert found["HEAD"] == 2 * 2 * 2
    assert found["GET"] <= 8  # the same, read once; status
    assert found["LIST"] == found["DELETE"] == 0
    before = s3_server.requests()
    store = open_store(store.url)
    assert sum((s3_server.requests() - before).values()) <= 4
    before = s3_server.requests()
    open_store(store.url, "a")
    found = s3_server.requests() - before
    assert found["LIST"] <= 2  # the names of arrays and of runs
    assert found["PUT"] == found["DELETE"] == 0
