"""Labels and splits: with an extraction and after it, of stores that are there, and what is wrong.

One run of the whole command; the rest asks the functions behind it, without networks.
"""

import json
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner

from featurestore.catalog import NewVideo
from featurestore.errors import DatasetError, FeatureStoreError, SplitError, UsageError
from featurestore.labels import ABNORMAL, NORMAL, UNKNOWN
from featurestore.splits import TEST, TRAIN, UNUSED, read_csv
from featurestore.store import Store, create
from jobs import datasets, labelling, splitting, status
from jobs.cli import cli
from tests.jobs.conftest import FAST_ARRAY, Command

FRAMES = 40  # of each of the fixture's videos


def frame_labels(ds: xr.Dataset, video: str) -> list[int]:
    row = ds["video"].values.tolist().index(video)
    first = int(ds["frame_offset"][row])
    return ds["frame_label"][first : first + int(ds["frames"][row])].values.tolist()


@pytest.mark.slow
def test_labels_and_splits_of_videos_extracted_before(command: Command, videos: Path) -> None:
    """Filled in without computing anything again, also of some videos of a dataset only."""
    intervals, labels = videos.parent / "intervals.csv", videos.parent / "labels.csv"
    some = ("--videos", "normal_01", "--videos", "abnormal_03")
    assert "labels: 2 unknown; splits: none" in command.extract(videos, *some)
    url = command.folder / "features" / "videos.zarr"
    before = xr.open_zarr(url).load()
    out = command.extract(videos, *some, "--labels", intervals, "--split", f"mine={labels}")
    assert "nothing to compute" in out
    assert "labels: 1 normal, 1 abnormal; splits: mine (1 train, 1 test)" in out
    ds = xr.open_zarr(url).load()
    np.testing.assert_array_equal(ds[FAST_ARRAY], before[FAST_ARRAY])
    given = read_csv(labels)
    for row, video in enumerate(ds["video"].values.tolist()):
        assert ds["split"].sel(split_name="mine")[row] == given.parts[video]
        assert ds["label"][row] == given.labels[video]
        mask = np.load(videos.parent / "masks" / f"{video}.npy").any(axis=(1, 2))
        assert frame_labels(ds, video) == mask.astype(int).tolist()
        assert mask.any() == bool(given.labels[video])


@pytest.fixture
def root(videos: Path, tmp_path: Path) -> Path:
    """A folder of four videos with the two tables."""
    folder = tmp_path / "camera"
    folder.mkdir()
    for name in ("abnormal_01", "abnormal_02", "normal_01", "normal_02"):
        shutil.copy(videos / f"{name}.mp4", folder)
    write_tables(folder)
    return folder


def write_tables(folder: Path, *more: str) -> None:
    (folder / "intervals.csv").write_text("video,start,end\nabnormal_01,3,9\nabnormal_02,0,40")
    rows = ["video,split,label", "abnormal_01,train,abnormal", "abnormal_02,test,abnormal",
            "normal_01,train,normal", "normal_02,test,normal", *more]  # fmt: skip
    (folder / "labels.csv").write_text("\n".join(rows))


def extract(
    root: Path,
    *texts: str,
    store: Store | None = None,
    url: Path | None = None,
    changed: Collection[str] = (),
    failed: Collection[str] = (),
    **settings: Any,
) -> Store:
    """What the command does, but for frames and networks: takes up the videos, then records."""
    sources = datasets.scan("folder", root)
    before = labelling.rows_of(store)
    new = [
        NewVideo(s.name, s.path.name, FRAMES, state="ok")
        if s.name not in failed
        else NewVideo(s.name, s.path.name, 0, state="failed")
        for s in sources
        if s.name not in before or s.name in {*changed, *failed}
    ]
    rows = {**before, **{row.name: labelling.Row.of(row) for row in new}}
    wanted = labelling.asked(texts, "folder", root, **settings)
    plan = labelling.prepare(
        wanted, store, rows, dataset="folder", root=root, sources=sources,
        new={row.name for row in new},
    )  # fmt: skip
    if store is None:
        assert url is not None
        store = create(url, dataset="folder", block=4)
    store.append(new)
    labelling.record(store, plan)
    store.commit()
    return store


def parts(store: Store, split: str) -> dict[str, int]:
    """Video -> half, those of neither half too."""
    of_rows = store.split_parts(split).tolist()
    return {v.name: of_rows[v.index] for v in store.videos() if v.state != "superseded"}


