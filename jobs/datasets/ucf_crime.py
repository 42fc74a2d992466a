"""UCF-Crime (Sultani et al. 2018): 1610 training and 290 testing videos of 13 classes and none.

A video is called as its file is, ``Abuse001_x264``. Which videos of a class's folder are for
testing, and which of their frames are anomalous, is in the annotation: a line of

    Assault010_x264.mp4  Assault  11330  11680  12260  12930

is two intervals of frames, counted from 1, both ends included (the published evaluation marks
``GT(start:end)`` in MATLAB); -1 stands for none. A seventh number, which some copies have, is left
alone. Of abnormal training videos only that they are abnormal is known.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from featurestore.errors import DatasetError
from featurestore.labels import ABNORMAL, NORMAL, Truth
from featurestore.splits import TEST, TRAIN
from jobs.datasets._contract import (
    Counts,
    Dataset,
    GroundTruth,
    frame_truth,
    marked,
    normal_truth,
    published,
)
from jobs.video import Source, discover

LAYOUT = """\
  ROOT/Abuse/Abuse001_x264.mp4 ...     a folder for each of the 13 classes
  ROOT/Training_Normal_Videos_Anomaly/Normal_Videos001_x264.mp4 ...
  ROOT/Testing_Normal_Videos_Anomaly/Normal_Videos_003_x264.mp4 ...
  ROOT/Temporal_Anomaly_Annotation_for_Testing_Videos.txt
