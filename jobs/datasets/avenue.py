"""CUHK Avenue (Lu et al. 2013): 16 training and 21 testing videos, all of these with masks.

``training_videos/01.avi`` is called ``Train01`` and ``testing_videos/01.avi`` ``Test01``, as in the
weak splits. Masks of ``Test01`` are in ``1_label.mat``: ``volLabel``, a cell a frame.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from featurestore.errors import DatasetError, UsageError
from featurestore.labels import ABNORMAL, Truth
from featurestore.splits import TEST, TRAIN
from jobs.datasets._contract import Counts, Dataset, GroundTruth, frame_truth, normal_truth
from jobs.datasets._layout import Pattern, arrange, bases, first_folder, frame_size, visible
from jobs.datasets._matlab import cells
from jobs.video import Source

LAYOUT = """\
  ROOT/training_videos/01.avi ...      official; or in ROOT/Avenue Dataset, as the archive has it
  ROOT/testing_videos/01.avi ...
  ROOT/ground_truth_demo/testing_label_mask/1_label.mat ...
or
  ROOT/training/frames/01/0000.jpg ... the layout that circulates; ground truth as above
  ROOT/testing/frames/01/0000.jpg ...
Where a video is there in both ways, the file is used."""

_INSIDE = ("Avenue Dataset", "Avenue_Dataset")
_PATTERNS: list[Pattern] = [
    (re.compile(r"(train|test)ing_videos/(\d+)"), "file", lambda m: _name(m[1], m[2])),
    (
        re.compile(r"(train|test)ing/frames/(?:Train|Test)?(\d+)", re.IGNORECASE),
        "frames",
        lambda m: _name(m[1], m[2]),
    ),
]
_MASKS = ("ground_truth_demo/testing_label_mask", "testing_label_mask", "testing", ".")


def _name(half: str, number: str) -> str:
    return f"{half.capitalize()}{int(number):02d}"


def scan(root: Path) -> list[Source]:
    """The videos below ``root``: ``Test01`` ... ``Train16``."""
    return arrange(root, _INSIDE, _PATTERNS)


def halves(sources: Sequence[Source], truth: Mapping[str, Truth]) -> dict[str, int]:
    """The official halves: what is called Train trains."""
    return {s.name: TRAIN if s.name.startswith("Train") else TEST for s in sources}


def truths(root: Path, labels_file: Path | None) -> GroundTruth:
    """The masks below ``root``, or in ``labels_file``, a folder of ``N_label.mat``."""
    if labels_file is not None and not labels_file.is_dir():
        raise UsageError(f"{labels_file}: labels of Avenue are a folder of N_label.mat files")
    places = [base / place for base in bases(root, _INSIDE) for place in _MASKS]
    folder = labels_file or first_folder(places, "*_label.mat")
    sources = {s.name: s for s in scan(root)}
    files: dict[str, Path] = {}
    if folder is not None:
        for path in visible(folder, "*_label.mat"):
            if (number := path.name.removesuffix("_label.mat")).isdecimal():
                files[_name("test", number)] = path
    orphans = tuple(str(path) for video, path in files.items() if video not in sources)
    return GroundTruth(partial(_truth, sources, files), str(folder or ""), orphans)


def _truth(
    sources: Mapping[str, Source],
    files: Mapping[str, Path],
    video: str,
    frames: int,
    damaged: bool,
) -> Truth:
    if video not in sources:
        raise DatasetError(f"{video} is not there any more, so its ground truth cannot be told")
    if video.startswith("Train"):
        return normal_truth(video, frames, "all training videos are normal")
    if not files:
        remark = "its anomalous frames are not known: no testing_label_mask was found"
        return Truth(video, ABNORMAL, None, "all testing videos are abnormal", remark)
    if video not in files:
        name = f"{int(video.removeprefix('Test'))}_label.mat"
        raise DatasetError(
            f"{video}: its mask {name} is not in {next(iter(files.values())).parent}, though those "
            "of others are; fetch the ground truth again"
        )
    flags = read_masks(files[video], frame_size(sources[video]))
    return frame_truth(video, flags, frames, damaged, str(files[video]))


def read_masks(path: Path, size: tuple[int, int] | None) -> NDArray[np.bool_]:
    """One flag a cell of ``volLabel``, in order: is any pixel of the mask set?

    Raises:
        DatasetError: not such a file, or a mask is not of ``size`` (height, width).
    """
    masks = cells(path, "volLabel")
    for number, mask in enumerate(masks):
        if size is not None and mask.shape != size:
            raise DatasetError(
                f"{path}: the mask of frame {number} has shape {mask.shape}, but the frames are "
                f"{size[0]} rows of {size[1]} pixels"
            )
    return np.array([mask.any() for mask in masks], np.bool_)


DATASET = Dataset(
    name="avenue",
    title="CUHK Avenue",
    layout=LAYOUT,
    scan=scan,
    truths=truths,
    halves=halves,
    where=(
        "http://www.cse.cuhk.edu.hk/leojia/projects/detectabnormal/dataset.html",
        "Avenue_Dataset.zip and ground_truth_demo.zip, both unpacked into ROOT",
    ),
    size="776 MB",
    licence="none stated; its code is for non-commercial use",
    citation="Lu, Shi, Jia: Abnormal Event Detection at 150 FPS in MATLAB. ICCV 2013",
    truth="a mask a frame of all 21 testing videos (volLabel)",
    counts=Counts(16, 21, None, 15_324, 3_712),
    splits={
        "bameri-s3": "github.com/FatemeBameri/Pytorch-Weakly-Anomaly-Detection at 0e14c9bfb033, "
        "run_setting_info/chuk-s3-{train,test}.list",
    },
    others={
        3_867: "frame_labels_avenue.npy (github.com/cvlab-yonsei/MNAD at 4e108a898605, and code "
        "that follows it): merged and trimmed intervals, other than the official masks in 441 "
        "frames",
    },
)
