"""Features out of stores, as RTFM-like code reads them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featurestore import align
from featurestore.catalog import NewVideo
from featurestore.errors import FeatureFileError, LabelError, UsageError
from featurestore.exchange import Given, import_features
from featurestore.export import export_features
from featurestore.labels import Truth
from featurestore.schema import BACKBONES, FAILED, FUSED
from featurestore.splits import TEST, TRAIN, Split
from featurestore.store import Store, open_store
from tests.featurestore.making import make, stored, write


def full(url: Path, counts: list[int]) -> Store:
    """A store of ten-crop features with labels and a split; some videos have odd names."""
    store = make(url, [], names=(*BACKBONES, *FUSED))
    names = ["deep/er/v0", "straße 1", "v2", "v3"]
    store.append([NewVideo(n, n, count) for n, count in zip(names, counts, strict=True)])
    store.commit()
    for name in BACKBONES:
        write(store, name, range(store.clips))
    for i, (name, count) in enumerate(zip(names, counts, strict=True)):
        flags = (np.arange(count) % 5 < 2).astype(np.int8) * (i % 2)
        store.set_truth([Truth(name, i % 2, flags, "t")])
    parts = dict(zip(names, [TRAIN, TRAIN, TEST, TEST], strict=True))
    store.set_split(Split("weak", parts, {}, "t.csv"))
    store.commit()
    return store


@pytest.mark.parametrize("array", ["r3d", "swin_r3d"])
@pytest.mark.parametrize("convention", ["ceil", "floor"])
def test_import_after_export_is_the_same_bit_for_bit(
    tmp_path: Path, array: str, convention: Any
) -> None:
    counts = [40, 48, 77, 20]
    store = full(tmp_path / "x.zarr", counts)
    out = tmp_path / "out"
    made = export_features(store.url, out, array=array, convention=convention)
    assert made.left_out == []
    assert "2 videos to train, the first 1 of them abnormal" in made.lines[0]
    given = Given(out / "features", [str(out / "videos.csv")], out / "gt.npy", split_name="weak")
    import_features(given, tmp_path / "y.zarr", dataset="y", array="imported_again")
    again = open_store(tmp_path / "y.zarr")
    assert again.split("weak").parts == store.split("weak").parts
    assert again.split("weak").labels == store.split("weak").labels
    rows = {v.name: v for v in again.videos()}
    for row in store.videos():
        clips = align.clips_that_count(row.frames, convention)
        values = store.features(array, row.clips)[:clips]
        assert stored(again, row.name, "imported_again").tobytes() == values.tobytes()
        frames = row.frames if convention == "ceil" else 16 * clips
        assert rows[row.name].frames == frames
        if row.name in ("v2", "v3"):  # gt.npy is of the test videos
            np.testing.assert_array_equal(
                again.frame_labels(rows[row.name].index), store.frame_labels(row.index)[:frames]
            )
    if convention == "ceil":
        np.testing.assert_array_equal(
            np.sort(again.clip_table()[1]), np.sort(store.clip_table()[1])
        )


def test_what_rtfm_reads(tmp_path: Path) -> None:
    """What its dataset.py and test_10crop.py ask of the files, with their own few lines."""
    store = full(tmp_path / "x.zarr", [40, 48, 77, 20])
    export_features(store.url, tmp_path / "out", array="s3d")
    train = (tmp_path / "out" / "train.list").read_text().splitlines(keepends=True)
    assert [Path(line).name for line in train] == ["straße 1.npy\n", "v0.npy\n"]  # abnormal first
    for line in train:
        features = np.load(line.strip("\n"), allow_pickle=True).astype(np.float32)
        assert features.transpose(1, 0, 2).shape == (10, 3, 1024)
    scores = []
    for line in (tmp_path / "out" / "test.list").read_text().splitlines(keepends=True):
        features = np.load(line.strip("\n"), allow_pickle=True)
        assert features.dtype == np.float32
        scores += range(len(features))
    gt = np.load(tmp_path / "out" / "gt.npy")
    assert gt.dtype == np.float64
    assert len(np.repeat(scores, 16)) == len(gt)
    of = {v.name: store.frame_labels(v.index) for v in store.videos()}
    expected = [align.frame_labels(of[name], "ceil") for name in ("v3", "v2")]
    np.testing.assert_array_equal(gt, np.concatenate(expected))


def test_videos_without_all_features_are_left_out(tmp_path: Path) -> None:
    store = full(tmp_path / "x.zarr", [40, 48, 77, 20])
    last = store.videos()[2].clips[-1]
    store.mark("r3d", np.array([last]), FAILED)
    made = export_features(store.url, tmp_path / "ceil", array="swin_r3d")
    assert made.left_out == ["v2"]
    assert made.lines[-1] == "left out, for clips without features: v2"
    assert not (tmp_path / "ceil" / "features" / "v2.npy").exists()
    made = export_features(store.url, tmp_path / "floor", array="r3d", convention="floor")
    assert made.left_out == []  # that clip does not count
    assert np.load(tmp_path / "floor" / "features" / "v2.npy").shape == (4, 10, 512)


def test_exports_that_cannot_be(tmp_path: Path) -> None:
    store = full(tmp_path / "x.zarr", [40, 48, 77, 20])
    store.set_split(Split("other", {"v2": TEST}, {}, "o"))
    store.commit()
    out = tmp_path / "out"
    with pytest.raises(UsageError, match=r"several arrays; give one with --array: swin, r3d,"):
        export_features(store.url, out)
    with pytest.raises(UsageError, match=r"no split 'x'; give one with --split: weak, other"):
        export_features(store.url, out, array="r3d", split="x")
    store.append([NewVideo("../evil", "e", 16), NewVideo("unknown", "u", 16)])
    store.set_split(Split("evil", {"../evil": TEST}, {}, "e"))
    store.set_split(Split("train", {"unknown": TRAIN}, {}, "u"))
    store.set_split(Split("test", {"unknown": TEST, "v2": TEST}, {}, "u"))
    store.commit()
    write(store, "r3d", range(store.clips - 2, store.clips))
    for split, error, message in (
        ("evil", FeatureFileError, "'../evil': this video's name cannot be the name of a file"),
        ("train", LabelError, "labels of 1 training videos are not known: unknown"),
        ("test", LabelError, "frame labels of 1 test videos are not known: unknown"),
    ):
        with pytest.raises(error, match=message):
            export_features(store.url, out, array="r3d", split=split)
    assert not out.exists()
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match="is there already; give a new folder"):
        export_features(store.url, out, array="r3d", split="weak")
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "out", "x.zarr", "x.zarr.blocks.lock"
    ]  # fmt: skip
