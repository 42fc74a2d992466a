"""Labels and splits in a store: growing, replaced and damaged videos, old stores, kills."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zarr

from featurestore import labelled
from featurestore.catalog import NewVideo
from featurestore.errors import LabelError, SplitError, UsageError
from featurestore.labels import ABNORMAL, NORMAL, UNKNOWN, Truth
from featurestore.schema import LABEL_TABLE
from featurestore.splits import TEST, TRAIN, UNUSED, Split
from featurestore.store import Store, open_store
from tests.featurestore.making import make, read, video

FRAMES = [43, 27, 75]  # of making.make's videos of 3, 2 and 5 clips


def truth(name: str, frames: int, anomalous: range | None = None, label: int = UNKNOWN) -> Truth:
    values = np.zeros(frames, np.int8)
    values[list(anomalous or [])] = 1
    return Truth(name, label, values, f"{name}.npy")


def split(name: str = "official", source: str = "x.csv", **parts: int) -> Split:
    return Split(name, parts, {}, source)


def filled(url: Path) -> Store:
    store = make(url, names=["r3d"])
    assert store.set_truth([truth("v0", 43), truth("v1", 27, range(20, 27))]) == []
    store.set_split(split(v0=TRAIN, v1=TEST, v2=TEST))
    store.commit()
    return store


STOCK = """
import sys, warnings
warnings.simplefilter("error")
import xarray as xr
for options in ({"chunks": None}, {}, {"chunks": {}}, {"consolidated": True}):
    ds = xr.open_zarr(sys.argv[1], **options).load()
    assert ds["label"].dims == ("video",) and ds["label"].dtype == "int8"
    assert ds["label"].values.tolist() == [0, 1, -1]
    assert ds["frame_label"].dims == ("frame",) and ds["frame_label"].dtype == "int8"
    first = int(ds["frame_offset"][1])
    assert ds["frame_label"][first : first + 27].values.tolist() == [0] * 20 + [1] * 7
    assert ds["frame_label"][first + 27 :].values.tolist() == [-1] * 75
    assert ds["split"].dims == ("split_name", "video"), ds["split"].dims
    assert ds["split"].sel(split_name="official").values.tolist() == [0, 1, 1]
    train = ds["video"][ds["split"].sel(split_name="official") == 0]
    assert train.values.tolist() == ["v0"]
    assert ds["split"].attrs["sources"] == {"official": "x.csv"}
