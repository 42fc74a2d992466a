"""Any folder, nested or not, of video files and frame folders.

Two tables may come with it. ``intervals.csv`` (``video,start,end``) lists anomalous frames, counted
from 0; ``end`` is the first frame after them, as in Python and as ``make demo`` writes it. A row
with neither says that the video has none. ``labels.csv`` (``video,split,label``) says which videos
train or test and which are normal or abnormal; every frame of a normal video is normal. A video is
called as `scan` calls it: by its path below the root, without suffix where that is clear.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from featurestore.errors import DatasetError
from featurestore.labels import ABNORMAL, NORMAL, UNKNOWN, Truth
from featurestore.splits import Split, read_csv
from jobs.datasets._contract import Dataset, GroundTruth, frame_truth, normal_truth
from jobs.video import Source, discover

LAYOUT = """\
  ROOT/any/depth/video.mp4        video files (mp4, avi, mkv, mov, mpg, ts, webm, wmv, ...)
  ROOT/any/depth/frames/001.jpg   frame folders: images of one size, in natural order of names
  ROOT/intervals.csv              anomalous frames, if known: video,start,end; frames count from 0,
                                  end is the first one after; or another file, with --labels
  ROOT/labels.csv                 if known: video,split,label (train or test, normal or abnormal)"""

INTERVALS = "intervals.csv"
LABELS = "labels.csv"
COLUMNS = ("video", "start", "end")

Interval = tuple[int, int, int]
"""First frame, frame after the last one, line of the file."""


def scan(root: Path) -> list[Source]:
    """Every video file and frame folder below ``root``, named by its relative path."""
    return discover(root)


def halves(sources: Sequence[Source], truth: Mapping[str, Truth]) -> dict[str, int]:
    """There is no official split; `official_split` reads it from ``labels.csv`` where it can.

    Raises:
        DatasetError: always.
    """
    raise DatasetError("a folder has no official split; give a file with video,split,label")


def table(root: Path) -> Split | None:
    """The ``labels.csv`` of a folder, or None.

    Raises:
        SplitError: there is one, and it is not as it should be.
    """
    path = root / LABELS
    return read_csv(path, "official", str(path)) if path.is_file() else None


def truths(root: Path, labels_file: Path | None) -> GroundTruth:
    """``labels_file``, or the ``intervals.csv`` of ``root``; and its ``labels.csv``."""
    path = labels_file or root / INTERVALS
    intervals = read_intervals(path) if labels_file or path.is_file() else {}
    split = table(root)
    labels = dict(split.labels) if split else {}
    names = {s.name for s in scan(root)}
    files = [str(path)] if intervals else []
    files += [split.source] if split else []
    listed = {**split.parts, **labels} if split else {}
    for file, videos in ((path, intervals), (root / LABELS, listed)):
        if unknown := [v for v in videos if v not in names]:
            shown = ", ".join(unknown[:5]) + (" ..." if len(unknown) > 5 else "")
            raise DatasetError(
                f"{file}: names {len(unknown)} videos that are not below {root}: {shown}. Videos "
                f"are called as in {', '.join(sorted(names)[:3])}; correct the names"
            )
    return GroundTruth(partial(_truth, path, intervals, labels), ", ".join(files))


def _truth(
    path: Path,
    intervals: Mapping[str, Sequence[Interval]],
    labels: Mapping[str, int],
    video: str,
    frames: int,
    damaged: bool,
) -> Truth:
    label = labels.get(video, UNKNOWN)
    runs = intervals.get(video)
    if runs is None:
        if label == NORMAL:
            return normal_truth(video, frames, LABELS)
        return Truth(video, label, None, LABELS if video in labels else "")
    if runs and label == NORMAL:
        raise DatasetError(
            f"{path}, line {runs[0][2]}: frames of {video} are called anomalous, but {LABELS} "
            "calls it normal; one of the two is wrong"
        )
    if not runs and label == ABNORMAL:
        raise DatasetError(
            f"{path}: says that {video} has no anomalous frame, but {LABELS} calls it abnormal; "
            "one of the two is wrong"
        )
    length = max([frames, *(end for _, end, _ in runs)]) if damaged else frames
    flags = np.zeros(length, np.bool_)
    for start, end, line in runs:
        if end > length:
            raise DatasetError(
                f"{path}, line {line}: frames {start} to {end - 1} of {video} are called "
                f"anomalous, but it has {frames} frames, 0 to {frames - 1} (`end` is the first "
                "frame after the anomaly)"
            )
        flags[start:end] = True
    return frame_truth(video, flags, frames, damaged, str(path))


def read_intervals(path: Path) -> dict[str, list[Interval]]:
    """Video -> its anomalous intervals; an empty list where a row says that it has none.

    Raises:
        DatasetError: it cannot be read, has not these columns, or a row makes no sense.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: cannot be read as text ({error})") from error
    reader = csv.DictReader(io.StringIO(text), skipinitialspace=True)
    header = [name.strip().lower() for name in reader.fieldnames or []]
    if not set(COLUMNS) <= set(header):
        raise DatasetError(
            f"{path}: its first line must name the columns {','.join(COLUMNS)}; it is "
            f"{','.join(header)!r}"
        )
    reader.fieldnames = header
    found: dict[str, list[Interval]] = {}
    for row in reader:
        video, start, end = ((row.get(column) or "").strip() for column in COLUMNS)
        if not (video or start or end):
            continue
        try:
            run = [(int(start), int(end), reader.line_num)] if start or end else []
            if not video or any(not 0 <= a < b for a, b, _ in run):
                raise ValueError
        except ValueError:
            raise DatasetError(
                f"{path}, line {reader.line_num}: {video},{start},{end} is no interval: a video, "
                "its first anomalous frame (counted from 0) and the first one after"
            ) from None
        if video in found and not (run and found[video]):
            raise DatasetError(
                f"{path}, line {reader.line_num}: {video} has no anomalous frame in one row, and "
                "has some in another"
            )
        found.setdefault(video, []).extend(run)
    return found


DATASET = Dataset(
    name="folder",
    title="any folder of videos and frame folders",
    layout=LAYOUT,
    scan=scan,
    truths=truths,
    halves=halves,
    truth="intervals.csv, labels.csv, if there are any",
)
