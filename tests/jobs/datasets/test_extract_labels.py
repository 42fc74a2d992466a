"""Small datasets in their official layouts, through `fs-submit extract`: labels and splits land in
the store."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from featurestore.labels import ABNORMAL, NORMAL, UNKNOWN
from featurestore.splits import TEST, TRAIN
from tests.jobs.conftest import FAST, Command
from tests.jobs.datasets.test_avenue import COUNTS, MASKS, packed_masks
from tests.jobs.datasets.trees import TREES, bmp_masks, label_mat


def extract(command: Command, dataset: str, root: Path, *words: object, code: int = 0) -> str:
    done = command.run(
        "extract", "--dataset", dataset, "--root", root, "--weights", "random", "--backbones", FAST,
        "--workers", 1, *words, code=code,
    )  # fmt: skip
    return done.stdout + done.stderr


def opened(command: Command, name: str) -> xr.Dataset:
    return xr.open_zarr(command.folder / f"features/{name}.zarr")


def frame_labels(ds: xr.Dataset, video: str) -> np.ndarray:
    row = ds["video"].values.tolist().index(video)
    start = int(ds["frame_offset"][row])
    return ds["frame_label"].values[start : start + int(ds["frames"][row])]


def official(ds: xr.Dataset) -> dict[str, int]:
    row = ds["split_name"].values.tolist().index("official")
    return dict(zip(ds["video"].values, ds["split"].values[row].tolist(), strict=True))


# The others' layouts are those of `datasets check` and `truth`, which are tried without networks.
@pytest.mark.parametrize(
    "dataset", ["shanghaitech", pytest.param("ucf_crime", marks=pytest.mark.long)]
)
def test_official_layouts(dataset: str, command: Command, tmp_path: Path) -> None:
    tree = TREES[dataset](tmp_path / "data")
    extract(command, dataset, tree.root, "--name", dataset)
    ds = opened(command, dataset)
    assert official(ds) == {v: TRAIN if v in tree.train else TEST for v in tree.frames}
    for row, video in enumerate(ds["video"].values):
        flags = tree.flags(video)
        labels = frame_labels(ds, video)
        if flags is None:
            assert (labels == UNKNOWN).all()
            assert ds["label"][row] == ABNORMAL
        else:
            np.testing.assert_array_equal(labels, flags)
            assert ds["label"][row] == (ABNORMAL if flags.any() else NORMAL)


@pytest.mark.long
def test_sources_that_disagree_are_told(command: Command, tmp_path: Path) -> None:
    tree = TREES["ped2"](tmp_path / "ped2")
    shutil.rmtree(tree.root / "Test/Test001_gt")
    bmp_masks(tree.root / "Test/Test001_gt", np.arange(18) > 16)
    out = extract(command, "ped2", tree.root)
    assert "UCSDped2.m and Test001_gt disagree in 8 frames (3-9, 17, counted from 0)" in out
    assert "UCSDped2.m was used" in out
    np.testing.assert_array_equal(
        frame_labels(opened(command, "ped2"), "Test001"), tree.flags("Test001")
    )


def test_ground_truth_that_does_not_fit_writes_nothing(command: Command, tmp_path: Path) -> None:
    tree = TREES["avenue"](tmp_path / "avenue")
    shutil.copy(tree.root / MASKS / "1_label.mat", tree.root / MASKS / "2_label.mat")
    out = extract(command, "avenue", tree.root, code=1)
    assert "2_label.mat: ground truth of 18 frames, but Test02 has 17" in out
    assert "Traceback" not in out
    assert not list(command.folder.rglob("*.zarr"))


def test_the_real_avenue_files(shared_data: Path, command: Command, tmp_path: Path) -> None:
    """Two of the videos there are, in the official layout, with their official masks."""
    root = tmp_path / "avenue"
    (root / "testing_videos").mkdir(parents=True)
    for number in (8, 21):
        file = f"testing_videos/{number:02d}.avi"
        shutil.copyfile(shared_data / "avenue" / file, root / file)
        masks = packed_masks(shared_data / "avenue", number)
        label_mat(root / MASKS / f"{number}_label.mat", list(masks))
    out = extract(command, "avenue", root)
    assert "split bameri-s3: 35 of its videos are not there" in out
    ds = opened(command, "avenue")
    assert dict(zip(ds["video"].values, ds["label"].values, strict=True)) == {
        "Test08": ABNORMAL, "Test21": ABNORMAL
    }  # fmt: skip
    for number in (8, 21):
        labels = frame_labels(ds, f"Test{number:02d}")
        assert (len(labels), labels.sum()) == COUNTS[number - 1]
    assert set(ds["split_name"].values) == {"official", "bameri-s3"}
