"""Clips to blocks, and features into them: the worker's side of a store.

A block is a run of clips that is one row of chunks. Clips of one block may come in several
pieces (a video added later shares the last block of those before), so a chunk that is there is
read, completed and written anew, under a lock of its own: a worker that outlives its killed
command and a worker of the next one never lose each other's clips. (On an object store it is put
only in place of the one that was read: see chunks.)
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from featurestore import arrays, chunks, disk, fused, layout, provenance
from featurestore.disk import reading, writing
from featurestore.errors import ProvenanceMismatch, StoreNotFound, UsageError
from featurestore.location import beside, local_path, spot
from featurestore.place import Place, Spot
from featurestore.schema import DONE, FAILED, FEATURES, MISSING

if TYPE_CHECKING:
    import zarr

# Locks by fcntl are between processes; inside one, this. Writing a block takes milliseconds.
_one_at_a_time = threading.Lock()

# Metadata files read so far, by folder, with the state of the file they were read from: one
# `stat` a call instead of opening arrays, and growth or replacement is noticed at once.
_opened: dict[str, tuple[tuple[object, ...], Any]] = {}


def runs(clips: npt.ArrayLike, block: int) -> list[range]:
    """Cuts clips into runs of consecutive clips that lie in one block each.

    `clips` is a bool array (clips,) or increasing clip numbers.
    """
    numbers = np.asarray(clips)
    if numbers.dtype == bool:
        numbers = np.flatnonzero(numbers)
    if not numbers.size:
        return []
    cuts = np.flatnonzero((np.diff(numbers) != 1) | (np.diff(numbers // block) != 0)) + 1
    return [range(int(run[0]), int(run[-1]) + 1) for run in np.split(numbers, cuts)]


def missing(
    status: npt.NDArray[np.uint8], live: npt.NDArray[np.bool_], *, retry_failed: bool = False
) -> npt.NDArray[np.bool_]:
    """Which clips are to be computed, bool (clips,): not done, of a video not superseded.

    `status` is that of one backbone, `live` is Store.live(). Failed clips only if asked for.
    """
    wanted = np.isin(status, (MISSING, FAILED) if retry_failed else (MISSING,))
    return np.logical_and(wanted, live)


def write_clips(
    url: str | os.PathLike[str],
    name: str,
    start: int,
    values: npt.NDArray[np.float32],
    *,
    fingerprint: str | None = None,
) -> None:
    """Writes features of consecutive clips of one block; any process may call it.

    `values` is float32 (n, crops, C), for clips `start` to `start + n - 1` of the backbone `name`.
    A reader sees each chunk as before or with these clips. Mark the clips done afterwards
    (Store.mark): before that they count as missing. With the `fingerprint` the task was planned
    with (Store.fingerprint), features of an array replaced since are refused.

    Raises UsageError for a fused array (write its parts), a wrong shape, clips of several blocks
    or that the store does not have; ProvenanceMismatch; StoreNotFound; StoreUnwritable;
    StoreUnreadable when a chunk that must be completed is damaged.
    """
    root = spot(url)
    if name in FEATURES and FEATURES[name].parts:
        raise UsageError(
            f"{name} is made of {' and '.join(FEATURES[name].parts)}; write those instead"
        )
    stop = start + len(values)
    with _one_at_a_time:
        array = _array(root, name)
        if stop > array.shape[0]:
            # A network disk may show this machine the file as it was some seconds ago.
            _opened.pop(str(root / name), None)
            array = _array(root, name)
        block = array.chunks[0]
        if values.ndim != 3 or values.shape[1:] != array.shape[1:] or not len(values):
            raise UsageError(
                f"{name}: expected features of shape (clips, {array.shape[1]}, {array.shape[2]}), "
                f"got {values.shape}"
            )
        if start < 0 or stop > array.shape[0] or start // block != (stop - 1) // block:
            raise UsageError(
                f"{name}: clips {start} to {stop - 1} are not in one block of {block} clips of a "
                f"store of {array.shape[0]} clips"
            )
        if isinstance(root, Place):
            document = _document(root)
            if fingerprint is not None:
                _check_fingerprint(root, name, array, document["attributes"], fingerprint)
            chunks.write(root, array, name, start, values, layout.members(document))
            return
        with _locked(root, start // block, 1):
            if fingerprint is not None:
                # Under the lock: `compact` holds all of it when it puts another store in place.
                now = _array(root, name)
                _check_fingerprint(root, name, now, _attributes(root), fingerprint)
            arrays.write(array, root / name, slice(start, stop), values)
            fused.publish(root, _attributes(root)["fused"], name, start // block)


def read_clips(
    url: str | os.PathLike[str], name: str, start: int, count: int
) -> npt.NDArray[np.float32]:
    """Features of consecutive clips of a backbone, float32 (count, 10, C); NaN where missing.

    Raises StoreNotFound; StoreUnreadable when a chunk is damaged.
    """
    root = spot(url)
    with _one_at_a_time:
        return arrays.read(_array(root, name), root / name, slice(start, start + count))


def blank_clips(url: str | os.PathLike[str], name: str, clips: npt.ArrayLike) -> None:
    """Makes these clips of a backbone (increasing numbers) read NaN, where something else is there.

    Raises as write_clips.
    """
    root = spot(url)
    array = _array(root, name)
    block = array.chunks[0]
    numbers = np.asarray(clips)
    if isinstance(root, Place):
        # Nothing is listed there: each of these blocks is looked at.
        for run in runs(numbers, block):
            nothing = np.full((len(run), *array.shape[1:]), np.nan, np.float32)
            write_clips(url, name, run.start, nothing)
        return
    for run in runs(numbers[np.isin(numbers // block, written_blocks(root, name))], block):
        values = read_clips(url, name, run.start, len(run))
        if not np.isnan(values).all():
            write_clips(url, name, run.start, np.full_like(values, np.nan))


def written_blocks(root: Path, name: str) -> npt.NDArray[np.int64]:
    """Numbers of the blocks of a backbone of which there is anything on disk, in no order."""
    numbers = (int(entry) for entry in disk.names(root / name / "c") if entry.isdecimal())
    return np.fromiter(numbers, np.int64)


def unfinished(
    written: npt.NDArray[np.int64],
    block: int,
    stretch: int,
    clips: int,
    status: Callable[[slice], npt.NDArray[np.uint8]],
) -> Iterator[npt.NDArray[np.int64]]:
    """Numbers of the clips in these blocks that are not done; some for each stretch of clips.

    Of stretches without any of these blocks no status is read.
    """
    for first in np.unique(written * block // stretch) * stretch:
        found = first + np.flatnonzero(status(slice(first, min(first + stretch, clips))) != DONE)
        found = found[np.isin(found // block, written)]
        if found.size:
            yield found


def _check_fingerprint(
    root: Spot, name: str, array: zarr.Array[Any], attributes: Mapping[str, Any], planned: str
) -> None:
    made_by = provenance.of(array.attrs.asdict())
    generation = provenance.generation(attributes)
    if provenance.fingerprint(made_by, generation) != planned:
        raise ProvenanceMismatch(
            f"{root}: the {name} features were replaced by another command since this task was "
            "planned, or the store was compacted. Run the command again."
        )


def _array(root: Spot, name: str) -> zarr.Array[Any]:
    array: zarr.Array[Any] = _cached(root / name, lambda: arrays.open_array(root, name))
    return array


def _attributes(root: Path) -> dict[str, Any]:
    found: dict[str, Any] = _cached(root, lambda: arrays.document(root)["attributes"])
    return found


def _document(root: Place) -> dict[str, Any]:
    found: dict[str, Any] = _cached(root, lambda: arrays.document(root))
    return found


def _cached(folder: Spot, load: Any) -> Any:
    with reading(folder):
        try:
            state = arrays.signature(folder)
            kept = _opened.get(str(folder))
            if kept is None or kept[0] != state:
                kept = _opened[str(folder)] = state, load()
        except FileNotFoundError:
            raise StoreNotFound(f"{folder}: there is no such array or store") from None
    return kept[1]


@contextmanager
def all_locked(url: str | os.PathLike[str]) -> Iterator[None]:
    """Nobody writes clips meanwhile, a worker that outlived its command included."""
    with _one_at_a_time, _locked(local_path(url).resolve(), 0, 0):
        yield


@contextmanager
def _locked(root: Path, block: int, count: int) -> Iterator[None]:
    """So many blocks from `block` on; 0: all from there."""
    path = beside(root, ".blocks.lock")
    with writing(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        with writing(path):
            fcntl.lockf(descriptor, fcntl.LOCK_EX, count, block)
        yield
    finally:
        os.close(descriptor)
