"""Videos in a known layout of folders."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Literal

from featurestore.errors import UnreadableVideo
from jobs.video import Source, discover, probe

__all__ = ["Pattern", "arrange", "bases", "first_folder", "frame_size", "visible"]

Pattern = tuple[re.Pattern[str], Literal["file", "frames"], Callable[[re.Match[str]], str]]
"""A path relative to the dataset's folder (a file's without its suffix), what lies there, and the
video's name."""


def bases(root: Path, inside: Sequence[str]) -> list[Path]:
    """``root``, and those of the folders that the official archives unpack to that lie in it."""
    return [base for base in (root / name for name in (".", *inside)) if base.is_dir()]


def arrange(root: Path, inside: Sequence[str], patterns: Sequence[Pattern]) -> list[Source]:
    """The videos below the first of the places in ``bases`` that has any, sorted by name.

    Where a video is there in several forms (as a file, and as a folder of its frames), the first
    of ``patterns`` is taken.
    """
    for base in bases(root, inside):
        ranked: list[tuple[int, Source]] = []
        for source in discover(base):
            path = source.path.relative_to(base)
            relative = (path if source.kind == "frames" else path.with_suffix("")).as_posix()
            for rank, (pattern, kind, named) in enumerate(patterns):
                found = pattern.fullmatch(relative) if kind == source.kind else None
                if found is not None:
                    ranked.append((rank, Source(named(found), source.path, kind)))
                    break
        if ranked:
            best: dict[str, int] = {}
            for rank, source in ranked:
                best[source.name] = min(rank, best.get(source.name, rank))
            kept = [source for rank, source in ranked if rank == best[source.name]]
            return sorted(kept, key=lambda source: source.name)
    return []


def first_folder(places: Iterable[Path], holds: str) -> Path | None:
    """The first of ``places`` that is a folder with a file of that pattern in it."""
    return next((p for p in places if p.is_dir() and any(visible(p, holds))), None)


def visible(folder: Path, pattern: str) -> list[Path]:
    """The files of a pattern, without hidden ones (macOS leaves ``._001.bmp`` beside 001.bmp)."""
    return sorted(p for p in folder.glob(pattern) if not p.name.startswith("."))


def frame_size(source: Source) -> tuple[int, int] | None:
    """(height, width) of a video's frames; None where it cannot be opened: it has no frames."""
    try:
        info = probe(source.path, exact=False)
    except UnreadableVideo:
        return None
    return info.height, info.width
