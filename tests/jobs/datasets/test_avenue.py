"""Avenue: cell arrays of masks, and the real videos."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image

from featurestore.errors import DatasetError, UsageError
from jobs.datasets import scan, truth
from jobs.datasets.avenue import read_masks
from jobs.video import open_source, probe
from tests.jobs.datasets.trees import Tree, avenue, images, label_mat, mask

MASKS = "ground_truth_demo/testing_label_mask"
# Frames and anomalous frames of the 21 testing videos, in order.
COUNTS = (
    *((1439, 408), (1211, 89), (923, 87), (947, 93), (1007, 318), (1283, 429), (605, 123)),
    *((36, 36), (1175, 289), (841, 133), (472, 144), (1271, 190), (549, 75), (507, 74)),
    *((1001, 90), (740, 109), (426, 384), (294, 294), (248, 140), (273, 154), (76, 53)),
)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return avenue(tmp_path / "avenue")


def test_frames_are_left_alone_where_the_file_is_there(tree: Tree) -> None:
    images(tree.root / "training/frames/01", 7, ".jpg")
    images(tree.root / "training/frames/02", 7, ".jpg")
    found = {s.name: s.path for s in scan("avenue", tree.root)}
    assert found["Train01"] == tree.root / "training_videos/01.avi"
    assert found["Train02"] == tree.root / "training/frames/02"


def test_masks_in_another_place(tree: Tree, tmp_path: Path) -> None:
    moved = shutil.move(tree.root / MASKS, tmp_path / "masks")
    found = truth("avenue", tree.root, tree.frames)
    assert "no testing_label_mask was found" in found["Test01"].remark
    found = truth("avenue", tree.root, tree.frames, Path(moved))
    np.testing.assert_array_equal(found["Test01"].frames, tree.flags("Test01"))
    with pytest.raises(UsageError, match="labels of Avenue are a folder"):
        truth("avenue", tree.root, tree.frames, tmp_path / "masks/1_label.mat")


def test_a_missing_mask(tree: Tree) -> None:
    (tree.root / MASKS / "1_label.mat").unlink()
    with pytest.raises(DatasetError, match=r"Test01: its mask 1_label\.mat is not in"):
        truth("avenue", tree.root, tree.frames)


def test_a_mask_of_other_size(tree: Tree) -> None:
    masks = [mask(False)] * 17 + [mask(False, width=60)]
    label_mat(tree.root / MASKS / "1_label.mat", masks)
    message = r"1_label\.mat: the mask of frame 17 has shape \(48, 60\), .* 48 rows of 64 pixels"
    with pytest.raises(DatasetError, match=message):
        truth("avenue", tree.root, tree.frames)


@pytest.mark.parametrize("kind", [np.uint8, np.float64, np.bool_])
def test_masks_of_any_type(tmp_path: Path, kind: type) -> None:
    path = label_mat(tmp_path / "1_label.mat", [mask(n == 2).astype(kind) for n in range(4)])
    assert read_masks(path, (48, 64)).tolist() == [False, False, True, False]


def test_a_file_of_another_name_inside(tmp_path: Path) -> None:
    path = label_mat(tmp_path / "1_label.mat", [mask(True)], name="vol")
    with pytest.raises(DatasetError, match=r"1_label\.mat: holds no volLabel"):
        read_masks(path, None)


def test_an_array_in_place_of_cells(tmp_path: Path) -> None:
    scipy.io.savemat(tmp_path / "1_label.mat", {"volLabel": np.ones((4, 4), np.uint8)})
    with pytest.raises(DatasetError, match=r"should be a cell array, but is uint8 of shape \(4, 4"):
        read_masks(tmp_path / "1_label.mat", None)


def test_the_format_that_is_not_read(tmp_path: Path) -> None:
    """MATLAB 7.3 writes HDF5 behind a header of 512 bytes."""
    header = b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM"
    (tmp_path / "1_label.mat").write_bytes(header.ljust(512, b"\0") + b"\x89HDF\r\n\x1a\n")
    with pytest.raises(DatasetError, match=r"format 7\.3, which is not read.*save\(\.\.\., '-v7'"):
        read_masks(tmp_path / "1_label.mat", None)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_file_that_was_cut_off(tmp_path: Path, share: float) -> None:
    path = label_mat(tmp_path / "1_label.mat", [mask(n > 3) for n in range(9)])
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(DatasetError, match=r"1_label\.mat: (cannot be read|holds no)"):
        read_masks(path, None)


# The real ones


def packed_masks(folder: Path, number: int) -> np.ndarray:
    """uint8 (T, 360, 640): the official masks of a testing video."""
    packed = np.load(folder / "pixel_masks_volLabel.npz")
    frames, height, width = packed[f"{number:02d}_shape"]
    bits = np.unpackbits(packed[f"{number:02d}"], axis=1)
    return bits[:, : height * width].reshape(frames, height, width)


@pytest.fixture(scope="module")
def real(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The official layout, with the four videos there are and their masks as MATLAB has them."""
    root = tmp_path_factory.mktemp("real") / "avenue"
    for half in ("testing_videos", "training_videos"):
        shutil.copytree(shared_data / "avenue" / half, root / half, copy_function=shutil.copyfile)
    for number in (8, 18, 21):
        label_mat(
            root / MASKS / f"{number}_label.mat", list(packed_masks(shared_data / "avenue", number))
        )
    return root


def test_real_labels(real: Path) -> None:
    frames = {s.name: probe(s.path).frames for s in scan("avenue", real)}
    assert frames == {"Test08": 36, "Test18": 294, "Test21": 76, "Train12": 145}
    found = truth("avenue", real, frames)
    for number in (8, 18, 21):
        flags = found[f"Test{number:02d}"].frames
        assert (len(flags), flags.sum()) == COUNTS[number - 1]


def test_published_counts_add_up() -> None:
    assert np.sum(COUNTS, axis=0).tolist() == [15_324, 3_712]


@pytest.mark.long
def test_all_real_masks_give_the_table(shared_data: Path, tmp_path: Path) -> None:
    """21 cell arrays, 3.5 GB of masks: one after the other."""
    for number, (frames, anomalous) in enumerate(COUNTS, 1):
        masks = list(packed_masks(shared_data / "avenue", number))
        path = label_mat(tmp_path / f"{number}_label.mat", masks)
        flags = read_masks(path, (360, 640))
        assert (len(flags), flags.sum()) == (frames, anomalous), number
        path.unlink()


@pytest.mark.parametrize("video", ["testing_vol08", "testing_vol21", "training_vol12"])
def test_decoded_frames_are_those_of_the_volumes(shared_data: Path, video: str) -> None:
    """The volumes record the same frames at 160x120: in number, and one by one in order."""
    volume = scipy.io.loadmat(shared_data / f"avenue/vol/{video}.mat")["vol"]
    theirs = np.moveaxis(volume, 2, 0).reshape(volume.shape[2], -1).astype(np.float32)
    half, number = video.split("_vol")
    path = shared_data / "avenue" / f"{half}_videos" / f"{number}.avi"
    count = probe(path).frames
    assert count == len(theirs)
    with open_source(path, frames=count) as source:
        small = [
            Image.fromarray(f).convert("L").resize((160, 120), Image.Resampling.BOX)
            for f in source.read(0, count)
        ]
    ours = np.stack([np.asarray(s, np.float32).ravel() for s in small])
    correlation = np.corrcoef(ours, theirs)[:count, count:]
    np.testing.assert_array_equal(correlation.argmax(axis=1), np.arange(count))
    assert correlation.diagonal().min() > 0.99
