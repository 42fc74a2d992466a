"""Which videos train and which test."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

TRAIN: Final = 0
TEST: Final = 1
UNUSED: Final = -1  # in the store: a video that the split does not name


@dataclass(frozen=True)
class Split:
    """A named split: video -> TRAIN or TEST; `labels`: video -> label, where the file gives them.

    `source` says where it is from, for people.
    """

    name: str
    parts: Mapping[str, int]
    labels: Mapping[str, int]
    source: str
