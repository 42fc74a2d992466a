"""Densities from training clips themselves: Gaussian kernels around them, or how near they lie."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.special import logsumexp

from detector.gaussian import Gaussian, fit_gaussian
from detector.moments import Floats, moments

# Rows compared with all points at a time: 40 MB at ten thousand points.
_ROWS: Final = 512


@dataclass(frozen=True)
class Kernels:
    """A Gaussian kernel around each of the points (m, d), which are whitened.

    `whitening` maps rows to where the kernels are round; `bandwidth` is their deviation there.
    """

    whitening: Gaussian
    points: Floats
    bandwidth: float

    def logpdf(self, rows: Floats) -> Floats:
        """Log density at rows (n, d), (n,)."""
        count, width = self.points.shape
        constant = float(np.log(np.diag(self.whitening.root)).sum()) - math.log(count)
        constant -= width * math.log(self.bandwidth * math.sqrt(2 * math.pi))
        white = (rows - self.whitening.mean) @ self.whitening.root
        found = np.empty(len(rows))
        for begin in range(0, len(rows), _ROWS):
            squares = squared_distances(white[begin : begin + _ROWS], self.points)
            found[begin : begin + _ROWS] = logsumexp(squares / (-2 * self.bandwidth**2), axis=1)
        return np.asarray(found + constant)


@dataclass(frozen=True)
class Neighbours:
    """Density from the distance to the `nearest`-th of the points (m, d), up to a constant.

    Loftsgaarden and Quesenberry (1965): as many points in a ball, the smaller the denser.
    `floor` is the smallest distance told from 0.
    """

    points: Floats
    nearest: int
    floor: float

    def logpdf(self, rows: Floats) -> Floats:
        """Log density at rows (n, d), (n,), without the constant that all points share."""
        count, width = self.points.shape
        found = np.empty(len(rows))
        for begin in range(0, len(rows), _ROWS):
            squares = squared_distances(rows[begin : begin + _ROWS], self.points)
            squares.partition(self.nearest - 1, axis=1)
            found[begin : begin + _ROWS] = squares[:, self.nearest - 1]
        distances = np.maximum(np.sqrt(found), self.floor)
        return np.asarray(math.log(self.nearest / count) - width * np.log(distances))


def fit_kernels(points: Floats) -> Kernels:
    """Kernels of the points' covariance (shrunk by OAS) and Scott's bandwidth, m^(-1 / (d + 4))."""
    whitening = fit_gaussian(moments(points))
    white = (points - whitening.mean) @ whitening.root
    return Kernels(whitening, white, len(points) ** (-1 / (points.shape[1] + 4)))


def fit_neighbours(points: Floats, nearest: int) -> Neighbours:
    """The points, and the `nearest`-th of them (fewer where there are fewer)."""
    spread = math.sqrt(float(points.var(axis=0).sum()))
    return Neighbours(points, min(nearest, len(points)), max(1e-6 * spread, 1e-12))


def squared_distances(rows: Floats, points: Floats) -> Floats:
    """Between rows (n, d) and points (m, d), (n, m)."""
    # About the points' middle, where the two large sums below cancel least.
    middle = points.mean(axis=0)
    a, b = rows - middle, points - middle
    squares = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * (a @ b.T)
    found: Floats = np.maximum(squares, 0.0)
    return found
