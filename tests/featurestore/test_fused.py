"""Fused arrays: links to, or copies of, their parts' chunks."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from featurestore import fused
from featurestore.blocks import write_clips
from featurestore.errors import StoreUnwritable, UsageError
from featurestore.schema import BACKBONES, FEATURES, FUSED
from featurestore.store import Store, open_store
from tests.featurestore.making import MADE_BY, expected, features, make, read, video, write

DONE = [0, 1, 2, 3, 4, 9]


def filled(url: Path, mode: str = "auto") -> Store:
    store = make(url, fused=mode)
    for name in BACKBONES:
        write(store, name, DONE)
    return store


def check(url: Path | str) -> None:
    ds = read(url)
    for name in FEATURES:
        np.testing.assert_array_equal(ds[name].values, expected(name, 10, DONE), err_msg=name)


def links(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_symlink()]


def disk_usage(root: Path, names: tuple[str, ...]) -> int:
    said = subprocess.run(
        ["du", "-sk", "--total", *(root / name for name in names)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return int(said.stdout.splitlines()[-1].split()[0])


def test_links_are_relative_and_as_designed(tmp_path: Path) -> None:
    store = filled(tmp_path / "x.zarr")
    root = Path(store.url)
    assert store.fused == "link"
    assert (root / "swin_r3d/c/1/0/2").readlink().as_posix() == "../../../../r3d/c/1/0/0"
    assert (root / "swin_i3d/c/0/0/5").readlink().as_posix() == "../../../../i3d/c/0/0/3"
    # As many as chunks of the fused arrays in the blocks that are there, and none dangles.
    assert len(links(root)) == 3 * (3 + 3 + 4 + 6)
    assert all(path.exists() for path in links(root))
    check(root)


def test_nine_arrays_take_little_more_room_than_five(tmp_path: Path) -> None:
    store = make(tmp_path / "x.zarr", [64], block=32)
    for name in BACKBONES:
        write(store, name, range(64))
    root = Path(store.url)
    five, nine = disk_usage(root, BACKBONES), disk_usage(root, (*BACKBONES, *FUSED))
    assert nine <= 1.1 * five
    assert sum(store.stored_bytes(name) for name in FUSED) < 10_000
    assert store.stored_bytes("r3d") > 64 * 10 * 512 * 4


def test_moved_and_copied_stores_read_the_same(tmp_path: Path) -> None:
    store = filled(tmp_path / "x.zarr")
    copied = tmp_path / "elsewhere" / "copied.zarr"
    shutil.copytree(store.url, copied, symlinks=True)
    followed = tmp_path / "followed.zarr"
    shutil.copytree(store.url, followed)
    subprocess.run(["cp", "-r", store.url, tmp_path / "cp.zarr"], check=True)
    moved = tmp_path / "further" / "away" / "moved.zarr"
    moved.parent.mkdir(parents=True)
    shutil.move(store.url, moved)
    for url in (copied, followed, tmp_path / "cp.zarr", moved):
        check(url)
    assert links(copied)
    assert not links(followed)


def test_a_copy_that_followed_links_goes_on_right(tmp_path: Path) -> None:
    """Its fused arrays are files now; completing a block must not leave them stale."""
    store = filled(tmp_path / "x.zarr")
    shutil.copytree(store.url, tmp_path / "y.zarr")
    store = open_store(tmp_path / "y.zarr", "a")
    for name in BACKBONES:
        write(store, name, [5, 6])
    for name in FUSED:
        np.testing.assert_array_equal(
            read(store.url)[name].values, expected(name, 10, [*DONE, 5, 6])
        )


@pytest.mark.parametrize("mode", ["link", "copy"])
def test_added_late_it_shows_what_is_there_and_what_comes(tmp_path: Path, mode: str) -> None:
    store = make(tmp_path / "x.zarr", names=["swin", "r3d"], fused=mode)
    write(store, "swin", [0, 1, 5])
    write(store, "r3d", [1])
    store.add_fused("swin_r3d")
    assert "swin_r3d" not in read(store.url)
    store.commit()
    both = read(store.url)["swin_r3d"].values
    np.testing.assert_array_equal(both[..., :1024], expected("swin", 10, [0, 1, 5]))
    np.testing.assert_array_equal(both[..., 1024:], expected("r3d", 10, [1]))
    write(store, "r3d", [0, 5])
    np.testing.assert_array_equal(
        read(store.url)["swin_r3d"].values[[0, 1, 5]],
        expected("swin_r3d", 10, [0, 1, 5])[[0, 1, 5]],
    )
    assert store.fused_arrays == ("swin_r3d",)


def test_copies(tmp_path: Path) -> None:
    store = filled(tmp_path / "x.zarr", "copy")
    check(store.url)
    assert not links(Path(store.url))
    # A block completed later is completed in the copies too.
    store.append([video("late", 4)])
    store.commit()
    for name in BACKBONES:
        write(store, name, [10, 11, 12])
    for name in FUSED:
        np.testing.assert_array_equal(
            read(store.url)[name].values, expected(name, 14, [*DONE, 10, 11, 12])
        )


def test_without_fused_arrays(tmp_path: Path) -> None:
    store = make(tmp_path / "x.zarr", names=BACKBONES, fused="none")
    with pytest.raises(UsageError, match="made without fused arrays"):
        store.add_fused("swin_r3d")
    write(store, "r3d", range(4))
    assert set(FUSED).isdisjoint(read(store.url))


def test_copies_where_the_disk_makes_no_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, target: str) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    assert make(tmp_path / "x.zarr", names=["r3d"]).fused == "copy"
    store = make(tmp_path / "y.zarr", names=["swin", "r3d", "swin_r3d"], fused="link")
    with pytest.raises(StoreUnwritable, match=r"swin_r3d: cannot be written: Operation not supp"):
        write(store, "r3d", [0])
    assert store.status("r3d").tolist() == [0] * 10


def test_writing_through_a_fused_array_is_an_error(tmp_path: Path) -> None:
    store = make(tmp_path / "x.zarr", names=["swin", "r3d", "swin_r3d"])
    with pytest.raises(UsageError, match="swin_r3d is made of swin and r3d; write those instead"):
        write_clips(store.url, "swin_r3d", 0, np.zeros((1, 10, 1536), np.float32))


@pytest.mark.parametrize("mode", ["link", "copy"])
def test_lost_links_and_whole_fused_arrays_are_made_again(tmp_path: Path, mode: str) -> None:
    store = filled(tmp_path / "x.zarr", mode)
    root = Path(store.url)
    (root / "swin_r3d/c/0/0/2").unlink()
    shutil.rmtree(root / "swin_s3d")
    open_store(root, "a")
    check(root)


def test_a_stale_copy_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make(tmp_path / "x.zarr", names=["swin", "r3d", "swin_r3d"], fused="copy")
    write(store, "swin", [0])
    write(store, "r3d", [0])
    monkeypatch.setattr(fused, "publish", lambda *_: None)  # killed between chunk and copy
    write(store, "r3d", [1])
    write(store, "swin", [1])
    monkeypatch.undo()
    open_store(store.url, "a")
    np.testing.assert_array_equal(
        read(store.url)["swin_r3d"].values, expected("swin_r3d", 10, [0, 1])
    )


def test_parts_must_be_there(tmp_path: Path) -> None:
    store = make(tmp_path / "x.zarr", names=["swin"])
    with pytest.raises(UsageError, match="no features of 'r3d'"):
        store.add_fused("swin_r3d")
    with pytest.raises(UsageError, match="'swin' is no fused array"):
        store.add_fused("swin")
    store.add_features("r3d", 512, MADE_BY)
    store.add_fused("swin_r3d")
    with pytest.raises(UsageError, match="already"):
        store.add_fused("swin_r3d")
    store.commit()
    write_clips(store.url, "r3d", 0, features("r3d", [0]))
    assert read(store.url)["swin_r3d"][0, 0, 1024:].notnull().all()
