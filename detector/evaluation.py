"""How good scores are: frame by frame, inside abnormal videos, video by video."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from detector import bootstrap
from detector.bootstrap import Interval
from detector.curves import (
    Counts,
    Floats,
    auc,
    average_precision,
    count,
    equal_error_rate,
)
from detector.scored import Scored
from detector.videos import ABNORMAL, NORMAL, UNKNOWN

# A calibrated score is an alarm from here on.
ALARM: Final = 0.5


@dataclass(frozen=True)
class Area:
    """AUC and average precision of some frames, in [0, 1], with their intervals.

    None where undefined: no anomalous frames, or no normal ones. An interval is None too where
    there are fewer than two videos of a kind.
    """

    auc: float | None
    auc_interval: Interval | None
    ap: float | None
    ap_interval: Interval | None


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found. Areas and rates are in [0, 1]; None: undefined.

    `inside` pools the frames of abnormal videos; `inside_mean` is the mean of their own AUCs, over
    `inside_mean_videos` of them: the AUC of a video that is anomalous throughout, or nowhere, is
    undefined. `perfect` has what is reached by 1 for every frame of an abnormal video and 0 for
    the others: how much of an AUC is only "which video". False alarms are calibrated scores of 0.5
    or more in normal videos: their share of frames, and the share of videos that have any.
    """

    frames: int  # measured: label and score are there
    anomalous_frames: int  # of those
    unknown_frames: int  # left out: no label
    unscored_frames: int  # left out: a label, but no score
    abnormal_videos: int
    normal_videos: int
    unknown_videos: int
    unscored_videos: int  # without a score of any frame
    overall: Area
    perfect: Area
    inside: Area
    inside_mean: float | None
    inside_mean_videos: int
    all_anomalous_videos: int
    no_anomalous_videos: int
    video_auc: float | None  # each video scored by its highest frame
    equal_error_rate: float | None
    false_alarms: float | None  # None, too: scores are not calibrated
    false_alarm_videos: float | None
    level: float  # of the intervals
    resamples: int

    @property
    def base_rate(self) -> float | None:
        """Share of anomalous frames: the average precision of guessing."""
        return self.anomalous_frames / self.frames if self.frames else None

    def json(self) -> dict[str, Any]:
        """Plain JSON."""
        return {**dataclasses.asdict(self), "base_rate": self.base_rate}


@dataclass(frozen=True)
class Spread:
    """A measure over several splits; `sd` is None for a single one."""

    mean: float
    sd: float | None
    splits: int


def evaluate(
    of: Scored, *, resamples: int = 2000, level: float = 0.95, seed: int = 0
) -> Evaluation:
    """Measures the test videos `of`; see `detector.scored.scored` for how to make it.

    Intervals hold the middle `level` of `resamples` bootstrap resamples over videos.
    """
    inside, normal = of.only(ABNORMAL), of.only(NORMAL)
    pooled = of.pooled()
    own = inside.counts()
    inside_aucs = [value for value in map(auc, own) if value is not None]
    highest = np.array([np.max(s[~np.isnan(s)], initial=-np.inf) for s in of.scores])
    told = (of.labels != UNKNOWN) & np.isfinite(highest)
    false_alarms, false_alarm_videos = _false_alarms(normal)
    settings = (resamples, level, seed)
    return Evaluation(
        frames=_frames(pooled),
        anomalous_frames=int(pooled.positives.sum()),
        unknown_frames=sum(int((y == UNKNOWN).sum()) for y in of.frame_labels),
        unscored_frames=sum(
            int((np.isnan(s) & (y != UNKNOWN)).sum())
            for s, y in zip(of.scores, of.frame_labels, strict=True)
        ),
        abnormal_videos=len(inside.names),
        normal_videos=len(normal.names),
        unknown_videos=int((of.labels == UNKNOWN).sum()),
        unscored_videos=int((~np.isfinite(highest)).sum()),
        overall=_area(of, *settings),
        perfect=_area(_by_label(of), *settings),
        inside=_area(inside, *settings),
        inside_mean=float(np.mean(inside_aucs)) if inside_aucs else None,
        inside_mean_videos=len(inside_aucs),
        all_anomalous_videos=sum(_frames(c) > 0 and not c.negatives.any() for c in own),
        no_anomalous_videos=sum(_frames(c) > 0 and not c.positives.any() for c in own),
        video_auc=auc(count(highest[told], of.labels[told])),
        equal_error_rate=equal_error_rate(pooled),
        false_alarms=false_alarms,
        false_alarm_videos=false_alarm_videos,
        level=level,
        resamples=resamples,
    )


def over_splits(measures: Sequence[float | None]) -> Spread | None:
    """Mean and standard deviation (of the sample) of one measure over several splits.

    Splits in which it is undefined are left out; None if it is so in all.
    """
    defined = [value for value in measures if value is not None]
    if not defined:
        return None
    sd = float(np.std(defined, ddof=1)) if len(defined) > 1 else None
    return Spread(float(np.mean(defined)), sd, len(defined))


def draws(
    labels: npt.NDArray[np.int8], each: Sequence[Counts], resamples: int, seed: int
) -> Floats | None:
    """Resamples of V videos of these labels (V,) that have these frames (see `bootstrap.draw`).

    Videos without a measured frame are in none of them: they would make the others fewer. None
    with fewer than two abnormal ones, or a single other one: they would not vary.
    """
    measured = np.array([_frames(counts) > 0 for counts in each], bool)
    abnormal = labels[measured] == ABNORMAL
    if abnormal.sum() < 2 or (~abnormal).sum() == 1:
        return None
    drawn = np.zeros((resamples, len(labels)))
    drawn[:, measured] = bootstrap.draw(abnormal, resamples, seed)
    return drawn


def _area(of: Scored, resamples: int, level: float, seed: int) -> Area:
    pooled = of.pooled()
    value, precision = auc(pooled), average_precision(pooled)
    each = of.counts()
    drawn = draws(of.labels, each, resamples, seed)
    if value is None or drawn is None:
        return Area(value, None, precision, None)
    return Area(
        value,
        bootstrap.interval(bootstrap.aucs(bootstrap.pairs(each), drawn), level),
        precision,
        bootstrap.interval(bootstrap.average_precisions(each, drawn), level),
    )


def _by_label(of: Scored) -> Scored:
    """Every frame of a video that has a label scored by it; the others keep no score."""
    return of.scored_by(
        [
            np.where(np.isnan(s) | (label == UNKNOWN), np.nan, float(label))
            for s, label in zip(of.scores, of.labels, strict=True)
        ]
    )


def _false_alarms(normal: Scored) -> tuple[float | None, float | None]:
    if normal.calibrated is None:
        return None, None
    videos = [p[~np.isnan(p)] for p in normal.calibrated if not np.isnan(p).all()]
    if not videos:
        return None, None
    alarms = [p >= ALARM for p in videos]
    return float(np.concatenate(alarms).mean()), float(np.mean([a.any() for a in alarms]))


def _frames(counts: Counts) -> int:
    return int((counts.positives + counts.negatives).sum())
