"""Principal components of clips, from their moments: many channels to the few that vary."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy import linalg

from detector.errors import FitError
from detector.moments import Floats, Moments

# Added to each channel's standard deviation: constant channels become 0, not NaN.
TINY: Final = 1e-8

# Components below this part of the largest one are rounding, not data.
RANK: Final = 1e-6


@dataclass(frozen=True)
class Projection:
    """z = basis^T ((x - mean) / scale): C channels to d columns.

    `mean` and `scale` are (C,), `basis` is (C, d). `eigenvalues` (d,) are the variances of the
    columns, falling; empty when the basis is not made of principal components any more.
    """

    mean: Floats
    scale: Floats
    basis: Floats
    eigenvalues: Floats

    @property
    def width(self) -> int:
        """Number of columns."""
        return int(self.basis.shape[1])

    def first(self, width: int) -> Projection:
        """Onto the first columns only."""
        return replace(self, basis=self.basis[:, :width], eigenvalues=self.eigenvalues[:width])

    def onto(self, directions: Floats) -> Projection:
        """Followed by directions (d, k): one projection onto k columns."""
        return replace(self, basis=self.basis @ directions, eigenvalues=np.zeros(0))


class Projector:
    """A projection ready to be applied to blocks, in the precision that they come in."""

    def __init__(self, projection: Projection, dtype: npt.DTypeLike) -> None:
        self._mean = projection.mean.astype(dtype)
        # Dividing the basis instead of every clip; what is left is one product.
        self._basis = np.ascontiguousarray(
            (projection.basis / projection.scale[:, None]).astype(dtype)
        )

    def __call__(self, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Rows (n, C) to (n, d)."""
        projected: npt.NDArray[Any] = (rows - self._mean) @ self._basis
        return projected


def principal(of: Moments, width: int) -> Projection:
    """Onto at most `width` principal components of channels of unit variance.

    Fewer where the components that vary at all are fewer (more than RANK of the largest). Columns
    are not whitened. Raises FitError when nothing varies.
    """
    deviation = _deviation(np.diag(of.covariance), of.mean)
    scale = deviation + TINY
    standardised = of.covariance / scale / scale[:, None]
    standardised[deviation == 0] = 0.0
    standardised[:, deviation == 0] = 0.0
    values, vectors = _largest(standardised, width, of.count)
    return Projection(of.mean, scale, _signed(vectors), values)


def principal_of_few(rows: npt.NDArray[Any], width: int) -> Projection:
    """The same of rows (n, C) themselves, by their products with each other, (n, n).

    The components that vary are as many with either product, and where clips are fewer than
    channels this is the smaller one. Computed in float64. Raises FitError when nothing varies.
    """
    x = rows.astype(np.float64)
    count = max(len(x), 1)
    mean = x.sum(axis=0) / count
    x -= mean
    deviation = _deviation(np.einsum("ij,ij->j", x, x) / count, mean)
    scale = deviation + TINY
    x /= scale
    x[:, deviation == 0] = 0.0
    values, vectors = _largest(x @ x.T / count, width, len(x))
    return Projection(mean, scale, _signed(x.T @ (vectors / np.sqrt(count * values))), values)


def _deviation(variance: Floats, mean: Floats) -> Floats:
    deviation = np.sqrt(variance)
    # Rounding leaves a constant channel some 1e-16 of its mean; scaled up it would be noise.
    deviation[deviation <= 1e-12 * np.abs(mean)] = 0.0
    return deviation


def _largest(matrix: Floats, width: int, clips: int) -> tuple[Floats, Floats]:
    """Eigenvalues (d,), falling, and eigenvectors (n, d) of a symmetric matrix, that vary."""
    size = len(matrix)
    wanted = min(width, size)
    values, vectors = linalg.eigh(
        matrix,
        subset_by_index=(size - wanted, size - 1),
        overwrite_a=True,
        check_finite=False,
    )
    values, vectors = values[::-1], vectors[:, ::-1]
    rank = int((values > RANK * values[0]).sum()) if values[0] > 0 else 0
    if not rank:
        raise FitError(
            f"The features of all {clips} training clips are the same (or there is only one "
            "clip): there is nothing to tell videos apart by"
        )
    return values[:rank].copy(), vectors[:, :rank]


def _signed(vectors: Floats) -> Floats:
    """A vector's sign is arbitrary; its largest entry made positive, a refit gives the same."""
    largest = np.take_along_axis(vectors, np.abs(vectors).argmax(axis=0)[None], axis=0)[0]
    return np.ascontiguousarray(vectors * np.where(largest < 0, -1.0, 1.0))
