"""The cross-fitted linear density ratio: one direction along which abnormal clips lie apart.

Clips of abnormal videos are mostly normal too, so those that look so count less and less: each
video is scored by a fit that has not seen it, and its clips are weighted by their rank. Fits
without a fold are sums of the other folds' moments, so a round is one pass over the rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.linalg import LinAlgError

from detector import shrinkage
from detector.errors import FitError
from detector.moments import Floats, Moments, merged, moments, nothing
from detector.rows import Rows, spans
from detector.smoothing import mean_ranks, ranks, smooth
from detector.videos import ABNORMAL, FOLDS, NORMAL, Videos

# Scores are smoothed before clips are ranked in their video; sigma in clips.
RANKING_SIGMA: Final = 1.0
ROUNDS: Final = 2

# Weight of the easiest normal clip when hard ones count more.
EASIEST: Final = 0.2


@dataclass(frozen=True)
class RatioSettings:
    """How a ratio is fitted.

    lambdas: amounts of shrinkage; the directions found with each are averaged.
    exponent: g of the weight (rank / T)^g of an abnormal video's clips.
    hard_negatives: one more fit in which normal clips count by how abnormal they look.
    """

    lambdas: tuple[float, ...]
    exponent: float
    hard_negatives: bool = False


@dataclass(frozen=True)
class Ratio:
    """A fitted ratio: the score of a row z (d,) is direction @ z - offset.

    `held_out` (n,) are scores of the training clips by the fits without their own fold, and
    `weights` (n,) what each clip counts in the final fit. `held_out` is None when a class has a
    single video, or no two clips of a class are left without a fold: nothing was re-weighted then.
    """

    direction: Floats
    offset: float
    weights: Floats
    held_out: Floats | None


def fit_ratio(rows: Rows, videos: Videos, settings: RatioSettings) -> Ratio:
    """Fits the ratio to the clips (n, d) of normal and abnormal videos.

    Raises FitError when a class has no video, or nothing tells them apart.
    """
    for label, name in ((NORMAL, "normal"), (ABNORMAL, "abnormal")):
        if not videos.count(label):
            raise FitError(f"There is no {name} video to train with; both kinds are needed")
    labels = videos.clip_labels
    weights = np.ones(videos.clips)
    groups = _groups(videos)
    parts = moments_of_groups(rows, weights, groups, range(2 * FOLDS))
    if min(videos.count(NORMAL), videos.count(ABNORMAL)) < 2 or _folds_too_small(groups):
        direction, offset = _fit(parts, settings.lambdas)
        return Ratio(direction, offset, weights, None)
    for _ in range(ROUNDS):
        held_out = score_held_out(rows, parts, groups, settings.lambdas)
        ranked = ranks(smooth(held_out, videos.bounds, RANKING_SIGMA), videos.bounds)
        weights = np.where(labels == ABNORMAL, ranked**settings.exponent, 1.0)
        changed = moments_of_groups(rows, weights, groups, range(FOLDS, 2 * FOLDS))
        parts = [*parts[:FOLDS], *changed[FOLDS:]]
    held_out = score_held_out(rows, parts, groups, settings.lambdas)
    if settings.hard_negatives:
        normal = labels == NORMAL
        distribution = mean_ranks(held_out[normal]) / normal.sum()
        weights[normal] = EASIEST + distribution**2
        changed = moments_of_groups(rows, weights, groups, range(FOLDS))
        parts = [*changed[:FOLDS], *parts[FOLDS:]]
        held_out = score_held_out(rows, parts, groups, settings.lambdas)
    direction, offset = _fit(parts, settings.lambdas)
    return Ratio(direction, offset, weights, held_out)


def direction_of(
    normal: Moments, abnormal: Moments, lambdas: Sequence[float]
) -> tuple[Floats, float]:
    """Direction (d,) and offset of the ratio of two Gaussians of one covariance.

    S = (S_n + S_u) / 2, shrunk by each lambda; w = S^-1 (m_u - m_n), scaled so that normal rows
    have unit variance along it; the mean over the lambdas. Normal rows score 0 on average.
    Raises FitError when the means are the same.
    """
    covariance = (normal.covariance + abnormal.covariance) / 2
    apart = abnormal.mean - normal.mean
    size = math.sqrt(float(np.trace(covariance)))
    # Rounding of float32 features; what chance does with a few clips is far larger.
    unit = max(size, float(np.linalg.norm(normal.mean)))
    if not np.linalg.norm(apart) > 1e-6 * unit:
        raise FitError(
            "Clips of normal and of abnormal training videos are the same on average: no "
            "direction tells them apart. Are the labels right?"
        )
    if size == 0:
        raise FitError(
            "All clips of normal training videos are the same, and so are all of abnormal ones: "
            "how much clips vary is unknown. More training videos are needed"
        )
    directions = []
    for amount in lambdas:
        try:
            found = shrinkage.solve(covariance, amount, apart)
        except LinAlgError as error:
            raise FitError(
                f"The covariance cannot be inverted with shrinkage {amount}; give a larger lambda"
            ) from error
        own = float(found @ normal.covariance @ found)
        # A few normal clips may not vary along it at all; then both classes' spread is the unit.
        both = float(found @ covariance @ found)
        directions.append(found / math.sqrt(max(own, 1e-6 * both)))
    direction = np.mean(directions, axis=0)
    return direction, float(direction @ normal.mean)


def moments_of_groups(
    rows: Rows, weights: Floats, groups: npt.NDArray[np.int64], wanted: Sequence[int]
) -> list[Moments]:
    """Weighted moments of each group's rows, in one pass; of those not `wanted`, of none.

    `groups` (n,) is a number from 0 to 2 FOLDS - 1: the fold of a normal clip, FOLDS plus the
    fold of an abnormal one.
    """
    found = [nothing(rows.shape[1]) for _ in range(2 * FOLDS)]
    for span in spans(rows.shape[0]):
        own = groups[span]
        present = [group for group in wanted if (own == group).any()]
        if not present:
            continue
        block, w = rows[span], weights[span]
        for group in present:
            its = own == group
            found[group] = found[group] + moments(block[its], w[its])
    return found


def score_held_out(
    rows: Rows,
    parts: Sequence[Moments],
    groups: npt.NDArray[np.int64],
    lambdas: Sequence[float],
) -> Floats:
    """Scores (n,) of all rows, each by the fit of the folds that it is not in."""
    width = rows.shape[1]
    directions, offsets = np.zeros((width, FOLDS)), np.zeros(FOLDS)
    folds = groups % FOLDS
    for fold in np.unique(folds):
        others = [nothing(width) if i % FOLDS == fold else part for i, part in enumerate(parts)]
        directions[:, fold], offsets[fold] = _fit(others, lambdas)
    found = np.empty(len(groups))
    for span in spans(len(groups)):
        scores = rows[span] @ directions - offsets
        found[span] = np.take_along_axis(scores, folds[span, None], axis=1)[:, 0]
    return found


def _fit(parts: Sequence[Moments], lambdas: Sequence[float]) -> tuple[Floats, float]:
    width = len(parts[0].mean)
    return direction_of(merged(parts[:FOLDS], width), merged(parts[FOLDS:], width), lambdas)


def _folds_too_small(groups: npt.NDArray[np.int64]) -> bool:
    """Whether a fit without some fold has one clip a class, so that their spread is unknown."""
    counts = np.bincount(groups, minlength=2 * FOLDS).reshape(2, FOLDS)
    left = counts.sum(axis=1, keepdims=True) - counts
    return bool((left[:, counts.any(axis=0)] < 2).all(axis=0).any())


def _groups(videos: Videos) -> npt.NDArray[np.int64]:
    group = videos.folds + np.where(videos.labels == ABNORMAL, FOLDS, 0)
    return np.repeat(group, np.diff(videos.bounds))
