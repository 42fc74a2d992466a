"""Scores to probabilities: a logistic curve, fitted to scores held out of the fit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import special

from detector.moments import Floats

_ROUNDS: Final = 100


@dataclass(frozen=True)
class Logistic:
    """P = sigmoid(slope * score + intercept)."""

    slope: float
    intercept: float

    def log_probability(self, scores: npt.ArrayLike) -> Floats:
        """log P, never NaN."""
        found: Floats = special.log_expit(self.slope * np.asarray(scores) + self.intercept)
        return found

    def probability(self, scores: npt.ArrayLike) -> Floats:
        """P in [0, 1]."""
        found: Floats = special.expit(self.slope * np.asarray(scores) + self.intercept)
        return found


def fit_logistic(
    scores: Floats, positive: npt.NDArray[np.bool_], weights: Floats | None = None
) -> Logistic | None:
    """The logistic curve through scores (n,) of two classes, most likely with weights (n,).

    Targets are not 0 and 1 but Platt's (1999), which stand for one more score of the other class:
    else perfectly separated scores would have a curve of infinite slope. None where there is
    nothing to calibrate: the scores do not rise from the negative to the positive class.
    """
    w = np.ones(len(scores)) if weights is None else weights
    ones, zeros = int(positive.sum()), int((~positive).sum())
    spread = float(scores.std())
    if not ones or not zeros or not spread > 0:
        return None
    middle = float(scores.mean())
    x = np.stack([(scores - middle) / spread, np.ones(len(scores))], axis=1)
    target = np.where(positive, (ones + 1) / (ones + 2), 1 / (zeros + 2))
    curve = np.zeros(2)
    loss = _loss(curve, x, target, w)
    for _ in range(_ROUNDS):
        p = special.expit(x @ curve)
        gradient = x.T @ (w * (p - target))
        hessian = (x * (w * p * (1 - p))[:, None]).T @ x
        hessian += 1e-12 * np.trace(hessian) * np.eye(2)
        step = np.linalg.solve(hessian, gradient)
        # Newton, halved until it gets better: from afar a whole step can go too far.
        for halving in range(30):
            trial = curve - step / 2**halving
            trial_loss = _loss(trial, x, target, w)
            if trial_loss <= loss:
                break
        curve, loss = trial, trial_loss
        if np.abs(step).max() < 1e-10:
            break
    if not curve[0] > 0:
        return None
    return Logistic(float(curve[0] / spread), float(curve[1] - curve[0] * middle / spread))


def _loss(curve: Floats, x: Floats, target: Floats, w: Floats) -> float:
    u = x @ curve
    return -float(w @ (target * special.log_expit(u) + (1 - target) * special.log_expit(-u)))
