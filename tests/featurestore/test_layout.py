"""A store as others see it: the arrays of the design, clean for stock xarray."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zarr

from featurestore.schema import BACKBONES, CROPS, FEATURES, FUSED
from featurestore.store import create
from tests.featurestore.making import MADE_BY, expected, make, read, write

STOCK = """
import sys, warnings
warnings.simplefilter("error")
import xarray as xr
sizes = {}
for options in ({"chunks": None}, {"chunks": None, "consolidated": True}, {}, {"chunks": {}}):
    ds = xr.open_zarr(sys.argv[1], **options)
    ds.load()
    sizes[str(options)] = {name: ds[name].shape for name in sys.argv[2].split(",")}
    assert list(ds["crop"].values)[:2] == ["top_left", "top_right"]
    assert ds["r3d"].dims == ("clip", "crop", "channel_512"), ds["r3d"].dims
    assert "clip_video" in ds["r3d"].coords and "clip_start" in ds["r3d"].coords
    assert int(ds["swin_r3d"].isnull().all(("crop", "channel_1536")).sum()) == 2
assert "featurestore" not in sys.modules
print(next(iter(sizes.values())))
"""


def test_stock_xarray_opens_it_without_a_warning(tmp_path: Path) -> None:
    store = make(tmp_path / "ped2.zarr")
    for name in BACKBONES:
        write(store, name, range(8))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", STOCK, store.url, ",".join(FEATURES)],
        capture_output=True, text=True, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    sizes = {name: (10, 10, features.channels) for name, features in FEATURES.items()}
    assert done.stdout.strip() == str(sizes)


def test_dimensions_types_and_values(tmp_path: Path) -> None:
    store = make(tmp_path / "ped2.zarr")
    for name in BACKBONES:
        write(store, name, [0, 1, 2, 6])
    ds = read(store.url)
    for name, of in FEATURES.items():
        assert ds[name].dims == ("clip", "crop", f"channel_{of.channels}")
        assert ds[name].dtype == np.float32
        np.testing.assert_array_equal(ds[name].values, expected(name, 10, [0, 1, 2, 6]))
    types = {name: str(ds[name].dtype) for name in ("clip_video", "clip_start", "frames", "mtime")}
    assert types == {
        "clip_video": "int32", "clip_start": "int64", "frames": "int64", "mtime": "float64"
    }  # fmt: skip
    assert ds["status_swin"].dtype == np.uint8
    assert ds["clip_video"].values.tolist() == [0] * 3 + [1] * 2 + [2] * 5
    assert ds["clip_start"].values.tolist() == [0, 16, 27, 0, 11, 0, 16, 32, 48, 59]
    assert ds["clip_offset"].values.tolist() == [0, 3, 5]
    assert ds["clip_count"].values.tolist() == [3, 2, 5]
    assert ds["video"].values.tolist() == ["v0", "v1", "v2"]
    assert tuple(ds["crop"].values) == CROPS
    assert set(ds.dims) == {"clip", "crop", "video", "frame", "split_name"} | {
        f"channel_{of.channels}" for of in FEATURES.values()
    }


def test_every_array_says_what_it_is(tmp_path: Path) -> None:
    ds = read(make(tmp_path / "ped2.zarr").url)
    for name, variable in ds.variables.items():
        assert variable.attrs["long_name"], name
        # xarray would take these for durations.
        assert variable.attrs.get("units") not in ("s", "seconds", "days"), name
    for name, of in FEATURES.items():
        attributes = ds[name].attrs
        assert attributes["channels"] == of.channels
        assert attributes["parts"] == list(of.parts or (name,))
        assert "NaN" in attributes["missing"]
    assert ds["swin"].attrs["weights"] == "RANDOM(seed=0)"
    assert ds.attrs["dataset"] == "ped2"
    assert {"title", "description", "clips", "open_with", "block"} <= set(ds.attrs)


def test_chunks_and_codecs(tmp_path: Path) -> None:
    store = make(tmp_path / "ped2.zarr")
    group = zarr.open_group(store.url, mode="r")
    for name in FEATURES:
        array = group[name]
        assert isinstance(array, zarr.Array)
        assert array.chunks == (4, 10, 512)
        codecs = [codec["name"] for codec in array.metadata.to_dict()["codecs"]]  # type: ignore[index, union-attr, call-overload]
        assert codecs == ["bytes", "crc32c"]
        assert np.isnan(array.fill_value)


def test_no_files_but_zarrs_inside(tmp_path: Path) -> None:
    """zarr warns of files it does not know in the root."""
    store = make(tmp_path / "ped2.zarr")
    write(store, "r3d", range(5))
    root = Path(store.url)
    assert [path.name for path in root.iterdir() if path.is_file()] == ["zarr.json"]
    assert not list(root.rglob("*.partial"))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "ped2.zarr", "ped2.zarr.blocks.lock"
    ]  # fmt: skip


def test_a_flipped_bit_is_an_error(tmp_path: Path) -> None:
    store = make(tmp_path / "ped2.zarr", names=["r3d"])
    write(store, "r3d", range(4))
    chunk = Path(store.url) / "r3d" / "c" / "0" / "0" / "0"
    content = bytearray(chunk.read_bytes())
    content[1000] ^= 1
    chunk.write_bytes(content)
    with pytest.raises(ValueError, match="checksum"):
        read(store.url)


def test_an_empty_store_reads(tmp_path: Path) -> None:
    store = create(tmp_path / "new.zarr", dataset="new", block=4)
    ds = read(store.url)
    assert dict(ds.sizes) == {"clip": 0, "video": 0, "frame": 0, "split_name": 0, "crop": 10}
    assert store.videos() == []
    assert store.live().tolist() == []
    assert "0 videos" in repr(store)


def test_features_of_other_libraries(tmp_path: Path) -> None:
    store = make(tmp_path / "ped2.zarr", names=["r3d"])
    store.add_features("timm_resnet18.a1_in1k", 7, MADE_BY)
    store.commit()
    ds = read(store.url)
    assert ds["timm_resnet18.a1_in1k"].dims == ("clip", "crop", "channel_7")
    assert store.backbones == ("r3d", "timm_resnet18.a1_in1k")


def test_it_reads_as_a_relative_path_and_as_a_file_url(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from featurestore.store import open_store

    folder = tmp_path / "with space"
    make(folder / "ped2.zarr", names=["r3d"])
    monkeypatch.chdir(tmp_path)
    assert open_store("with space/ped2.zarr/").clips == 10
    assert open_store((folder / "ped2.zarr").as_uri()).clips == 10
    (tmp_path / "other.zarr").symlink_to(folder / "ped2.zarr")
    assert open_store("other.zarr").backbones == ("r3d",)
    assert set(FUSED).isdisjoint(open_store("other.zarr").fused_arrays)
