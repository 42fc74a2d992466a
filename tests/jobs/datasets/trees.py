"""Small datasets in their official layouts, with their truth known: built in a moment."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.io
from PIL import Image

from tests.jobs.video.painted import write_video

WIDTH, HEIGHT = 64, 48


@dataclass(frozen=True)
class Tree:
    """A dataset on disk.

    `frames`: video -> its frames. `anomalous`: video -> its anomalous frames, counted from 0; None:
    not known of single frames. `train`: those of the official training half. `labels`: the place
    of the ground truth, to be taken away; `inside`: what the official archive unpacks to.
    """

    dataset: str
    root: Path
    frames: Mapping[str, int]
    anomalous: Mapping[str, Sequence[int] | None]
    train: frozenset[str]
    labels: tuple[str, ...]
    inside: str = "."

    def flags(self, video: str) -> np.ndarray | None:
        """int8 (T,): 1 where a frame is anomalous."""
        anomalous = self.anomalous[video]
        if anomalous is None:
            return None
        return np.isin(np.arange(self.frames[video]), list(anomalous)).astype(np.int8)


def images(folder: Path, count: int, suffix: str = ".tif", first: int = 1, digits: int = 3) -> Path:
    """`count` images; links to one, since nobody looks at the pictures."""
    folder.mkdir(parents=True)
    names = [f"{n:0{digits}d}{suffix}" for n in range(first, first + count)]
    grey = np.arange(WIDTH * HEIGHT, dtype=np.uint16).reshape(HEIGHT, WIDTH) % 251
    Image.fromarray(grey.astype(np.uint8)).save(folder / names[0])
    for name in names[1:]:
        os.link(folder / names[0], folder / name)
    return folder


def avi(path: Path, frames: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_video(path, frames, codec="mpeg4", size=(WIDTH, HEIGHT))


def mask(anomalous: bool, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """uint8 (height, width): one pixel set, or none."""
    pixels = np.zeros((height, width), np.uint8)
    pixels[height // 2, width // 3] = anomalous
    return pixels


def bmp_masks(folder: Path, flags: Iterable[bool], prefix: str = "") -> Path:
    folder.mkdir(parents=True)
    for number, flag in enumerate(flags, 1):
        Image.fromarray(mask(flag) * 255).save(folder / f"{prefix}{number:03d}.bmp")
    return folder


def label_mat(path: Path, masks: Sequence[np.ndarray], name: str = "volLabel") -> Path:
    """Masks as MATLAB keeps them: a 1 x T cell array."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cells = np.empty((1, len(masks)), object)
    for number, pixels in enumerate(masks):
        cells[0, number] = pixels
    scipy.io.savemat(path, {name: cells}, do_compression=True)
    return path


_UCSD = ({"Train001": 20, "Test001": 18, "Test002": 17}, {"Train001": [], "Test001": range(3, 10),
         "Test002": range(17)})  # fmt: skip
SCRIPT = "TestVideoFile = {};\nTestVideoFile{end+1}.gt_frame = [4:10];\n" \
    "TestVideoFile{end+1}.gt_frame = [1:17];\n"  # fmt: skip


def ucsd(part: int) -> Callable[[Path], Tree]:
    def build(root: Path) -> Tree:
        tree = Tree(
            f"ped{part}", root, *_UCSD, frozenset({"Train001"}),
            (f"Test/UCSDped{part}.m", "Test/Test001_gt", "Test/Test002_gt"),
            f"UCSD_Anomaly_Dataset.v1p2/UCSDped{part}",
        )  # fmt: skip
        for video, count in tree.frames.items():
            images(root / video[:-3] / video, count)
        bmp_masks(root / "Test/Test001_gt", tree.flags("Test001"))
        bmp_masks(root / "Test/Test002_gt", tree.flags("Test002"), prefix="frame")
        (root / f"Test/UCSDped{part}.m").write_text(SCRIPT)
        return tree

    return build


def ped2_circulating(root: Path) -> Tree:
    tree = Tree("ped2", root, *_UCSD, frozenset({"Train001"}), ("UCSDped2.m",))
    for video, count in tree.frames.items():
        half = "training" if video in tree.train else "testing"
        images(root / half / "frames" / video[-2:], count, ".jpg", first=0)
    (root / "UCSDped2.m").write_text(SCRIPT)
    return tree


_AVENUE = ({"Train01": 20, "Test01": 18, "Test02": 17}, {"Train01": [], "Test01": range(3, 10),
           "Test02": range(17)})  # fmt: skip


def _avenue_masks(tree: Tree) -> None:
    for number in (1, 2):
        path = tree.root / f"ground_truth_demo/testing_label_mask/{number}_label.mat"
        label_mat(path, [mask(flag) for flag in tree.flags(f"Test0{number}")])


