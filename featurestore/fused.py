"""Arrays that are made of other arrays' chunks.

The chunks of `swin_r3d` are those of `swin` and then those of `r3d`, byte for byte. On a local
disk they are relative symbolic links (`swin_r3d/c/7/0/2 -> ../../../../r3d/c/7/0/0`), which are
never stale, take no room, and survive moving or copying the store. (Hard links go stale when a
part's chunk is replaced.) Where links cannot be made they are copies.

A link is made with the chunk it points to, by whoever writes that, so none dangles: a copy that
follows links then has nothing to stumble over.
"""

from __future__ import annotations

import filecmp
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

from featurestore import disk
from featurestore.arrays import METADATA
from featurestore.disk import reading, writing
from featurestore.schema import CHANNEL_CHUNK, FEATURES, FUSED, parts_of

LACKS: Final = "are missing"
Mode = Literal["link", "copy", "none"]


def can_link(folder: Path) -> bool:
    """Whether symbolic links can be made in `folder`."""
    with writing(folder), tempfile.TemporaryDirectory(dir=folder, suffix=disk.PARTIAL) as scratch:
        try:
            (Path(scratch) / "link").symlink_to("nowhere")
        except (OSError, NotImplementedError):
            return False
        return True


def publish(root: Path, mode: Mode, part: str, block: int) -> None:
    """Shows a block of a part in all fused arrays that are there, after the block was written."""
    for name, first in _arrays_with(root, part):
        with writing(root / name):
            for chunk in _numbers(root / part / "c" / str(block) / "0"):
                source = root / part / "c" / str(block) / "0" / str(chunk)
                _show(mode, source, root / name / "c" / str(block) / "0" / str(first + chunk))


def settle(root: Path, mode: Mode, name: str) -> None:
    """Makes a whole fused array show its parts as they are: for a new one, and after a crash."""
    parts = [(root / part / "c", dict(_arrays_with(root, part))[name]) for part in parts_of(name)]
    blocks = {block for a in (name, *parts_of(name)) for block in _numbers(root / a / "c")}
    with writing(root / name):
        for block in blocks:
            folder = root / name / "c" / str(block) / "0"
            shown = _chunks(folder)
            for part, first in parts:
                for chunk, source in _chunks(part / str(block) / "0").items():
                    there = shown.pop(first + chunk, None)
                    if there is None or not _shows(mode, there, source):
                        _show(mode, Path(source.path), folder / str(first + chunk))
            for left in shown.values():
                disk.remove(Path(left.path))


def differences(root: Path, name: str) -> Iterator[tuple[str, str]]:
    """Chunks of a fused array that do not show their parts': (path inside the store, what of it).

    A file that is a copy of its part's chunk is right in a store of links too.
    """
    parts = [(part, dict(_arrays_with(root, part))[name]) for part in parts_of(name)]
    blocks = {block for a in (name, *parts_of(name)) for block in _numbers(root / a / "c")}
    with reading(root / name):
        for block in sorted(blocks):
            folder = f"{name}/c/{block}/0"
            shown = _chunks(root / folder)
            for part, first in parts:
                for chunk, source in _chunks(root / part / "c" / str(block) / "0").items():
                    there = shown.pop(first + chunk, None)
                    path = root / folder / str(first + chunk)
                    if there is None:
                        yield f"{folder}/{first + chunk}", LACKS
                    elif there.is_symlink():
                        if _target(path) != _link(Path(source.path)):
                            yield f"{folder}/{there.name}", "lead elsewhere"
                    elif not filecmp.cmp(path, source.path, shallow=False):
                        yield f"{folder}/{there.name}", "differ from their parts"
            for left in shown.values():
                dangling = left.is_symlink()
                what = "lead nowhere" if dangling else "are of no part's chunk"
                yield f"{folder}/{left.name}", what


def withdraw(root: Path, part: str) -> None:
    """Takes all chunks of a part out of the fused arrays, before the part forgets them."""
    for name, first in _arrays_with(root, part):
        last = first + -(-FEATURES[part].channels // CHANNEL_CHUNK)
        with writing(root / name):
            for block in disk.names(root / name / "c"):
                for chunk in range(first, last):
                    disk.remove(root / name / "c" / block / "0" / str(chunk))


def _arrays_with(root: Path, part: str) -> list[tuple[str, int]]:
    """The fused arrays on disk that have this part, and the number of its first chunk there."""
    found = []
    for name in FUSED:
        first = 0
        for other in FEATURES[name].parts:
            if other == part and (root / name / METADATA).exists():
                found.append((name, first))
            first += FEATURES[other].channels // CHANNEL_CHUNK
    return found


def _show(mode: Mode, source: Path, path: Path) -> None:
    """Makes the chunk at `path` of a fused array show the part's chunk `source`."""
    if mode == "link":
        target = _link(source)
        if _target(path) != target:
            # Also where a copy that followed links has left a file, which would go stale.
            path.parent.mkdir(parents=True, exist_ok=True)
            disk.replace(path, lambda partial: partial.symlink_to(target))
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        disk.replace(path, lambda partial: _copy(source, partial))


def _link(source: Path) -> str:
    """.../swin_r3d/c/7/0/2 -> ../../../../r3d/c/7/0/0"""
    return "/".join(("..",) * 4 + source.parts[-5:])


def _target(path: Path) -> str | None:
    try:
        return str(path.readlink())
    except OSError:
        return None


def _copy(source: Path, path: Path) -> None:
    """Copies a chunk with its time, by which `_shows` knows which state it shows."""
    times = source.stat()
    shutil.copyfile(source, path)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def _shows(mode: Mode, there: os.DirEntry[str], source: os.DirEntry[str]) -> bool:
    """Whether a chunk of a fused array shows its part's chunk as it is.

    Asks the disk for as little as it can: it is asked for every chunk of a store.
    """
    if mode == "link":
        return there.is_symlink()
    if not there.is_file(follow_symlinks=False):
        return False
    copy, original = there.stat(), source.stat()
    return (copy.st_mtime_ns, copy.st_size) == (original.st_mtime_ns, original.st_size)


def _chunks(folder: Path) -> dict[int, os.DirEntry[str]]:
    return {int(entry.name): entry for entry in disk.entries(folder) if entry.name.isdecimal()}


def _numbers(folder: Path) -> list[int]:
    return list(_chunks(folder))
