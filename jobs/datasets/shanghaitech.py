"""ShanghaiTech Campus (Luo et al. 2017): 330 training videos, and 107 testing ones with masks.

A video is called as its file or folder is, ``SS_NNN`` (scene, number) in the training half and
``SS_NNNN`` in the testing half; its mask is ``SS_NNNN.npy``. The official training half consists
of AVI files, the testing half of frames.
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
from jobs.video import Source

LAYOUT = """\
  ROOT/training/videos/01_001.avi ...  official; or in ROOT/shanghaitech, as the archive has it
  ROOT/testing/frames/01_0014/000.jpg ...
  ROOT/testing/test_frame_mask/01_0014.npy ...
or
  ROOT/training/frames/01_001/000.jpg ...  the layout that circulates; the rest as above
Where a training video is there in both ways, the file is used."""

_INSIDE = ("shanghaitech", "ShanghaiTech")
_PATTERNS: list[Pattern] = [
    (re.compile(r"training/videos/(\d+_\d+)"), "file", lambda m: m[1]),
    (re.compile(r"testing/frames/(\d+_\d+)"), "frames", lambda m: m[1]),
    (re.compile(r"training/frames/(\d+_\d+)"), "frames", lambda m: m[1]),
    (re.compile(r"testing/videos/(\d+_\d+)"), "file", lambda m: m[1]),
]
# Masks of frames first: those of pixels, from which they follow, are 17 GB to read.
_MASKS = ("testing/test_frame_mask", "test_frame_mask", "testing/test_pixel_mask")


def scan(root: Path) -> list[Source]:
    """The videos below ``root``, both halves in one list: ``01_001``, ``01_0014`` ..."""
    return arrange(root, _INSIDE, _PATTERNS)


def _trains(source: Source) -> bool:
    return source.path.parent.parent.name == "training"


def halves(sources: Sequence[Source], truth: Mapping[str, Truth]) -> dict[str, int]:
    """The official halves: what lies in ``training`` trains."""
    return {s.name: TRAIN if _trains(s) else TEST for s in sources}


def truths(root: Path, labels_file: Path | None) -> GroundTruth:
    """The masks below ``root``, or in ``labels_file``, a folder of ``SS_NNNN.npy``."""
    if labels_file is not None and not labels_file.is_dir():
        raise UsageError(f"{labels_file}: labels of ShanghaiTech are a folder of SS_NNNN.npy files")
    places = [base / place for base in bases(root, _INSIDE) for place in _MASKS]
    folder = labels_file or first_folder(places, "*.npy")
    sources = {s.name: s for s in scan(root)}
    files = {path.stem: path for path in (visible(folder, "*.npy") if folder else [])}
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
    if _trains(sources[video]):
        return normal_truth(video, frames, "all training videos are normal")
    if not files:
        remark = "its anomalous frames are not known: no test_frame_mask was found"
        return Truth(video, ABNORMAL, None, "all testing videos are abnormal", remark)
    if video not in files:
        raise DatasetError(
            f"{video}: its mask {video}.npy is not in {next(iter(files.values())).parent}, though "
            "those of others are; fetch the ground truth again"
        )
    flags = read_mask(files[video], sources[video])
    return frame_truth(video, flags, frames, damaged, str(files[video]))


def read_mask(path: Path, source: Source) -> NDArray[np.bool_]:
    """One flag a frame, from a mask of frames (T,), or of pixels (T, height, width).

    Raises:
        DatasetError: not such a file, or of pixels that are not the frames'.
    """
    try:
        mask = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DatasetError(f"{path}: cannot be read as a mask ({error}); fetch it again") from error
    if mask.ndim == 3:
        size = frame_size(source)
        if size is not None and mask.shape[1:] != size:
            raise DatasetError(
                f"{path}: masks of {mask.shape[2]}x{mask.shape[1]} pixels, but the frames are "
                f"{size[1]}x{size[0]}"
            )
        return np.fromiter((frame.any() for frame in mask), np.bool_, len(mask))
    if mask.ndim != 1:
        raise DatasetError(f"{path}: a mask is one value a frame, but this has shape {mask.shape}")
    return np.asarray(mask, np.bool_)


DATASET = Dataset(
    name="shanghaitech",
    title="ShanghaiTech Campus",
    layout=LAYOUT,
    scan=scan,
    truths=truths,
    halves=halves,
    where=(
        "https://svip-lab.github.io/dataset/campus_dataset.html",
        "seven parts: cat shanghaitech.tar.gz.a? | tar -xz",
    ),
    size="about 7 GB",
    licence="BSD 2-Clause, according to anomalib",
    citation=(
        "Luo, Liu, Gao: A Revisit of Sparse Coding Based Anomaly Detection in Stacked RNN "
        "Framework. ICCV 2017"
    ),
    truth="a mask a frame of all 107 testing videos",
    counts=Counts(330, 107, None, 40_791, 17_326),
    splits={
        "zhong2019": "Zhong et al., CVPR 2019: github.com/jx-zhong-for-academic-purpose/"
        "GCN-Anomaly-Detection at 2eb51b56b932, ShanghaiTech_new_split; abnormal are those with a "
        "mask",
    },
)
