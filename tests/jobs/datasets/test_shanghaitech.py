"""ShanghaiTech: files and frame folders in one dataset, masks as .npy."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from featurestore.errors import DatasetError, UsageError
from featurestore.splits import TEST
from jobs.datasets import named_splits, scan, truth
from jobs.video import open_source, probe
from tests.jobs.datasets.trees import Tree, avi, images, mask, shanghaitech

MASKS = "testing/test_frame_mask"


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return shanghaitech(tmp_path / "shanghaitech")


def test_files_train_and_frames_test(tree: Tree) -> None:
    images(tree.root / "training/frames/01_001", 7, ".jpg")
    assert [(s.name, s.kind) for s in scan("shanghaitech", tree.root)] == [
        ("01_001", "file"), ("01_0014", "frames"), ("01_0015", "frames")
    ]  # fmt: skip


@pytest.mark.parametrize("kind", [np.bool_, np.uint8, np.int64, np.float32])
def test_masks_of_any_type(tree: Tree, kind: type) -> None:
    np.save(tree.root / MASKS / "01_0014.npy", tree.flags("01_0014").astype(kind))
    found = truth("shanghaitech", tree.root, tree.frames)
    np.testing.assert_array_equal(found["01_0014"].frames, tree.flags("01_0014"))


def test_masks_of_pixels(tree: Tree) -> None:
    (tree.root / "testing/test_pixel_mask").mkdir()
    for video in ("01_0014", "01_0015"):
        (tree.root / MASKS / f"{video}.npy").unlink()
        pixels = np.stack([mask(bool(flag)) for flag in tree.flags(video)])
        np.save(tree.root / f"testing/test_pixel_mask/{video}.npy", pixels)
    found = truth("shanghaitech", tree.root, tree.frames)
    np.testing.assert_array_equal(found["01_0014"].frames, tree.flags("01_0014"))
    np.save(tree.root / "testing/test_pixel_mask/01_0014.npy", pixels[:, :, 4:])
    with pytest.raises(DatasetError, match=r"01_0014\.npy: masks of 60x48 pixels, .* are 64x48"):
        truth("shanghaitech", tree.root, tree.frames)


def test_a_missing_mask(tree: Tree) -> None:
    (tree.root / MASKS / "01_0015.npy").unlink()
    with pytest.raises(DatasetError, match=r"01_0015: its mask 01_0015\.npy is not in"):
        truth("shanghaitech", tree.root, tree.frames)


def test_masks_that_are_none(tree: Tree, tmp_path: Path) -> None:
    path = tree.root / MASKS / "01_0014.npy"
    np.save(path, np.array([1, None]), allow_pickle=True)
    with pytest.raises(DatasetError, match=r"01_0014\.npy: cannot be read as a mask"):
        truth("shanghaitech", tree.root, tree.frames)
    np.save(path, np.ones((18, 4)))
    with pytest.raises(DatasetError, match=r"one value a frame, but this has shape \(18, 4\)"):
        truth("shanghaitech", tree.root, tree.frames)
    with pytest.raises(UsageError, match="labels of ShanghaiTech are a folder"):
        truth("shanghaitech", tree.root, tree.frames, path)


# The real ones


@pytest.fixture(scope="module")
def real(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The official layout: a testing video as frames, another one's file in the training half."""
    root = tmp_path_factory.mktemp("real") / "shanghaitech"
    masks = np.load(shared_data / "labels/shanghaitech_test_frame_mask.npz")
    (root / MASKS).mkdir(parents=True)
    for video in masks:
        np.save(root / MASKS / f"{video}.npy", masks[video])
    file = shared_data / "shanghaitech/videos/01_0014.mp4"
    folder = root / "testing/frames/01_0014"
    folder.mkdir(parents=True)
    count = probe(file).frames
    with open_source(file, frames=count) as source:
        for number, frame in enumerate(source.read(0, count)):
            small = Image.fromarray(frame).resize((214, 120))  # quicker to write, as many as ever
            small.save(folder / f"{number:03d}.jpg")
    avi(root / "training/videos/01_001.avi", 20)
    return root


def test_real_labels(real: Path) -> None:
    frames = {s.name: probe(s.path).frames for s in scan("shanghaitech", real)}
    assert frames == {"01_001": 20, "01_0014": 265}
    found = truth("shanghaitech", real, frames)
    assert found["01_0014"].frames.sum() > 0
    assert not found["01_001"].frames.any()


def test_the_ceil_rule_gives_the_published_arrays(real: Path, shared_data: Path) -> None:
    """Abnormal videos first, clips of 16 frames, the last label repeated to fill the last one."""
    split = named_splits("shanghaitech")["zhong2019"]
    videos = [video for video in split.videos(TEST) if split.labels[video]]
    for video in videos:
        images(real / "testing/frames" / video, 1, ".jpg")  # one frame: the masks know the rest
    found = truth("shanghaitech", real, dict.fromkeys(videos, 1), damaged=videos)
    ours = np.concatenate(
        [np.pad(found[v].frames, (0, -len(found[v].frames) % 16), mode="edge") for v in videos]
    )
    assert len(ours) == 17_968
    for name in ("RTFM_gt-sh", "TEVAD_gt-sh2"):
        published = np.load(shared_data / f"labels/{name}.npy")
        np.testing.assert_array_equal(ours, published[: len(ours)])


def test_real_masks_add_up(shared_data: Path) -> None:
    masks = np.load(shared_data / "labels/shanghaitech_test_frame_mask.npz")
    split = named_splits("shanghaitech")["zhong2019"]
    assert {v for v, label in split.labels.items() if label} == set(masks)
    assert sum(len(masks[v]) for v in masks) == 40_791
    assert sum(int(masks[v].sum()) for v in masks) == 17_326
