"""Projected clips, rows of floats: in memory, or in a file when they are many.

All that is fitted works on `Rows`, block by block, so memory does not grow with their number.
"""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from detector.moments import Floats
from detector.smoothing import Bounds, reach, smooth

# Rows beyond this many bytes go into a file.
IN_MEMORY_BYTES: Final = 64 << 20

# Rows read at a time: 25 MB of float64 at 768 columns.
BLOCK_ROWS: Final = 4096


class Rows(Protocol):
    """n rows of d floats: an array, or something that gives slices of its rows as one."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, rows: slice, /) -> Any: ...


def spans(count: int, size: int = BLOCK_ROWS) -> Iterator[slice]:
    """Slices that cut `count` rows into blocks."""
    return (slice(begin, min(begin + size, count)) for begin in range(0, count, size))


class FileRows:
    """Rows in a file without a name, which is gone when this object is. Slices are float64."""

    def __init__(
        self, width: int, dtype: npt.DTypeLike = np.float32, folder: Path | None = None
    ) -> None:
        self._width = width
        self._dtype = np.dtype(dtype)
        self._count = 0
        self._file, name = tempfile.mkstemp(dir=folder, prefix="detector-")
        weakref.finalize(self, os.close, self._file)
        os.unlink(name)  # noqa: PTH108 - a bare descriptor stays; nothing is left after a kill

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self._count, self._width

    def append(self, rows: npt.NDArray[Any]) -> None:
        """Rows (n, width) after the others."""
        if rows.size:
            view = np.ascontiguousarray(rows, self._dtype).data.cast("B")
            while view:
                view = view[os.write(self._file, view) :]
        self._count += len(rows)

    def __getitem__(self, rows: slice, /) -> Floats:
        # Not mapped into memory: a mapping's pages would count as this process's own.
        begin, end, _ = rows.indices(self._count)
        width = self._width * self._dtype.itemsize
        found = np.empty((max(end - begin, 0), self._width), self._dtype)
        view, offset = found.data.cast("B") if found.size else memoryview(b""), 0
        while offset < len(view):
            read = os.preadv(self._file, [view[offset:]], begin * width + offset)
            if not read:
                raise OSError("The file of projected clips has become shorter than it was")
            offset += read
        return found.astype(np.float64)


class SmoothedRows:
    """Rows smoothed along each video's clips, as they are read: see `smooth`."""

    def __init__(self, rows: Rows, bounds: Bounds, sigma: float) -> None:
        self._rows, self._bounds, self._sigma = rows, bounds, sigma

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows and columns."""
        return self._rows.shape

    def __getitem__(self, rows: slice, /) -> Floats:
        begin, end, _ = rows.indices(self.shape[0])
        around = reach(self._sigma)
        # With clips on both sides, of the same videos, the block's own come out as of the whole.
        low, high = max(begin - around, 0), min(end + around, self.shape[0])
        inner = self._bounds[(self._bounds > low) & (self._bounds < high)]
        bounds = np.concatenate([[low], inner, [high]]) - low
        smoothed = smooth(np.asarray(self._rows[low:high], np.float64), bounds, self._sigma)
        return smoothed[begin - low : end - low]


def smoothed(rows: Rows, bounds: Bounds, sigma: float) -> Rows:
    """Rows smoothed along each video: at once where they lie in memory, else as they are read."""
    if isinstance(rows, np.ndarray):
        return smooth(rows, bounds, sigma)
    return SmoothedRows(rows, bounds, sigma)


class Columns:
    """The first columns of rows."""

    def __init__(self, rows: Rows, width: int) -> None:
        self._rows, self._width = rows, width

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows and columns."""
        return self._rows.shape[0], min(self._width, self._rows.shape[1])

    def __getitem__(self, rows: slice, /) -> Floats:
        found: Floats = self._rows[rows][:, : self._width]
        return found


def kept(
    blocks: Iterable[npt.NDArray[Any]], count: int, width: int, folder: Path | None = None
) -> Rows:
    """Blocks of rows, one after the other: `count` in all, of this width.

    In memory as float64 where they take IN_MEMORY_BYTES at most; else in a file in `folder` (the
    system's folder of temporary files if None), as float32 if that is how they come.
    """
    if count * width * 8 <= IN_MEMORY_BYTES:
        whole, end = np.empty((count, width)), 0
        for block in blocks:
            whole[end : end + len(block)] = block
            end += len(block)
        return whole
    found: FileRows | None = None
    for block in blocks:
        found = found or FileRows(width, block.dtype, folder)
        found.append(block)
    return found or np.empty((0, width))