def avenue(root: Path) -> Tree:
    tree = Tree(
        "avenue", root, *_AVENUE, frozenset({"Train01"}), ("ground_truth_demo",), "Avenue Dataset"
    )
    for video, count in tree.frames.items():
        avi(root / f"{video[:-2].lower()}ing_videos" / f"{video[-2:]}.avi", count)
    _avenue_masks(tree)
    return tree


def avenue_circulating(root: Path) -> Tree:
    tree = Tree("avenue", root, *_AVENUE, frozenset({"Train01"}), ("ground_truth_demo",))
    for video, count in tree.frames.items():
        half = f"{video[:-2].lower()}ing"
        images(root / half / "frames" / video[-2:], count, ".jpg", first=0, digits=4)
    _avenue_masks(tree)
    return tree


def _shanghaitech(root: Path, inside: str) -> Tree:
    tree = Tree(
        "shanghaitech",
        root,
        {"01_001": 20, "01_0014": 18, "01_0015": 17},
        {"01_001": [], "01_0014": range(3, 10), "01_0015": range(17)},
        frozenset({"01_001"}),
        ("testing/test_frame_mask",),
        inside,
    )
    (root / "testing/test_frame_mask").mkdir(parents=True)
    for video in ("01_0014", "01_0015"):
        images(root / "testing/frames" / video, tree.frames[video], ".jpg", first=0)
        np.save(root / f"testing/test_frame_mask/{video}.npy", tree.flags(video))
    return tree


def shanghaitech(root: Path) -> Tree:
    tree = _shanghaitech(root, "shanghaitech")
    avi(root / "training/videos/01_001.avi", 20)
    return tree


def shanghaitech_circulating(root: Path) -> Tree:
    tree = _shanghaitech(root, "shanghaitech")
    images(root / "training/frames/01_001", 20, ".jpg", first=0)
    return tree


ANNOTATION = """\
Abuse028_x264.mp4  Abuse  4  10  13  14  
Arson011_x264.mp4  Arson  2  18  -1  -1  
Normal_Videos_003_x264.mp4  Normal  -1  -1  -1  -1  
"""  # noqa: W291 - as the official one


def ucf_crime(root: Path) -> Tree:
    tree = Tree(
        "ucf_crime",
        root,
        {
            "Abuse001_x264": 20,
            "Abuse028_x264": 18,
            "Arson011_x264": 17,
            "Normal_Videos001_x264": 16,
            "Normal_Videos_003_x264": 19,
        },
        {
            "Abuse001_x264": None,
            "Abuse028_x264": [*range(3, 10), 12, 13],
            "Arson011_x264": range(1, 17),
            "Normal_Videos001_x264": [],
            "Normal_Videos_003_x264": [],
        },
        frozenset({"Abuse001_x264", "Normal_Videos001_x264"}),
        ("Temporal_Anomaly_Annotation_for_Testing_Videos.txt",),
    )
    folders = {
        "Abuse001_x264": "Anomaly-Videos-Part-1/Abuse",
        "Abuse028_x264": "Anomaly-Videos-Part-1/Abuse",
        "Arson011_x264": "Anomaly-Videos-Part-1/Arson",
        "Normal_Videos001_x264": "Training-Normal-Videos-Part-1",
        "Normal_Videos_003_x264": "Testing_Normal_Videos_Anomaly",
    }
    for video, folder in folders.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        path = root / folder / f"{video}.mp4"
        write_video(path, tree.frames[video], codec="mpeg4", size=(WIDTH, HEIGHT))
    (root / tree.labels[0]).write_text(ANNOTATION)
    # What comes with the download and is no part of it.
    (root / "Normal_Videos_event").mkdir()
    (root / "Normal_Videos_event/Normal_Videos_015_x264.mp4").touch()
    return tree


def folder(root: Path) -> Tree:
    tree = Tree(
        "folder",
        root,
        {"door/one": 20, "door/two": 18, "hall": 17},
        {"door/one": [], "door/two": [3, 4, 5, 10], "hall": range(17)},
        frozenset({"door/one", "hall"}),
        ("intervals.csv",),
    )
    avi(root / "door/one.avi", 20)
    avi(root / "door/two.avi", 18)
    images(root / "hall", 17, ".png")
    (root / "intervals.csv").write_text(
        "video,start,end\ndoor/two,3,6\nhall,0,17\ndoor/two,10,11\n"
    )
    (root / "labels.csv").write_text(
        "video,split,label\ndoor/one,train,normal\nhall,train,abnormal\ndoor/two,test,abnormal\n"
    )
    return tree


TREES: dict[str, Callable[[Path], Tree]] = {
    "ped1": ucsd(1),
    "ped2": ucsd(2),
    "ped2_circulating": ped2_circulating,
    "avenue": avenue,
    "avenue_circulating": avenue_circulating,
    "shanghaitech": shanghaitech,
    "shanghaitech_circulating": shanghaitech_circulating,
    "ucf_crime": ucf_crime,
    "folder": folder,
}
