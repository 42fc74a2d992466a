"""What everything that yields frames promises."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Protocol, Self, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Frame: TypeAlias = NDArray[np.uint8]
"""One picture as it is displayed: (height, width, 3) uint8, RGB."""


@dataclass(frozen=True)
class Source:
    """A video found on disk: its name in the dataset, its place, and what it is."""

    name: str
    path: Path
    kind: Literal["file", "frames"]


@dataclass(frozen=True)
class VideoInfo:
    """What a video holds, as found by looking, not by believing its header.

    ``frames`` counts the good ones: of a damaged video those before the damage, which then is at
    ``damaged_at == frames``. ``fps`` is nan where unknown. ``width`` and ``height`` are as
    displayed, rotation applied. ``reason`` says what is damaged or, of a sound video, what is
    worth knowing (a header that counts otherwise, gaps in the numbers of a frame folder); else it
    is empty. ``seekable``: reading may start anywhere at the cost of a few frames; otherwise it
    decodes everything before, so that a long video is better read in long runs.
    """

    frames: int
    fps: float
    width: int
    height: int
    damaged_at: int | None
    reason: str
    seekable: bool

    def __post_init__(self) -> None:
        if self.frames < 1 or self.damaged_at not in (None, self.frames):
            raise ValueError(
                f"expected at least one frame and damage right after the good ones, "
                f"got frames={self.frames}, damaged_at={self.damaged_at}"
            )
        if not (math.isnan(self.fps) or 0 < self.fps < math.inf):
            raise ValueError(f"expected frames a second or nan, got fps={self.fps}")


@runtime_checkable
class FrameSource(Protocol):
    """Frames of one video, exactly. Not for two threads at once, but any one thread may use it."""

    @property
    def path(self) -> Path:
        """The file or folder."""

    @property
    def frames(self) -> int:
        """How many frames may be asked for: as ``probe`` counted."""

    @property
    def decoded(self) -> int:
        """Frames decoded so far, those on the way to the ones asked for included: it grows while
        the source works, so that a decoder that hangs can be told from a slow one."""

    def read(self, start: int, count: int) -> Iterator[Frame]:
        """Yield exactly the frames ``start`` to ``start + count - 1``, each (H, W, 3) uint8 RGB,
        all of one size.

        Going forward from where the last read ended goes on decoding; else it costs what
        ``VideoInfo.seekable`` says. No more than a few frames are held, however long the video.

        Raises:
            ValueError: not ``0 <= start <= start + count <= frames``.
            DamagedVideo: frame ``.frame`` and those after cannot be had exactly; frames before
                it were, or can be, read.
            UnreadableVideo: the file cannot be opened (any more), or not by this decoder.
        """

    def close(self) -> None:
        """Let go of the file. Closing twice is fine."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


def check_range(start: int, count: int, frames: int) -> None:
    """Raise ValueError unless frames ``start`` to ``start + count - 1`` exist."""
    if start < 0 or count < 0 or start + count > frames:
        raise ValueError(
            f"frames {start} to {start + count - 1} were asked for, 0 to {frames - 1} exist"
        )
