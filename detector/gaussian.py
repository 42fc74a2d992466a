"""A Gaussian of full covariance, shrunk so far as the number of clips asks for (OAS)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import linalg

from detector.errors import FitError
from detector.moments import Floats, Moments
from detector.shrinkage import oas, shrunk


@dataclass(frozen=True)
class Gaussian:
    """Mean (d,), and `root` (d, d) with root @ root.T the inverse of the covariance."""

    mean: Floats
    root: Floats

    def distance(self, rows: Floats) -> Floats:
        """Squared Mahalanobis distance of rows (n, d), (n,)."""
        found: Floats = (((rows - self.mean) @ self.root) ** 2).sum(axis=1)
        return found

    def logpdf(self, rows: Floats) -> Floats:
        """Log density at rows (n, d), (n,)."""
        half_log_det = float(np.log(np.diag(self.root)).sum())
        constant = half_log_det - 0.5 * len(self.mean) * math.log(2 * math.pi)
        return constant - 0.5 * self.distance(rows)


def gaussian_of(mean: Floats, covariance: Floats) -> Gaussian:
    """The Gaussian of this mean and covariance. Raises FitError when it is flat."""
    try:
        lower = linalg.cholesky(covariance, lower=True, check_finite=False)
    except linalg.LinAlgError as error:
        raise FitError("The clips of a class do not vary: no Gaussian fits them") from error
    inverse = linalg.solve_triangular(lower, np.eye(len(mean)), lower=True, check_finite=False)
    return Gaussian(mean, np.ascontiguousarray(inverse.T))


def fit_gaussian(of: Moments) -> Gaussian:
    """The Gaussian of rows with these moments, its covariance shrunk by OAS."""
    return gaussian_of(of.mean, shrunk(of.covariance, oas(of)))
