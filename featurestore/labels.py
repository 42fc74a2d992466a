"""What is known of each video: abnormal or not, and frame by frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from featurestore.errors import LabelError

NORMAL: Final = 0
ABNORMAL: Final = 1
UNKNOWN: Final = -1

LABEL_NAMES: Final = {NORMAL: "normal", ABNORMAL: "abnormal", UNKNOWN: "unknown"}


@dataclass(frozen=True)
class Truth:
    """Ground truth of one video.

    `label` is NORMAL, ABNORMAL or UNKNOWN. `frames` is int8 (T,), 0 or 1 a frame as decoded, or
    None where nothing is known of single frames. `source` says where it is from, for people.
    `remark` says what is odd about it (two sources that disagree: where, and which was used).

    Single frames may be -1, unknown. Raises LabelError for values that are none of these, and for
    a normal video with an anomalous frame.
    """

    video: str
    label: int
    frames: npt.NDArray[np.int8] | None
    source: str
    remark: str = ""

    def __post_init__(self) -> None:
        where = f"{self.video} ({self.source})"
        if self.label not in LABEL_NAMES:
            raise LabelError(f"{where}: {self.label!r} is no label; these are: {LABEL_NAMES}")
        if self.frames is None:
            return
        if self.frames.ndim != 1 or not np.isin(self.frames, list(LABEL_NAMES)).all():
            raise LabelError(
                f"{where}: frame labels are 0, 1 or -1, one a frame; got shape "
                f"{self.frames.shape}, values {np.unique(self.frames)[:5]}"
            )
        if self.label == NORMAL and (found := np.flatnonzero(self.frames == ABNORMAL)).size:
            raise LabelError(
                f"{where}: is called normal, but {found.size} of its frames are anomalous, the "
                f"first one frame {found[0]}"
            )


_constants: dict[int, npt.NDArray[np.int8]] = {}


def constant(label: int, frames: int) -> npt.NDArray[np.int8]:
    """So many frames of one label, int8 (frames,), not to be written to: all share their memory."""
    kept = _constants.get(label)
    if kept is None or len(kept) < frames:
        kept = np.full(max(frames, 65_536), label, np.int8)
        kept.flags.writeable = False
        _constants[label] = kept
    return kept[:frames]


@dataclass(frozen=True)
class Fitted:
    """A video's truth for exactly the frames that were decoded: `frames` is int8 (T,)."""

    label: int
    frames: npt.NDArray[np.int8]
    remark: str


def fit(truth: Truth, frames: int, *, damaged: bool = False) -> Fitted:
    """Truth for a video of which `frames` frames were decoded.

    Every frame of a normal video is normal. Of a video that breaks off (`damaged`) the labels of
    the frames before that are taken. Where the counts differ otherwise, nobody knows which label
    belongs to which frame: the frame labels stay unknown, the remark names both counts, and the
    video's label is kept. A label that is not known follows from frame labels that all are.
    """
    label, given, remark = truth.label, truth.frames, truth.remark
    if label == UNKNOWN and given is not None and len(given):
        if (given == ABNORMAL).any():
            label = ABNORMAL
        elif (given == NORMAL).all():
            label = NORMAL
    if label == NORMAL:
        fitted = constant(NORMAL, frames)
    elif given is None:
        fitted = constant(UNKNOWN, frames)
    elif len(given) == frames or (damaged and len(given) > frames):
        fitted = given[:frames].astype(np.int8)
    else:
        fitted = constant(UNKNOWN, frames)
        note = (
            f"{truth.source} has labels of {len(given)} frames, but {frames} were decoded; "
            "its frame labels stay unknown"
        )
        remark = f"{remark}; {note}" if remark else note
    return Fitted(label, fitted, remark)
