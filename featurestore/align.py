"""Clip scores and frame labels, frame by frame, under our convention and the published ones.

A video of n frames has `ceil(n / 16)` clips (see clips). Three ways to pair them with frames:

- `ours`: all n frames. Where the last clip overlaps the one before, that one keeps its frames and
  the last clip gives the rest.
- `floor`: the first `16 * floor(n / 16)` frames; the tail, and the clip that ends with it, are
  dropped. Most published extractors, and the gt files of their Ped2 and Avenue, do this.
- `ceil`: `16 * ceil(n / 16)` frames; the last label stands for those that there are not. RTFM's
  gt file of ShanghaiTech is made so.

Which frames count changes an AUC, so figures under different conventions are not comparable.
Segments (a fixed number of averaged spans a video) have spans of their own: see `segment_spans`
and `span_scores`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal, get_args

import numpy as np
import numpy.typing as npt

from featurestore.clips import CLIP_FRAMES, clip_count
from featurestore.errors import UsageError

Convention = Literal["ours", "floor", "ceil"]
CONVENTIONS: Final[tuple[Convention, ...]] = get_args(Convention)


def frame_count(frames: int, convention: Convention = "ours") -> int:
    """Number of frames that count of a video of `frames` frames."""
    if convention == "ours":
        return frames
    return CLIP_FRAMES * clips_that_count(frames, convention)


def clips_that_count(frames: int, convention: Convention = "ours") -> int:
    """Number of clips that count of a video of `frames` frames: the first so many."""
    if convention not in CONVENTIONS:
        raise UsageError(f"{convention!r} is no convention; these are: {', '.join(CONVENTIONS)}")
    return frames // CLIP_FRAMES if convention == "floor" else clip_count(frames)


def frame_scores(
    clip_scores: npt.ArrayLike, frames: int, convention: Convention = "ours"
) -> npt.NDArray[np.floating[Any]]:
    """A score for each frame that counts: float of shape (frame_count(frames, convention),).

    `clip_scores` has one score a clip of the video, (ceil(frames / 16),); under `floor` also
    those of the whole clips alone. NaN stays NaN. Raises UsageError for another number of scores.
    """
    scores = _floats(clip_scores)
    count = clips_that_count(frames, convention)
    if scores.shape not in ((clip_count(frames),), (count,)):
        raise UsageError(
            f"a video of {frames} frames has {clip_count(frames)} clips, got scores of shape "
            f"{scores.shape}"
        )
    return np.repeat(scores[:count], CLIP_FRAMES)[: frame_count(frames, convention)]


def frame_labels(
    labels: npt.ArrayLike, convention: Convention = "ours"
) -> npt.NDArray[np.integer[Any]]:
    """The labels that belong to `frame_scores` under the same convention, in the same order.

    `labels` is one a frame of the video, as decoded: int of shape (frames,).
    """
    known = np.asarray(labels)
    if known.ndim != 1:
        raise UsageError(f"expected one label a frame, got shape {known.shape}")
    count = frame_count(len(known), convention)
    return np.concatenate([known[:count], known[-1:].repeat(max(0, count - len(known)))])


def labels_as_decoded(
    aligned: npt.ArrayLike, frames: int, convention: Convention
) -> npt.NDArray[np.int8]:
    """The way back: labels of a published file -> int8 (frames,), -1 where it says nothing.

    `aligned` is the video's part of the file, (frame_count(frames, convention),).
    """
    given = np.asarray(aligned)
    count = frame_count(frames, convention)
    if given.shape != (count,):
        raise UsageError(
            f"a video of {frames} frames has {count} labels under {convention!r}, got {given.shape}"
        )
    known = given[:frames].astype(np.int8)
    return np.concatenate([known, np.full(frames - len(known), -1, np.int8)])


def convention_of(frames: Sequence[int], length: int) -> Convention | None:
    """The convention under which videos of these lengths have `length` frames together.

    None where no convention gives that number. Two that give it take the same frames.
    """
    for convention in CONVENTIONS:
        if sum(frame_count(count, convention) for count in frames) == length:
            return convention
    return None


def segment_spans(
    frames: int, segments: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """First frame and the frame after the last of each segment, int64 (segments,) each.

    A video's clips are cut into as many runs as there are segments, as evenly as whole clips
    allow, and the features of each run averaged; a video with fewer clips repeats some. That is
    how RTFM and those after it make segments. The last one ends with the video. All -1 for a
    video whose frames are not known (0).
    """
    if segments < 1 or frames < 0:
        raise UsageError(f"{segments} segments of {frames} frames make no sense")
    if not frames:
        unknown = np.full(segments, -1, np.int64)
        return unknown, unknown.copy()
    cuts = np.linspace(0, clip_count(frames), segments + 1).astype(np.int64)
    stops = np.maximum(cuts[1:], cuts[:-1] + 1)
    return cuts[:-1] * CLIP_FRAMES, np.minimum(stops * CLIP_FRAMES, frames)


def span_scores(
    scores: npt.ArrayLike, starts: npt.ArrayLike, stops: npt.ArrayLike, frames: int
) -> npt.NDArray[np.floating[Any]]:
    """Scores of spans (clips or segments) for each frame as decoded: float of shape (frames,).

    Span i is the frames `starts[i]` to `stops[i] - 1`. A frame in several spans has the score of
    the first one (as under `ours`), a frame in none has NaN.
    """
    values = _floats(scores)
    first, after = np.asarray(starts), np.asarray(stops)
    if not values.shape == first.shape == after.shape or values.ndim != 1:
        raise UsageError(f"{values.shape} scores, {first.shape} starts, {after.shape} stops")
    if len(first) and (first.min() < 0 or after.max() > frames):
        raise UsageError(f"spans reach from {first.min()} to {after.max()} in {frames} frames")
    found = np.full(frames, np.nan, values.dtype)
    for value, start, stop in zip(values[::-1], first[::-1], after[::-1], strict=True):
        found[start:stop] = value
    return found


def _floats(values: npt.ArrayLike) -> npt.NDArray[np.floating[Any]]:
    given = np.asarray(values)
    return given if np.issubdtype(given.dtype, np.floating) else given.astype(np.float64)
