"""What a killed writer left: back to the state of the last commit.

The root's consolidated metadata is the commit. What it does not name does not exist; what it
names has the shape and attributes that it says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from featurestore import arrays, disk, fused
from featurestore.arrays import METADATA
from featurestore.disk import reading, writing
from featurestore.errors import StoreUnreadable
from featurestore.layout import Members
from featurestore.schema import FUSED, is_array_name, is_written_whole


def repair(root: Path, mode: fused.Mode, members: Members) -> None:
    """Brings a store back to its last commit. The caller holds the lock.

    Raises StoreUnreadable when an array that was committed is gone, StoreUnwritable when the disk
    refuses.
    """
    with writing(root):
        _drop_uncommitted(root, members)
        disk.sweep(root)
    for name, committed in members.items():
        if committed.get("node_type") == "array":
            _restore(root, name, committed)
    if mode != "none":
        for name in FUSED:
            if name in members:
                fused.settle(root, mode, name)


def _drop_uncommitted(root: Path, members: Members) -> None:
    for name in disk.names(root):
        # Whatever else somebody put here is not ours to delete.
        if name not in members and is_array_name(name):
            disk.remove(root / name)


def _restore(root: Path, name: str, committed: Mapping[str, Any]) -> None:
    folder = root / name
    with reading(folder):
        try:
            found = arrays.document(folder)
        except FileNotFoundError:
            if name not in FUSED:
                raise StoreUnreadable(
                    f"{folder}: this array is gone, but the store counts on it. Put it back from "
                    "a copy, or delete the store and extract again."
                ) from None
            found = {}
        except ValueError as error:
            raise StoreUnreadable(f"{folder / METADATA}: is damaged: {error}.") from error
    if found == committed:
        return
    if found and name not in FUSED:
        _cut_back(root, name, found["shape"], committed)
    arrays.put_document(folder, committed)


def _cut_back(root: Path, name: str, found: Sequence[int], committed: Mapping[str, Any]) -> None:
    """Removes what was written beyond the committed shape; `found` is the shape on disk."""
    shape, chunks = committed["shape"], committed["chunk_grid"]["configuration"]["chunk_shape"]
    kept = [-(-length // chunk) for length, chunk in zip(shape, chunks, strict=True)]
    folder = root / name / "c"
    # Features grow by clips alone, so of them the first axis is all that is looked at.
    deep = 1 + max(axis for axis, length in enumerate(shape) if axis == 0 or found[axis] > length)
    with writing(folder):
        _drop_chunks(folder, kept[:deep])
    if is_written_whole(name):
        return
    # The last chunk that stays may hold values of clips, frames or videos that do not: the next
    # ones to have their numbers must read as nothing until they are written.
    ends = [min(n, k * chunk) for n, k, chunk in zip(found, kept, chunks, strict=True)]
    for axis, (length, end) in enumerate(zip(shape, ends, strict=True)):
        if length < end and _reaches(folder, axis, kept[axis] - 1):
            array = arrays.open_array(root, name, empty_chunks=len(shape) == 3)
            beyond = [slice(0, other) for other in ends]
            beyond[axis] = slice(length, end)
            arrays.write(array, root / name, tuple(beyond), array.fill_value)


def _drop_chunks(folder: Path, kept: Sequence[int]) -> None:
    """Removes the chunks of a row, a column, ... that is not among the first `kept`."""
    for entry in disk.entries(folder):
        if not entry.name.isdecimal():
            continue
        if int(entry.name) >= kept[0]:
            disk.remove(Path(entry.path))
        elif len(kept) > 1 and entry.is_dir(follow_symlinks=False):
            _drop_chunks(Path(entry.path), kept[1:])


def _reaches(folder: Path, axis: int, chunk: int) -> bool:
    """Whether there is a chunk of this number on the axis."""
    if axis == 0:
        return (folder / str(chunk)).exists()
    return any(_reaches(Path(e.path), axis - 1, chunk) for e in disk.entries(folder))