Each may lie deeper, as the archives have it: ROOT/Anomaly-Videos-Part-1/Abuse/...,
ROOT/Training-Normal-Videos-Part-1/... Normal_Videos_event (event recognition) is left out."""

CLASSES = (
    *("Abuse", "Arrest", "Arson", "Assault", "Burglary", "Explosion", "Fighting"),
    *("RoadAccidents", "Robbery", "Shooting", "Shoplifting", "Stealing", "Vandalism"),
)
ANNOTATION = "Temporal_Anomaly_Annotation"
# Five official intervals end one or two frames after the last frame of their video; the published
# evaluation cuts them off too. More than that is another video.
SLACK = 2
_NORMAL = re.compile(r"(training|testing)[-_]normal[-_]videos.*", re.IGNORECASE)
_NOT_FOUND = f"no {ANNOTATION}_for_Testing_Videos.txt was found"

Entry = tuple[str, list[tuple[int, int]], int]
"""Class, intervals (counted from 1, both ends included), and line of the file."""


def scan(root: Path) -> list[Source]:
    """The files in folders of a class or of normal videos, at any depth below ``root``."""
    found = [s for s in discover(root) if s.kind == "file" and _folder(s) is not None]
    named = [Source(s.path.stem, s.path, "file") for s in found]
    return sorted(named, key=lambda s: s.name)


def _folder(source: Source) -> str | None:
    """``Abuse``, ``training`` or ``testing``; None: not a folder of this dataset."""
    name = source.path.parent.name
    if normal := _NORMAL.fullmatch(name):
        return normal[1].lower()
    return name if name in CLASSES else None


def halves(sources: Sequence[Source], truth: Mapping[str, Truth]) -> dict[str, int]:
    """The official halves: normal videos by their folder, abnormal ones by the annotation.

    Raises:
        DatasetError: there are abnormal videos, and no annotation.
    """
    if any(t.remark == _NOT_FOUND for t in truth.values()):
        raise DatasetError(
            f"which abnormal videos are for testing is in the annotation, but {_NOT_FOUND}; put "
            "it into the dataset's folder"
        )
    parts: dict[str, int] = {}
    for source in sources:
        known = truth.get(source.name)
        if _folder(source) in ("training", "testing"):
            parts[source.name] = TRAIN if _folder(source) == "training" else TEST
        elif known is not None:
            parts[source.name] = TRAIN if known.frames is None else TEST
    return parts


def truths(root: Path, labels_file: Path | None) -> GroundTruth:
    """The annotation below ``root``, or ``labels_file``."""
    sources = {s.name: s for s in scan(root)}
    path = labels_file or _find(root)
    entries = read_annotation(path) if path else {}
    here = {_key(name) for name in sources}
    orphans = tuple(f"{path}, line {e[2]}: {v}" for v, e in entries.items() if v not in here)
    return GroundTruth(partial(_truth, sources, path, entries), str(path or ""), orphans)


def _truth(
    sources: Mapping[str, Source],
    path: Path | None,
    entries: Mapping[str, Entry],
    video: str,
    frames: int,
    damaged: bool,
) -> Truth:
    if video not in sources:
        raise DatasetError(f"{video} is not there any more, so its ground truth cannot be told")
    folder = _folder(sources[video])
    entry = entries.get(_key(video))
    if entry is None:
        if folder in ("training", "testing"):
            return normal_truth(video, frames, f"folder {sources[video].path.parent.name}")
        remark = "" if path else _NOT_FOUND
        return Truth(video, ABNORMAL, None, f"class folder {folder}", remark)
    named, intervals, line = entry
    source = f"{path}, line {line}"
    label = NORMAL if named == "Normal" else ABNORMAL
    in_class = ABNORMAL if folder in CLASSES else NORMAL
    if label != in_class or label != (ABNORMAL if intervals else NORMAL):
        raise DatasetError(
            f"{source}: {video} is called {named} with {len(intervals)} intervals, but lies in "
            f"{sources[video].path.parent}; one of the two is wrong"
        )
    end = marked(intervals)
    length = max(frames, end) if damaged else frames
    flags = published(video, intervals, length, source, slack=0 if damaged else SLACK)
    over = end > length
    remark = f"its last interval ends at frame {end} of {frames}; it was cut" if over else ""
    return frame_truth(video, flags, frames, damaged, source, remark)


def read_annotation(path: Path) -> dict[str, Entry]:
    """Video (without ``_x264`` and suffix) -> its entry.

    Raises:
        DatasetError: it cannot be read, or a line is not as expected.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: cannot be read as text ({error})") from error
    entries: dict[str, Entry] = {}
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words:
            continue
        try:
            name, named, *numbers = words
            first, last, first2, last2 = (int(n) for n in numbers[:4])
            pairs = [p for p in ((first, last), (first2, last2)) if p != (-1, -1)]
            if len(numbers) > 5 or any(not 1 <= a <= b for a, b in pairs):
                raise ValueError
        except ValueError:
            raise DatasetError(
                f"{path}, line {number}: {line.strip()!r} is not 'video class start end start "
                "end', with -1 -1 for no interval"
            ) from None
        key = _key(Path(name).stem)
        if key in entries:
            raise DatasetError(f"{path}: {name} stands in lines {entries[key][2]} and {number}")
        entries[key] = (named, pairs, number)
    return entries


def _key(name: str) -> str:
    return name.removesuffix("_x264")


def _find(root: Path) -> Path | None:
    """The annotation; of several the one of the official name, nearest to ``root``."""
    found = [p for p in root.rglob(f"{ANNOTATION}*.txt") if not p.name.startswith(".")]
    official = f"{ANNOTATION}_for_Testing_Videos.txt"
    return min(found, key=lambda p: (p.name != official, len(p.parts), p), default=None)


DATASET = Dataset(
    name="ucf_crime",
    title="UCF-Crime",
    layout=LAYOUT,
    scan=scan,
    truths=truths,
    halves=halves,
    where=("https://www.crcv.ucf.edu/projects/real-world/",),
    size="103 GB in 8 archives (96 GiB), 128 hours",
    licence="none stated; for research",
    citation=(
        "Sultani, Chen, Shah: Real-world Anomaly Detection in Surveillance Videos. CVPR 2018"
    ),
    truth="intervals of the 140 abnormal testing videos",
    counts=Counts(1610, 290, None, 1_111_808, 84_338),
)
