"""Ground truth of test videos, from a store: the only module that reads it.

Fitting and scoring read the labels of training videos, and nothing of the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from detector.curves import Floats
from detector.scored import Labels, Scored, scored
from featurestore import splits
from featurestore.align import Convention, frame_count
from featurestore.errors import SplitError, UsageError


@dataclass(frozen=True)
class Truths:
    """The test videos of a split, by name: rows in the table of videos, frames, ground truth.

    Frames of a video are `first` to `first + len(labels)` of the store's frames.
    """

    names: tuple[str, ...]
    rows: tuple[int, ...]
    first: tuple[int, ...]
    labels: Labels
    frame_labels: tuple[Labels, ...]


def named_split(ds: xr.Dataset, name: str) -> dict[str, int]:
    """Video -> splits.TRAIN or TEST, of a split of the store; of a name the last row counts.

    Raises SplitError, naming the splits there are.
    """
    names = ds["split_name"].values.tolist() if "split_name" in ds else []
    if name not in names:
        known = f"it has {', '.join(map(str, names))}" if names else "it has none"
        raise SplitError(
            f"the store has no split {name!r}; {known}. `fs-submit split add` adds one"
        )
    parts = ds["split"].isel(split_name=names.index(name)).values
    found = dict(zip(ds["video"].values.tolist(), parts.tolist(), strict=True))
    return {video: part for video, part in found.items() if part != splits.UNUSED}


def truths_of(ds: xr.Dataset, parts: Mapping[str, int]) -> Truths:
    """The test videos of `parts` (video -> splits.TRAIN or TEST) with all that is known of them.

    Raises SplitError when a video is not there, or none tests.
    """
    rows = {video: row for row, video in enumerate(ds["video"].values.tolist())}
    wanted = sorted(video for video, part in parts.items() if part == splits.TEST)
    if not wanted:
        raise SplitError("no video of the split is there to test")
    if missing := [video for video in wanted if video not in rows]:
        raise SplitError(f"videos of the split are not in the store: {splits.shown(missing)}")
    its = [rows[video] for video in wanted]
    counts = ds["frames"].values[its]
    first = ds["frame_offset"].values[its]
    frames = ds["frame_label"]
    return Truths(
        tuple(wanted),
        tuple(its),
        tuple(int(offset) for offset in first),
        ds["label"].values[its].astype(np.int8),
        tuple(
            frames.isel(frame=slice(int(offset), int(offset + count))).values.astype(np.int8)
            for offset, count in zip(first, counts, strict=True)
        ),
    )


def scored_by(
    of: Truths,
    frame_score: npt.ArrayLike,
    frame_probability: npt.ArrayLike | None = None,
    *,
    convention: Convention = "ours",
) -> Scored:
    """Scores of the store's frames (frames,) beside the ground truth of the test videos.

    Under `floor` a video's last incomplete clip is dropped, under `ceil` its last frame stands
    for those that a whole clip would have (see featurestore.align): for figures that others
    published. Frames that came into the store after the scores were made have none.

    Raises UsageError as `scored` does, and for ground truth that contradicts a label.
    """
    score = np.asarray(frame_score, np.float64)
    probability = None if frame_probability is None else np.asarray(frame_probability, np.float64)
    if score.ndim != 1 or (probability is not None and probability.shape != score.shape):
        raise UsageError("Scores and probabilities are one number a frame of the store")

    def its(values: Floats, row: int) -> Floats:
        count = len(of.frame_labels[row])
        there = values[of.first[row] : of.first[row] + count]
        return _under(np.append(there, np.full(count - len(there), np.nan)), convention)

    rows = range(len(of.names))
    return scored(
        [its(score, row) for row in rows],
        [_under(labels, convention) for labels in of.frame_labels],
        of.labels,
        names=of.names,
        calibrated=None if probability is None else [its(probability, row) for row in rows],
    )


def _under(values: npt.NDArray[Any], convention: Convention) -> npt.NDArray[Any]:
    """Values of a video's frames under a convention."""
    count = frame_count(len(values), convention)
    return np.append(values[:count], np.repeat(values[-1:], max(0, count - len(values))))
