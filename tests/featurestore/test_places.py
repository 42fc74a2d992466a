"""What lies where a store should be, and disks that refuse."""

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
import zarr.storage._local as local

from featurestore.blocks import write_clips
from featurestore.errors import (
    FeatureStoreError,
    NotAStore,
    StoreNotFound,
    StoreUnreadable,
    StoreUnwritable,
    UsageError,
)
from featurestore.store import Store, create, open_store
from tests.featurestore.making import MADE_BY, features, make, read, video, write


def _zarr3(path: Path) -> None:
    zarr.create_group(path, attributes={"mine": 1}).create_array("a", shape=(3,), dtype="int32")


def _zarr2(path: Path) -> None:
    zarr.create_group(path, zarr_format=2)


def _folder(path: Path) -> None:
    path.mkdir()
    (path / "notes.txt").write_text("mine")


def _file(path: Path) -> None:
    path.write_text("mine")


def tree(root: Path) -> dict[str, bytes]:
    if root.is_file():
        return {"": root.read_bytes()}
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


@pytest.mark.parametrize("something", [_zarr3, _zarr2, _folder, _file])
def test_what_others_made_is_left_alone(tmp_path: Path, something: Callable[[Path], None]) -> None:
    path = tmp_path / "x.zarr"
    something(path)
    before = tree(path)
    for ask in (
        lambda: open_store(path),
        lambda: open_store(path, "a"),
        lambda: create(path, dataset="x", block=4),
    ):
        with pytest.raises(NotAStore, match=r"x\.zarr: is (something else|a Zarr) .*--store"):
            ask()
    assert tree(path) == before
    assert [p.name for p in tmp_path.iterdir()] == ["x.zarr"]


def test_nothing_there(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "x.zarr", tmp_path / "empty"):
        with pytest.raises(StoreNotFound, match=r"there is no store\. Make one with"):
            open_store(path)
    create(tmp_path / "empty", dataset="x", block=4)
    assert open_store(tmp_path / "empty").clips == 0


def test_no_second_store_at_the_same_place(tmp_path: Path) -> None:
    store = make(tmp_path / "x.zarr", [2], names=["r3d"])
    with pytest.raises(UsageError, match="there is a store already"):
        create(store.url, dataset="x", block=4)
    assert open_store(store.url).clips == 2


def change_root(root: Path, **attributes: Any) -> None:
    document = json.loads((root / "zarr.json").read_text())
    document["attributes"].update(attributes)
    (root / "zarr.json").write_text(json.dumps(document))


def test_a_store_of_a_newer_version(tmp_path: Path) -> None:
    store = make(tmp_path / "x.zarr", [2], names=["r3d"])
    change_root(Path(store.url), featurestore_layout=3)
    for mode in ("r", "a"):
        with pytest.raises(NotAStore, match=r"newer version .*layout 3.*knows up to 2.*Update it"):
            open_store(store.url, mode)


def test_a_store_that_lost_its_commit_is_not_repaired_to_nothing(tmp_path: Path) -> None:
    store = make(tmp_path / "x.zarr", [2], names=["r3d"])
    write(store, "r3d", [0, 1])
    group = zarr.open_group(store.url, mode="r+", use_consolidated=False)
    group.attrs["note"] = "this drops the consolidated metadata"
    before = tree(Path(store.url))
    with pytest.raises(StoreUnreadable, match=r"metadata\. Put it back with: python -c"):
        open_store(store.url, "a")
    assert tree(Path(store.url)) == before


@pytest.mark.parametrize("content", ["", "{", "[]", "\x00" * 20])
def test_damaged_root(tmp_path: Path, content: str) -> None:
    store = make(tmp_path / "x.zarr", [2], names=["r3d"])
    (Path(store.url) / "zarr.json").write_text(content)
    with pytest.raises(StoreUnreadable, match=r"zarr\.json: is damaged"):
        open_store(store.url, "a")


def test_an_array_that_is_gone(tmp_path: Path) -> None:
    store = make(tmp_path / "x.zarr", [2], names=["r3d"])
    (Path(store.url) / "r3d").rename(tmp_path / "r3d")
    with pytest.raises(StoreUnreadable, match=r"r3d: this array is gone"):
        open_store(store.url, "a")


def test_files_of_others_inside_stay(tmp_path: Path) -> None:
    store = make(tmp_path / "x.zarr", [2], names=["r3d"])
    root = Path(store.url)
    (root / "README.txt").write_text("mine")
    (root / "my folder").mkdir()
    (root / "zarr.0123.partial").write_text("left by a killed writer")
    (root / "r3d" / "c" / "9").mkdir(parents=True)
    (root / "r3d" / "c" / "9" / "0.12.partial").write_text("another")
    (root / "swin").mkdir()
    store = open_store(root, "a")
    store.append([video("late", 1)])
    store.commit()
    assert (root / "README.txt").read_text() == "mine"
    assert (root / "my folder").is_dir()
    assert not (root / "swin").exists()
    assert not list(root.rglob("*.partial"))
    assert read(root).sizes["clip"] == 3


def test_arrays_that_others_committed_stay(tmp_path: Path) -> None:
    store = make(tmp_path / "x.zarr", [2], names=["r3d"])
    run = zarr.create_group(Path(store.url) / "scores", attributes={})
    run.create_group("first").create_array("clip_score", shape=(2,), dtype="float32")
    store.commit()
    open_store(store.url, "a").commit()
    group = zarr.open_group(store.url, mode="r")
    assert "scores/first/clip_score" in group


# Disks that refuse


