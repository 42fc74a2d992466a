"""Count, mean and scatter of weighted rows: of parts, merged, the same as of the whole.

Map, combine, finalise: `moments(part)` each, `+` between, `.covariance` in the end. Merging is
by Chan, Golub and LeVeque (1983), which never subtracts two large sums.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

# Rows that `Running` multiplies in the precision they come in before it adds to float64.
FLUSH_ROWS: Final = 8192

# Channels that are multiplied with as many at a time: 1 MB of float32, which stays in the cache.
PANEL: Final = 512


@dataclass(frozen=True)
class Moments:
    """Of rows x_i with weights w_i: their number, W = sum w_i, mean (d,), scatter (d, d).

    The scatter is the sum of w_i (x_i - mean)(x_i - mean)^T. All float64.
    """

    count: int
    weight: float
    mean: Floats
    scatter: Floats

    @property
    def covariance(self) -> Floats:
        """Scatter over weight: the maximum likelihood estimate, (d, d); 0 without rows."""
        return self.scatter / self.weight if self.weight else self.scatter

    def __add__(self, other: Moments) -> Moments:
        """The moments of both parts' rows."""
        if not other.weight:
            return Moments(self.count + other.count, self.weight, self.mean, self.scatter)
        if not self.weight:
            return Moments(self.count + other.count, other.weight, other.mean, other.scatter)
        weight = self.weight + other.weight
        apart = other.mean - self.mean
        scatter = self.scatter + other.scatter
        scatter += np.outer(apart * (self.weight * other.weight / weight), apart)
        return Moments(
            self.count + other.count,
            weight,
            self.mean + apart * (other.weight / weight),
            scatter,
        )


def nothing(width: int) -> Moments:
    """The moments of no rows."""
    return Moments(0, 0.0, np.zeros(width), np.zeros((width, width)))


def moments(rows: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> Moments:
    """The moments of rows (n, d) with weights (n,), all 1 if None; computed in float64."""
    x = np.asarray(rows, np.float64)
    if not len(x):
        return nothing(x.shape[1])
    if weights is None:
        mean = x.mean(axis=0)
        centred = x - mean
        return Moments(len(x), float(len(x)), mean, centred.T @ centred)
    w = np.asarray(weights, np.float64)
    total = float(w.sum())
    if not total:
        return Moments(len(x), 0.0, np.zeros(x.shape[1]), np.zeros((x.shape[1],) * 2))
    mean = w @ x / total
    # A product of a matrix with its own transpose is half the work.
    centred = np.sqrt(w)[:, None] * (x - mean)
    return Moments(len(x), total, mean, centred.T @ centred)


def merged(parts: Iterable[Moments], width: int) -> Moments:
    """The sum of moments of rows of this width."""
    total = nothing(width)
    for part in parts:
        total = total + part
    return total


class Running:
    """Moments of many rows of thousands of channels, as they stream by.

    Rows are shifted and scaled by what the first ones say, so that squares neither overflow nor
    cancel, then multiplied in the precision they come in (float32 has half the cost of float64,
    and rounding of 1e-7 is far below what clips vary) and added to float64 every FLUSH_ROWS rows.
    Needs memory for 1.5 float64 matrices of (channels, channels). The result depends on which
    rows each `add` gets: whoever needs the same bits gives the same.

    With `threads` panels of the product are multiplied side by side; the bits stay the same.
    """

    def __init__(self, channels: int, threads: Executor | None = None) -> None:
        self._channels = channels
        self._map = threads.map if threads else map
        self._count = 0
        self._first: tuple[npt.NDArray[Any], npt.NDArray[Any]] | None = None
        self._sum = np.zeros(channels)
        self._squares = np.zeros((channels, channels))
        self._pending: npt.NDArray[Any] | None = None
        self._pending_rows = 0

    def add(self, rows: npt.NDArray[Any]) -> None:
        """Rows (n, channels), float32 or float64, all finite."""
        if not len(rows):
            return
        if self._first is None:
            scale = rows.std(axis=0, dtype=np.float64)
            scale = np.where(scale > 0, scale, 1.0)
            shift = rows.mean(axis=0, dtype=np.float64)
            self._first = shift.astype(rows.dtype), scale.astype(rows.dtype)
            self._first[1][self._first[1] == 0] = 1  # a scale that only float64 can hold
        shifted = np.ascontiguousarray(rows - self._first[0])
        shifted /= self._first[1]
        self._count += len(rows)
        self._sum += shifted.sum(axis=0, dtype=np.float64)
        if self._pending is None or self._pending.dtype != shifted.dtype:
            self._flush()
            self._pending = np.zeros((self._channels,) * 2, shifted.dtype)
        # Half of a symmetric product, by numpy: scipy's BLAS functions keep the interpreter's
        # lock, so the thread that reads ahead would stand still meanwhile.
        pending = self._pending

        def multiply(panel: tuple[slice, slice]) -> None:
            one, other = panel
            pending[one, other] += shifted[:, one].T @ shifted[:, other]

        for _ in self._map(multiply, self._panels()):
            pass
        self._pending_rows += len(rows)
        if self._pending_rows >= FLUSH_ROWS:
            self._flush()

    def result(self) -> Moments:
        """The moments of all rows so far."""
        if self._first is None:
            return nothing(self._channels)
        self._flush()
        shift, scale = (part.astype(np.float64) for part in self._first)
        mean = self._sum / self._count
        scatter = self._squares.copy()
        for one, other in self._panels():
            scatter[other, one] = scatter[one, other].T
        scatter -= np.outer(mean * self._count, mean)
        scatter *= scale
        scatter *= scale[:, None]
        return Moments(self._count, float(self._count), shift + scale * mean, scatter)

    def _panels(self) -> Iterator[tuple[slice, slice]]:
        """Blocks of the upper half of (channels, channels), those on the diagonal too."""
        panels = [slice(i, i + PANEL) for i in range(0, self._channels, PANEL)]
        return combinations_with_replacement(panels, 2)

    def _flush(self) -> None:
        if self._pending is not None:
            self._squares += self._pending
            self._pending[...] = 0
            self._pending_rows = 0
