"""What opening for writing makes of a change that was never committed."""

from pathlib import Path

import numpy as np
import pytest

from featurestore.schema import DONE, FEATURES, MISSING
from featurestore.store import open_store
from tests.featurestore.making import MADE_BY, expected, features, make, read, video, write


@pytest.mark.parametrize("fused", ["link", "copy"])
def test_clips_that_were_never_committed_leave_nothing_behind(tmp_path: Path, fused: str) -> None:
    """Not even in the last block, which they share with clips that stay, nor in the status."""
    store = make(tmp_path / "x.zarr", [2], names=["swin", "r3d", "swin_r3d"], fused=fused)
    for name in ("swin", "r3d"):
        write(store, name, [0, 1])
    store.append([video("lost", 7)])
    for name in ("swin", "r3d"):
        write(store, name, range(2, 9))
    store = open_store(store.url, "a")
    assert store.clips == 2
    store.append([video("late", 7)])
    store.commit()
    ds = read(store.url)
    for name in ("swin", "r3d", "swin_r3d"):
        np.testing.assert_array_equal(ds[name].values, expected(name, 9, [0, 1]))
    assert ds["status_r3d"].values.tolist() == [DONE] * 2 + [MISSING] * 7
    assert ds["video"].values.tolist() == ["v0", "late"]


def test_arrays_that_were_never_committed_are_removed(tmp_path: Path) -> None:
    store = make(tmp_path / "x.zarr", [2], names=["swin"])
    store.add_features("r3d", FEATURES["r3d"].channels, MADE_BY)
    write(store, "r3d", [0, 1])
    store.add_fused("swin_r3d")
    store.add_features("timm_x", 3, MADE_BY)
    before = read(store.url)
    store = open_store(store.url, "a")
    assert store.backbones == ("swin",)
    assert not [p.name for p in Path(store.url).iterdir() if "r3d" in p.name or "timm" in p.name]
    assert read(store.url).identical(before)


@pytest.mark.parametrize("fused", ["link", "copy"])
def test_opening_a_store_that_needs_no_repair_changes_nothing(tmp_path: Path, fused: str) -> None:
    store = make(tmp_path / "x.zarr", fused=fused)
    for name in store.backbones:
        write(store, name, [0, 3, 9])

    def state() -> dict[Path, tuple[int, int]]:
        found = {path: path.lstat() for path in Path(store.url).rglob("*")}
        return {path: (stat.st_ino, stat.st_mtime_ns) for path, stat in found.items()}

    before = state()
    open_store(store.url, "a")
    assert state() == before


def test_a_store_half_made_is_made_again(tmp_path: Path) -> None:
    (tmp_path / "x.zarr.new.partial" / "r3d").mkdir(parents=True)
    (tmp_path / "x.zarr.new.partial" / "zarr.json").write_text("{")
    store = make(tmp_path / "x.zarr", [2], names=["r3d"])
    write(store, "r3d", [0, 1])
    np.testing.assert_array_equal(read(store.url)["r3d"].values, features("r3d", [0, 1]))
    assert not (tmp_path / "x.zarr.new.partial").exists()