"""


def test_stock_xarray_reads_them_without_a_warning(tmp_path: Path) -> None:
    store = filled(tmp_path / "x.zarr")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", STOCK, store.url],
        capture_output=True, text=True, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_every_array_says_what_its_values_mean(tmp_path: Path) -> None:
    ds = read(make(tmp_path / "x.zarr", names=["r3d"]).url)
    for name in ("label", "frame_label"):
        assert ds[name].attrs["description"] == "0: normal, 1: abnormal, -1: unknown"
    assert ds["split"].attrs["description"].startswith("0: train, 1: test, -1: neither")
    for name in (*LABEL_TABLE, "split"):
        assert ds[name].attrs["long_name"]


def test_they_show_at_the_commit_with_their_videos(tmp_path: Path) -> None:
    store = filled(tmp_path / "x.zarr")
    before = read(store.url)
    store.append([video("late", 2)])
    store.set_truth([truth("late", 27, range(3))])
    store.set_split(split("mine", late=TRAIN, v2=TEST))
    assert read(store.url).identical(before)
    assert store.labels().tolist() == [NORMAL, ABNORMAL, UNKNOWN, ABNORMAL]
    store.commit()
    ds = read(store.url)
    assert ds["label"].values.tolist() == [NORMAL, ABNORMAL, UNKNOWN, ABNORMAL]
    assert ds["frame_offset"].values.tolist() == [0, 43, 70, 145]
    assert ds["frame_label"].values[145:].tolist() == [1] * 3 + [0] * 24
    assert ds["split_name"].values.tolist() == ["official", "mine"]
    assert ds["split"].values.tolist() == [[0, 1, 1, -1], [-1, -1, 1, 0]]


def test_what_is_read_back(tmp_path: Path) -> None:
    store = open_store(filled(tmp_path / "x.zarr").url)
    assert store.labels().tolist() == [NORMAL, ABNORMAL, UNKNOWN]
    assert store.frame_labels(1).tolist() == [0] * 20 + [1] * 7
    assert store.frame_labels(2).tolist() == [-1] * 75
    offsets, frames = store.frame_table()
    assert offsets.tolist() == [0, 43, 70]
    assert len(frames) == sum(FRAMES)
    assert store.split_names == ("official",)
    assert store.split_parts("official").tolist() == [TRAIN, TEST, TEST]
    found = store.split("official")
    assert found == Split("official", {"v0": 0, "v1": 1, "v2": 1}, {"v0": 0, "v1": 1}, "x.csv")
    with pytest.raises(SplitError, match="has no split 'mine'; it has official"):
        store.split("mine")


def test_unknown_never_overwrites_known_and_changes_are_remarked_on(tmp_path: Path) -> None:
    store = filled(tmp_path / "x.zarr")
    assert store.set_truth([Truth("v1", UNKNOWN, None, "-")]) == []
    assert store.set_truth([Truth("v1", ABNORMAL, None, "-")]) == []
    assert store.frame_labels(1).tolist() == [0] * 20 + [1] * 7
    assert store.set_truth([truth("v1", 27, range(19, 27))]) == ["v1: frame labels changed"]
    remarks = store.set_truth([truth("v0", 43, range(1))])
    assert remarks == ["v0: frame labels changed", "v0: label changed, normal -> abnormal"]


def test_labels_for_another_number_of_frames(tmp_path: Path) -> None:
    """The video's label is kept, no frame is labelled, and both counts are named."""
    store = make(tmp_path / "x.zarr", names=["r3d"])
    (remark,) = store.set_truth([truth("v0", 44, range(3))])
    assert remark == (
        "v0: v0.npy has labels of 44 frames, but 43 were decoded; its frame labels stay unknown"
    )
    assert store.labels()[0] == ABNORMAL
    assert store.frame_labels(0).tolist() == [-1] * 43


def test_damaged_and_failed_videos_count_what_was_decoded(tmp_path: Path) -> None:
    store = make(tmp_path / "x.zarr", [], names=["r3d"])
    store.append(
        [
            NewVideo("broken", "b", 20, state="damaged"),
            NewVideo("failed", "f", 0, state="failed"),
            NewVideo("whole", "w", 30),
        ]
    )
    remarks = store.set_truth(
        [truth("broken", 50, range(10, 45)), truth("failed", 9, range(9)), truth("whole", 30)]
    )
    assert remarks == []
    store.commit()
    ds = read(store.url)
    assert ds["frame_offset"].values.tolist() == [0, 20, 20]
    assert ds["frame_label"].values.tolist() == [0] * 10 + [1] * 10 + [0] * 30
    assert ds["label"].values.tolist() == [ABNORMAL, ABNORMAL, NORMAL]


def test_a_replaced_video_keeps_label_and_half_but_not_its_frames_labels(tmp_path: Path) -> None:
    store = filled(tmp_path / "x.zarr")
    store.append([video("new", 1), video("v1", 4)])
    store.commit()
    ds = read(store.url)
    assert ds["state"].values.tolist() == ["ok", "superseded", "ok", "ok", "ok"]
    assert ds["label"].values.tolist() == [NORMAL, ABNORMAL, UNKNOWN, UNKNOWN, ABNORMAL]
    assert ds["split"].values.tolist() == [[TRAIN, TEST, TEST, UNUSED, TEST]]
    assert store.frame_labels(4).tolist() == [-1] * 59
    assert store.frame_labels(1).tolist() == [0] * 20 + [1] * 7  # of the file it was
    assert store.split("official").parts == {"v0": TRAIN, "v1": TEST, "v2": TEST}
    store.set_truth([truth("v1", 59, range(1))])
    assert store.frame_labels(4).tolist() == [1] + [0] * 58
    assert store.frame_labels(1).tolist() == [0] * 20 + [1] * 7


