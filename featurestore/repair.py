"""What a killed writer left: back to the state of the last commit.

The root's consolidated metadata is the commit. What it does not name does not exist; what it
names has the shape and attributes that it says.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from featurestore import arrays, disk, fused
from featurestore.arrays import METADATA
from featurestore.disk import reading, writing
from featurestore.errors import StoreUnreadable
from featurestore.layout import Members
from featurestore.schema import FUSED, is_array_name


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
        _cut_back(root, name, found["shape"][0], committed)
    arrays.put_document(folder, committed)


def _cut_back(root: Path, name: str, length: int, committed: Mapping[str, Any]) -> None:
    """Removes what was written beyond the committed length."""
    shape, chunks = committed["shape"], committed["chunk_grid"]["configuration"]["chunk_shape"]
    kept = -(-shape[0] // chunks[0])
    folder = root / name / "c"
    with writing(folder):
        for block in disk.names(folder):
            if block.isdecimal() and int(block) >= kept:
                disk.remove(folder / block)
    # The last chunk that stays may hold features of clips that do not: the next clips to have
    # their numbers must read NaN until they are written. Tables are written whole as they grow.
    end = min(length, kept * chunks[0])
    if len(shape) > 1 and shape[0] < end and (folder / str(kept - 1)).exists():
        array = arrays.open_array(root, name)
        arrays.write(array, root / name, slice(shape[0], end), np.float32(np.nan))
