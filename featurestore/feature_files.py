"""Features and labels in files as others keep them: .npy arrays, .list files, tables.

Only plain arrays are read: a pickled file can run any code when it is loaded.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from featurestore.errors import FeatureFileError
from featurestore.schema import CROPS
from featurestore.splits import TEST, TRAIN, read_csv, read_frames, shown

Order = Literal["clip,crop,channel", "crop,clip,channel", "clip,channel"]

_PICKLED: Final = (
    "np.save({0}, np.stack([np.asarray(x, np.float32) for x in np.load({0}, allow_pickle=True)]))"
)


@dataclass(frozen=True)
class FeatureFile:
    """A .npy file of one video's features, as its header says."""

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    order: Order

    @property
    def clips(self) -> int:
        return self.shape[1] if self.order == "crop,clip,channel" else self.shape[0]

    @property
    def crops(self) -> int:
        if self.order == "clip,channel":
            return 1
        return self.shape[0] if self.order == "crop,clip,channel" else self.shape[1]

    @property
    def channels(self) -> int:
        return self.shape[-1]

    def read(self) -> tuple[npt.NDArray[np.float32], bool]:
        """The features, float32 (clips, crops, channels), and whether float32 holds them exactly.

        Raises FeatureFileError.
        """
        values = np.asarray(_open(self.path))
        if self.order == "crop,clip,channel":
            values = values.swapaxes(0, 1)
        elif self.order == "clip,channel":
            values = values[:, None]
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite
            made = np.array(values, np.float32, order="C")
        return made, self.dtype.itemsize <= 4 or np.array_equal(made, values, equal_nan=True)


def feature_files(paths: Sequence[Path], order: Order | None = None) -> list[FeatureFile]:
    """The headers of all files, which must agree in crops, channels and order of axes.

    (T, 10, C), (10, T, C) or (T, C); also (T, 1, C). Which one is seen from all files together,
    unless `order` says it. Raises FeatureFileError, naming the files that do not fit.
    """
    headers = {path: _header(path) for path in paths}
    for path, (shape, dtype) in headers.items():
        if dtype.kind != "f" or len(shape) not in (2, 3):
            raise FeatureFileError(
                f"{path}: expected floats of shape (T, {len(CROPS)}, C), ({len(CROPS)}, T, C) or "
                f"(T, C), got {dtype} {shape}"
            )
        if 0 in shape:
            raise FeatureFileError(f"{path}: {shape}: holds no features; leave it out")
    axes = order or _order({path: shape for path, (shape, _) in headers.items()})
    found = [FeatureFile(path, shape, dtype, axes) for path, (shape, dtype) in headers.items()]
    for file in found:
        if len(file.shape) != len(axes.split(",")) or file.crops not in (1, len(CROPS)):
            raise FeatureFileError(f"{file.path}: {file.shape} is not ({axes})")
        if (file.crops, file.channels) != (found[0].crops, found[0].channels):
            raise FeatureFileError(
                f"{file.path}: {file.shape}, but {found[0].path} has {found[0].shape}: features "
                "of two kinds do not go into one array"
            )
    return found


def _order(shapes: dict[Path, tuple[int, ...]]) -> Order:
    if all(len(shape) == 2 for shape in shapes.values()):
        return "clip,channel"
    if odd := [path for path, shape in shapes.items() if len(shape) == 2]:
        raise FeatureFileError(f"{shown(map(str, odd))}: without crops, others have them")
    first = all(shape[0] == len(CROPS) for shape in shapes.values())
    second = all(shape[1] in (1, len(CROPS)) for shape in shapes.values())
    if first and second:
        raise FeatureFileError(
            f"all {len(shapes)} files are of {len(CROPS)} clips and {len(CROPS)} crops; say with "
            "--order which axis comes first: clip,crop,channel or crop,clip,channel"
        )
    if not first and not second:
        odd = [path for path, shape in shapes.items() if len(CROPS) not in shape[:2]]
        what = f"{shown(map(str, odd))}: has" if odd else "the files have"
        raise FeatureFileError(
            f"{what} no axis of {len(CROPS)} crops where the others have it; expected are "
            f"(T, {len(CROPS)}, C), ({len(CROPS)}, T, C) or (T, C), all of one kind"
        )
    return "crop,clip,channel" if first else "clip,crop,channel"


def read_labels(path: Path) -> npt.NDArray[np.int8]:
    """Frame labels of a gt file, int8 (frames,). Raises FeatureFileError."""
    values = np.asarray(_open(path))
    flat = values.reshape(-1)
    if values.dtype.kind not in "fiub" or values.size != max(values.shape, default=0):
        raise FeatureFileError(f"{path}: expected one label a frame, got {values.shape}")
    if odd := np.setdiff1d(flat, [0, 1]).tolist():
        raise FeatureFileError(f"{path}: labels are 0 or 1, but it also has {odd[:3]}")
    return flat.astype(np.int8)


def _header(path: Path) -> tuple[tuple[int, ...], np.dtype[Any]]:
    array = _open(path)  # not kept: each one that is open holds a file
    return array.shape, array.dtype


