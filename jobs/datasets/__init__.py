"""The datasets that ``fs-submit extract --dataset NAME`` knows: one file each, listed here.

A dataset turns a folder in its official layout into named videos. It knows names and folders
only; frames are the business of :mod:`jobs.video`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from featurestore.errors import DatasetError
from jobs.datasets import folder, ped2
from jobs.video import Source

__all__ = ["DATASETS", "Dataset", "scan", "select"]


@dataclass(frozen=True)
class Dataset:
    """One dataset: its name on the command line, its layout as text, and how to read it."""

    name: str
    title: str
    layout: str
    scan: Callable[[Path], list[Source]]


DATASETS: dict[str, Dataset] = {
    d.name: d
    for d in (
        Dataset("ped2", "UCSD Ped2", ped2.LAYOUT, ped2.scan),
        Dataset("folder", "any folder of videos and frame folders", folder.LAYOUT, folder.scan),
    )
}


def scan(dataset: str, root: Path) -> list[Source]:
    """Every video of ``dataset`` below ``root``, in natural order, each name once.

    Raises:
        DatasetError: unknown dataset, no such folder, nothing in the layout expected, or two
            videos of one name; the message shows the layout.
    """
    known = DATASETS.get(dataset)
    if known is None:
        raise DatasetError(f"no dataset {dataset!r}: choose one of {', '.join(DATASETS)}")
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "is not there"
        raise DatasetError(
            f"{root} {what}. Say where {known.title} lies with --root DIR. "
            f"The layout expected there:\n{known.layout}"
        )
    sources = known.scan(root)
    if not sources:
        raise DatasetError(
            f"no video of {known.title} in {root}. The layout expected:\n{known.layout}"
        )
    seen: dict[str, Path] = {}
    for source in sources:
        other = seen.setdefault(source.name, source.path)
        if other != source.path:
            raise DatasetError(
                f"two videos are named {source.name!r}: {other} and {source.path}. "
                "Move one of them away or rename it."
            )
    return sources


def select(sources: list[Source], patterns: tuple[str, ...]) -> list[Source]:
    """The sources whose name equals or matches (as a shell glob) one of ``patterns``; all if none.

    Raises:
        DatasetError: a pattern that matches nothing.
    """
    from fnmatch import fnmatchcase

    if not patterns:
        return sources
    for pattern in patterns:
        if not any(fnmatchcase(s.name, pattern) or s.name == pattern for s in sources):
            some = ", ".join(s.name for s in sources[:5])
            raise DatasetError(
                f"--videos {pattern!r} matches none of the {len(sources)} videos ({some}, ...)"
            )
    return [s for s in sources if any(fnmatchcase(s.name, p) or s.name == p for p in patterns)]
