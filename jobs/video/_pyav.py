"""Frames of a video file by PyAV: the default, and exact wherever reading starts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from av.video.frame import VideoFrame

from featurestore.errors import DamagedVideo
from jobs.video._contract import Frame, check_range
from jobs.video._cursor import Cursor
from jobs.video._index import read_index
from jobs.video._pixels import Pixels
from jobs.video._stream import Broken

# How many key frames to try before decoding from the beginning. The last one at or before the
# frame is the right one in nearly every file; seeking may land after it where GOPs are very short.
ATTEMPTS = 3


class PyavSource:
    """Frames of a file, in order, from anywhere (see ``FrameSource``).

    Where the file's index can be trusted, reading in mid-file starts at the last key frame at or
    before the frame wanted, and every picture decoded must then be the index's next. If it is not,
    or shows damage, an earlier key frame is tried, and at last everything is decoded from the
    beginning, from then on; ``sequential`` says why. What decoding from the beginning cannot
    deliver is damage.
    """

    def __init__(self, path: Path, frames: int) -> None:
        """Raises UnreadableVideo if the file does not open or has no video stream."""
        self.path = path
        self.frames = frames
        self.index = read_index(path)
        announced = len(self.index.times)
        self.sequential = self.index.untrusted
        if not self.sequential and frames > announced:
            self.sequential = f"the index has {announced} frames, not {frames}"
        # Of a file with fewer good frames than packets the index says where to start, no more.
        exact = not self.sequential and frames == announced
        self._times_from_beginning = self.index.times if exact else None
        self._cursor: Cursor | None = None
        self._damage: tuple[int, str] | None = None
        self._decoded = 0
        self._pixels = Pixels()

    def __repr__(self) -> str:
        how = f"sequential: {self.sequential}" if self.sequential else "seeks"
        return f"<{type(self).__name__} {self.path} frames={self.frames} {how}>"

    @property
    def decoded(self) -> int:
        """Frames decoded so far, those passed over included."""
        cursor = self._cursor
        return self._decoded + (cursor.decoded if cursor is not None else 0)

    def read(self, start: int, count: int) -> Iterator[Frame]:
        """Yield frames ``start`` to ``start + count - 1`` (see ``FrameSource``)."""
        check_range(start, count, self.frames)
        return (self._pixels(self._picture(n)) for n in range(start, start + count))

    def _picture(self, frame: int) -> VideoFrame:
        if self._damage is None or frame < self._damage[0]:
            picture = None if self.sequential else self._from_near(frame)
            if picture is None:
                picture = self._from_beginning(frame)
            if picture is not None:
                return picture
        assert self._damage is not None
        raise DamagedVideo(
            f"{self.path}: damaged at frame {self._damage[0]}: {self._damage[1]}; the frames "
            "before it are good. Fetch or convert the file again to have the rest",
            self._damage[0],
        )

    def _from_near(self, frame: int) -> VideoFrame | None:
        """The picture, going on from here or from a key frame near it; None if that fails, or if
        the beginning is as near."""
        places = [self.index.entry(frame, earlier=n) for n in range(ATTEMPTS)]
        ways = [place for place in places if place is not None and place[1] > 0]
        here = self._cursor.position if self._cursor is not None else -1
        why = ""
        if 0 <= here <= frame and not (ways and here < ways[0][1]):
            try:
                return self._forward(frame)
            except Broken as broken:
                why = str(broken)
        for time, number in ways:
            if self._cursor is None:
                self._cursor = Cursor(self.path)
            try:
                self._cursor.seek(time, number, self.index.times)
                return self._forward(frame)
            except Broken as broken:
                why = str(broken)
        self.sequential = why
        return None

    def _from_beginning(self, frame: int) -> VideoFrame | None:
        """The picture, by decoding everything before it; None if there is damage before it."""
        if self._cursor is None or self._cursor.sought or self._cursor.position > frame:
            self.close()
            self._cursor = Cursor(self.path, self._times_from_beginning)
        try:
            return self._forward(frame)
        except Broken as broken:
            self._damage = (self._cursor.position, str(broken))
            self.close()
            return None

    def _forward(self, frame: int) -> VideoFrame:
        assert self._cursor is not None
        while True:
            number = self._cursor.position
            picture = self._cursor.picture()
            if picture is None:
                raise Broken(f"the file ends after {number} of {self.frames} frames")
            if number == frame:
                return picture

    def close(self) -> None:
        """Let go of the file; reading again opens it again."""
        if self._cursor is not None:
            self._decoded += self._cursor.decoded
            self._cursor.close()
            self._cursor = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