def test_truth_of_unknown_videos_is_not_half_written(tmp_path: Path) -> None:
    store = filled(tmp_path / "x.zarr")
    before = read(store.url)
    with pytest.raises(LabelError, match=r"of 2 that there are labels for: w, x"):
        store.set_truth([truth("v2", 75), truth("w", 1), truth("x", 1)])
    with pytest.raises(LabelError, match="v2: there are two sets of labels"):
        store.set_truth([truth("v2", 75), truth("v2", 75)])
    store.commit()
    assert read(store.url).identical(before)


def test_splits_that_cannot_be(tmp_path: Path) -> None:
    store = filled(tmp_path / "x.zarr")
    before = read(store.url)
    with pytest.raises(SplitError, match=r"split a \(x\.csv\): names 1 videos .*: v9\."):
        store.set_split(split("a", v0=TRAIN, v9=TEST))
    wrong = Split("b", {"v0": TRAIN}, {"v0": ABNORMAL, "v2": ABNORMAL}, "b.csv")
    with pytest.raises(SplitError, match="v0: abnormal in the split, normal in the truth"):
        store.set_split(wrong)
    with pytest.raises(
        SplitError, match=r"'official' already, in which 2 videos .*: v1, v2\. Give"
    ):
        store.set_split(split(v0=TRAIN, v1=TRAIN))
    store.commit()
    assert read(store.url).identical(before)


def test_a_split_brings_labels_and_says_whom_it_leaves_out(tmp_path: Path) -> None:
    store = make(tmp_path / "x.zarr", names=["r3d"])
    remarks = store.set_split(
        Split("weak", {"v0": TRAIN, "v1": TRAIN}, {"v0": NORMAL, "v1": ABNORMAL}, "weak.csv")
    )
    assert remarks == ["split weak: 1 videos in neither half: v2"]
    assert store.labels().tolist() == [NORMAL, ABNORMAL, UNKNOWN]
    assert store.frame_labels(0).tolist() == [0] * 43  # every frame of a normal video is normal
    assert store.frame_labels(1).tolist() == [-1] * 27


def test_a_split_is_completed_or_replaced(tmp_path: Path) -> None:
    store = filled(tmp_path / "x.zarr")
    store.append([video("late", 2)])
    store.commit()
    assert store.split_parts("official").tolist() == [TRAIN, TEST, TEST, UNUSED]
    store.set_split(split(source="y.csv", v0=TRAIN, v1=TEST, v2=TEST, late=TRAIN))
    assert store.split_parts("official").tolist() == [TRAIN, TEST, TEST, TRAIN]
    store.set_split(split(source="z.csv", v0=TEST), replace=True)
    store.commit()
    assert store.split_parts("official").tolist() == [TEST, UNUSED, UNUSED, UNUSED]
    assert read(store.url)["split"].attrs["sources"] == {"official": "z.csv"}


def test_the_same_again_writes_nothing(tmp_path: Path) -> None:
    store = filled(tmp_path / "x.zarr")
    files = {p: p.stat().st_mtime_ns for p in Path(store.url).rglob("*") if p.is_file()}
    store.set_truth([truth("v0", 43), truth("v1", 27, range(20, 27))])
    store.set_split(split(v0=TRAIN, v1=TEST, v2=TEST))
    assert {p: p.stat().st_mtime_ns for p in Path(store.url).rglob("*") if p.is_file()} == files


def made_before_labels(store: Store) -> None:
    """Makes of a store one as the version before made it."""
    root = Path(store.url)
    for name in (*LABEL_TABLE, "split"):
        subprocess.run(["rm", "-r", root / name], check=True)
    document = json.loads((root / "zarr.json").read_text())
    document["attributes"]["featurestore_layout"] = 1
    (root / "zarr.json").write_text(json.dumps(document))
    zarr.consolidate_metadata(root)


