"""Which videos train and which test: from a file, drawn at random, checked against the videos.

A split names videos and puts each into one half. A weak split also says of its training videos
whether they are normal or abnormal, which is all that weakly supervised training is told.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from featurestore import disk
from featurestore.disk import writing
from featurestore.errors import SplitError, UsageError
from featurestore.labels import ABNORMAL, LABEL_NAMES, NORMAL

TRAIN: Final = 0
TEST: Final = 1
UNUSED: Final = -1  # in the store: a video that the split does not name

PART_NAMES: Final = {TRAIN: "train", TEST: "test"}
COLUMNS: Final = ("video", "split", "label")

_PARTS: Final = {"train": TRAIN, "training": TRAIN, "test": TEST, "testing": TEST}
_LABELS: Final = {"normal": NORMAL, "0": NORMAL, "abnormal": ABNORMAL, "1": ABNORMAL}
_SHOWN: Final = 5  # names in a message


@dataclass(frozen=True)
class Split:
    """A named split: video -> TRAIN or TEST; `labels`: video -> label, where the file gives them.

    `source` says where it is from, for people.
    """

    name: str
    parts: Mapping[str, int]
    labels: Mapping[str, int]
    source: str

    def __post_init__(self) -> None:
        if not self.name or self.name != self.name.strip() or not self.name.isprintable():
            raise UsageError(f"{self.name!r} is no name of a split; give a plain word")
        if wrong := set(self.parts.values()) - {TRAIN, TEST}:
            raise UsageError(f"split {self.name}: videos are TRAIN or TEST, not {sorted(wrong)}")
        if wrong := set(self.labels.values()) - {NORMAL, ABNORMAL}:
            raise UsageError(f"split {self.name}: videos are NORMAL or ABNORMAL, not {wrong}")

    def videos(self, part: int) -> list[str]:
        """The videos of one half, in the order of the split."""
        return [video for video, its in self.parts.items() if its == part]


def read_csv(path: Path, name: str | None = None, source: str | None = None) -> Split:
    """Reads a split from a file with the columns `video,split,label`, in any order.

    `split` is train or test (empty: in neither half, only the label counts), `label` normal or
    abnormal (or 0, 1; empty, or no such column: not known). Other columns are left alone. The
    order of the rows is kept. `name` is the file's own unless given, `source` the file's name.

    Raises SplitError: no such file, no such columns, a value that is none of these, a video that
    stands there twice (in both halves, say).
    """
    rows = _rows(path, ("video", "split"))
    parts: dict[str, int] = {}
    labels: dict[str, int] = {}
    lines: dict[str, int] = {}
    for line, row in rows:
        video = row["video"]
        if not video:
            raise SplitError(f"{path}, line {line}: names no video")
        if video in lines:
            halves = {parts.get(video), _PARTS.get(row["split"].lower())}
            what = "is in both halves" if halves == {TRAIN, TEST} else "stands there twice"
            raise SplitError(f"{path}: video {video!r} {what}: lines {lines[video]} and {line}")
        lines[video] = line
        if row["split"]:
            parts[video] = _value(path, line, row["split"], _PARTS, "train or test")
        if row.get("label"):
            labels[video] = _value(path, line, row["label"], _LABELS, "normal or abnormal")
    if not lines:
        raise SplitError(f"{path}: names no video")
    return Split(name or path.stem, parts, labels, source or path.name)


def read_frames(path: Path) -> dict[str, int]:
    """Video -> number of frames, from the columns `video,frames` of a file; empty: not known.

    No such column: nothing. Raises SplitError for what is no number, or no such file.
    """
    found: dict[str, int] = {}
    for line, row in _rows(path, ("video",)):
        if frames := row.get("frames", ""):
            if not frames.isdecimal() or int(frames) < 1:
                raise SplitError(f"{path}, line {line}: {frames!r} is no number of frames")
            if found.setdefault(row["video"], int(frames)) != int(frames):
                raise SplitError(f"{path}, line {line}: {row['video']!r} stands there twice")
    return found


def write_csv(path: Path, split: Split, *, frames: Mapping[str, int] | None = None) -> None:
    """Writes a split as `read_csv` reads it, in one step; `frames` as one more column.

    Raises StoreUnwritable.
    """
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow([*COLUMNS, *(["frames"] if frames else [])])
    for video in dict.fromkeys([*split.parts, *split.labels]):
        part = PART_NAMES[split.parts[video]] if video in split.parts else ""
        label = LABEL_NAMES[split.labels[video]] if video in split.labels else ""
        rows.writerow([video, part, label, *([frames.get(video, "")] if frames else [])])
    with writing(path):
        disk.replace(path, lambda partial: partial.write_text(text.getvalue(), encoding="utf-8"))


def random_splits(
    labels: Mapping[str, int],
    count: int,
    seed: int,
    *,
    test_fraction: float = 0.5,
    train: Mapping[int, int] | None = None,
) -> list[Split]:
    """`count` splits drawn at random, of each label the same share to each half.

    `labels` is video -> NORMAL or ABNORMAL; others are left out. To train go all but
    `test_fraction` of each label (at least one video to each half), or exactly as many as `train`
    says (label -> videos). The splits are called random-SEED-1, random-SEED-2, ...; the i-th is
    the same however many are drawn and in whatever order the videos come.

    Raises SplitError when a label has too few videos.
    """
    if count < 1 or not 0 < test_fraction < 1:
        raise UsageError(f"{count} random splits with {test_fraction} to test make no sense")
    classes = {
        label: sorted(video for video, its in labels.items() if its == label)
        for label in (NORMAL, ABNORMAL)
    }
    sizes = {}
    for label, videos in classes.items():
        wanted = round(len(videos) * (1 - test_fraction)) if train is None else train.get(label, 0)
        sizes[label] = min(max(wanted, 1), len(videos) - 1) if train is None else wanted
        if len(videos) < 2 or not 0 < sizes[label] < len(videos):
            raise SplitError(
                f"random splits: of {len(videos)} {LABEL_NAMES[label]} videos whose label is "
                f"known {max(wanted, 1)} cannot train and others test"
            )
    drawn = []
    for number in range(1, count + 1):
        parts: dict[str, int] = {}
        for label, videos in classes.items():
            # By digests, not by a random generator: no library's next version draws otherwise.
            drawn_by = {video: _digest(f"{seed}/{number}/{video}") for video in videos}
            order = sorted(videos, key=drawn_by.__getitem__)
            parts |= {v: TRAIN if i < sizes[label] else TEST for i, v in enumerate(order)}
        known = {video: labels[video] for video in parts}
        shares = ", ".join(f"{sizes[its]} {LABEL_NAMES[its]}" for its in (ABNORMAL, NORMAL))
        source = f"drawn with seed {seed}, number {number}: {shares} to train"
        drawn.append(Split(f"random-{seed}-{number}", dict(sorted(parts.items())), known, source))
    return drawn


def restricted(split: Split, videos: Collection[str]) -> Split:
    """The split without the videos that are not among `videos`."""
    parts = {video: part for video, part in split.parts.items() if video in videos}
    labels = {video: label for video, label in split.labels.items() if video in videos}
    return Split(split.name, parts, labels, split.source)


def check(split: Split, videos: Collection[str], labels: Mapping[str, int]) -> None:
    """Checks a split against the videos that there are and what is known of them.

    `labels` is video -> label (UNKNOWN contradicts nothing). Raises SplitError, naming the
    videos: of the split that are not among `videos`, and whose label there is another one.
    """
    if unknown := [v for v in {**split.parts, **split.labels} if v not in videos]:
        raise SplitError(
            f"split {split.name} ({split.source}): names {len(unknown)} videos that are not "
            f"there: {shown(unknown)}. Correct the names, or take them out."
        )
    wrong = [
        f"{video}: {LABEL_NAMES[label]} in the split, {LABEL_NAMES[labels[video]]} in the truth"
        for video, label in split.labels.items()
        if labels.get(video, label) in (NORMAL, ABNORMAL) and labels.get(video, label) != label
    ]
    if wrong:
        raise SplitError(
            f"split {split.name} ({split.source}): contradicts the labels of {len(wrong)} videos: "
            f"{shown(wrong, '; ')}"
        )


def shown(names: Iterable[str], between: str = ", ") -> str:
    """The first names of a list, for a message, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return between.join(names[:_SHOWN]) + more


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _rows(path: Path, needed: Collection[str]) -> list[tuple[int, dict[str, str]]]:
    """Line number and stripped values, by column, of each row that is not empty."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise SplitError(f"{path}: there is no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SplitError(f"{path}: cannot be read as text: {error}") from error
    reader = csv.DictReader(io.StringIO(text), skipinitialspace=True)
    header = [name.strip().lower() for name in reader.fieldnames or []]
    if not set(needed) <= set(header):
        raise SplitError(
            f"{path}: its first line must name the columns {','.join(COLUMNS)}; it is "
            f"{','.join(header)!r}"
        )
    reader.fieldnames = header
    rows = []
    for row in reader:
        values = {column: (row.get(column) or "").strip() for column in header}
        if any(values.values()):
            rows.append((reader.line_num, values))
    return rows


def _value(path: Path, line: int, text: str, known: Mapping[str, int], wanted: str) -> int:
    value = known.get(text.lower())
    if value is None:
        raise SplitError(f"{path}, line {line}: {text!r} should be {wanted}")
    return value
