"""How far two distributions are apart: on masses, on samples of one dimension, of Gaussians.

All logarithms are natural, so divergences are in nats. Functions of masses work on the last axis
and on any number of pairs at once.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import rel_entr

from detector.curves import Floats
from featurestore.errors import UsageError


def kl(p: Floats, q: Floats) -> Floats:
    """Kullback-Leibler divergence of masses p from q (..., bins); infinite where q lacks mass."""
    found: Floats = np.sum(rel_entr(p, q), axis=-1)
    return found


def jensen_shannon(p: Floats, q: Floats) -> Floats:
    """Mean divergence of the two from their mean: 0 for the same, log 2 for disjoint masses."""
    middle = (p + q) / 2
    return (kl(p, middle) + kl(q, middle)) / 2


def bhattacharyya(p: Floats, q: Floats) -> Floats:
    """Minus the logarithm of the overlap sum sqrt(p q): 0 for the same, infinite for disjoint."""
    overlap = np.minimum(np.sum(np.sqrt(p * q), axis=-1), 1.0)  # rounding must not make it negative
    with np.errstate(divide="ignore"):
        found: Floats = np.abs(np.log(overlap))  # 0, not -0
    return found


def wasserstein(a: npt.ArrayLike, b: npt.ArrayLike) -> float:
    """1-Wasserstein distance of two samples (n,), (m,), in the unit of the values.

    The area between their distribution functions: how far mass has to be moved, on average.
    """
    first, second = (np.sort(np.asarray(values, np.float64)) for values in (a, b))
    if first.ndim != 1 or second.ndim != 1 or not len(first) or not len(second):
        raise UsageError(f"Needs two samples; got shapes {first.shape} and {second.shape}")
    at = np.unique(np.concatenate([first, second]))
    below_first = np.searchsorted(first, at[:-1], "right") / len(first)
    below_second = np.searchsorted(second, at[:-1], "right") / len(second)
    return float(np.abs(below_first - below_second) @ np.diff(at))


def mmd(a: Floats, b: Floats, bandwidth: float) -> float:
    """Unbiased squared maximum mean discrepancy of samples (n, d), (m, d); may be negative.

    Kernel exp(-|x - y|^2 / (2 bandwidth^2)); Gretton et al. 2012, equation 3.
    """
    if len(a) < 2 or len(b) < 2:
        raise UsageError(f"Needs two samples of two or more; got {len(a)} and {len(b)}")
    within = [
        (gaussian_kernel(x, x, bandwidth).sum() - len(x)) / (len(x) * (len(x) - 1)) for x in (a, b)
    ]
    return float(sum(within) - 2 * gaussian_kernel(a, b, bandwidth).mean())


def gaussian_kernel(a: Floats, b: Floats, bandwidth: float) -> Floats:
    """Kernel of each pair, float64 (n, m)."""
    squares = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * a @ b.T
    found: Floats = np.exp(-np.maximum(squares, 0) / (2 * bandwidth**2))
    return found


def gaussian_kl(mean_p: Any, cov_p: Any, mean_q: Any, cov_q: Any) -> float:
    """Kullback-Leibler divergence of one Gaussian from another, means (d,), covariances (d, d)."""
    gap, (scale_p, log_p), (scale_q, log_q) = _gaussians(mean_p, cov_p, mean_q, cov_q)
    half = np.linalg.solve(scale_q, scale_p)
    far = np.linalg.solve(scale_q, gap)
    return float(((half**2).sum() + far @ far - len(gap) + log_q - log_p) / 2)


def gaussian_bhattacharyya(mean_p: Any, cov_p: Any, mean_q: Any, cov_q: Any) -> float:
    """Bhattacharyya distance of two Gaussians."""
    gap, (_, log_p), (_, log_q) = _gaussians(mean_p, cov_p, mean_q, cov_q)
    middle = (np.atleast_2d(cov_p) + np.atleast_2d(cov_q)) / 2
    scale, log_middle = _cholesky(middle)
    far = np.linalg.solve(scale, gap)
    return float(far @ far / 8 + (log_middle - (log_p + log_q) / 2) / 2)


def _gaussians(
    mean_p: Any, cov_p: Any, mean_q: Any, cov_q: Any
) -> tuple[Floats, tuple[Floats, float], tuple[Floats, float]]:
    gap = np.atleast_1d(np.asarray(mean_p, np.float64) - np.asarray(mean_q, np.float64))
    covariances = [np.atleast_2d(np.asarray(cov, np.float64)) for cov in (cov_p, cov_q)]
    if any(cov.shape != (len(gap), len(gap)) for cov in covariances):
        raise UsageError(
            f"Means of {len(gap)} dimensions, but covariances of shapes "
            f"{[cov.shape for cov in covariances]}"
        )
    return gap, _cholesky(covariances[0]), _cholesky(covariances[1])


def _cholesky(covariance: Floats) -> tuple[Floats, float]:
    try:
        scale: Floats = np.asarray(np.linalg.cholesky(covariance), np.float64)
    except np.linalg.LinAlgError:
        raise UsageError(
            "A covariance is not positive definite: shrink it, or use fewer dimensions"
        ) from None
    return scale, 2 * float(np.log(np.diag(scale)).sum())
