"""Ten parametric families, fitted to scores of one class by (weighted) maximum likelihood.

Scores lie anywhere on the line, some families do not. So a `Support`, the same for both classes,
says where the line is cut for them: half-lines begin at its `lower`, Beta lives between `lower`
and `upper`, Geometric counts ranks among its `reference`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import special
from scipy.optimize import brentq, minimize_scalar

from detector.errors import FitError
from detector.moments import Floats
from featurestore.errors import UsageError

Parameters = tuple[float, ...]

# How far the support goes beyond the scores seen, in parts of their range, and how near to its
# end a score may come: densities are 0 or infinite at the very end.
MARGIN: Final = 0.05
NEAREST: Final = 0.1 * MARGIN

_ROUNDS: Final = 1000
_TOLERANCE: Final = 1e-10


@dataclass(frozen=True)
class Support:
    """Where the line is cut. `reference`: increasing scores among which ranks are counted."""

    lower: float
    upper: float
    reference: Floats

    def inside(self, scores: npt.ArrayLike) -> Floats:
        """Scores beyond the support moved just inside it."""
        edge = (self.upper - self.lower) / (1 + 2 * MARGIN) * NEAREST
        low, high = self.lower + edge, self.upper - edge
        return np.asarray(np.clip(np.asarray(scores, np.float64), low, high), np.float64)

    def ranks(self, scores: npt.ArrayLike) -> Floats:
        """1 + number of reference scores below each score."""
        below = np.searchsorted(self.reference, np.asarray(scores, np.float64), side="left")
        return (below + 1).astype(np.float64)


def support_of(scores: npt.ArrayLike) -> Support:
    """The support for scores (n,) of both classes. Raises FitError if all are the same."""
    reference = np.sort(np.asarray(scores, np.float64))
    if not len(reference) or not reference[-1] > reference[0]:
        raise FitError("All training scores are the same: there is no distribution to fit")
    margin = MARGIN * float(reference[-1] - reference[0])
    return Support(float(reference[0]) - margin, float(reference[-1]) + margin, reference)


@dataclass(frozen=True)
class Family:
    """A family: its parameters' names, how to fit them, log density and distribution function.

    The functions get scores as the family sees them: on the line, above 0, in (0, 1), or ranks.
    """

    name: str
    domain: str  # line, positive, unit, ranks
    parameters: tuple[str, ...]
    estimate: Callable[[Floats, Floats], Parameters]
    logpdf: Callable[..., Floats]
    cdf: Callable[..., Floats]


@dataclass(frozen=True)
class Distribution:
    """A family fitted to the scores of one class."""

    family: str
    parameters: Parameters
    support: Support

    def logpdf(self, scores: npt.ArrayLike) -> Floats:
        """Log density per unit of score, float64, the shape of `scores`.

        Of `geometric` the log probability of the score's rank. Scores beyond the support count
        as if at its end, for the families that need one.
        """
        family = FAMILIES[self.family]
        seen = _seen(family, self.support, scores)
        found = family.logpdf(seen, *self.parameters)
        if family.domain == "unit":
            found = found - math.log(self.support.upper - self.support.lower)
        return found

    def cdf(self, scores: npt.ArrayLike) -> Floats:
        """Probability of a score as high or lower (of `geometric`: of such a rank)."""
        family = FAMILIES[self.family]
        return family.cdf(_seen(family, self.support, scores), *self.parameters)

    def __str__(self) -> str:
        named = zip(FAMILIES[self.family].parameters, self.parameters, strict=True)
        return f"{self.family}({', '.join(f'{name}={value:.4g}' for name, value in named)})"


def fit(
    family: str, scores: npt.ArrayLike, support: Support, weights: npt.ArrayLike | None = None
) -> Distribution:
    """The distribution of a family that makes weighted scores (n,) most likely.

    Raises UsageError for an unknown family, FitError for fewer than two different scores.
    """
    if family not in FAMILIES:
        raise UsageError(f"{family!r} is no family; these are: {', '.join(FAMILIES)}")
    found = FAMILIES[family]
    seen = _seen(found, support, scores)
    weighted = np.ones(len(seen)) if weights is None else np.asarray(weights, np.float64)
    seen, weighted = seen[weighted > 0], weighted[weighted > 0] / weighted.sum()
    if len(seen) < 2 or not np.ptp(seen) > 0:
        raise FitError(f"{family}: needs two different scores or more to be fitted")
    return Distribution(family, found.estimate(seen, weighted), support)


def _seen(family: Family, support: Support, scores: npt.ArrayLike) -> Floats:
    if family.domain == "line":
        return np.asarray(scores, np.float64)
    if family.domain == "ranks":
        return support.ranks(scores)
    above = support.inside(scores) - support.lower
    return above / (support.upper - support.lower) if family.domain == "unit" else above


# Estimates: scores x and weights w (n,), which add up to 1.


def _normal(x: Floats, w: Floats) -> Parameters:
    mean = float(w @ x)
    return mean, math.sqrt(w @ (x - mean) ** 2)


def _exponential(x: Floats, w: Floats) -> Parameters:
    return (float(w @ x),)


def _half_normal(x: Floats, w: Floats) -> Parameters:
    return (math.sqrt(w @ x**2),)


def _half_cauchy(x: Floats, w: Floats) -> Parameters:
    # The derivative of the likelihood falls with the scale: one root, between the extremes.
    def slope(log_scale: float) -> float:
        square = math.exp(2 * log_scale)
        return float(w @ ((x**2 - square) / (x**2 + square)))

    return (math.exp(brentq(slope, math.log(x.min()) - 1, math.log(x.max()) + 1)),)


def _geometric(x: Floats, w: Floats) -> Parameters:
    return (1 / float(w @ x),)


def _gumbel(x: Floats, w: Floats) -> Parameters:
    mean, deviation = _normal(x, w)
    y = (x - mean) / deviation

    def tilt(scale: float) -> tuple[float, float]:
        powers = w * np.exp(-(y - y.min()) / scale)
        return float(powers.sum()), float(powers @ y / powers.sum())

    scale = brentq(lambda s: s - (float(w @ y) - tilt(s)[1]), 1e-3, 10.0, xtol=1e-12)
    location = y.min() - scale * math.log(tilt(scale)[0])
    return mean + deviation * location, deviation * scale


def _gamma(x: Floats, w: Floats) -> Parameters:
    mean = float(w @ x)
    gap = math.log(mean) - float(w @ np.log(x))  # > 0, by Jensen
    gap = max(gap, 1e-12)

    def slope(log_shape: float) -> float:
        shape = math.exp(log_shape)
        return log_shape - float(special.digamma(shape)) - gap

    # log k - digamma(k) lies between 1 / (2k) and 1 / k, which brackets the root.
    shape = math.exp(brentq(slope, math.log(0.5 / gap) - 0.1, math.log(1 / gap) + 0.1))
    return shape, mean / shape


def _beta(x: Floats, w: Floats) -> Parameters:
    low, high = float(w @ np.log(x)), float(w @ np.log1p(-x))
    mean, deviation = _normal(x, w)
    total = max(mean * (1 - mean) / deviation**2 - 1, 0.1)
    logs = np.log([mean * total, (1 - mean) * total])
    # Newton in log parameters, damped: the likelihood is concave in the parameters themselves.
    for _ in range(_ROUNDS):
        a, b = np.exp(logs)
        both = special.digamma(a + b)
        gradient = np.array([both - special.digamma(a) + low, both - special.digamma(b) + high])
        shared = special.polygamma(1, a + b)
        hessian = np.array(
            [
                [shared - special.polygamma(1, a), shared],
                [shared, shared - special.polygamma(1, b)],
            ]
        )
        step = -np.linalg.solve(hessian, gradient) / np.array([a, b])
        logs = logs + np.clip(step, -1, 1)
        if np.abs(step).max() < _TOLERANCE:
            break
    return float(np.exp(logs[0])), float(np.exp(logs[1]))


def _student(x: Floats, w: Floats) -> Parameters:
    """EM for location and scale; degrees of freedom by direct search between rounds (ECME)."""
    location, scale = _middle(x, w)
    freedom = 5.0
    for _ in range(_ROUNDS):
        before = (location, scale, freedom)
        location, scale = _student_step(x, w, location, scale, freedom)
        square = ((x - location) / scale) ** 2

        def loss(log_freedom: float, square: Floats = square) -> float:
            return -float(w @ _log_student(np.sqrt(square), math.exp(log_freedom), 0.0, 1.0))

        # Beyond a thousand degrees of freedom it is the normal distribution.
        search = minimize_scalar(loss, bounds=(math.log(0.2), math.log(1e3)), method="bounded")
        freedom = math.exp(float(search.x))
        if _still(before, (location, scale, freedom), scale):
            break
    return freedom, location, scale


def _cauchy(x: Floats, w: Floats) -> Parameters:
    location, scale = _middle(x, w)
    for _ in range(_ROUNDS):
        before = (location, scale)
        location, scale = _student_step(x, w, location, scale, 1.0)
        if _still(before, (location, scale), scale):
            break
    return location, scale


def _student_step(
    x: Floats, w: Floats, location: float, scale: float, freedom: float
) -> tuple[float, float]:
    pull = w * (freedom + 1) / (freedom + ((x - location) / scale) ** 2)
    location = float(pull @ x / pull.sum())
    # Divided by the pulls' sum, not by n: the same fixed point, reached much sooner
    # (Kent, Tyler and Vardi 1994).
    return location, math.sqrt(pull @ (x - location) ** 2 / pull.sum())


def _middle(x: Floats, w: Floats) -> tuple[float, float]:
    """Weighted median and half the distance between the quartiles, never 0."""
    order = np.argsort(x)
    quartiles = np.interp([0.25, 0.5, 0.75], np.cumsum(w[order]), x[order])
    spread = float(quartiles[2] - quartiles[0]) / 2
    return float(quartiles[1]), spread or _normal(x, w)[1]


def _still(before: Parameters, now: Parameters, unit: float) -> bool:
    # Degrees of freedom come from a search with a tolerance of its own.
    moved = [abs(a - b) / unit for a, b in zip(before[:2], now[:2], strict=True)]
    return max(moved) < 1e-9


# Log densities and distribution functions.


def _log_normal(x: Floats, mean: float, deviation: float) -> Floats:
    return -0.5 * ((x - mean) / deviation) ** 2 - math.log(deviation * math.sqrt(2 * math.pi))


def _log_student(x: Floats, freedom: float, location: float, scale: float) -> Floats:
    constant = special.gammaln((freedom + 1) / 2) - special.gammaln(freedom / 2)
    constant -= 0.5 * math.log(freedom * math.pi) + math.log(scale)
    return np.asarray(
        constant - (freedom + 1) / 2 * np.log1p(((x - location) / scale) ** 2 / freedom)
    )


def _log_gumbel(x: Floats, location: float, scale: float) -> Floats:
    z = (x - location) / scale
    return -z - np.exp(-z) - math.log(scale)


def _log_gamma(x: Floats, shape: float, scale: float) -> Floats:
    constant = special.gammaln(shape) + shape * math.log(scale)
    return np.asarray((shape - 1) * np.log(x) - x / scale - constant)


def _log_beta(x: Floats, a: float, b: float) -> Floats:
    return np.asarray((a - 1) * np.log(x) + (b - 1) * np.log1p(-x) - special.betaln(a, b))


def _log_geometric(x: Floats, p: float) -> Floats:
    return (x - 1) * math.log1p(-p) + math.log(p)


FAMILIES: Final[dict[str, Family]] = {
    family.name: family
    for family in (
        Family(
            "cauchy",
            "line",
            ("location", "scale"),
            _cauchy,
            lambda x, m, s: -np.log1p(((x - m) / s) ** 2) - math.log(math.pi * s),
            lambda x, m, s: 0.5 + np.arctan((x - m) / s) / math.pi,
        ),
        Family(
            "halfcauchy",
            "positive",
            ("scale",),
            _half_cauchy,
            lambda x, s: -np.log1p((x / s) ** 2) + math.log(2 / (math.pi * s)),
            lambda x, s: np.arctan(x / s) * (2 / math.pi),
        ),
        Family(
            "exponential",
            "positive",
            ("scale",),
            _exponential,
            lambda x, s: -x / s - math.log(s),
            lambda x, s: -np.expm1(-x / s),
        ),
        Family(
            "geometric",
            "ranks",
            ("p",),
            _geometric,
            _log_geometric,
            lambda x, p: -np.expm1(x * math.log1p(-p)),
        ),
        Family(
            "gumbel",
            "line",
            ("location", "scale"),
            _gumbel,
            _log_gumbel,
            lambda x, m, s: np.exp(-np.exp(-(x - m) / s)),
        ),
        Family(
            "gamma",
            "positive",
            ("shape", "scale"),
            _gamma,
            _log_gamma,
            lambda x, k, s: special.gammainc(k, x / s),
        ),
        Family(
            "halfnormal",
            "positive",
            ("scale",),
            _half_normal,
            lambda x, s: -0.5 * (x / s) ** 2 + 0.5 * math.log(2 / math.pi) - math.log(s),
            lambda x, s: special.erf(x / (s * math.sqrt(2))),
        ),
        Family(
            "normal",
            "line",
            ("mean", "deviation"),
            _normal,
            _log_normal,
            lambda x, m, s: special.ndtr((x - m) / s),
        ),
        Family(
            "student",
            "line",
            ("freedom", "location", "scale"),
            _student,
            _log_student,
            lambda x, v, m, s: special.stdtr(v, (x - m) / s),
        ),
        Family(
            "beta",
            "unit",
            ("a", "b"),
            _beta,
            _log_beta,
            lambda x, a, b: special.betainc(a, b, x),
        ),
    )
}