def labels(store: Store) -> dict[str, int]:
    of_rows = store.labels().tolist()
    return {v.name: of_rows[v.index] for v in store.videos() if v.state != "superseded"}


def test_all_that_is_known_is_recorded_unless_something_is_asked_for(
    root: Path, tmp_path: Path
) -> None:
    store = extract(root, url=tmp_path / "x.zarr")
    assert store.split_names == ("official",)
    assert parts(store, "official") == {
        "abnormal_01": TRAIN, "abnormal_02": TEST, "normal_01": TRAIN, "normal_02": TEST
    }  # fmt: skip
    assert set(extract(root, "random:2", url=tmp_path / "y.zarr").split_names) == {
        "random-0-1", "random-0-2"
    }  # fmt: skip
    (root / "labels.csv").unlink()
    bare = extract(root, url=tmp_path / "z.zarr")
    assert bare.split_names == ()
    assert labels(bare) == {
        "abnormal_01": ABNORMAL, "abnormal_02": ABNORMAL, "normal_01": UNKNOWN, "normal_02": UNKNOWN
    }  # fmt: skip


def test_videos_added_replaced_and_failed(root: Path, videos: Path, tmp_path: Path) -> None:
    store = extract(root, "official", "random:1", url=tmp_path / "x.zarr")
    drawn = parts(store, "random-0-1")
    assert sorted(drawn.values()) == [TRAIN, TRAIN, TEST, TEST]

    shutil.copy(videos / "normal_03.mp4", root)
    write_tables(root, "normal_03,test,normal")
    store = extract(
        root, "official", "random:1", store=store, changed=["abnormal_01"], failed=["normal_02"]
    )
    assert parts(store, "official")["normal_03"] == TEST
    assert parts(store, "random-0-1") == {**drawn, "normal_03": UNUSED}  # as it was
    ds = xr.open_zarr(store.url).load()
    assert sorted(ds["state"].values.tolist()) == ["failed", *["ok"] * 4, *["superseded"] * 2]
    rows = {v.name: v for v in store.videos() if v.state != "superseded"}
    assert store.frame_labels(rows["abnormal_01"].index).tolist() == [0] * 3 + [1] * 6 + [0] * 31
    assert store.frame_labels(rows["normal_03"].index).tolist() == [0] * FRAMES
    assert store.frame_labels(rows["normal_02"].index).tolist() == []
    assert labels(store)["normal_02"] == NORMAL
    assert int(ds["frames"].sum()) == ds.sizes["frame"]

    (root / "normal_01.mp4").unlink()  # gone from this disk, not from the store
    write_tables(root)
    text = (root / "labels.csv").read_text().replace("normal_01,train,normal\n", "")
    (root / "labels.csv").write_text(text)
    store = extract(root, "official", store=store)
    assert parts(store, "official")["normal_01"] == TRAIN


