"""How much a measure would differ with other videos: bootstrap over whole videos.

Frames of one video are alike, so videos are drawn, not frames: with replacement, and as many
abnormal and as many other ones as there are. A resample is a row of multiplicities: how often each
video is in it. Counts of a resample are then sums of the videos' counts, and thousands of
resamples of any number of frames are a few matrix products; all of it is exact, ties included.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from detector.curves import Counts, Floats
from featurestore.errors import UsageError

Interval = tuple[float, float]

# A table of resamples by scores is worked on in pieces of so many numbers (32 MB).
_CELLS = 4_000_000
# Thresholds at which the curves of `roc_band` are known; between them they are straight.
_THRESHOLDS = 2000


@dataclass(frozen=True)
class Pairs:
    """What the AUC of any resample needs; float64, V videos.

    `wins` (V, V): pairs of a positive of the first and a negative of the second video that are in
    right order, a tie counting half. `positives`, `negatives` (V,): how many each video has.
    """

    wins: Floats
    positives: Floats
    negatives: Floats


def draw(strata: npt.ArrayLike, resamples: int, seed: int = 0) -> Floats:
    """Multiplicities, float64 (resamples, V), of V videos; `strata` (V,) says which are of a kind.

    Each row has as many videos of each kind as there are. Depends on the order of the videos.
    """
    kind = np.asarray(strata)
    generator = np.random.default_rng(seed)
    drawn = np.zeros((resamples, len(kind)))
    for value in np.unique(kind):
        members = np.flatnonzero(kind == value)
        even = np.full(len(members), 1 / len(members))
        drawn[:, members] = generator.multinomial(len(members), even, size=resamples)
    return drawn


def pairs(videos: Sequence[Counts]) -> Pairs:
    """The pairs of V videos from the counts of each one's frames; a video may have none."""
    owner = np.repeat(np.arange(len(videos)), [len(counts.score) for counts in videos])
    score = _joined([counts.score for counts in videos])
    weight = _joined([counts.positives for counts in videos])
    some = weight > 0
    owner, score, weight = owner[some], score[some], weight[some]
    wins = np.zeros((len(videos), len(videos)))
    for video, counts in enumerate(videos):
        rising = counts.score[::-1]
        cumulated = np.concatenate([[0], np.cumsum(counts.negatives[::-1])])
        below = cumulated[np.searchsorted(rising, score, "left")]
        upto = cumulated[np.searchsorted(rising, score, "right")]
        wins[:, video] = np.bincount(owner, weight * (below + upto) / 2, len(videos))
    return Pairs(wins, *_totals(videos))


def aucs(of: Pairs, drawn: Floats) -> Floats:
    """AUC of each resample, float64 (resamples,); NaN where it lacks positives or negatives."""
    numerator = ((drawn @ of.wins) * drawn).sum(axis=1)
    denominator = (drawn @ of.positives) * (drawn @ of.negatives)
    return _ratio(numerator, denominator)


def average_precisions(videos: Sequence[Counts], drawn: Floats) -> Floats:
    """Average precision of each resample, float64 (resamples,); NaN where it is undefined."""
    positives, negatives = _totals(videos)
    # Precision counts at the positives, so their scores are all that matter.
    scores = [counts.score[counts.positives > 0] for counts in videos]
    thresholds = np.unique(_joined(scores))[::-1]
    summed = np.zeros(len(drawn))
    before = np.zeros((len(drawn), 1))
    step = max(1, _CELLS // max(len(drawn), len(videos)))
    for start in range(0, len(thresholds), step):
        true, false = _reached(videos, thresholds[start : start + step])
        hits, alarms = drawn @ true, drawn @ (true + false)
        precision = np.divide(hits, alarms, out=np.zeros_like(hits), where=alarms > 0)
        summed += (np.diff(hits, prepend=before, axis=1) * precision).sum(axis=1)
        before = hits[:, -1:]
    return _ratio(summed, np.where(drawn @ negatives > 0, drawn @ positives, 0.0))


def roc_band(
    videos: Sequence[Counts], drawn: Floats, at: Floats, level: float = 0.95
) -> tuple[Floats, Floats]:
    """Interval of the true positive rate at each false positive rate of `at`, both rising (n,).

    Pointwise, over the resamples that have positives and negatives, each curve known at up to
    2000 thresholds and straight between them. Raises UsageError if no resample has both.
    """
    positives, negatives = _totals(videos)
    drawn = drawn[(drawn @ positives > 0) & (drawn @ negatives > 0)]
    if not len(drawn):
        raise UsageError("A ROC curve needs both anomalous and normal frames")
    distinct = np.unique(_joined([counts.score for counts in videos]))[::-1]
    chosen = np.linspace(0, len(distinct) - 1, min(_THRESHOLDS, len(distinct))).astype(int)
    true, false = _reached(videos, distinct[chosen])
    heights = np.empty((len(drawn), len(at)))
    step = max(1, _CELLS // len(chosen))
    for start in range(0, len(drawn), step):
        rows = drawn[start : start + step]
        x = np.pad((rows @ false) / (rows @ negatives)[:, None], ((0, 0), (1, 0)))
        y = np.pad((rows @ true) / (rows @ positives)[:, None], ((0, 0), (1, 0)))
        for row in range(len(rows)):
            # Where the curve is vertical its upper end counts.
            last = np.append(np.diff(x[row]) > 0, True)
            heights[start + row] = np.interp(at, x[row][last], y[row][last])
    low, high = np.quantile(heights, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, high


def interval(values: Floats, level: float = 0.95) -> Interval | None:
    """The middle `level` of the resamples' values. None if fewer than half are defined."""
    defined = values[np.isfinite(values)]
    if not len(values) or 2 * len(defined) < len(values):
        return None
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _reached(videos: Sequence[Counts], thresholds: Floats) -> tuple[Floats, Floats]:
    """Positives and negatives of each video with at least each threshold, (V, thresholds) each."""
    true = np.zeros((len(videos), len(thresholds)))
    false = np.zeros_like(true)
    for video, counts in enumerate(videos):
        reached = np.searchsorted(-counts.score, -thresholds, "right")
        true[video] = np.concatenate([[0], np.cumsum(counts.positives)])[reached]
        false[video] = np.concatenate([[0], np.cumsum(counts.negatives)])[reached]
    return true, false


def _totals(videos: Sequence[Counts]) -> tuple[Floats, Floats]:
    return (
        np.array([counts.positives.sum() for counts in videos], np.float64),
        np.array([counts.negatives.sum() for counts in videos], np.float64),
    )


def _joined(arrays: Sequence[npt.NDArray[np.float64] | npt.NDArray[np.int64]]) -> Floats:
    return np.concatenate([np.zeros(0), *arrays])


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    found: Floats = np.full(len(numerator), np.nan)
    np.divide(numerator, denominator, out=found, where=denominator > 0)
    return found