class Refusing:
    """Lets zarr write some files and then refuses all, as a full disk does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, code: int, after: int) -> None:
        self.code, self.left, self.put = code, after, local._put
        monkeypatch.setattr(local, "_put", self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.left -= 1
        if self.left < 0:
            raise OSError(self.code, os.strerror(self.code), "/somewhere/inside/c/0")
        return self.put(*args, **kwargs)


def grow(store: Store) -> None:
    store.append([video("late", 6), video("v0", 2)])
    store.add_features("swin", 1024, MADE_BY)
    store.add_fused("swin_r3d")
    store.replace_features("r3d", {"other": 1})
    store.commit()


def grow_on_a_disk_full(store: Store, after: int) -> str | None:
    with pytest.MonkeyPatch.context() as patch:
        Refusing(patch, errno.ENOSPC, after)
        try:
            grow(store)
        except StoreUnwritable as error:
            return str(error)
    return None


def test_a_full_disk_at_any_moment_of_a_change(tmp_path: Path) -> None:
    store = make(tmp_path / "x.zarr", [2, 1], names=["r3d"])
    write(store, "r3d", [0, 1])
    before = read(store.url)
    for after in range(0, 1000, 3):
        store = open_store(store.url, "a")
        refusal = grow_on_a_disk_full(store, after)
        if refusal is None:
            break
        assert str(tmp_path / "x.zarr") in refusal
        assert "No space left on device. Free some space" in refusal
        seen = read(store.url)
        if seen.sizes["clip"] == 11:  # it refused the old row's state, after the commit
            open_store(store.url, "a")
            break
        with pytest.raises(UsageError, match="an earlier change failed; open the store again"):
            store.commit()
        assert seen.sizes == before.sizes
        assert list(seen.variables) == list(before.variables)
        if (seen["status_r3d"] == 0).all():
            continue  # the old features were given up first
        assert seen.identical(before)
    assert after > 30
    assert read(store.url).sizes["clip"] == 11
    assert read(store.url)["state"].values.tolist() == ["superseded", "ok", "ok", "ok"]


@pytest.mark.parametrize(
    ("code", "way_out"),
    [
        (errno.EACCES, "Permission denied. Ask for permission"),
        (errno.EROFS, "Read-only file system. The disk is read-only: give another store"),
        (errno.EDQUOT, "quota"),
        (errno.EIO, "Run the command again when that is put right"),
    ],
)
def test_refusals_name_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, way_out: str
) -> None:
    store = make(tmp_path / "x.zarr", [2], names=["r3d"])
    Refusing(monkeypatch, code, 0)
    for change in (
        lambda: write(store, "r3d", [0]),
        lambda: store.mark("r3d", slice(None), 1),
        lambda: store.update_videos({0: {"reason": "x"}}),
        lambda: store.append([video("b", 1)]),
        lambda: create(tmp_path / "y.zarr", dataset="y", block=4),
    ):
        with pytest.raises(StoreUnwritable, match=way_out) as error:
            change()
        assert str(tmp_path) in str(error.value)
    monkeypatch.undo()
    assert store.status("r3d").tolist() == [0, 0]
    assert not (tmp_path / "y.zarr").exists()


LIMITED = """
import resource, sys
import numpy as np
from featurestore.blocks import write_clips
from featurestore.errors import StoreUnwritable
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    write_clips(sys.argv[1], "r3d", 2, np.ones((2, 10, 512), np.float32))
except StoreUnwritable as error:
    print(error)
"""


def test_a_file_that_can_only_be_written_half(tmp_path: Path) -> None:
    store = make(tmp_path / "x.zarr", [4], names=["r3d"])
    write(store, "r3d", [0, 1])
    before = tree(Path(store.url))
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, store.url], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(f"{store.url}/r3d: cannot be written: File too large. Raise the")
    assert len(done.stdout.splitlines()) == 1
    assert tree(Path(store.url)) == before


def test_no_permission(tmp_path: Path) -> None:
    store = make(tmp_path / "x.zarr", [4], names=["r3d"])
    root = Path(store.url)
    (root / "r3d").chmod(0o500)
    if os.access(root / "r3d", os.W_OK):
        pytest.skip("permissions do not bind this user (root)")
    with pytest.raises(StoreUnwritable, match="Permission denied"):
        write_clips(store.url, "r3d", 0, features("r3d", [0]))
    (root / "r3d").chmod(0o700)
    root.chmod(0)
    with pytest.raises(FeatureStoreError, match="Permission denied"):
        open_store(root)
    root.chmod(0o700)
    tmp_path.chmod(0o500)
    with pytest.raises(StoreUnwritable, match="Permission denied"):
        create(tmp_path / "y.zarr", dataset="y", block=4)
    tmp_path.chmod(0o700)


@pytest.mark.parametrize(
    "given", [{"dataset": ""}, {"block": 0}, {"fused": "hard"}], ids=lambda given: str(given)
)
def test_stores_that_cannot_be(tmp_path: Path, given: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="A store has a dataset's name"):
        create(tmp_path / "x.zarr", **{"dataset": "x", "block": 4, **given})
    assert list(tmp_path.iterdir()) == []


def test_damaged_tables_say_so(tmp_path: Path) -> None:
    store = make(tmp_path / "x.zarr", [4], names=["r3d"])
    chunk = Path(store.url) / "video" / "c" / "0"
    chunk.write_bytes(chunk.read_bytes()[:-6])
    with pytest.raises(StoreUnreadable, match=r"x\.zarr/video: is damaged"):
        open_store(store.url).videos()
    assert np.all(open_store(store.url).status("r3d") == 0)