def test_the_ground_truth_is_read_where_something_needs_it(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = extract(root, url=tmp_path / "x.zarr")
    monkeypatch.setattr(datasets, "truth", lambda *_, **__: pytest.fail("it was read again"))
    extract(root, store=store)
    plan = labelling.prepare(
        labelling.asked([], "folder", root), store, labelling.rows_of(store),
        dataset="folder", root=root, sources=datasets.scan("folder", root),
    )  # fmt: skip
    assert (plan.truths, plan.splits) == ([], [])


@pytest.mark.parametrize(
    ("texts", "table", "error", "message"),
    [
        (["nobody"], "", SplitError, "no such split of folder, and no such file; choose from"),
        (["random:none"], "", UsageError, "give the number of splits to draw, as in random:20"),
        (["random:0"], "", UsageError, "give the number of splits to draw, as in random:20"),
        (["x.csv"], "video,split\nnormal_09,train", SplitError, "that are not there: normal_09"),
        (["x.csv"], "video,split\nnormal_01,train\nnormal_01,test", SplitError, "in both halves"),
        (["x.csv"], "video,split,label\nnormal_01,train,abnormal", SplitError,
         r"x \(x\.csv\): contradicts the labels of 1 videos: normal_01: abnormal in the split"),
        (["gone.csv"], "", SplitError, "gone.csv: there is no such file"),
        (["official,a=x.csv", "a=x.csv"], "video,split\nnormal_01,train", SplitError,
         "there are two of the name a"),
    ],
)  # fmt: skip
def test_what_does_not_fit(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, texts: list[str], table: str,
    error: type[FeatureStoreError], message: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("x.csv").write_text(table)
    with pytest.raises(error, match=message):
        extract(root, *texts, url=tmp_path / "x.zarr")
    assert not (tmp_path / "x.zarr").exists()


def test_numbers_of_training_videos(root: Path, tmp_path: Path) -> None:
    store = extract(root, "random:1", url=tmp_path / "x.zarr", train_videos="1,1")
    assert sorted(parts(store, "random-0-1").values()) == [TRAIN, TRAIN, TEST, TEST]
    with pytest.raises(SplitError, match="of 2 abnormal videos whose label is known 2 cannot"):
        extract(root, "random:1", store=store, train_videos="2,1", seed=1)
    with pytest.raises(UsageError, match="--train-videos '6': give the abnormal and the normal"):
        extract(root, "random:1", store=store, train_videos="6")


def run(*words: object, code: int = 0) -> str:
    """`fs-submit` in this process; an error meant for the user comes as its text."""
    done = CliRunner().invoke(cli, [str(word) for word in words])
    if isinstance(done.exception, FeatureStoreError):
        assert code == 1
        return str(done.exception)
    assert done.exit_code == code, done.output
    return done.output


def test_splits_are_added_to_a_store_at_any_time(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = extract(root, "random:1", url=tmp_path / "features" / "camera.zarr")
    assert "added random-5-1, random-5-2" in run("split", "add", "--split", "random:2", "--seed", 5)
    (tmp_path / "mine.csv").write_text("video,split,label\nnormal_01,train,normal\n")
    out = run("split", "add", "--split", "mine.csv", "--split", "yours=mine.csv")
    assert "split mine: 3 videos in neither half: abnormal_01, abnormal_02, normal_02" in out
    run("split", "add", "--split", "official", "--root", root)
    found = {one["split"]: one for one in json.loads(run("split", "list", "--json"))}
    assert list(found) == ["random-0-1", "random-5-1", "random-5-2", "mine", "yours", "official"]
    assert found["mine"]["train"] == {"normal": 1}
    assert found["official"]["test"] == {"normal": 1, "abnormal": 1}
    assert "  mine           1 normal to train; none to test  (mine.csv)" in run("split", "list")
    assert splitting.collect("features") == list(found.values())

    assert "has them already" in run("split", "add", "--split", "random:2", "--seed", 5)
    (tmp_path / "mine.csv").write_text("video,split,label\nnormal_01,test,normal\n")
    error = run("split", "add", "--split", "mine.csv", code=1)
    assert "has a split 'mine' already, in which 1 videos are elsewhere: normal_01" in error
    run("split", "add", "--split", "mine.csv", "--replace")
    assert splitting.collect("features")[3]["test"] == {"normal": 1}
    (one,) = status.collect("features")
    assert one["labels"] == {"normal": 2, "abnormal": 2}
    assert "splits: random-0-1 (2 train, 2 test), random-5-1 (" in run("status")
    assert store.split_names == ("random-0-1",)  # of its own commit


def test_random_splits_drawn_otherwise_are_not_mixed_up(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [f"v{i},,{'normal' if i % 2 else 'abnormal'}" for i in range(12)]
    (tmp_path / "all.csv").write_text("\n".join(["video,split,label", *rows]))
    store = create(tmp_path / "features" / "x.zarr", dataset="x", block=4)
    store.append([NewVideo(f"v{i}", "", 20) for i in range(12)])
    store.commit()
    assert "added labels" in run("split", "add", "--split", "all.csv")
    assert splitting.collect("features") == []
    run("split", "add", "--split", "random:2", "--train-videos", "2,1")
    assert [one["train"] for one in splitting.collect("features")] == [
        {"normal": 1, "abnormal": 2}
    ] * 2  # fmt: skip
    error = run("split", "add", "--split", "random:1", code=1)
    assert "has a split random-0-1 already, drawn with seed 0, number 1: 2 abnormal" in error
    run("split", "add", "--split", "random:1", "--replace")
    assert splitting.collect("features")[0]["train"] == {"normal": 3, "abnormal": 3}


def test_the_store_that_is_meant(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two"):
        extract(root, "random:1", url=tmp_path / "features" / f"{name}.zarr")
    error = run("split", "add", "--split", "random:1", code=1)
    assert "features has 2 stores: one, two; say which with --name" in error
    run("split", "add", "--name", "two", "--split", "random:2")
    assert [one["store"] for one in splitting.collect("features")].count("features/two.zarr") == 2
    with pytest.raises(DatasetError, match="elsewhere is not there"):
        splitting.add("features", "two", ["official"], root=Path("elsewhere"))
