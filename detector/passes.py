"""Passes over clips: read block by block, each chunk once, memory bounded; alone or on workers.

A `Reader` gives clips averaged over their crops, in the order of the store. A pass maps a
function over runs of its blocks and combines what comes back in order. The functions are plain
and can be pickled, so an executor may run them anywhere the reader can be opened.
"""

from __future__ import annotations

import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from detector.models import Model
from detector.moments import Floats, Moments, Running, nothing
from detector.projection import Projection, Projector

# Rows given to the arithmetic at a time, whatever the blocks they were read in: so the same bits
# come out however a store is chunked. 512 clips of 3072 channels are 6 MB.
BATCH: Final = 512

# Clips of one task of an executor: sends back one matrix of (channels, channels) for a gigabyte
# read. So many are waited for at a time.
TASK_CLIPS: Final = 8192
IN_FLIGHT: Final = 16

# Blocks, of some 30 MB, that are read while others are worked on: two were no faster.
READ_AHEAD: Final = 1

S = TypeVar("S")
T = TypeVar("T")
Block = slice  # of the clips that a reader gives


class Reader(Protocol):
    """`count` clips of `channels` channels, in blocks; a block is read in one go."""

    @property
    def count(self) -> int: ...
    @property
    def channels(self) -> int: ...
    @property
    def blocks(self) -> Sequence[Block]:
        """Consecutive slices of range(count)."""

    def bytes_of(self, block: Block) -> int:
        """Bytes, decompressed, that reading it takes."""

    def read(self, block: Block) -> npt.NDArray[Any]:
        """Its clips (n, channels), averaged over crops; NaN where features are missing."""


@dataclass(frozen=True)
class Pass:
    """What one pass read, each chunk once, and what it took.

    `processor_seconds` are those of this process, all threads together.
    """

    name: str
    clips: int
    bytes: int
    seconds: float
    processor_seconds: float

    def __str__(self) -> str:
        speed = self.bytes / max(self.seconds, 1e-9) / 1e6
        return f"{self.name}: {self.clips} clips, {self.bytes / 1e6:.1f} MB, {speed:.0f} MB/s"


class ArrayReader:
    """Clips of an array (clips, channels) or (clips, crops, channels), taken in an order."""

    def __init__(self, rows: npt.NDArray[Any], order: npt.NDArray[np.int64]) -> None:
        self.rows, self._order = rows, order

    @property
    def count(self) -> int:
        """Number of clips."""
        return len(self._order)

    @property
    def channels(self) -> int:
        """Width of a clip's features."""
        return int(self.rows.shape[-1])

    @property
    def blocks(self) -> Sequence[Block]:
        """In the size of batches."""
        return [slice(i, min(i + BATCH, self.count)) for i in range(0, self.count, BATCH)]

    def bytes_of(self, block: Block) -> int:
        """Of the array's own numbers."""
        clips: int = block.stop - block.start
        return clips * self.rows.itemsize * math.prod(self.rows.shape[1:])

    def read(self, block: Block) -> npt.NDArray[Any]:
        """Clips averaged over crops."""
        return over_crops(self.rows[self._order[block]])


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """While fitting and scoring BLAS has one thread; ours multiply side by side.

    BLAS's own threads wait for those that read, and they wait spinning. A pass takes three
    times the processor time then, and a fit that takes 7 s with one thread, and no less with two,
    takes 20 to 150 s where other programs run.
    """
    with threadpool_limits(1, user_api="blas"):
        yield


