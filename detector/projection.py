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
    deviation = np.sqrt(np.diag(of.covariance))
    # Rounding leaves a constant channel some 1e-16 of its mean; scaled up it would be noise.
    deviation[deviation <= 1e-12 * np.abs(of.mean)] = 0.0
    scale = deviation + TINY
    standardised = of.covariance / scale / scale[:, None]
    standardised[deviation == 0] = 0.0
    standardised[:, deviation == 0] = 0.0
    channels = len(scale)
    wanted = min(width, channels)
    values, vectors = linalg.eigh(
        standardised,
        subset_by_index=(channels - wanted, channels - 1),
        overwrite_a=True,
        check_finite=False,
    )
    values, vectors = values[::-1], vectors[:, ::-1]
    rank = int((values > RANK * values[0]).sum()) if values[0] > 0 else 0
    if not rank:
        raise FitError(
            f"The features of all {of.count} training clips are the same (or there is only one "
            "clip): there is nothing to tell videos apart by"
        )
    # A vector's sign is arbitrary; its largest entry made positive, a refit gives the same.
    vectors = vectors[:, :rank]
    largest = np.take_along_axis(vectors, np.abs(vectors).argmax(axis=0)[None], axis=0)[0]
    basis = vectors * np.where(largest < 0, -1.0, 1.0)
    return Projection(of.mean, scale, np.ascontiguousarray(basis), values[:rank].copy())
