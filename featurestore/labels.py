"""What is known of each video: abnormal or not, and frame by frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

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
    """

    video: str
    label: int
    frames: npt.NDArray[np.int8] | None
    source: str
    remark: str = ""
