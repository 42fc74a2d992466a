"""ROC and precision-recall of scores against 0/1 labels, exactly.

Everything is computed from the counts at each distinct score, so equal scores are one step of a
curve, whatever order they come in: a pair of equal scores counts half a right one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from featurestore.errors import UsageError

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Counts:
    """Positives and negatives at each distinct score, scores falling; all of one shape (n,).

    `score` is float64; `positives` and `negatives` are int64, of which one is at least 1.
    """

    score: Floats
    positives: npt.NDArray[np.int64]
    negatives: npt.NDArray[np.int64]

    @property
    def defined(self) -> bool:
        """Whether there are both positives and negatives: without them nothing is measured."""
        return bool(self.positives.any() and self.negatives.any())


@dataclass(frozen=True)
class Roc:
    """Rates in [0, 1] when everything with at least `threshold` is an alarm; float64 (n + 1,).

    Begins at (0, 0), for a threshold of infinity, and ends at (1, 1).
    """

    threshold: Floats
    false_positive_rate: Floats
    true_positive_rate: Floats


def count(scores: npt.ArrayLike, labels: npt.ArrayLike) -> Counts:
    """Counts of finite `scores` with `labels` 0 or 1, both (n,). Raises UsageError otherwise."""
    score, label = np.asarray(scores, np.float64), np.asarray(labels)
    if score.ndim != 1 or score.shape != label.shape:
        raise UsageError(
            f"Scores and labels are one number each: got shapes {score.shape} and {label.shape}"
        )
    if not np.isfinite(score).all():
        raise UsageError("A score is NaN or infinite; leave those out before measuring")
    if not np.isin(label, (0, 1)).all():
        raise UsageError(f"Labels are 0 or 1; got {np.unique(label)[:5].tolist()}")
    distinct, place = np.unique(-score, return_inverse=True)
    positives = np.bincount(place[label == 1], minlength=len(distinct))
    everything = np.bincount(place, minlength=len(distinct))
    return Counts(-distinct, positives, everything - positives)


def roc(counts: Counts) -> Roc:
    """The ROC curve. Raises UsageError unless there are positives and negatives."""
    _check(counts)
    threshold = np.concatenate([[np.inf], counts.score])
    false = np.concatenate([[0], np.cumsum(counts.negatives)]) / counts.negatives.sum()
    true = np.concatenate([[0], np.cumsum(counts.positives)]) / counts.positives.sum()
    return Roc(threshold, false, true)


def auc(counts: Counts) -> float | None:
    """Area under the ROC curve in [0, 1]: the share of (positive, negative) pairs in right order.

    None where it is undefined: no positives, or no negatives.
    """
    if not counts.defined:
        return None
    # Twice the wins, in whole numbers: exact up to two thousand million frames of each kind.
    above = np.cumsum(counts.negatives) - counts.negatives
    below = counts.negatives.sum() - above - counts.negatives
    twice = int((counts.positives * (2 * below + counts.negatives)).sum())
    return twice / (2 * int(counts.positives.sum()) * int(counts.negatives.sum()))


def average_precision(counts: Counts) -> float | None:
    """Mean precision over the positives, in [0, 1]; without interpolation, as scikit-learn has it.

    None where it is undefined: no positives, or no negatives (it would be 1 for any scores).
    """
    if not counts.defined:
        return None
    true, all_ = np.cumsum(counts.positives), np.cumsum(counts.positives + counts.negatives)
    return float((counts.positives * (true / all_)).sum() / counts.positives.sum())


def equal_error_rate(counts: Counts) -> float | None:
    """The rate at which as many negatives are alarms as positives are missed, in [0, 1].

    Between two thresholds the ROC curve is taken as straight. None where it is undefined.
    """
    if not counts.defined:
        return None
    curve = roc(counts)
    false, missed = curve.false_positive_rate, 1 - curve.true_positive_rate
    after = int(np.argmax(false >= missed))  # the last point is (1, 1), so there is one
    before = after - 1  # the first point is (0, 0), so it is not that one
    gap = missed[before] - false[before]
    step = gap + (false[after] - missed[after])
    return float(false[before] + (false[after] - false[before]) * gap / step)


def _check(counts: Counts) -> None:
    if not counts.defined:
        raise UsageError("A ROC curve needs both anomalous and normal frames")
