"""Decoded pictures to arrays, turned as they are to be displayed."""

from __future__ import annotations

from typing import cast

import av.video.frame
import numpy as np
from av.sidedata.sidedata import SideDataContainer
from av.video.reformatter import VideoReformatter

from jobs.video._contract import Frame

Turn = tuple[bool, bool, bool]
"""Transposed first; then mirrored left to right; then upside down."""


class Pixels:
    """Turns pictures of one stream into (H, W, 3) uint8 RGB, with one converter for all."""

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()
        self._turns: dict[int, Turn] = {}  # by the matrix's angle

    def __call__(self, picture: av.video.frame.VideoFrame) -> Frame:
        """The picture as displayed, an array of its own."""
        # One thread: by default swscale starts one a core, and each worker would.
        rgb = self._reformatter.reformat(picture, format="rgb24", threads=1).to_ndarray()
        # Once an angle: `side_data` ties each picture to itself, and 250 MB of them pile up (at
        # 1280x720) before the collector comes.
        if picture.rotation not in self._turns:
            self._turns[picture.rotation] = turn(picture)
        transposed, mirrored, upside_down = self._turns[picture.rotation]
        if transposed:
            rgb = rgb.transpose(1, 0, 2)
        if mirrored:
            rgb = rgb[:, ::-1]
        if upside_down:
            rgb = rgb[::-1]
        return np.ascontiguousarray(rgb, dtype=np.uint8)


def turn(picture: av.video.frame.VideoFrame) -> Turn:
    """How the display matrix turns a picture, to the nearest quarter, mirroring included."""
    # PyAV declares a dictionary that knows motion vectors only.
    matrix = cast(SideDataContainer, picture.side_data).get("DISPLAYMATRIX")
    if matrix is None:
        return False, False, False
    # Nine 16.16 (and 2.30) fixed point numbers; a point (x, y) goes to (a x + c y, b x + d y).
    (a, b, _), (c, d, _), _ = np.frombuffer(bytes(matrix), np.int32).reshape(3, 3).tolist()
    if abs(b) + abs(c) > abs(a) + abs(d):
        return True, c < 0, b < 0
    return False, a < 0, d < 0


def displayed_size(picture: av.video.frame.VideoFrame) -> tuple[int, int]:
    """(width, height) of a picture as displayed."""
    return (picture.height, picture.width) if turn(picture)[0] else (picture.width, picture.height)
