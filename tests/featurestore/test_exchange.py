"""Features into stores, as RTFM-like code keeps them."""

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featurestore import align, exchange
from featurestore.errors import (
    FeatureFileError,
)
from featurestore.exchange import Given, import_features
from featurestore.export import export_features
from featurestore.labels import ABNORMAL, NORMAL, UNKNOWN
from featurestore.schema import DONE, FAILED
from featurestore.splits import TEST, TRAIN
from featurestore.store import open_store
from tests.featurestore.making import read, stored

RNG = np.random.default_rng(0)
CHANNELS = 7


def save(folder: Path, shapes: Mapping[str, tuple[int, ...]], dtype: str = "float32") -> Path:
    """Feature files of these shapes, all values different."""
    for name, shape in shapes.items():
        path = folder / f"{name}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, RNG.normal(size=shape).astype(dtype))
    return folder


def rtfm(folder: Path) -> Given:
    """As RTFM keeps them: two lists with another machine's paths, gt of 16 frames a clip."""
    shapes = {"SH_Train/a_i3d": 2, "SH_Train/n_i3d": 3, "SH_Test/b_i3d": 2, "SH_Test/m_i3d": 1}
    save(folder / "i3d", {name: (clips, 10, CHANNELS) for name, clips in shapes.items()})
    for half in ("Train", "Test"):
        names = [name for name in shapes if half in name]
        lines = "".join(f"/mnt/yu/data/{name}.npy\n" for name in names)
        (folder / f"x-i3d-{half.lower()}-10crop.list").write_text(lines)
    np.save(folder / "gt.npy", np.array([0] * 20 + [1] * 12 + [0] * 16, float))
    return Given(
        folder / "i3d",
        [str(folder / f"x-i3d-{half}-10crop.list") for half in ("train", "test")],
        folder / "gt.npy",
        suffix="_i3d",
        abnormal_first=1,
        made_by="I3D",
    )


def test_as_rtfm_keeps_them(tmp_path: Path) -> None:
    given = rtfm(tmp_path)
    lines = import_features(given, tmp_path / "x.zarr", dataset="sh")
    assert lines[-2:] == [
        "4 files of (clip,crop,channel), 10 crops, 7 channels; 4 new videos",
        f"{tmp_path}/x.zarr: 8 clips with imported_rtfm",
    ]
    ds = read(tmp_path / "x.zarr")
    assert ds["video"].values.tolist() == ["a", "n", "b", "m"]
    assert ds["frames"].values.tolist() == [32, 48, 32, 16]
    assert ds["label"].values.tolist() == [ABNORMAL, NORMAL, ABNORMAL, NORMAL]
    assert (
        ds["frame_label"].values.tolist() == [-1] * 32 + [0] * 48 + [0] * 20 + [1] * 12 + [0] * 16
    )
    assert ds["split"].values.tolist() == [[TRAIN, TRAIN, TEST, TEST]]
    assert ds["split_name"].values.tolist() == ["imported"]
    assert ds["clip_start"].values.tolist() == [0, 16, 0, 16, 32, 0, 16, 0]
    assert ds["imported_rtfm"].dims == ("clip", "crop_10", "channel_7")  # which crops, who knows
    assert ds["imported_rtfm"].attrs["made_by"] == "I3D"
    assert ds["imported_rtfm"].attrs["imported"] == "rtfm .npy files"
    assert ds["reason"].values.tolist()[0] == "number of frames not known; 16 a clip make 32"
    files = [np.load(given.folder / f"{name}_i3d.npy") for name in
             ("SH_Train/a", "SH_Train/n", "SH_Test/b", "SH_Test/m")]  # fmt: skip
    np.testing.assert_array_equal(ds["imported_rtfm"], np.concatenate(files))


