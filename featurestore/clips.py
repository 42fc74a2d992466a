"""Frames to clips: 16 consecutive frames, stride 16; the last one ends with the video.

A video of T frames has ceil(T / 16) clips. The first floor(T / 16) are those that published
extractors write, so their convention is ours less the last clip. A video shorter than 16 frames
has one clip, in which the last frame is repeated.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

CLIP_FRAMES = 16


def clip_count(frames: int) -> int:
    """Number of clips of a video of `frames` frames; 0 for a video without frames."""
    if frames < 0:
        raise ValueError(f"a video has no {frames} frames")
    return -(-frames // CLIP_FRAMES)


def clip_starts(frames: int) -> npt.NDArray[np.int64]:
    """First frame of each clip, int64 of shape (clip_count(frames),), increasing."""
    starts = np.arange(clip_count(frames), dtype=np.int64) * CLIP_FRAMES
    return np.minimum(starts, max(frames - CLIP_FRAMES, 0))


def clip_frames(start: int, frames: int) -> npt.NDArray[np.int64]:
    """Numbers of the 16 frames of the clip that begins at `start`, int64 of shape (16,).

    Raises ValueError when `start` is no frame of a video of `frames` frames.
    """
    if not 0 <= start < frames:
        raise ValueError(f"a video of {frames} frames has no clip at frame {start}")
    return np.minimum(np.arange(start, start + CLIP_FRAMES, dtype=np.int64), frames - 1)
