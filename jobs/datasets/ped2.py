"""UCSD Ped2 (Mahadevan et al. 2010): 16 training and 12 test videos as frame folders."""

from __future__ import annotations

import re
from pathlib import Path

from jobs.video import Source, discover

LAYOUT = """\
  ROOT/Train/Train001/001.tif ...      official (UCSD_Anomaly_Dataset.v1p2/UCSDped2), .tif or .jpg
  ROOT/Test/Test001/001.tif ...
  ROOT/Test/Test001_gt/001.bmp ...     masks: ground truth, not a video
or
  ROOT/training/frames/01/000.jpg ...  the layout that circulates
  ROOT/testing/frames/01/000.jpg ..."""

# The official archive unpacks to these; a user may name any of the three as the root.
_INSIDE = (".", "UCSDped2", "UCSD_Anomaly_Dataset.v1p2/UCSDped2")
_OFFICIAL = re.compile(r"(?:Train/(Train\d+)|Test/(Test\d+))$")
_CIRCULATING = re.compile(r"(training|testing)/frames/(?:Train|Test)?(\d+)$", re.IGNORECASE)


def video_name(relative: str) -> str | None:
    """``Train001`` for ``Train/Train001`` and ``training/frames/01``; None for anything else."""
    if found := _OFFICIAL.fullmatch(relative):
        return found[1] or found[2]
    if found := _CIRCULATING.fullmatch(relative):
        return f"{'Train' if found[1].lower() == 'training' else 'Test'}{int(found[2]):03d}"
    return None


def scan(root: Path) -> list[Source]:
    """The frame folders of Ped2 below ``root``: ``Test001`` ... ``Train016``; masks left out."""
    for inside in _INSIDE:
        found = []
        base = root / inside
        for source in discover(base) if base.is_dir() else []:
            name = video_name(source.path.relative_to(base).as_posix())
            if name is not None and source.kind == "frames":
                found.append(Source(name=name, path=source.path, kind=source.kind))
        if found:
            return sorted(found, key=lambda s: s.name)
    return []
