"""Whether one detector is better than another: paired, on the same frames and resamples."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from detector import bootstrap
from detector.bootstrap import Interval
from detector.curves import auc
from detector.evaluation import draws
from detector.scored import Scored
from detector.videos import ABNORMAL
from featurestore.errors import UsageError


@dataclass(frozen=True)
class Difference:
    """AUC of two detectors and b - a, in [-1, 1], with the interval of that difference."""

    auc_a: float
    auc_b: float
    difference: float
    interval: Interval | None


@dataclass(frozen=True)
class Comparison:
    """Over all frames that both have scores for, and over those of abnormal videos (or None).

    `remarks`: sentences for people.
    """

    frames: int
    overall: Difference
    inside: Difference | None
    level: float
    resamples: int
    remarks: tuple[str, ...] = ()

    def json(self) -> dict[str, Any]:
        """Plain JSON."""
        return dataclasses.asdict(self)


def compare(
    a: Scored, b: Scored, *, resamples: int = 2000, level: float = 0.95, seed: int = 0
) -> Comparison:
    """Measures two detectors on the frames that both score, each resample the same for both.

    Raises UsageError when their videos or ground truth differ, or nothing can be measured.
    """
    _check_same(a, b)
    missing = [np.isnan(s) | np.isnan(t) for s, t in zip(a.scores, b.scores, strict=True)]
    a, b = (
        one.scored_by(
            [np.where(gone, np.nan, s) for s, gone in zip(one.scores, missing, strict=True)]
        )
        for one in (a, b)
    )
    overall = _difference(a, b, resamples, level, seed)
    if overall is None:
        raise UsageError(
            "Two runs can be compared where there are both anomalous and normal frames that both "
            "have scores for; here there are not"
        )
    counts = a.pooled()
    return Comparison(
        frames=int((counts.positives + counts.negatives).sum()),
        overall=overall,
        inside=_difference(a.only(ABNORMAL), b.only(ABNORMAL), resamples, level, seed),
        level=level,
        resamples=resamples,
    )


def _difference(a: Scored, b: Scored, resamples: int, level: float, seed: int) -> Difference | None:
    auc_a, auc_b = auc(a.pooled()), auc(b.pooled())
    if auc_a is None or auc_b is None:
        return None
    each = a.counts(), b.counts()
    drawn = draws(a.labels, each[0], resamples, seed)
    if drawn is None:
        return Difference(auc_a, auc_b, auc_b - auc_a, None)
    of_a, of_b = (bootstrap.aucs(bootstrap.pairs(counts), drawn) for counts in each)
    return Difference(auc_a, auc_b, auc_b - auc_a, bootstrap.interval(of_b - of_a, level))


def _check_same(a: Scored, b: Scored) -> None:
    if a.names != b.names:
        differ = sorted(set(a.names) ^ set(b.names))
        raise UsageError(f"The two runs are of different videos; only one of them has {differ[:5]}")
    if not np.array_equal(a.labels, b.labels):
        raise UsageError("The two runs have different labels of the same videos")
    for name, y, other in zip(a.names, a.frame_labels, b.frame_labels, strict=True):
        if not np.array_equal(y, other):
            raise UsageError(f"{name}: the two runs have different ground truth of its frames")
