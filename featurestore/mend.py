"""What `verify` found, put right: what is broken is marked missing, and the next extract makes it.

First no clip counts as done any more whose features are broken, then the broken chunks go, then the
store is brought back to its last commit as by any command that writes. Killed at any moment, the
next `verify` finds what is left to do.
"""

from __future__ import annotations

import numpy as np

from featurestore import arrays, chunks, disk
from featurestore.blocks import blank_clips
from featurestore.disk import writing
from featurestore.findings import Findings
from featurestore.location import spot
from featurestore.place import Place, Spot
from featurestore.runs import delete_run, run_names
from featurestore.schema import DONE, MISSING, status_of
from featurestore.store import open_store


def mend(found: Findings) -> list[str]:
    """Mends a store; returns what was done, a line each. The caller holds the lock, and held it
    while `verify` looked.

    What is not mendable stays as it is. Raises StoreUnreadable, StoreUnwritable.
    """
    root = spot(found.url)
    lines: list[str] = []
    for name, clips in found.clips.items():
        if name not in found.statuses and clips:
            numbers = np.array(sorted(clips))
            status = arrays.open_array(root, status_of(name), empty_chunks=False)
            arrays.write(status, root / status_of(name), numbers, np.uint8(MISSING))
            lines.append(f"{name}: {len(clips)} clips are marked missing")
    for chunk in (*found.chunks, *found.strays):
        with writing(root / chunk):
            disk.remove(root / chunk)
    if isinstance(root, Place):
        chunks.show_again(root, found.strays)
    if found.chunks:
        lines.append(f"{len(found.chunks)} damaged chunks are removed")
    if found.strays:
        lines.append(f"{len(found.strays)} chunks of fused arrays are made again")
    for name, values in found.columns.items():
        arrays.clear(root, name)
        array = arrays.open_array(root, name, empty_chunks=False)
        arrays.write(array, root / name, slice(0, len(values)), values)
        lines.append(f"{name}: written anew")
    for name in found.statuses:
        lines.append(f"{name}: {_rebuild_status(root, name)} clips count as done")
    for name, unmarked in found.unmarked.items():
        lines.append(f"{name}: {len(unmarked)} clips that were never marked done are blanked")
    if isinstance(root, Place):
        for name in {*found.clips, *found.unmarked} - {*found.statuses}:
            blank = found.clips.get(name, set()) | set(found.unmarked.get(name, ()))
            blank_clips(found.url, name, np.array(sorted(blank), np.int64))
    open_store(found.url, "a")
    if not isinstance(root, Place):
        for name in disk.names(root.parent):
            # What a store was made or compacted in; the one that counts is in its place.
            if name.startswith(f"{root.name}.") and name.endswith(disk.PARTIAL):
                with writing(root.parent / name):
                    disk.remove(root.parent / name)
    for run in sorted(found.runs & set(run_names(found.url))):
        delete_run(found.url, run)
        lines.append(f"the run {run} is deleted")
    if any(problem.mendable for problem in found.problems) and not lines:
        lines.append("brought back to its last commit")
    return lines


def _rebuild_status(root: Spot, name: str) -> int:
    """Marks done, where the status is gone, the clips whose features are all there; all of them.

    Each chunk of features is replaced in one step, so a clip of which every value is there was
    written to its end.
    """
    features = arrays.open_members(root, [name])[name]
    status = arrays.open_array(root, status_of(name), empty_chunks=False)
    block, clips = features.chunks[0], status.shape[0]
    total = 0
    for first in range(0, min(clips, features.shape[0]), block):
        window = slice(first, min(first + block, clips))
        known = arrays.read(status, root / status_of(name), window)
        if (known == MISSING).any() and (root / name / "c" / str(first // block)).exists():
            values = arrays.read(features, root / name, window)
            whole = np.isfinite(values).all(axis=(1, 2))
            found = np.where((known == MISSING) & whole, np.uint8(DONE), known)
            arrays.write(status, root / status_of(name), window, found)
            known = found
        total += int((known == DONE).sum())
    return total
