"""Ped1 and Ped2: masks, the .m file, and what happens when they disagree."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image

from featurestore.errors import DatasetError, UsageError
from featurestore.labels import ABNORMAL
from jobs.datasets import named_splits, scan, truth
from jobs.datasets._ucsd import read_masks, read_matrix, read_script
from jobs.video import probe
from tests.jobs.datasets.trees import Tree, bmp_masks, ucsd


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return ucsd(2)(tmp_path / "ped2")


def test_masks_alone(tree: Tree) -> None:
    (tree.root / "Test/UCSDped2.m").unlink()
    found = truth("ped2", tree.root, tree.frames)
    for video in tree.frames:
        np.testing.assert_array_equal(found[video].frames, tree.flags(video))
    assert found["Test002"].source == "Test/Test002_gt"


def test_the_script_alone(tree: Tree) -> None:
    shutil.rmtree(tree.root / "Test/Test001_gt")
    shutil.rmtree(tree.root / "Test/Test002_gt")
    found = truth("ped2", tree.root, tree.frames)
    for video in tree.frames:
        np.testing.assert_array_equal(found[video].frames, tree.flags(video))


def test_two_sources_that_disagree(tree: Tree) -> None:
    """The .m file is used, which is what papers report; the remark says where they differ."""
    flags = tree.flags("Test001")
    flags[3:5], flags[12] = 0, 1
    shutil.rmtree(tree.root / "Test/Test001_gt")
    bmp_masks(tree.root / "Test/Test001_gt", flags)
    found = truth("ped2", tree.root, tree.frames)
    np.testing.assert_array_equal(found["Test001"].frames, tree.flags("Test001"))
    assert found["Test001"].remark == (
        "UCSDped2.m and Test001_gt disagree in 3 frames (3-4, 12, counted from 0); UCSDped2.m was "
        "used"
    )
    assert found["Test002"].remark == ""


def test_intervals_that_circulate_are_the_last_resort(tree: Tree) -> None:
    cells = np.empty((1, 2), object)
    cells[0, 0], cells[0, 1] = np.array([[4, 15], [8, 16]], np.uint8), np.array([[1], [17]])
    scipy.io.savemat(tree.root / "ped2.mat", {"gt": cells})
    assert "UCSDped2.m and ped2.mat disagree in 4 frames (8-9, 14-15, counted" in (
        truth("ped2", tree.root, tree.frames)["Test001"].remark
    )
    for name in tree.labels:
        path = tree.root / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    found = truth("ped2", tree.root, tree.frames)
    assert np.flatnonzero(found["Test001"].frames).tolist() == [3, 4, 5, 6, 7, 14, 15]
    assert found["Test001"].source == "ped2.mat"


def test_labels_from_elsewhere(tree: Tree, tmp_path: Path) -> None:
    other = tmp_path / "other.m"
    other.write_text(
        "TestVideoFile{end+1}.gt_frame = [18];\nTestVideoFile{end+1}.gt_frame = [1:17];"
    )
    found = truth("ped2", tree.root, tree.frames, other)["Test001"]
    assert np.flatnonzero(found.frames).tolist() == [17]
    assert "other.m and Test001_gt disagree in 8 frames" in found.remark
    with pytest.raises(UsageError, match=r"UCSDped2\.m or a \.mat file"):
        truth("ped2", tree.root, tree.frames, tree.root / "Test")
    with pytest.raises(DatasetError, match="nowhere: there is no such file or folder of labels"):
        truth("ped2", tree.root, tree.frames, tmp_path / "nowhere")


def test_a_missing_mask(tree: Tree) -> None:
    (tree.root / "Test/Test002_gt/frame007.bmp").unlink()
    with pytest.raises(DatasetError, match=r"Test002_gt: 16 masks for 17 frames, number 7 missing"):
        truth("ped2", tree.root, tree.frames)


def test_one_mask_too_many(tree: Tree) -> None:
    shutil.copy(tree.root / "Test/Test001_gt/001.bmp", tree.root / "Test/Test001_gt/019.bmp")
    with pytest.raises(DatasetError, match="ground truth of 19 frames, but Test001 has 18"):
        truth("ped2", tree.root, tree.frames)


def test_a_video_without_masks(tree: Tree) -> None:
    (tree.root / "Test/UCSDped2.m").unlink()
    shutil.rmtree(tree.root / "Test/Test001_gt")
    with pytest.raises(DatasetError, match="Test001: no masks Test001_gt, though other"):
        truth("ped2", tree.root, tree.frames)


def test_ped1_has_masks_of_some_only(tmp_path: Path) -> None:
    tree = ucsd(1)(tmp_path / "ped1")
    (tree.root / "Test/UCSDped1.m").unlink()
    shutil.rmtree(tree.root / "Test/Test001_gt")
    found = truth("ped1", tree.root, tree.frames)
    assert (found["Test001"].label, found["Test001"].frames) == (ABNORMAL, None)
    assert "neither a .m file nor masks were found" in found["Test001"].remark
    assert found["Test002"].frames is not None


def test_a_mask_of_other_size(tree: Tree) -> None:
    Image.new("L", (60, 48)).save(tree.root / "Test/Test001_gt/005.bmp")
    with pytest.raises(DatasetError, match=r"005\.bmp: a mask of 60x48 pixels, .* are 64x48"):
        truth("ped2", tree.root, tree.frames)


def test_a_broken_mask(tree: Tree) -> None:
    (tree.root / "Test/Test001_gt/005.bmp").write_bytes(b"BM")
    with pytest.raises(DatasetError, match=r"005\.bmp: this mask cannot be read"):
        truth("ped2", tree.root, tree.frames)


@pytest.mark.parametrize(("name", "why"), [("x005.bmp", "of another one"), ("a.bmp", "no number")])
def test_masks_that_belong_to_no_frame(tree: Tree, name: str, why: str) -> None:
    shutil.copy(tree.root / "Test/Test001_gt/001.bmp", tree.root / "Test/Test001_gt" / name)
    with pytest.raises(DatasetError, match=why):
        truth("ped2", tree.root, tree.frames)


def test_leftovers_of_macos_are_no_masks(tree: Tree) -> None:
    for name in (".DS_Store", "._001.bmp"):
        (tree.root / "Test/Test001_gt" / name).write_bytes(b"\0")
    found = truth("ped2", tree.root, tree.frames)
    np.testing.assert_array_equal(found["Test001"].frames, tree.flags("Test001"))


def test_masks_go_by_number(tmp_path: Path) -> None:
    folder = bmp_masks(tmp_path / "gt", np.arange(12) == 1)
    for path in list(folder.iterdir()):
        path.rename(folder / f"m{int(path.stem)}.bmp")  # m10 comes before m2 by name
    assert np.flatnonzero(read_masks(folder, None, 12, False)).tolist() == [1]


@pytest.mark.parametrize(
    ("line", "entries"),
    [
        ("TestVideoFile{end+1}.gt_frame = [61:180];", [[(61, 180)]]),
        ("TestVideoFile{end+1}.gt_frame = [5:90, 140:200];", [[(5, 90), (140, 200)]]),
        ("TestVideoFile{ 1 } . gt_frame=[ 5 : 90 7 ] ; % a note", [[(5, 90), (7, 7)]]),
        ("TestVideoFile{end+1}.gt_frame = [];", [[]]),
        ("% TestVideoFile{end+1}.gt_frame = [1:2];\nTestVideoFile{1}.gt_frame = [3];", [[(3, 3)]]),
    ],
)
def test_lines_of_the_script(tmp_path: Path, line: str, entries: list[object]) -> None:
    path = tmp_path / "UCSDped2.m"
    path.write_text(f"TestVideoFile = {{}};\n{line}\n")
    assert read_script(path) == entries


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("TestVideoFile{end+1}.gt_frame = [1:end];", r"entry 1 is not understood.*\[1:end\]"),
        ("TestVideoFile{2}.gt_frame = [1:2];", r"entry 1 is not understood: TestVideoFile\{2\}"),
        ("nothing = 1;", "no line TestVideoFile"),
    ],
)
def test_scripts_that_are_not_understood(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "UCSDped2.m"
    path.write_text(line)
    with pytest.raises(DatasetError, match=message):
        read_script(path)


def test_a_script_that_ends_early(tree: Tree) -> None:
    (tree.root / "Test/UCSDped2.m").write_text("TestVideoFile{end+1}.gt_frame = [4:10];\n")
    with pytest.raises(DatasetError, match=r"UCSDped2\.m: has 1 entries, none for Test002"):
        truth("ped2", tree.root, tree.frames)


def test_a_matrix_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "ped2.mat"
    path.write_bytes(b"MATLAB 5.0 MAT-file, cut off")
    with pytest.raises(DatasetError, match=r"ped2\.mat: cannot be read"):
        read_matrix(path)
    scipy.io.savemat(path, {"gt": np.ones((2, 3))})
    with pytest.raises(DatasetError, match="gt should be a cell array, but is float64"):
        read_matrix(path)


# The real ones


@pytest.fixture(scope="module")
def real(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of Ped2 but the pictures: each frame is a link to one, of the size of all."""
    root = tmp_path_factory.mktemp("real") / "ped2"
    return unpack(shared_data / "ped2", root)


