"""About how many frames a video has, by what its header says: for plans, not for reading."""

from __future__ import annotations

from pathlib import Path

from featurestore.errors import UnreadableVideo
from jobs.video._folder import frame_files
from jobs.video._stream import Stream


def about_frames(path: Path) -> int:
    """Frames that the header of a file announces, or its duration and rate; images of a folder.

    Some milliseconds a file, whatever its length. Headers may lie (``probe`` counts), and where
    one says nothing this is 0.

    Raises:
        UnreadableVideo: it does not open or has no video stream.
    """
    if path.is_dir():
        return len(frame_files(path))
    stream = Stream(path)
    try:
        return stream.announced
    except ArithmeticError as error:  # a rate or duration of nonsense
        raise UnreadableVideo(f"{path}: its header makes no sense ({error})") from error
    finally:
        stream.close()