def _open(path: Path) -> npt.NDArray[Any]:
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except FileNotFoundError:
        raise FeatureFileError(f"{path}: there is no such file") from None
    except (OSError, ValueError) as error:
        text = str(error)
        if "Python objects" in text or "magic string" in text:
            code = f"import numpy as np; {_PICKLED.format(repr(str(path)))}"
            raise FeatureFileError(
                f"{path}: is no plain .npy array but pickled Python objects or something else, "
                "which could run any code when loaded. If you trust it, convert it once: "
                f"python -c {shlex.quote(code)}"
            ) from error
        raise FeatureFileError(f"{path}: cannot be read as a .npy array: {error}") from error


@dataclass(frozen=True)
class Entry:
    """One video of a list: its file, and what the list says of it (None: nothing)."""

    video: str
    path: Path
    part: int | None = None
    label: int | None = None
    frames: int | None = None


def entries(folder: Path, lists: Sequence[str], suffix: str = "") -> list[Entry]:
    """The videos of lists, in their order; without lists all .npy files of the folder.

    A list is a CSV with `video,split,label` (and `frames`), or a text file with a path of a .npy
    file a line; `train=FILE` or `test=FILE` says which half that is, else it is test where the
    file's name says so. Paths are those of another machine, mostly: of each only as much of its
    end is used as tells files of the folder apart. A video is called as its file, without
    `suffix`. Raises FeatureFileError, SplitError.
    """
    if not folder.is_dir():
        raise FeatureFileError(f"{folder}: is no folder of .npy files")
    files = sorted(folder.rglob("*.npy"))
    if not files:
        raise FeatureFileError(f"{folder}: has no .npy file")
    by_name: dict[str, list[Path]] = {}
    for path in files:
        by_name.setdefault(path.name, []).append(path)
    found: list[Entry] = []
    for text in lists:
        half, _, name = text.rpartition("=")
        path = Path(name if half in ("train", "test") else text)
        if path.suffix.lower() == ".csv":
            found += _of_table(folder, by_name, path, suffix)
        else:
            part = {"train": TRAIN, "test": TEST}.get(half)
            if part is None:
                part = TEST if "test" in path.name.lower() else TRAIN
            found += _of_list(folder, by_name, path, part, suffix)
    if not lists:
        names = [path.relative_to(folder).with_suffix("").as_posix() for path in files]
        found = [
            Entry(name.removesuffix(suffix), path) for name, path in zip(names, files, strict=True)
        ]
    seen: dict[str, Path] = {}
    for entry in found:
        if entry.video in seen:
            raise FeatureFileError(
                f"video {entry.video!r} stands there twice: {seen[entry.video]}, {entry.path}"
            )
        seen[entry.video] = entry.path
    return found


def with_frames(found: Sequence[Entry], path: Path) -> list[Entry]:
    """Entries with the numbers of frames that a table has of them (`video,frames`)."""
    frames = read_frames(path)
    if not frames:
        raise FeatureFileError(f"{path}: expected a table with the columns video,frames")
    return [replace(entry, frames=frames.get(entry.video, entry.frames)) for entry in found]


def _of_table(
    folder: Path, by_name: dict[str, list[Path]], table: Path, suffix: str
) -> list[Entry]:
    split, frames = read_csv(table), read_frames(table)
    return [
        Entry(
            video,
            _find(folder, by_name, f"{video}{suffix}.npy", table, whole=True),
            split.parts.get(video),
            split.labels.get(video),
            frames.get(video),
        )
        for video in dict.fromkeys([*split.parts, *split.labels])
    ]


def _of_list(
    folder: Path, by_name: dict[str, list[Path]], path: Path, part: int, suffix: str
) -> list[Entry]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise FeatureFileError(f"{path}: cannot be read as a list of files: {error}") from error
    wanted = [line.strip() for line in lines if line.strip()]
    if not wanted:
        raise FeatureFileError(f"{path}: lists no file")
    found = []
    for line in wanted:
        file = _find(folder, by_name, line, path)
        # Files of one name in several folders: a video is called with its path.
        whole = file.relative_to(folder).with_suffix("").as_posix()
        name = file.stem if len(by_name[file.name]) == 1 else whole
        found.append(Entry(name.removesuffix(suffix), file, part))
    return found


def _find(
    folder: Path, by_name: dict[str, list[Path]], line: str, where: Path, *, whole: bool = False
) -> Path:
    """The file of the folder whose path ends most like `line`, or with the whole of it."""
    parts = Path(line.replace("\\", "/")).parts
    candidates = by_name.get(parts[-1], [])

    def common(path: Path) -> int:
        own = path.relative_to(folder).parts
        pairs = zip(reversed(own), reversed(parts), strict=False)
        return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(own), len(parts)))

    best = max(map(common, candidates), default=0)
    if whole and best < len(parts):
        candidates = []
    found = [path for path in candidates if common(path) == best]
    if len(found) == 1:
        return found[0]
    if found:
        raise FeatureFileError(f"{where}: {line} may be any of {shown(map(str, found))}")
    some = ", ".join(list(by_name)[:3])
    raise FeatureFileError(
        f"{where}: {line} is not below {folder}, which has {some}, ...; if only an ending of "
        "the names differs (_i3d), give it with --suffix"
    )