def unpack(packed: Path, root: Path) -> Path:
    masks = np.load(packed / "masks.npz")
    frame = Image.new("L", (360, 240))
    root.mkdir()
    frame.save(root / "frame.bmp")
    for video in sorted((packed / "videos").glob("*.mp4")):
        folder = root / video.stem[:-3] / video.stem
        folder.mkdir(parents=True)
        count = probe(video).frames
        for number in range(1, count + 1):
            (folder / f"{number:03d}.bmp").hardlink_to(root / "frame.bmp")
        if video.stem in masks:
            prefix = str(masks[f"{video.stem}_prefix"])
            (root / "Test" / f"{video.stem}_gt").mkdir()
            rows = np.unpackbits(masks[video.stem], axis=1)[:, : 240 * 360].reshape(-1, 240, 360)
            for number, row in enumerate(rows, 1):
                path = root / "Test" / f"{video.stem}_gt" / f"{prefix}{number:03d}.bmp"
                Image.fromarray(row * np.uint8(255)).save(path)
    (root / "frame.bmp").unlink()
    shutil.copy(packed / "UCSDped2.m", root / "Test")
    return root


def test_masks_and_script_agree_in_every_frame(real: Path) -> None:
    sources = scan("ped2", real)
    frames = {s.name: probe(s.path, exact=False).frames for s in sources}
    assert (len(frames), sum(frames.values())) == (28, 4560)
    found = truth("ped2", real, frames)
    assert {known.remark for known in found.values()} == {""}
    tested = [known.frames for video, known in found.items() if video.startswith("Test")]
    assert (len(tested), sum(map(len, tested)), sum(map(np.sum, tested))) == (12, 2010, 1648)
    by_masks = {
        video: read_masks(real / "Test" / f"{video}_gt", (240, 360), frames[video], False)
        for video in found
        if video.startswith("Test")
    }
    for video, flags in by_masks.items():
        np.testing.assert_array_equal(found[video].frames, flags)


def test_the_floor_rule_gives_the_published_array(real: Path, shared_data: Path) -> None:
    published = np.load(shared_data / "labels/FatemeBameri_gt_s6_ped2.npy")
    split = named_splits("ped2")["bameri-s6"]
    frames = {s.name: probe(s.path, exact=False).frames for s in scan("ped2", real)}
    found = truth("ped2", real, frames)
    ours = [found[v].frames[: frames[v] // 16 * 16] for v in split.videos(1)]
    np.testing.assert_array_equal(np.concatenate(ours), published)
    assert (len(published), published.sum()) == (2816, 687)


def test_the_intervals_that_circulate_differ(real: Path, shared_data: Path) -> None:
    shutil.copyfile(shared_data / "labels/ped2_annguyen94.mat", real / "ped2.mat")
    frames = {s.name: probe(s.path, exact=False).frames for s in scan("ped2", real)}
    found = truth("ped2", real, {v: n for v, n in frames.items() if v == "Test003"})
    (real / "ped2.mat").unlink()
    assert found["Test003"].remark == (
        "UCSDped2.m and ped2.mat disagree in 4 frames (0-3, counted from 0); UCSDped2.m was used"
    )
