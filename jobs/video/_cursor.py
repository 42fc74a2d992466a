"""A place in a decoded file: which frame comes next, and is it the one that should."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from jobs.video._pixels import displayed_size
from jobs.video._stream import Broken, Stream


class Cursor:
    """A stream and the number of the picture it will give next.

    With the index's ``times`` every picture must be the index's next; without, the stream's word
    is taken, which only holds from the beginning.
    """

    def __init__(self, path: Path, times: NDArray[np.int64] | None = None) -> None:
        """At the beginning. Raises UnreadableVideo if the file does not open."""
        self.sought = False
        self.position = 0
        self.decoded = 0  # pictures, those passed over included
        self.size = (0, 0)  # (width, height) as displayed, of all pictures
        self._shape: tuple[int, int, int] | None = None  # width, height, rotation as coded
        self._times = times
        self._stream = Stream(path)
        self._held: VideoFrame | None = None  # the picture at `position`, where it had to be seen
        self._broken: Broken | None = None

    def seek(self, time: int, number: int, times: NDArray[np.int64]) -> None:
        """Go to the key frame of that ``time``, where picture ``number`` of the index's ``times``
        is the first to be trusted; from there on all are checked.

        Raises:
            Broken: that picture does not come, or comes damaged.
        """
        self._times, self._held, self._broken, self.sought = times, None, None, True
        try:
            self._held = self._key_picture(time, number, times)
        except Broken as broken:
            self._broken = broken
            raise
        self.position = number

    def _key_picture(self, time: int, number: int, times: NDArray[np.int64]) -> VideoFrame:
        self._stream.seek(time)
        while (picture := self._stream.picture()) is not None:
            self.decoded += 1
            # The key frame itself may be hidden by an edit list, as those after it.
            if picture.pts is not None and picture.pts >= times[number]:
                break
        if picture is None or picture.pts != times[number]:
            raise Broken(f"decoding from the key frame at frame {number} does not bring that frame")
        return picture

    def picture(self) -> VideoFrame | None:
        """The picture at ``position``, which moves on; None at the end.

        Raises:
            Broken: a sign of damage, another picture than the index's next, or of another size.
                Whoever asks again gets the same again.
        """
        if self._broken is not None:
            raise self._broken
        try:
            picture = self._next_picture()
        except Broken as broken:
            self._broken = broken
            raise
        self.position += picture is not None
        return picture

    def _next_picture(self) -> VideoFrame | None:
        held, self._held = self._held, None
        picture = held or self._stream.picture()
        if self._times is not None and self.position < len(self._times):
            if picture is None:
                raise Broken(f"the file ends where {len(self._times)} frames were announced")
            if picture.pts != self._times[self.position]:
                raise Broken("the next picture is missing or out of order")
        if picture is None:
            return None
        self.decoded += held is None
        shape = (picture.width, picture.height, picture.rotation)
        if self._shape is None:
            self._shape, self.size = shape, displayed_size(picture)
        elif shape != self._shape:
            new = displayed_size(picture)
            if new == self.size:  # from upright to upside down, or a square one
                raise Broken(f"pictures turn by {shape[2] - self._shape[2]} degrees")
            raise Broken("pictures change from {}x{} to {}x{}".format(*self.size, *new))
        return picture

    def close(self) -> None:
        """Let go of the file."""
        self._held = None
        self._stream.close()