@pytest.mark.parametrize(
    ("axes", "crops"), [((0, 1, 2), 10), ((1, 0, 2), 10), (None, 1), ((0, 1, 2), 1)]
)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_orders_of_axes_and_precisions(
    tmp_path: Path, axes: tuple[int, ...] | None, crops: int, dtype: str
) -> None:
    wanted = {"v": RNG.normal(size=(3, crops, 5)), "w": RNG.normal(size=(10, crops, 5))}
    for name, values in wanted.items():
        kept = values[:, 0] if axes is None else values.transpose(axes)
        np.save(tmp_path / f"{name}.npy", kept.astype(dtype))
    lines = import_features(Given(tmp_path), tmp_path / "x.zarr", dataset="x")
    store = open_store(tmp_path / "x.zarr")
    for name, values in wanted.items():
        np.testing.assert_array_equal(stored(store, name), values.astype(dtype).astype("float32"))
    rounded = "2 files hold more digits than float32 has; they were rounded"
    assert (rounded in lines) == (dtype == "float64")
    assert read(store.url)["imported_rtfm"].dims == ("clip", f"crop_{crops}", "channel_5")
    assert store.split_names == ()
    assert store.labels().tolist() == [UNKNOWN, UNKNOWN]


def test_axes_that_could_be_either(tmp_path: Path) -> None:
    save(tmp_path, {"v": (10, 10, 4), "w": (10, 10, 4)})
    with pytest.raises(FeatureFileError, match="all 2 files are of 10 clips and 10 crops; say"):
        import_features(Given(tmp_path), tmp_path / "x.zarr", dataset="x")
    import_features(Given(tmp_path, order="crop,clip,channel"), tmp_path / "x.zarr", dataset="x")
    store = open_store(tmp_path / "x.zarr")
    np.testing.assert_array_equal(stored(store, "v"), np.load(tmp_path / "v.npy").swapaxes(0, 1))


def test_a_command_killed_goes_on_where_it_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, url = rtfm(tmp_path), tmp_path / "x.zarr"
    import_features(given, tmp_path / "undisturbed.zarr", dataset="sh")
    written = itertools.count()
    original = exchange.write_clips

    def killed(*args: Any, **kwargs: Any) -> None:
        if next(written) == 2:
            raise KeyboardInterrupt
        original(*args, **kwargs)

    monkeypatch.setattr(exchange, "write_clips", killed)
    with pytest.raises(KeyboardInterrupt):
        import_features(given, url, dataset="sh")
    before = open_store(url)
    assert 0 < (before.status("imported_rtfm") == DONE).sum() < 8
    import_features(given, url, dataset="sh")
    assert next(written) == 7  # two, the kill, and four: a video that is not whole is anew
    assert read(url).drop_attrs().identical(read(tmp_path / "undisturbed.zarr").drop_attrs())
    assert "0 new videos" in import_features(given, url, dataset="sh")[-2]


def test_a_second_array_of_the_same_videos(tmp_path: Path) -> None:
    given, url = rtfm(tmp_path), tmp_path / "x.zarr"
    import_features(given, url, dataset="sh")
    other = save(tmp_path / "c3d", {name: (clips, 4) for name, clips in
                                    [("a", 2), ("n", 3), ("b", 2), ("m", 1)]})  # fmt: skip
    import_features(Given(other), url, dataset="sh", array="imported_c3d")
    ds = read(url)
    assert ds.sizes["video"] == 4
    assert ds["imported_c3d"].dims == ("clip", "crop_1", "channel_4")
    assert ds["imported_rtfm"].notnull().all()
    np.save(other / "a.npy", np.zeros((2, 4), np.float32))
    with pytest.raises(FeatureFileError, match=r"a\.npy: differs from what the store has of a in"):
        import_features(Given(other), url, dataset="sh", array="imported_c3d")
    save(other, {"a": (4, 4)})
    with pytest.raises(FeatureFileError, match=r"a\.npy: has 4 clips, the store 2 of that video"):
        import_features(Given(other), url, dataset="sh", array="imported_d")


def test_clips_that_hold_nan_are_marked_failed(tmp_path: Path) -> None:
    folder = save(tmp_path / "f", {"v": (4, 10, 3), "w": (2, 10, 3)})
    values = np.load(folder / "v.npy")
    values[1, 3, 2], values[3, 0, 0] = np.nan, np.inf
    np.save(folder / "v.npy", values)
    lines = import_features(Given(folder), tmp_path / "x.zarr", dataset="x")
    assert "v: v.npy: clips 1, 3 hold NaN or infinity" in lines
    store = open_store(tmp_path / "x.zarr")
    assert store.status("imported_rtfm").tolist() == [DONE, FAILED, DONE, FAILED, DONE, DONE]
    assert np.isnan(stored(store, "v")[[1, 3]]).all()
    assert [v.state for v in store.videos()] == ["damaged", "ok"]
    import_features(Given(folder), tmp_path / "x.zarr", dataset="x")


