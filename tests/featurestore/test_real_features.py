"""Real features that others can have, into a store and out again, with published labels."""

from pathlib import Path

import numpy as np

from featurestore import align
from featurestore.exchange import Given, import_features
from featurestore.export import export_features
from featurestore.splits import TEST, TRAIN, read_csv
from featurestore.store import open_store
from tests.featurestore.making import read, stored
from tests.featurestore.test_align import PED2_TEST, PED2_TRAIN


def test_ped2_with_the_published_split_and_labels(shared_data: Path, tmp_path: Path) -> None:
    """28 files made under our convention, labels published under the floor rule."""
    names = [f"Test{i + 1:03d}" for i in range(12)] + [f"Train{i + 1:03d}" for i in range(16)]
    rows = zip(names, [*PED2_TEST, *PED2_TRAIN], strict=True)
    table = "".join(f"{name},{frames}\n" for name, frames in rows)
    (tmp_path / "frames.csv").write_text(f"video,frames\n{table}")
    folder = shared_data / "features" / "ped2_movinet_a0_10crop"
    csv = shared_data / "splits" / "ped2_weak_FatemeBameri_s6.csv"
    gt = shared_data / "labels" / "FatemeBameri_gt_s6_ped2.npy"
    given = Given(
        folder, [str(csv)], gt, tmp_path / "frames.csv", made_by="MoViNet-A0", our_crops=True
    )
    import_features(given, tmp_path / "x.zarr", dataset="ped2", array="imported_movinet")
    store = open_store(tmp_path / "x.zarr")
    rows_of = {v.name: v for v in store.videos()}
    assert read(store.url)["imported_movinet"].dims == ("clip", "crop", "channel_480")
    assert len(rows_of) == 28
    assert sum(v.frames for v in rows_of.values()) == 4560
    for name in names:
        own = stored(store, name, "imported_movinet")
        assert own.tobytes() == np.load(folder / f"{name}.npy").tobytes()
    split = store.split(csv.stem)
    published = read_csv(csv)
    assert split.parts == dict(published.parts)
    assert split.labels == dict(published.labels)
    floor = [
        align.frame_labels(store.frame_labels(rows_of[name].index), "floor")
        for name in published.videos(TEST)
    ]
    np.testing.assert_array_equal(np.concatenate(floor), np.load(gt))
    assert sum(map(len, floor)) == 2816
    # Out again, as others read it: the same array under the same rule.
    export_features(store.url, tmp_path / "out", convention="floor")
    mine = np.load(tmp_path / "out" / "gt.npy")
    assert (len(mine), int(mine.sum())) == (2816, 687)


def test_shanghaitech_in_32_segments(shared_data: Path, tmp_path: Path) -> None:
    """126 training videos, written out as .npy first; masks tell how long the abnormal ones are."""
    given = np.load(shared_data / "features" / "shanghaitech_i3d_32seg_train126.npz")
    masks = np.load(shared_data / "labels" / "shanghaitech_test_frame_mask.npz")
    (tmp_path / "npy").mkdir()
    rows = []
    for name, label, values in zip(given["videos"], given["label"], given["features"], strict=True):
        np.save(tmp_path / "npy" / f"{name}.npy", values)
        frames = len(masks[name]) if label else ""
        rows.append(f"{name},train,{'abnormal' if label else 'normal'},{frames}\n")
    (tmp_path / "train.csv").write_text("video,split,label,frames\n" + "".join(rows))
    import_features(
        Given(tmp_path / "npy", [str(tmp_path / "train.csv")], segments=32),
        tmp_path / "x.zarr", dataset="shanghaitech", array="imported_i3d",
    )  # fmt: skip
    store = open_store(tmp_path / "x.zarr")
    ds = read(store.url)
    values = ds["imported_i3d"].values.reshape(126, 32, 2048)
    np.testing.assert_array_equal(values, given["features"].astype(np.float32))
    assert ds["video"].values.tolist() == given["videos"].tolist()
    assert ds["label"].values.tolist() == given["label"].tolist()
    assert (ds["split"].values == TRAIN).all()
    starts, stops = (of.reshape(126, 32) for of in store.clip_spans())
    for row, (name, label) in enumerate(zip(given["videos"], given["label"], strict=True)):
        if label:
            frames = len(masks[name])
            assert (starts[row, 0], stops[row, -1]) == (0, frames)
            scores = align.span_scores(values[row, :, 0], starts[row], stops[row], frames)
            assert np.isfinite(scores).all()
        else:
            assert (starts[row] == -1).all()
