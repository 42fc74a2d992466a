"""Any folder, nested or not, of video files and frame folders."""

from __future__ import annotations

from pathlib import Path

from jobs.video import Source, discover

LAYOUT = """\
  ROOT/any/depth/video.mp4        video files (mp4, avi, mkv, mov, mpg, ts, webm, wmv, ...)
  ROOT/any/depth/frames/001.jpg   frame folders: images of one size, in natural order of names"""


def scan(root: Path) -> list[Source]:
    """Every video file and frame folder below ``root``, named by its relative path."""
    return discover(root)
