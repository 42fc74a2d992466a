"""Which families describe the values of each class, and how the classes differ.

Every family is fitted to the clips of one class without a fold of its videos, and judged on the
clips of that fold.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from detector import diagnosis, families
from detector.curves import Floats
from detector.diagnosis import Uniformity
from detector.differences import Difference, differences
from detector.errors import FitError
from detector.families import FAMILIES, Distribution, Support
from detector.table import percent
from featurestore.errors import UsageError

FOLDS: Final = 5
CLASSES: Final = ("normal", "abnormal")

# The regions whose coverage is shown.
LEVELS: Final = (0.5, 0.9)

# Equally likely points of a fitted density, to integrate over it.
_POINTS: Final = 1000


@dataclass(frozen=True)
class FamilyFit:
    """A family on the clips of one class. Held-out figures are None where nothing could be held
    out (one video), or a fold's rest could not be fitted; `trouble` then says why.

    `fitted` (to all clips), `bic` and log likelihood are in nats; the latter, `log_likelihood`, is
    a mean per clip. `pit` and `hpd` say how uniform these values are, `coverage` how many clips lie
    in the highest-density regions of LEVELS. Of `geometric`, densities are per rank, not per unit
    of the values: not to be compared with the others'.
    """

    family: str
    fitted: str
    bic: float | None
    log_likelihood: float | None
    cde_loss: float | None
    pit: Uniformity | None
    hpd: Uniformity | None
    coverage: tuple[float, ...] | None
    trouble: str | None = None


@dataclass(frozen=True)
class Description:
    """Values of one projection: the families of each class, best first, and the differences."""

    projection: str
    clips: dict[str, int]
    videos: dict[str, int]
    families: dict[str, tuple[FamilyFit, ...]]
    differences: tuple[Difference, ...]

    def json(self) -> dict[str, Any]:
        """Plain JSON."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class _HeldOut:
    """What one fold's fit says of the clips it has not seen; arrays (clips of the fold,)."""

    rows: npt.NDArray[np.intp]
    log_density: Floats
    loss: float
    pit: Floats
    hpd: Floats


def describe(
    projection: str,
    values: npt.ArrayLike,
    videos: npt.ArrayLike,
    abnormal: npt.ArrayLike,
    *,
    names: Sequence[str] = tuple(FAMILIES),
    permutations: int = 999,
    seed: int = 0,
) -> Description:
    """Fits all families (or `names`) to each class of `values` (clips,).

    `videos` (clips,): the number of each one's video, in the order of names; `abnormal` (V,):
    bool. Videos go to folds as in fitting: the p-th of a class to fold p mod 5.

    Raises UsageError unless there are two or more clips of both classes, FitError when all values
    are the same.
    """
    value, video = np.asarray(values, np.float64), np.asarray(videos)
    label = np.asarray(abnormal, bool)
    unknown = [name for name in names if name not in FAMILIES]
    if unknown:
        raise UsageError(f"{unknown[0]!r} is no family; these are: {', '.join(FAMILIES)}")
    between = differences(value, video, label, permutations=permutations, seed=seed)
    support = families.support_of(value)
    found: dict[str, tuple[FamilyFit, ...]] = {}
    clips, counted = {}, {}
    for name, of_class in zip(CLASSES, (~label, label), strict=True):
        inside = of_class[video]
        own = np.unique(video[inside])
        clips[name], counted[name] = int(inside.sum()), len(own)
        fold = np.searchsorted(own, video[inside]) % FOLDS
        fits = [_fit(family, value[inside], video[inside], fold, support, seed) for family in names]
        found[name] = tuple(sorted(fits, key=_rank))
    return Description(projection, clips, counted, found, tuple(between))


def _rank(fit: FamilyFit) -> tuple[bool, bool, float]:
    """Best first; ranks apart from densities, and last what could not be fitted."""
    judged = fit.log_likelihood is not None
    value = fit.log_likelihood if fit.log_likelihood is not None else -(fit.bic or np.inf)
    return not judged, FAMILIES[fit.family].domain == "ranks", -value


