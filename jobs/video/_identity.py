"""Is a video still the one it was? Size and time tell quickly, the digest truly."""

from __future__ import annotations

import hashlib
from pathlib import Path

from featurestore.errors import UnreadableVideo
from jobs.video._folder import frame_files

OPEN_SECONDS = 120.0  # a decoder may hang: opening a file or counting its frames may take this, ...
SLOWEST = 200_000  # ... and a second more for so many bytes


def patience(path: Path) -> float:
    """Seconds after which a file that is being opened, or whose frames are counted, hangs."""
    try:
        return OPEN_SECONDS + (0 if path.is_dir() else path.stat().st_size / SLOWEST)
    except OSError:
        return OPEN_SECONDS


def stat_source(path: Path) -> tuple[int, float]:
    """(bytes, time of last modification in seconds since 1970); of a frame folder, all frames'
    bytes and the latest time that one of them was modified, renamed or put there.

    Frames are of equal size in many kinds, and are moved about with their times kept: only the
    time of the change of the entry (ctime) tells.

    Raises:
        UnreadableVideo: it is not there, or a folder that holds no frames.
    """
    try:
        stats = [p.stat() for p in frame_files(path)] if path.is_dir() else [path.stat()]
    except OSError as error:
        raise UnreadableVideo(
            f"{path}: cannot be read ({error.strerror}); put it back, or mend its permissions"
        ) from error
    times = [max(s.st_mtime, s.st_ctime) if path.is_dir() else s.st_mtime for s in stats]
    return sum(s.st_size for s in stats), max(times)


def digest(path: Path) -> str:
    """SHA-256 in hex: of a file its bytes; of a frame folder its frames' names and bytes, in order.

    Raises:
        UnreadableVideo: it cannot be read, or a folder that holds no frames.
    """
    try:
        if not path.is_dir():
            with path.open("rb") as stream:
                return hashlib.file_digest(stream, "sha256").hexdigest()
        total = hashlib.sha256()
        for file in frame_files(path):
            # Digests of equal length, so that no name can be taken for a part of the bytes.
            total.update(hashlib.sha256(file.name.encode("utf-8", "surrogateescape")).digest())
            total.update(hashlib.sha256(file.read_bytes()).digest())
        return total.hexdigest()
    except OSError as error:
        raise UnreadableVideo(
            f"{path}: cannot be read ({error.strerror}); put it back, or mend its permissions"
        ) from error