@pytest.mark.filterwarnings("ignore::zarr.errors.ZarrUserWarning")
def test_a_store_made_before_there_were_labels(tmp_path: Path) -> None:
    made_before_labels(make(tmp_path / "x.zarr", names=["r3d"]))
    url = tmp_path / "x.zarr"
    store = open_store(url, "a")
    assert store.labels().tolist() == [UNKNOWN] * 3
    assert store.frame_labels(1).tolist() == [UNKNOWN] * 27
    assert store.frame_table()[0].tolist() == [0, 43, 70]
    assert store.split_names == ()
    with pytest.raises(SplitError, match="it has none: fs-submit split add"):
        store.split("official")
    store.append([video("late", 2)])
    store.commit()
    assert "label" not in read(url)
    store.set_truth([truth("late", 27, range(3))])
    assert "label" not in read(url)
    store = open_store(url, "a")  # killed before the commit
    assert store.labels().tolist() == [UNKNOWN] * 4
    store.set_truth([truth("late", 27, range(3))])
    store.set_split(split(late=TEST))
    store.commit()
    ds = read(url)
    assert ds["label"].values.tolist() == [-1, -1, -1, 1]
    assert ds["frame_label"].values.tolist() == [-1] * 145 + [1] * 3 + [0] * 24
    assert ds["split"].values.tolist() == [[-1, -1, -1, TEST]]
    assert ds.attrs["featurestore_layout"] == 2
    assert open_store(url, "a").append([video("later", 1)]) == range(4, 5)


def test_what_was_never_committed_leaves_nothing_behind(tmp_path: Path) -> None:
    """Not in chunks either that committed frames, videos and splits share."""
    store = filled(tmp_path / "x.zarr")
    before = read(store.url)
    store.append([video("lost", 2), video("v0", 1)])
    store.set_truth([truth("lost", 27, range(27))])
    store.set_split(split("lost", lost=TEST))
    store.set_split(split(v0=TRAIN, v1=TEST, v2=TEST, lost=TEST))
    store = open_store(store.url, "a")
    assert read(store.url).identical(before)
    store.append([video("late", 6)])
    store.set_split(split("other", v0=TEST))
    store.commit()
    ds = read(store.url)
    assert ds["label"].values.tolist() == [NORMAL, ABNORMAL, UNKNOWN, UNKNOWN]
    assert ds["frame_label"].values[145:].tolist() == [-1] * 91
    assert ds["split"].values.tolist() == [[0, 1, 1, -1], [1, -1, -1, -1]]
    assert ds["split"].attrs["sources"] == {"official": "x.csv", "other": "x.csv"}


def test_labels_of_many_frames_are_written_in_stretches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(labelled, "WINDOW", 100)
    store = make(tmp_path / "x.zarr", [1, 9, 2, 3, 1, 4], names=["r3d"])
    counts = [row.frames for row in store.videos()]
    rng = np.random.default_rng(0)
    flags = [rng.integers(0, 2, count).astype(np.int8) for count in counts]
    store.set_truth(Truth(f"v{i}", UNKNOWN, flags[i], "t") for i in (5, 0, 1, 3) if flags[i].any())
    for i, own in enumerate(flags):
        expected = own if i in (5, 0, 1, 3) else np.full(counts[i], -1)
        np.testing.assert_array_equal(store.frame_labels(i), expected)


def test_a_reader_changes_nothing(tmp_path: Path) -> None:
    store = open_store(filled(tmp_path / "x.zarr").url)
    for change in (
        lambda: store.set_truth([truth("v2", 75)]),
        lambda: store.set_split(split("mine", v0=TEST)),
    ):
        with pytest.raises(UsageError, match="open for reading only"):
            change()


def test_said_in_one_line(tmp_path: Path) -> None:
    store = filled(tmp_path / "x.zarr")
    store.append([video("v1", 4), video("late", 1)])
    counts = store.label_counts()
    assert counts == {
        "labels": {"normal": 1, "abnormal": 1, "unknown": 2},
        "splits": {"official": {"train": {"normal": 1}, "test": {"abnormal": 1, "unknown": 1}}},
    }
    line = "labels: 1 normal, 1 abnormal, 2 unknown; splits: official (1 train, 2 test)"
    assert labelled.summary(counts) == line
    empty = make(tmp_path / "y.zarr", [], names=["r3d"]).label_counts()
    assert labelled.summary(empty) == "labels: none; splits: none"
