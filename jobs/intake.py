"""Which videos of a dataset the store knows already, which are new, and which were replaced."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from featurestore.catalog import Video
from featurestore.errors import UnreadableVideo
from jobs.remote import Origin, staged
from jobs.video import Source, digest, stat_source

__all__ = ["Intake", "compare"]


@dataclass(frozen=True)
class Intake:
    """The videos on disk beside those of the store.

    ``known`` row -> source, unchanged; ``touched`` row -> (bytes, mtime in seconds) where only
    these differ, not the contents; ``new`` those without a row; ``replaced`` the rows whose file
    is another one now (it is in ``new`` as well).
    """

    known: dict[int, Source] = field(default_factory=dict)
    touched: dict[int, tuple[int, float]] = field(default_factory=dict)
    new: list[Source] = field(default_factory=list)
    replaced: list[int] = field(default_factory=list)


def compare(
    sources: Sequence[Source],
    videos: Sequence[Video],
    *,
    retry_failed: bool = False,
    origin: Origin | None = None,
) -> Intake:
    """Compare by name, size and time of modification; where these differ, by the digest.

    With ``retry_failed`` a video that could not be opened before counts as replaced. ``origin``:
    where the contents are, if not in the files.
    """
    rows = {v.name: v for v in videos if v.state != "superseded"}
    intake = Intake()
    for source in sources:
        row = rows.get(source.name)
        if row is None:
            intake.new.append(source)
            continue
        if retry_failed and row.state == "failed" and row.clip_count == 0:
            intake.replaced.append(row.index)
            intake.new.append(source)
            continue
        try:
            size, mtime = stat_source(source.path)
            same = (size, mtime) == (row.size, row.mtime)
            unchanged = same or (size == row.size and _digest(source.path, origin) == row.sha256)
        except UnreadableVideo:
            # Gone for now, behind a link or on a network disk: what was computed of it stays.
            same = unchanged = True
        if unchanged:
            intake.known[row.index] = source
            if not same:
                intake.touched[row.index] = (size, mtime)
        else:
            intake.replaced.append(row.index)
            intake.new.append(source)
    return intake


def _digest(path: Path, origin: Origin | None) -> str:
    with staged(origin.address(path)) if origin else nullcontext(path) as file:
        return digest(file)