def _fit(
    family: str,
    value: Floats,
    video: npt.NDArray[np.intp],
    fold: npt.NDArray[np.intp],
    support: Support,
    seed: int,
) -> FamilyFit:
    try:
        whole = families.fit(family, value, support)
    except FitError as error:
        return FamilyFit(family, "-", None, None, None, None, None, None, str(error))
    bic = diagnosis.bic(
        float(whole.logpdf(value).sum()), len(FAMILIES[family].parameters), len(value)
    )
    held_out = []
    for out in np.unique(fold):
        rows = np.flatnonzero(fold == out)
        try:
            rest = families.fit(family, value[fold != out], support)
        except FitError as error:
            why = "one video only: nothing to hold out" if (fold == out).all() else str(error)
            return FamilyFit(family, str(whole), bic, None, None, None, None, None, why)
        held_out.append(_judge(rest, value, rows, seed))
    order = np.concatenate([one.rows for one in held_out])
    pit, hpd = (np.concatenate([getattr(one, n) for one in held_out]) for n in ("pit", "hpd"))
    weights = [len(one.rows) / len(value) for one in held_out]
    return FamilyFit(
        family,
        str(whole),
        bic,
        float(np.concatenate([one.log_density for one in held_out]).mean()),
        float(np.dot(weights, [one.loss for one in held_out])),
        diagnosis.uniformity(pit, video[order], seed=seed),
        diagnosis.uniformity(hpd, video[order], seed=seed),
        tuple(diagnosis.coverage(hpd, level) for level in LEVELS),
    )


def _judge(of: Distribution, value: Floats, rows: npt.NDArray[np.intp], seed: int) -> _HeldOut:
    at = value[rows]
    log_density, pit = of.logpdf(at), of.cdf(at)
    if FAMILIES[of.family].domain == "ranks":
        # Of a discrete value the PIT is spread evenly over the value's own probability.
        spread = np.random.default_rng((seed, *rows[:1])).random(len(rows))
        mass = np.exp(log_density)
        p = of.parameters[0]
        squared, hpd = p / (2 - p), pit - spread * mass  # falling, so its regions begin at rank 1
        pit = hpd
    else:
        sample = of.logpdf(_points(of))
        squared, hpd = diagnosis.squared_integral(sample), diagnosis.hpd_values(log_density, sample)
    loss = diagnosis.cde_loss(squared, np.exp(log_density))
    return _HeldOut(rows, log_density, loss, np.clip(pit, 0, 1), np.clip(hpd, 0, 1))


def _points(of: Distribution) -> Floats:
    """Equally likely values; what a tail holds beyond the search lies at its end."""
    support, even = of.support, (np.arange(_POINTS) + 0.5) / _POINTS
    far = 1e3 * (support.upper - support.lower)
    with np.errstate(over="ignore"):  # exp(-x) of the far end is infinite, as it should be
        return diagnosis.quantiles(of.cdf, even, support.lower - far, support.upper + far)


def text(of: Description) -> str:
    """The description as tables, every number with its unit."""
    lines = []
    for name in CLASSES:
        lines += [
            f"{of.projection}, {name} videos ({of.videos[name]} videos, {of.clips[name]:,} clips)",
            *_aligned([_HEADINGS, *(_cells(fit) for fit in of.families[name])]),
            "",
        ]
    lines.append(f"{of.projection}, difference of the classes")
    rows = [
        (one.measure, f"{one.value:.4g} {one.unit}", percent(one.p_value)) for one in of.differences
    ]
    lines += _aligned([("", "", "p, over videos"), *rows])
    return "\n".join(lines)


_HEADINGS: Final = (
    "family",
    "log likelihood",
    "CDE loss",
    "BIC",
    "PIT: KS distance (p)",
    "HPD: KS distance (p)",
    " and ".join(f"{level:.0%}" for level in LEVELS) + " regions hold",
    "fitted to all",
)


def _cells(fit: FamilyFit) -> tuple[str, ...]:
    per = "rank" if FAMILIES[fit.family].domain == "ranks" else "unit"
    if fit.coverage is None or fit.log_likelihood is None:
        held_out = ("-", "-", *([f"{fit.bic:.1f} nats"] if fit.bic is not None else ["-"]))
        return (fit.family, *held_out, "-", "-", "-", f"{fit.fitted}: {fit.trouble}")
    return (
        fit.family,
        f"{fit.log_likelihood:.3f} nats a clip",
        f"{fit.cde_loss:.4f} per {per}",
        f"{fit.bic:.1f} nats",
        _uniform(fit.pit),
        _uniform(fit.hpd),
        ", ".join(f"{share:.1%}" for share in fit.coverage),
        fit.fitted,
    )


def _uniform(of: Uniformity | None) -> str:
    if of is None:
        return "-"
    return f"{of.distance:.1%}" + ("" if of.p_value is None else f" ({percent(of.p_value)})")


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  " + "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
