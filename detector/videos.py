"""Clips by their videos: who they are, where each video's clips begin, and its label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from featurestore.errors import UsageError

NORMAL: Final = 0
ABNORMAL: Final = 1
UNKNOWN: Final = -1

FOLDS: Final = 5


@dataclass(frozen=True)
class Videos:
    """V videos whose clips lie one after the other: those of video i are bounds[i]:bounds[i + 1].

    `labels` (V,) int8: NORMAL, ABNORMAL or UNKNOWN. `bounds` (V + 1,) int64. Every video has a
    clip, and its clips are in the order of time.
    """

    names: tuple[str, ...]
    labels: npt.NDArray[np.int8]
    bounds: npt.NDArray[np.int64]

    @property
    def clips(self) -> int:
        """Number of clips of all videos."""
        return int(self.bounds[-1])

    @property
    def of_clip(self) -> npt.NDArray[np.int64]:
        """Number of each clip's video, (clips,)."""
        return np.repeat(np.arange(len(self.names)), np.diff(self.bounds))

    @property
    def clip_labels(self) -> npt.NDArray[np.int8]:
        """Label of each clip's video, (clips,)."""
        return np.repeat(self.labels, np.diff(self.bounds))

    @property
    def folds(self) -> npt.NDArray[np.int64]:
        """Fold of each video, (V,): the p-th of a label, in the order of names, is in p mod 5."""
        fold = np.zeros(len(self.names), np.int64)
        for label in (NORMAL, ABNORMAL):
            its = [row for row in self.in_order if self.labels[row] == label]
            fold[its] = np.arange(len(its)) % FOLDS
        return fold

    @property
    def in_order(self) -> list[int]:
        """Numbers of the videos in the order of their names."""
        return sorted(range(len(self.names)), key=self.names.__getitem__)

    def every(self, step: int) -> npt.NDArray[np.bool_]:
        """A mask (clips,) of the first clip of each video and every `step`-th after it."""
        within = np.arange(self.clips) - np.repeat(self.bounds[:-1], np.diff(self.bounds))
        return np.equal(within % step, 0)

    def count(self, label: int) -> int:
        """Number of videos of a label."""
        return int((self.labels == label).sum())

    def only(self, keep: npt.NDArray[np.bool_]) -> Videos:
        """The videos of a mask (V,)."""
        counts = np.diff(self.bounds)[keep]
        names = tuple(name for name, kept in zip(self.names, keep, strict=True) if kept)
        return Videos(names, self.labels[keep], bounds_of(counts))


def bounds_of(counts: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Where videos of these numbers of clips begin and end, (V + 1,)."""
    return np.concatenate([[0], np.cumsum(np.asarray(counts, np.int64))]).astype(np.int64)


def grouped(
    videos: Sequence[Any] | npt.NDArray[Any],
) -> tuple[npt.NDArray[np.int64], tuple[str, ...], npt.NDArray[np.int64]]:
    """Clips with a video each, in any order, brought together by video.

    Returns the order to take clips in (those of a video keep theirs), names, and bounds.
    Raises UsageError for anything but one video a clip.
    """
    ids = np.asarray(videos)
    if ids.ndim != 1:
        raise UsageError(f"Give one video a clip; got an array of shape {ids.shape}")
    if not len(ids):
        raise UsageError("There are no clips")
    names, of_clip, counts = np.unique(ids, return_inverse=True, return_counts=True)
    order = np.argsort(of_clip, kind="stable")
    return order, tuple(str(name) for name in names), bounds_of(counts)
