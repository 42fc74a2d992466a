"""Frames of a video file by decord: a choice, refused where it is not exact."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from featurestore.errors import UnreadableVideo, UsageError
from jobs.video._contract import Frame, check_range
from jobs.video._pyav import PyavSource

# Both convert by swscale, which without its assembly (odd widths) rounds differently by one.
TOLERANCE = 2


class DecordSource:
    """Frames of a file by decord 0.6, compared with PyAV's on the way (see ``FrameSource``).

    Decord is exact only when it reads from the beginning, frame by frame: its seeking and its
    ``skip_frames`` go wrong in open GOPs, AVI, PS and MPEG-4 B-frames, so that reading in mid-file
    decodes all before it. Even so it drops the first GOP of every TS and pads the end of what it
    miscounts with copies, without a word. In damaged files it gives what its FFmpeg patched up,
    now and then with an exception some frames later (of 300 damaged copies of an H.264 video, 33
    were read to the end with wrong pictures). Hence: its count must be ours, and every picture
    must be PyAV's, which decodes all once more. Anything else is refused.
    """

    def __init__(self, path: Path, frames: int) -> None:
        """Raises UnreadableVideo if decord does not open or count it right, UsageError if it is
        not installed."""
        try:
            import decord
        except ImportError as error:
            raise UsageError(
                "--decoder decord: decord is not installed; pip install "
                "'video-anomaly-feature-store[decord]', or take --decoder pyav"
            ) from error
        decord.logging.set_level(decord.logging.QUIET)  # its failures come as exceptions as well
        self._decord = decord
        self.path = path
        self.frames = frames
        self.decoded = 0
        self._referee = PyavSource(path, frames)
        self._position = 0
        self._reader: Any = self._opened()
        counted = len(self._reader)
        if counted != frames:
            self.close()
            raise self._refused(f"counts {counted} frames where there are {frames}")

    def read(self, start: int, count: int) -> Iterator[Frame]:
        """Yield frames ``start`` to ``start + count - 1`` (see ``FrameSource``)."""
        check_range(start, count, self.frames)
        return (self._frame(n) for n in range(start, start + count))

    def _frame(self, number: int) -> Frame:
        if self._reader is None or self._position > number:
            self._reader = self._opened()
        while self._position < number:
            self._next(number)
        frame = np.ascontiguousarray(self._next(number).asnumpy(), dtype=np.uint8)
        (truth,) = self._referee.read(number, 1)
        if frame.shape != truth.shape or _difference(frame, truth) > TOLERANCE:
            self.close()
            raise self._refused(f"gives another picture than PyAV as frame {number}")
        return frame

    def _next(self, wanted: int) -> Any:
        try:
            picture = self._reader.next()
        except (self._decord.DECORDError, StopIteration) as error:
            self.close()
            # Is it damage? Then PyAV says at which frame, which decord's threads do not.
            for _ in self._referee.read(wanted, 1):
                pass
            raise self._refused(f"stops before frame {wanted} ({_words(error)})") from error
        self._position += 1
        self.decoded += 1
        return picture

    def _opened(self) -> Any:
        self._position = 0
        try:
            return self._decord.VideoReader(
                str(self.path.absolute()), ctx=self._decord.cpu(0), num_threads=1
            )
        except (self._decord.DECORDError, RuntimeError, AssertionError) as error:
            raise self._refused(f"does not open it ({_words(error)})") from error

    def _refused(self, why: str) -> UnreadableVideo:
        return UnreadableVideo(f"{self.path}: decord {why}; read it with --decoder pyav")

    def close(self) -> None:
        """Let go of the file; reading again opens it again."""
        self._reader = None
        self._referee.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _words(error: Exception) -> str:
    """The last line of decord's message, without the time and place in its source."""
    lines = str(error).strip().splitlines()
    return re.sub(r"^\[[\d:]+\] \S+:\d+: ", "", lines[-1]) if lines else "no reason given"


def _difference(one: Frame, other: Frame) -> int:
    return int(np.abs(one.astype(np.int16) - other).max())
