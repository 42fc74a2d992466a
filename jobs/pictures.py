"""Small pictures of single frames, for a report."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from featurestore.errors import DamagedVideo, UnreadableVideo
from jobs.video import open_source

__all__ = ["WIDTH", "thumbnails"]

WIDTH = 160  # pixels


def thumbnails(path: Path, frames: int, wanted: Sequence[int]) -> dict[int, bytes]:
    """JPEGs, 160 pixels wide, of the ``wanted`` frames of a video of ``frames`` frames.

    Of a video that is not there (any more) none; of one that breaks those before it does.
    """
    found: dict[int, bytes] = {}
    if not path.exists():
        return found
    try:
        with open_source(path, frames=frames) as source:
            for frame in sorted(wanted):
                for pixels in source.read(frame, 1):
                    found[frame] = _jpeg(Image.fromarray(pixels))
    except (UnreadableVideo, DamagedVideo):
        return found
    return found


def _jpeg(image: Image.Image) -> bytes:
    height = max(1, round(image.height * WIDTH / image.width))
    file = io.BytesIO()
    image.resize((WIDTH, height), Image.Resampling.BILINEAR).save(file, "JPEG", quality=80)
    return file.getvalue()
