"""Which videos lie below a folder."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from featurestore.errors import DatasetError
from jobs.video._contract import Source

VIDEO_SUFFIXES = frozenset(
    {
        *(".3g2", ".3gp", ".asf", ".avi", ".dav", ".divx", ".f4v", ".flv", ".h264", ".h265"),
        *(".hevc", ".m2ts", ".m2v", ".m4v", ".mjpeg", ".mjpg", ".mkv", ".mov", ".mp4", ".mpe"),
        *(".mpeg", ".mpg", ".mts", ".mxf", ".ogv", ".ts", ".vob", ".webm", ".wmv", ".y4m"),
    }
)
IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff"})


def natural(name: str) -> tuple[object, ...]:
    """A key that sorts names by the numbers in them: frame2 before frame10."""
    parts = re.split(r"([0-9]+)", name)
    numbers = [int(part) for part in parts[1::2]]
    return (*(x for pair in zip(parts[::2], [*numbers, 0], strict=True) for x in pair), name)


def discover(root: Path) -> list[Source]:
    """The video files and frame folders at or below ``root``, in the natural order of their paths.

    A file is a video by its suffix alone, be it readable or not. A folder that holds images and
    no videos is a frame folder (images beside videos are taken for their pictures). Hidden
    files and folders (``.name``) and Zarr stores are left out. Links are followed, except back
    to a folder above.

    A video's name is its path relative to ``root``, separated by ``/``, without the suffix where
    that leaves no two of one name; ``root`` itself, be it a file or a frame folder, goes by its
    own name.

    Raises:
        DatasetError: there is no such folder, or a folder below cannot be listed.
    """
    root = Path(root)
    if root.is_file():
        return [Source(_text(root.stem), root, "file")]
    found = sorted(_below(root, ()), key=lambda path: _order(path.relative_to(root)))
    full = [_text(_relative(path, root)) for path in found]
    short = [_text(_relative(path, root, suffix=path.is_dir())) for path in found]
    names, before = short, full
    while names != before:  # a full name may be another's short one
        double, before = {n for n, times in Counter(names).items() if times > 1}, names
        names = [f if n in double else n for n, f in zip(names, full, strict=True)]
    return [
        Source(name, path, "frames" if path.is_dir() else "file")
        for name, path in zip(names, found, strict=True)
    ]


def _below(folder: Path, above: tuple[tuple[int, int], ...]) -> Iterator[Path]:
    """Videos and frame folders at or below a folder; `above`: the folders on the way to it."""
    try:
        here = folder.stat()
        entries = sorted(os.scandir(folder), key=lambda e: e.name)
    except OSError as error:
        raise DatasetError(
            f"{folder}: this folder cannot be listed ({error.strerror}); check the path and its "
            "permissions"
        ) from error
    identity = (here.st_dev, here.st_ino)
    if identity in above:
        return
    entries = [e for e in entries if not e.name.startswith(".")]
    folders = [e for e in entries if _is_folder(e)]
    files = [Path(e.path) for e in entries if not _is_folder(e)]
    videos = [p for p in files if p.suffix.lower() in VIDEO_SUFFIXES]
    if not videos and any(p.suffix.lower() in IMAGE_SUFFIXES for p in files):
        yield folder
    yield from videos
    for entry in folders:
        if not entry.name.endswith(".zarr"):
            yield from _below(Path(entry.path), (*above, identity))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _relative(path: Path, root: Path, *, suffix: bool = True) -> str:
    if path == root:
        return root.resolve().name or "root"
    relative = path.relative_to(root)
    return (relative if suffix else relative.with_suffix("")).as_posix()


def _order(path: Path) -> list[tuple[object, ...]]:
    return [natural(part) for part in path.parts]


def _text(name: str) -> str:
    """A name that any store can hold: bytes that are no UTF-8 written as escapes."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