def test_known_numbers_of_frames(tmp_path: Path) -> None:
    """Features of all clips, or of whole ones only: frames are those that are in some clip."""
    folder = save(tmp_path / "f", {"ceil": (3, 10, 3), "floor": (2, 10, 3)})
    table = "video,split,label,frames\nceil,test,abnormal,40\nfloor,test,normal,40\n"
    (tmp_path / "x.csv").write_text(table)
    flags = np.zeros(40, np.int8)
    flags[30:] = 1
    gt = np.concatenate([align.frame_labels(flags, "ceil"), np.zeros(32)])
    np.save(tmp_path / "gt.npy", gt)
    given = Given(folder, [str(tmp_path / "x.csv")], tmp_path / "gt.npy")
    import_features(given, tmp_path / "x.zarr", dataset="x")
    store = open_store(tmp_path / "x.zarr")
    assert [(v.frames, v.reason) for v in store.videos()] == [
        (40, ""), (32, "of 40 frames the last 8 are in no clip")
    ]  # fmt: skip
    assert store.frame_labels(0).tolist() == flags.tolist()
    assert store.frame_labels(1).tolist() == [0] * 32
    (tmp_path / "frames.csv").write_text("video,frames\nceil,200\n")
    with pytest.raises(FeatureFileError, match="has 3 clips, but 200 frames make 12 or 13"):
        import_features(
            Given(folder, given.lists, frames=tmp_path / "frames.csv"), tmp_path / "y.zarr",
            dataset="x",
        )  # fmt: skip


def test_segments_keep_their_spans(tmp_path: Path) -> None:
    folder = save(tmp_path / "f", {"v": (4, 6), "unknown": (4, 6)})
    (tmp_path / "x.csv").write_text("video,split,label,frames\nv,test,abnormal,100\n"
                                    "unknown,train,normal,\n")  # fmt: skip
    flags = np.arange(100) > 60
    np.save(tmp_path / "gt.npy", flags.astype(float))
    given = Given(folder, [str(tmp_path / "x.csv")], tmp_path / "gt.npy", segments=4)
    import_features(given, tmp_path / "x.zarr", dataset="x")
    store = open_store(tmp_path / "x.zarr")
    ds = read(store.url)
    assert ds.attrs["segments"] == 4
    assert "clip_stop" in ds["imported_rtfm"].coords
    starts, stops = store.clip_spans()
    assert starts.tolist() == [0, 16, 48, 80, -1, -1, -1, -1]  # 7 clips in 4 runs
    assert stops.tolist() == [16, 48, 80, 100, -1, -1, -1, -1]
    scores = align.span_scores(np.arange(4.0), starts[:4], stops[:4], 100)
    assert scores.tolist() == [0] * 16 + [1] * 32 + [2] * 32 + [3] * 20
    assert store.frame_labels(0).tolist() == flags.astype(int).tolist()
    assert store.videos()[1].frames == 0
    assert store.videos()[1].reason == "number of frames not known"
    export_features(store.url, tmp_path / "out")
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "gt.npy"), flags)
    again = Given(tmp_path / "out" / "features", [str(tmp_path / "out" / "videos.csv")],
                  tmp_path / "out" / "gt.npy", segments=4)  # fmt: skip
    import_features(again, tmp_path / "y.zarr", dataset="x")
    assert (
        open_store(tmp_path / "y.zarr").clip_spans()[0].tolist() == [-1] * 4 + starts[:4].tolist()
    )
    with pytest.raises(FeatureFileError, match="holds 4 segments a video; give another"):
        import_features(Given(folder), store.url, dataset="x")
    with pytest.raises(FeatureFileError, match=r"v\.npy: has 4 segments, not 32|has 4 segments"):
        import_features(Given(folder, segments=32), tmp_path / "z.zarr", dataset="x")


def test_names_of_arrays(tmp_path: Path) -> None:
    given = rtfm(tmp_path)
    for array in ("i3d", "imported_", "imported_../x", "timm_x"):
        with pytest.raises(FeatureFileError, match="imported features are called imported_NAME"):
            import_features(given, tmp_path / "x.zarr", dataset="x", array=array)
