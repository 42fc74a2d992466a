"""What a dataset is made of: facts about it, and functions that read it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from featurestore.errors import DatasetError
from featurestore.labels import ABNORMAL, NORMAL, Truth
from jobs.video import Source

__all__ = [
    "Counts",
    "Dataset",
    "GroundTruth",
    "check_length",
    "frame_truth",
    "marked",
    "normal_truth",
    "published",
    "spans",
]


@dataclass(frozen=True)
class Counts:
    """What the whole of a dataset has, as published; None where there is nothing to rely on.

    ``training`` and ``testing`` are videos of the official halves; the frames are those of the
    testing videos, as decoded.
    """

    training: int
    testing: int
    training_frames: int | None
    testing_frames: int | None
    anomalous_frames: int | None


@dataclass(frozen=True)
class GroundTruth:
    """The ground truth that lies in a dataset's folder, ready to be asked video by video.

    ``read(video, frames, damaged)`` gives the truth of one video of which ``frames`` frames were
    decoded; of a damaged one, where decoding ended early (a video that does not open: at 0), the
    frame labels go on to the end of the whole video. It raises DatasetError where ground truth is
    missing or does not fit. ``where`` says what was found, for people; empty: nothing. ``orphans``
    are the files or entries that belong to videos that are not there.
    """

    read: Callable[[str, int, bool], Truth]
    where: str
    orphans: tuple[str, ...] = ()


@dataclass(frozen=True)
class Dataset:
    """One dataset: its name on the command line, facts about it, and how to read it.

    ``scan(root)`` finds its videos, ``truths(root, labels_file)`` its ground truth, and
    ``halves(sources, truth)`` says which videos train (TRAIN) and which test (TEST) officially.
    ``splits``: name of a weak split that comes with this package -> where it is from.
    ``others``: anomalous frames of other label files that circulate -> which file that is.
    """

    name: str
    title: str
    layout: str
    scan: Callable[[Path], list[Source]]
    truths: Callable[[Path, Path | None], GroundTruth]
    halves: Callable[[Sequence[Source], Mapping[str, Truth]], dict[str, int]]
    where: tuple[str, ...] = ()
    size: str = ""
    licence: str = ""
    citation: str = ""
    truth: str = ""
    counts: Counts | None = None
    splits: Mapping[str, str] = field(default_factory=dict)
    others: Mapping[int, str] = field(default_factory=dict)


def normal_truth(video: str, frames: int, source: str) -> Truth:
    """Truth of a video of which every frame is normal."""
    return Truth(video, NORMAL, np.zeros(frames, np.int8), source)


def frame_truth(
    video: str, flags: NDArray[np.bool_], frames: int, damaged: bool, source: str, remark: str = ""
) -> Truth:
    """Truth of a video from one flag a frame: abnormal if any is set.

    Raises:
        DatasetError: see `check_length`.
    """
    check_length(video, len(flags), frames, damaged, source)
    label = ABNORMAL if flags.any() else NORMAL
    return Truth(video, label, flags.astype(np.int8), source, remark)


def check_length(video: str, labels: int, frames: int, damaged: bool, source: str) -> None:
    """Check that there are as many labels as frames; no fewer, of a damaged video.

    Raises:
        DatasetError: there are not; it names the source and both counts.
    """
    if labels < frames or (labels > frames and not damaged):
        raise DatasetError(
            f"{source}: ground truth of {labels} frames, but {video} has {frames}; one of the two "
            "is not complete, fetch it again"
        )


def published(
    video: str, intervals: Sequence[tuple[int, int]], frames: int, source: str, *, slack: int = 0
) -> NDArray[np.bool_]:
    """One flag a frame from intervals that count from 1 and include their last frame.

    The last one may end up to ``slack`` frames after the video does.

    Raises:
        DatasetError: an interval that is not inside the video.
    """
    flags = np.zeros(frames, np.bool_)
    for first, last in intervals:
        if not 1 <= first <= last <= frames + slack or first > frames:
            raise DatasetError(
                f"{source}: frames {first} to {last} of {video} are called anomalous, but it has "
                f"{frames} frames; one of the two is of another video, or not complete"
            )
        flags[first - 1 : last] = True
    return flags


def marked(intervals: Sequence[tuple[int, int]]) -> int:
    """The last frame, counted from 1, that intervals mark; 0 if there are none."""
    return max((last for _, last in intervals), default=0)


def spans(flags: NDArray[np.bool_]) -> str:
    """``3-7, 12``: the frames, counted from 0, where flags are set; the first few runs of them."""
    edges = np.flatnonzero(np.diff(flags.astype(np.int8), prepend=0, append=0)).reshape(-1, 2)
    runs = [f"{a}-{b - 1}" if b - a > 1 else f"{a}" for a, b in edges[:5].tolist()]
    return ", ".join(runs) + (f" and {len(edges) - 5} more runs" if len(edges) > 5 else "")
