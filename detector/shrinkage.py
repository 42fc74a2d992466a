"""Covariances that can be inverted: shrunk towards a multiple of the identity."""

from __future__ import annotations

import numpy as np
from scipy import linalg

from detector.moments import Floats, Moments


def shrunk(covariance: Floats, amount: float) -> Floats:
    """(1 - amount) S + amount (tr S / d) I, of shape (d, d)."""
    width = len(covariance)
    found = (1 - amount) * covariance
    found.flat[:: width + 1] += amount * np.trace(covariance) / width
    return found


def oas(of: Moments) -> float:
    """How much to shrink, in [0, 1], by Oracle Approximating Shrinkage.

    Chen, Wiesel, Eldar and Hero (2010), equation 23, with their (1 - 2 / d) left out, as in
    general use. The number of rows is the effective one of their weights where all weigh the same.
    """
    width = len(of.mean)
    covariance = of.covariance
    squares = float(np.mean(covariance**2))
    middle = float(np.trace(covariance)) / width
    spread = (of.count + 1) * (squares - middle**2 / width)
    return 1.0 if spread == 0 else min((squares + middle**2) / spread, 1.0)


def solve(covariance: Floats, amount: float, right: Floats) -> Floats:
    """S^-1 right, with S the shrunk covariance. Raises LinAlgError when S is singular."""
    factor = linalg.cho_factor(shrunk(covariance, amount), overwrite_a=True, check_finite=False)
    found: Floats = linalg.cho_solve(factor, right, check_finite=False)
    return found
