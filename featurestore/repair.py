"""What a killed writer left: back to the state of the last commit.

The root's consolidated metadata is the commit. What it does not name does not exist; what it
names has the shape and attributes that it says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from featurestore import arrays, chunks, disk, fused, run_lengths
from featurestore.arrays import METADATA
from featurestore.disk import reading, writing
from featurestore.errors import StoreUnreadable
from featurestore.layout import Members
from featurestore.place import Place, Spot, many
from featurestore.schema import FUSED, RUNS, is_array_name, is_written_whole


def repair(root: Spot, mode: fused.Mode, members: Members) -> None:
    """Brings a store back to its last commit. The caller holds the lock.

    Raises StoreUnreadable when an array that was committed is gone, StoreUnwritable when the disk
    refuses.
    """
    if isinstance(root, Place):
        _repair_there(root, members)
        return
    with writing(root):
        _drop_uncommitted(root, members)
        disk.sweep(root)
    for name, committed in members.items():
        if committed.get("node_type") == "array":
            _restore(root, name, committed)
    run_lengths.settle(root, members)
    if mode != "none":
        for name in FUSED:
            if name in members:
                fused.settle(root, mode, name)


def _repair_there(root: Place, members: Members) -> None:
    """The same on an object store, by its names alone: no list of chunks is asked for.

    A fused array's chunks are put by whoever puts its parts', before these count as done, so
    nothing has to be compared. Runs are written once, before the commit that lists them, and are
    looked at only where the store was killed while it grew.
    """
    growing = False
    with writing(root):
        _drop_uncommitted(root, members)
        for run in disk.names(root / RUNS):
            if run == run_lengths.MARKER and RUNS in members:
                growing = True
                continue
            whole = run == METADATA and RUNS in members
            if not whole and f"{RUNS}/{run}" not in members:
                disk.remove(root / RUNS / run)
    names = [
        name
        for name, committed in members.items()
        if committed.get("node_type") == "array" and (growing or not name.startswith(f"{RUNS}/"))
    ]
    list(many(lambda name: _restore(root, name, members[name]), names))
    if growing:
        run_lengths.settle(root, members)


def _drop_uncommitted(root: Spot, members: Members) -> None:
    for name in disk.names(root):
        # Whatever else somebody put here is not ours to delete.
        if name not in members and is_array_name(name):
            disk.remove(root / name)


def _restore(root: Spot, name: str, committed: Mapping[str, Any]) -> None:
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
    # Runs grow in their metadata alone.
    grows = not name.startswith(f"{RUNS}/") and (name not in FUSED or isinstance(root, Place))
    if found and grows:
        _cut_back(root, name, found["shape"], committed)
    arrays.put_document(folder, committed)


def _cut_back(root: Spot, name: str, found: Sequence[int], committed: Mapping[str, Any]) -> None:
    """Removes what was written beyond the committed shape; `found` is the shape on disk."""
    shape, size = committed["shape"], committed["chunk_grid"]["configuration"]["chunk_shape"]
    kept = [-(-length // chunk) for length, chunk in zip(shape, size, strict=True)]
    folder = root / name / "c"
    # Features grow by clips alone, so of them the first axis is all that is looked at.
    deep = 1 + max(axis for axis, length in enumerate(shape) if axis == 0 or found[axis] > length)
    with writing(folder):
        if isinstance(folder, Place):
            grid = [-(-length // chunk) for length, chunk in zip(found, size, strict=True)]
            chunks.drop(folder, grid, kept)
        else:
            _drop_chunks(folder, kept[:deep])
    if is_written_whole(name):
        return
    # The last chunk that stays may hold values of clips, frames or videos that do not: the next
    # ones to have their numbers must read as nothing until they are written.
    ends = [min(n, k * chunk) for n, k, chunk in zip(found, kept, size, strict=True)]
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


def _reaches(folder: Spot, axis: int, chunk: int) -> bool:
    """Whether there is a chunk of this number on the axis."""
    if axis == 0:
        return (folder / str(chunk)).exists()
    return any(
        _reaches(folder / name, axis - 1, chunk)
        for name in disk.names(folder)
        if isinstance(folder, Place) or (folder / name).is_dir()
    )