def over_crops(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Mean over crops of (n, crops, channels); crops are no samples. (n, channels) stays."""
    found = values if values.dtype in (np.float32, np.float64) else values.astype(np.float32)
    if values.ndim == 3:
        # `mean` over a middle axis takes twice as long.
        found = np.add.reduce(found, axis=1)
        found /= values.shape[1]
    return found


def sum_up(
    reader: Reader, chosen: npt.NDArray[np.bool_] | None = None, executor: Executor | None = None
) -> tuple[Moments, npt.NDArray[np.bool_], Pass]:
    """Moments of the clips of a mask (count,), all if None, that are finite.

    Returns which of all clips are finite, too, (count,), and what was read. The time of a pass is
    that of its blocks; what a sum takes to be finished does not depend on the number of clips.
    """
    begun, finishing = _now(), np.zeros(2)
    total, finite = nothing(reader.channels), [np.zeros(0, bool)]
    function = partial(_sum_up, chosen, _threads(executor))
    for part, good, seconds in _mapped(function, reader, executor):
        # All of the work is here when there is no executor, and in one part.
        finishing += seconds if executor is None else 0.0
        total = total + part if total.weight else part
        finite.append(good)
    done = _done("moments", reader, _now() - begun - finishing)
    return total, np.concatenate(finite), done


def held(reader: Reader, executor: Executor | None = None) -> tuple[ArrayReader, Pass]:
    """All clips of a reader, read once and kept in memory; and what was read."""
    begun, end = _now(), 0
    rows: npt.NDArray[Any] | None = None
    for block in _mapped(_read_ahead, reader, executor):
        if rows is None:
            rows = np.empty((reader.count, reader.channels), block.dtype)
        rows[end : end + len(block)] = block
        end += len(block)
    if rows is None:
        rows = np.empty((0, reader.channels))
    return ArrayReader(rows, np.arange(len(rows))), _done("clips", reader, _now() - begun)


def project(
    reader: Reader,
    projection: Projection,
    model: Model | None = None,
    executor: Executor | None = None,
) -> Iterator[npt.NDArray[Any]]:
    """All clips projected, (n, d) a run; or the raw values (n, k) of a model at them.

    NaN where a clip's features are missing.
    """
    return _mapped(partial(_project, projection, model, _threads(executor)), reader, executor)


def _threads(executor: Executor | None) -> int:
    """That multiply: one a core here; one in a task, as an executor has a task for each core."""
    if executor:
        return 1
    if hasattr(os, "sched_getaffinity"):  # not on every system
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def timed(
    blocks: Iterator[T], name: str, reader: Reader, log: Callable[[Pass], None]
) -> Iterator[T]:
    """The same blocks; after the last, what was read in the time that reading them took."""
    seconds = np.zeros(2)
    while True:
        begun = _now()
        block = next(blocks, None)
        seconds += _now() - begun
        if block is None:
            break
        yield block
    log(_done(name, reader, seconds))


def _now() -> Floats:
    """Seconds of the clock and of the processor, (2,)."""
    return np.array([time.perf_counter(), time.process_time()])


def _done(name: str, reader: Reader, seconds: Floats) -> Pass:
    read = sum(reader.bytes_of(block) for block in reader.blocks)
    return Pass(name, reader.count, read, *seconds.tolist())


def _sum_up(
    chosen: npt.NDArray[np.bool_] | None, count: int, reader: Reader, blocks: Sequence[Block]
) -> Iterator[tuple[Moments, npt.NDArray[np.bool_], Floats]]:
    finite = [np.zeros(0, bool)]

    def wanted() -> Iterator[npt.NDArray[Any]]:
        for block, rows in zip(blocks, _read_ahead(reader, blocks), strict=True):
            finite.append(is_finite(rows))
            keep = finite[-1] if chosen is None else finite[-1] & chosen[block]
            yield rows if keep.all() else rows[keep]

    with ThreadPoolExecutor(count, thread_name_prefix="detector-moments") as threads:
        running = Running(reader.channels, threads)
        for batch in batched(wanted()):
            running.add(batch)
        begun = _now()
        found = running.result()
    yield found, np.concatenate(finite), _now() - begun


def _project(
    projection: Projection,
    model: Model | None,
    count: int,
    reader: Reader,
    blocks: Sequence[Block],
) -> Iterator[npt.NDArray[Any]]:
    projectors: dict[np.dtype[Any], Projector] = {}

    def projected(batch: npt.NDArray[Any]) -> npt.NDArray[Any]:
        good = is_finite(batch)
        rows = projectors[batch.dtype](batch if good.all() else batch[good])
        found = rows if model is None else model.raw(rows.astype(np.float64))
        whole = np.full((len(batch), found.shape[1]), np.nan, found.dtype)
        whole[good] = found
        return whole

    def batches() -> Iterator[npt.NDArray[Any]]:
        for batch in batched(_read_ahead(reader, blocks)):
            if batch.dtype not in projectors:
                projectors[batch.dtype] = Projector(projection, batch.dtype)
            yield batch

    with ThreadPoolExecutor(count, thread_name_prefix="detector-project") as threads:
        yield from _ahead(threads, count, projected, batches())


def is_finite(rows: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Which rows (n, d) have neither NaN nor infinity."""
    with np.errstate(invalid="ignore", over="ignore"):
        return np.asarray(np.isfinite(rows.sum(axis=1)))


def batched(blocks: Iterator[npt.NDArray[Any]], size: int = BATCH) -> Iterator[npt.NDArray[Any]]:
    """The same rows in batches of `size`; the last may be smaller."""
    waiting: list[npt.NDArray[Any]] = []
    held = 0
    for block in blocks:
        begin = 0
        while held + len(block) - begin >= size:
            end = begin + size - held
            batch = [*waiting, block[begin:end]]
            yield batch[0] if len(batch) == 1 else np.concatenate(batch)
            waiting, held, begin = [], 0, end
        if begin < len(block):
            waiting.append(block[begin:])
            held += len(block) - begin
    if held:
        yield np.concatenate(waiting)


def _read_ahead(reader: Reader, blocks: Sequence[Block]) -> Iterator[npt.NDArray[Any]]:
    """The blocks' clips, the next ones being read while one is worked on."""
    with ThreadPoolExecutor(READ_AHEAD, thread_name_prefix="detector-read") as threads:
        yield from _ahead(threads, READ_AHEAD, reader.read, blocks)


def _ahead(
    threads: Executor, count: int, function: Callable[[S], T], given: Iterable[S]
) -> Iterator[T]:
    """The results of a function in order, `count` of them being worked on at any time."""
    waiting: deque[Future[T]] = deque()
    try:
        for one in given:
            waiting.append(threads.submit(function, one))
            if len(waiting) > count:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def _mapped(
    function: Callable[[Reader, Sequence[Block]], Iterator[T]],
    reader: Reader,
    executor: Executor | None,
) -> Iterator[T]:
    if executor is None:
        yield from function(reader, reader.blocks)
        return
    task = partial(_listed, function, reader)
    for found in _ahead(executor, IN_FLIGHT, task, _tasks(reader.blocks)):
        yield from found


@one_blas_thread()
def _listed(
    function: Callable[[Reader, Sequence[Block]], Iterator[T]],
    reader: Reader,
    blocks: Sequence[Block],
) -> list[T]:
    return list(function(reader, blocks))


def _tasks(blocks: Sequence[Block]) -> Iterator[Sequence[Block]]:
    task: list[Block] = []
    for block in blocks:
        task.append(block)
        if task[-1].stop - task[0].start >= TASK_CLIPS:
            yield task
            task = []
    if task:
        yield task


def raw_values(
    reader: Reader,
    projection: Projection,
    model: Model,
    executor: Executor | None,
    log: Callable[[Pass], None],
) -> Floats:
    """Raw values of a model at all clips, (count, k); NaN where features are missing."""
    blocks = project(reader, projection, model, executor)
    found = list(timed(blocks, "scores", reader, log))
    if not found:
        return model.raw(np.zeros((0, projection.width)))
    return np.concatenate(found).astype(np.float64)
