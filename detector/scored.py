"""Scores beside their ground truth: plain arrays, one of each a video, checked once."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from detector.curves import Counts, Floats, count
from detector.videos import ABNORMAL, NORMAL, UNKNOWN
from featurestore.errors import UsageError

Labels = npt.NDArray[np.int8]


@dataclass(frozen=True)
class Scored:
    """Scores and ground truth of V videos, in the order of their names; made by `scored`.

    `labels` (V,): NORMAL, ABNORMAL or UNKNOWN. `scores`, `frame_labels`, `calibrated`: an array
    a video, one value a frame: float64 and NaN where there is none; 0, 1 or UNKNOWN;
    probabilities, or `calibrated` is None.
    """

    names: tuple[str, ...]
    labels: Labels
    scores: tuple[Floats, ...]
    frame_labels: tuple[Labels, ...]
    calibrated: tuple[Floats, ...] | None = None

    def counts(self) -> list[Counts]:
        """Of each video the positives and negatives at each score, of frames that have both."""
        return [_count(s, y) for s, y in zip(self.scores, self.frame_labels, strict=True)]

    def pooled(self) -> Counts:
        """The same of all frames together."""
        return _count(
            np.concatenate([np.zeros(0), *self.scores]),
            np.concatenate([np.zeros(0, np.int8), *self.frame_labels]),
        )

    def only(self, label: int) -> Scored:
        """The videos of one label."""
        rows = np.flatnonzero(self.labels == label)
        return Scored(
            tuple(self.names[row] for row in rows),
            self.labels[rows],
            tuple(self.scores[row] for row in rows),
            tuple(self.frame_labels[row] for row in rows),
            None if self.calibrated is None else tuple(self.calibrated[row] for row in rows),
        )

    def scored_by(self, scores: Sequence[Floats]) -> Scored:
        """The same videos and ground truth with other scores of the same lengths."""
        return dataclasses.replace(self, scores=tuple(scores))


def scored(
    scores: Sequence[npt.ArrayLike],
    frame_labels: Sequence[npt.ArrayLike],
    video_labels: npt.ArrayLike,
    *,
    names: Sequence[str] | None = None,
    calibrated: Sequence[npt.ArrayLike] | None = None,
) -> Scored:
    """Checks scores and ground truth of V videos, and orders them by name.

    `scores`: an array a video, one score a frame, NaN where there is none. `frame_labels`: as
    long, 0, 1 or -1 (unknown). `video_labels` (V,): 0, 1, or -1 where only frames are known; such
    a video counts as abnormal if a frame of it is anomalous, as normal if all are known and none
    is. `calibrated`: probabilities in [0, 1] of the same frames. `names`: "0", "1", ... if None.

    Raises UsageError, naming the video, for arrays of other lengths or values, and for anomalous
    frames in a video whose label says normal.
    """
    labels = np.asarray(video_labels)
    given = [f"{row:06d}" for row in range(len(labels))] if names is None else list(names)
    probabilities = [None] * len(labels) if calibrated is None else calibrated
    lists: dict[str, Sequence[Any]] = {
        "scores": scores,
        "frame labels": frame_labels,
        "names": given,
        "calibrated scores": probabilities,
    }
    for what, values in lists.items():
        if len(values) != len(labels):
            raise UsageError(f"Video labels of {len(labels)} videos, but {what} of {len(values)}")
    if len(set(given)) != len(given):
        raise UsageError("Two videos have the same name; give each its own")
    order = sorted(range(len(given)), key=given.__getitem__)
    found = [
        _check(given[row], scores[row], frame_labels[row], labels[row], probabilities[row])
        for row in order
    ]
    return Scored(
        tuple(given[row] for row in order),
        np.array([label for label, _, _, _ in found], np.int8),
        tuple(s for _, s, _, _ in found),
        tuple(y for _, _, y, _ in found),
        None if calibrated is None else tuple(p for _, _, _, p in found),
    )


def _check(
    name: str, scores: npt.ArrayLike, frames: npt.ArrayLike, label: Any, calibrated: Any
) -> tuple[int, Floats, Labels, Floats]:
    s, y = np.asarray(scores, np.float64), np.asarray(frames)
    p = s if calibrated is None else np.asarray(calibrated, np.float64)
    if s.ndim != 1 or not s.shape == y.shape == p.shape:
        raise UsageError(
            f"{name}: one score and one label a frame; got scores of shape {s.shape}, labels of "
            f"{y.shape}" + ("" if calibrated is None else f", calibrated scores of {p.shape}")
        )
    if not np.isin(y, (NORMAL, ABNORMAL, UNKNOWN)).all():
        raise UsageError(f"{name}: labels of frames are 0, 1 or -1; got {np.unique(y)[:5]}")
    if label not in (NORMAL, ABNORMAL, UNKNOWN):
        raise UsageError(f"{name}: the label of a video is 0, 1 or -1; got {label}")
    if np.isinf(s).any():
        raise UsageError(f"{name}: a score is infinite")
    if calibrated is not None and not ((p >= 0) & (p <= 1) | np.isnan(p)).all():
        raise UsageError(f"{name}: calibrated scores are probabilities in [0, 1]")
    anomalous = int((y == ABNORMAL).sum())
    if label == NORMAL and anomalous:
        raise UsageError(
            f"{name}: its label says normal, but {anomalous} of its frames are labelled "
            "anomalous; correct one of them"
        )
    if label == UNKNOWN and anomalous:
        label = ABNORMAL
    elif label == UNKNOWN and len(y) and (y == NORMAL).all():
        label = NORMAL
    return int(label), s, y.astype(np.int8), p


def _count(scores: Floats, labels: Labels) -> Counts:
    measured = (labels != UNKNOWN) & ~np.isnan(scores)
    return count(scores[measured], labels[measured])
