"""The table of videos: one row a version of a file, and which clips are its own."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import numpy as np
import numpy.typing as npt

from featurestore.align import segment_spans
from featurestore.clips import CLIP_FRAMES, clip_count
from featurestore.errors import UsageError
from featurestore.schema import STATES, VIDEO_TABLE

# What may change in a row that is there. All else would change which clips it has.
CHANGEABLE = ("path", "size", "mtime", "sha256", "state", "reason")


@dataclass(frozen=True)
class NewVideo:
    """A video to add to a store.

    `frames` is the number of frames that can be decoded (of a damaged video those before the
    damage; 0 for one that failed) and gives its clips. `fps` is NaN where not known, `size` is in
    bytes, `mtime` in seconds after 1970-01-01 UTC, `sha256` hexadecimal, `state` one of
    schema.STATES. Raises UsageError for values that no row can hold.
    """

    name: str
    path: str
    frames: int
    fps: float = math.nan
    width: int = 0
    height: int = 0
    sha256: str = ""
    size: int = 0
    mtime: float = math.nan
    state: str = "ok"
    reason: str = ""

    def __post_init__(self) -> None:
        if not self.name:
            raise UsageError(f"{self.path}: a video needs a name")
        if self.frames < 0:
            raise UsageError(f"{self.name}: a video has no {self.frames} frames")
        if self.state not in STATES or not _is_unicode(self.name, self.path, self.sha256):
            for column in ("name", "path", "sha256", "state"):
                _check(self.name, column, getattr(self, column))

    @property
    def clip_count(self) -> int:
        """Number of clips."""
        return clip_count(self.frames)


@dataclass(frozen=True)
class Video:
    """A row of the table; `index` is its number. The other columns: see NewVideo."""

    index: int
    name: str
    path: str
    frames: int
    fps: float
    width: int
    height: int
    clip_offset: int
    clip_count: int
    sha256: str
    size: int
    mtime: float
    state: str
    reason: str

    @property
    def clips(self) -> range:
        """Numbers of its clips in the store."""
        return range(self.clip_offset, self.clip_offset + self.clip_count)


def columns(
    videos: Sequence[NewVideo], first_clip: int, segments: int | None = None
) -> dict[str, npt.NDArray[Any]]:
    """New rows, by the arrays of schema.VIDEO_TABLE; their clips follow `first_clip`.

    With `segments` each has so many clips, whatever its frames. Raises UsageError when two of
    them have one name.
    """
    _check_names(videos)
    counts = _counts(videos, segments)
    made: dict[str, npt.NDArray[Any]] = {
        "clip_count": counts,
        "clip_offset": first_clip + np.cumsum(counts) - counts,
    }
    rest = [column for column in VIDEO_TABLE if column not in made]
    rows = list(map(attrgetter(*map(_field, rest)), videos))
    values = zip(*rows, strict=True) if rows else [()] * len(rest)
    return made | {c: array_of(c, of) for c, of in zip(rest, values, strict=True)}


def clip_columns(
    videos: Sequence[NewVideo], first_row: int, segments: int | None = None
) -> dict[str, npt.NDArray[Any]]:
    """The new rows' clips, by the arrays of schema.CLIP_TABLE (and SEGMENT_TABLE)."""
    rows = np.arange(first_row, first_row + len(videos), dtype=np.int32)
    counts = _counts(videos, segments)
    if segments:
        none = np.zeros(0, np.int64)
        spans = [segment_spans(video.frames, segments) for video in videos]
        return {
            "clip_video": np.repeat(rows, counts),
            "clip_start": np.concatenate([none, *(first for first, _ in spans)]),
            "clip_stop": np.concatenate([none, *(after for _, after in spans)]),
        }
    frames = np.array([video.frames for video in videos], np.int64)
    before = np.repeat(np.cumsum(counts) - counts, counts)
    regular = (np.arange(len(before), dtype=np.int64) - before) * CLIP_FRAMES
    last = np.repeat(np.maximum(frames - CLIP_FRAMES, 0), counts)
    # clips.clip_starts, for all of them at once.
    return {"clip_video": np.repeat(rows, counts), "clip_start": np.minimum(regular, last)}


def _counts(videos: Sequence[NewVideo], segments: int | None) -> npt.NDArray[np.int64]:
    """Clips of each video: clips.clip_count, for all of them at once."""
    frames = np.array([video.frames for video in videos], np.int64)
    return np.full_like(frames, segments) if segments else -(-frames // CLIP_FRAMES)


def array_of(column: str, values: Sequence[Any]) -> npt.NDArray[Any]:
    """Values of one column as an array that zarr writes to it."""
    dtype = VIDEO_TABLE[column].dtype
    if dtype != "string":
        return np.array(values, dtype=dtype)
    # A reason quotes other people's messages, which may hold a file name that is no Unicode.
    texts = [str(value) for value in values]
    if not _is_unicode(*texts):
        texts = [text.encode(errors="backslashreplace").decode() for text in texts]
    return np.array(texts, dtype=np.dtypes.StringDType())


def videos_of(table: Mapping[str, npt.NDArray[Any]]) -> list[Video]:
    """The table's rows, from its arrays. Of several of one name all but the last are superseded.

    That holds even where their state does not say so yet: the commit that shows a new row
    decides, not the change of the old one that follows it.
    """
    fields = {_field(column): values.tolist() for column, values in table.items()}
    last = {name: index for index, name in enumerate(fields["name"])}
    videos = []
    for index, name in enumerate(fields["name"]):
        row = {field: values[index] for field, values in fields.items()}
        if last[name] != index:
            row["state"] = "superseded"
        videos.append(Video(index=index, **row))
    return videos


def check_changes(videos: int, changes: Mapping[int, Mapping[str, object]]) -> None:
    """Raises UsageError unless all rows exist and all columns may change to these values."""
    for index, row in changes.items():
        if not 0 <= index < videos:
            raise UsageError(f"There is no video {index}; the table has {videos} rows")
        for column, value in row.items():
            if column not in CHANGEABLE:
                raise UsageError(
                    f"Column {column!r} of a video cannot change; these can: {CHANGEABLE}"
                )
            _check(f"video {index}", column, value)


def _check_names(videos: Iterable[NewVideo]) -> None:
    seen: set[str] = set()
    for video in videos:
        if video.name in seen:
            raise UsageError(f"Two videos have the name {video.name!r}; rename one of them")
        seen.add(video.name)


def _check(name: str, column: str, value: object) -> None:
    if column == "state" and value not in STATES:
        raise UsageError(f"{name!r}: {value!r} is no state of a video; these are: {list(STATES)}")
    if isinstance(value, str) and column != "reason":
        try:
            value.encode()
        except UnicodeEncodeError:
            raise UsageError(
                f"{column} {value!r} is not valid Unicode (a file name in an old encoding?); "
                "rename the file"
            ) from None


def _is_unicode(*texts: str) -> bool:
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:
        return False
    return True


def _field(column: str) -> str:
    return "name" if column == "video" else column
