"""The whole of a file decoded once, to count what cannot be counted otherwise."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from jobs.video._cursor import Cursor
from jobs.video._stream import Broken


@dataclass(frozen=True)
class Scan:
    """``frames`` good ones before ``damage`` (what it is; empty where there is none)."""

    frames: int
    damage: str
    width: int
    height: int


def scan(path: Path, limit: int | None = None) -> Scan:
    """Decode a file, without converting pixels, up to the first sign of damage (or ``limit``).

    Raises:
        UnreadableVideo: the file does not open or has no video stream.
    """
    damage = ""
    cursor = Cursor(path)
    try:
        while cursor.position != limit and cursor.picture() is not None:
            pass
    except Broken as broken:
        damage = str(broken)
    finally:
        cursor.close()
    return Scan(cursor.position, damage, *cursor.size)
