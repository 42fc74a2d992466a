"""How well a fitted distribution describes values it has not seen.

CDE loss and HPD values after Izbicki and Lee 2017, and Dalmasso et al. 2020 ("Conditional density
estimation tools in Python and R").
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from detector.curves import Floats
from featurestore.errors import UsageError

# Points at which a video's share of the p-value of `uniformity` is looked at.
_GRID = 256


@dataclass(frozen=True)
class Uniformity:
    """`distance` of Kolmogorov and Smirnov from the uniform distribution, in [0, 1].

    `p_value` is over videos: None with fewer than two of them.
    """

    distance: float
    p_value: float | None


def cde_loss(squared_integral: float, density: npt.ArrayLike) -> float:
    """Integral of f^2, less twice the mean of the density f at unseen values (n,).

    The squared distance of f from the true density up to a constant, so lower is better: of all
    densities the true one has the lowest. The uniform one on [0, 1] has -1 exactly.
    """
    return float(squared_integral - 2 * np.mean(np.asarray(density, np.float64)))


def squared_integral(log_density_of_sample: npt.ArrayLike) -> float:
    """Integral of f^2, the mean of f over a sample of f (n,): exact for a uniform f."""
    return float(np.mean(np.exp(np.asarray(log_density_of_sample, np.float64))))


def hpd_values(log_density: npt.ArrayLike, log_density_of_sample: npt.ArrayLike) -> Floats:
    """For each unseen value (n,) the mass of the region in which f is at least as high as there.

    `log_density_of_sample`: of a sample of f (m,). Of values that come from f they are uniform,
    whatever f looks like; many near 1 lie where f holds almost nothing.
    """
    sample = np.sort(np.asarray(log_density_of_sample, np.float64))
    below = np.searchsorted(sample, np.asarray(log_density, np.float64), "left")
    return 1 - below / len(sample)


def coverage(hpd: npt.ArrayLike, level: float) -> float:
    """Share of values inside the highest-density region that should hold `level` of them."""
    return float(np.mean(np.asarray(hpd, np.float64) <= level))


def bic(log_likelihood: float, parameters: int, clips: int) -> float:
    """Bayesian information criterion of a fit to `clips` clips, in nats: lower is better.

    It counts clips as independent, which clips of a video are not: to compare families fitted to
    the same clips, and no more.
    """
    return parameters * math.log(clips) - 2 * log_likelihood


def quantiles(
    cdf: Callable[[Floats], Floats], probabilities: npt.ArrayLike, low: float, high: float
) -> Floats:
    """Where `cdf` reaches each probability (n,), between `low` and `high`, by bisection."""
    p = np.asarray(probabilities, np.float64)
    lower, upper = np.full(p.shape, float(low)), np.full(p.shape, float(high))
    for _ in range(50):
        middle = (lower + upper) / 2
        above = cdf(middle) >= p
        lower, upper = np.where(above, lower, middle), np.where(above, middle, upper)
    return upper


def uniformity(
    values: npt.ArrayLike, videos: npt.ArrayLike, *, resamples: int = 999, seed: int = 0
) -> Uniformity:
    """Whether PIT or HPD values (n,) in [0, 1] are uniform, as those of a true density are.

    `videos` (n,): each one's video. The p-value flips the sign of whole videos' departures from
    uniformity at random: many clips of few videos that lie alike prove little. It is correct
    where videos are independent and their departures as likely one way as the other.
    """
    u, video = np.asarray(values, np.float64), np.asarray(videos)
    if u.ndim != 1 or u.shape != video.shape or not len(u):
        raise UsageError(f"One value and one video a clip; got shapes {u.shape}, {video.shape}")
    if not ((u >= 0) & (u <= 1)).all():
        raise UsageError("PIT and HPD values are in [0, 1]")
    rising, n = np.sort(u), len(u)
    steps = np.arange(n + 1) / n
    distance = float(max((steps[1:] - rising).max(), (rising - steps[:-1]).max()))
    present, owner = np.unique(video, return_inverse=True)
    if len(present) < 2:
        return Uniformity(distance, None)
    at = (np.arange(_GRID) + 0.5) / _GRID
    departure = np.zeros((len(present), _GRID))
    for row in range(len(present)):
        own = np.sort(u[owner == row])
        departure[row] = np.searchsorted(own, at, "right") - len(own) * at
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], (resamples, len(present)))
    flipped = np.abs(signs @ departure).max(axis=1)
    observed = np.abs(departure.sum(axis=0)).max()
    reached = int((flipped >= observed * (1 - 1e-12)).sum())
    return Uniformity(distance, (1 + reached) / (1 + resamples))
