"""From what each clip says alone to its score: what it takes from the rest of its own video.

A clip's raw values come from the fitted distributions. A context smooths them along the video and
adds what the video says as a whole: which video is abnormal, and where in it. It sees one video
at a time, so no score depends on which other videos are scored.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Protocol

import numpy as np

from detector.calibration import Logistic, fit_logistic
from detector.moments import Floats
from detector.smoothing import Bounds, highest, maximum, ranks, smooth
from detector.videos import ABNORMAL, NORMAL, Videos
from featurestore.errors import UsageError

# Clips were smoothed over time before the ratio of whole videos was fitted; sigma in clips.
VIDEO_SIGMA: Final = 1.0

# What the place in a video counts beside the video itself.
PLACE_WEIGHT: Final = 0.7

# Abnormal clips weigh (rank / T)^2 where clips are calibrated: most are normal.
PLACE_EXPONENT: Final = 2.0

AGGREGATES: Final = ("none", "max", "mean", "highest")


@dataclass(frozen=True)
class Judged:
    """Scores of n clips of V videos; the higher, the more abnormal.

    `score` (n,) = what the video says, the same for its clips, + `place` (n,), where in the
    video. `video` (V,) tells videos apart. `clip_probability` (n,) and `video_probability` (V,)
    are calibrated; None where nothing could be calibrated.
    """

    score: Floats
    place: Floats
    video: Floats
    clip_probability: Floats | None
    video_probability: Floats | None


class Context(Protocol):
    """How raw values (n, k) of videos' clips become scores."""

    def judge(self, raw: Floats, bounds: Bounds) -> Judged: ...


@dataclass(frozen=True)
class TwoRatios:
    """Of the default detector: columns 0, is the video abnormal, and 1, where.

    score = log sigmoid(a v + b) + 0.7 log sigmoid(c p + e): v is the mean of the highest fifth of
    column 0 smoothed, p is column 1 smoothed. Without calibration the plain sum v + 0.7 p.
    `smooth` is the sigma, in clips.
    """

    smooth: float
    video_curve: Logistic | None = None
    place_curve: Logistic | None = None

    def judge(self, raw: Floats, bounds: Bounds) -> Judged:
        """Scores of raw values (n, 2)."""
        return self.judge_smoothed(
            np.stack([smooth(raw[:, 0], bounds, VIDEO_SIGMA), raw[:, 1]], axis=1), bounds
        )

    def judge_smoothed(self, raw: Floats, bounds: Bounds) -> Judged:
        """The same where column 0 is of rows already smoothed, as in the fit."""
        video, place = self.values(raw, bounds)
        counts = np.diff(bounds)
        if self.video_curve is None or self.place_curve is None:
            at = PLACE_WEIGHT * place
            return Judged(np.repeat(video, counts) + at, at, video, None, None)
        at = PLACE_WEIGHT * self.place_curve.log_probability(place)
        probability = self.video_curve.probability(video)
        return Judged(
            np.repeat(self.video_curve.log_probability(video), counts) + at,
            at,
            video,
            np.repeat(probability, counts) * self.place_curve.probability(place),
            probability,
        )

    def values(self, raw: Floats, bounds: Bounds) -> tuple[Floats, Floats]:
        """v (V,) and p (n,) of raw values as in `judge_smoothed`."""
        smoothed = smooth(raw, bounds, self.smooth)
        return highest(smoothed[:, 0], bounds), smoothed[:, 1]

    def calibrated(self, held_out: Floats, videos: Videos) -> TwoRatios:
        """With curves fitted to held-out values (n, 2), of rows already smoothed."""
        video, place = self.values(held_out, videos.bounds)
        curves = video_curve(video, videos), place_curve(place, videos)
        # One without the other would put their sum off balance.
        return (
            self if None in curves else replace(self, video_curve=curves[0], place_curve=curves[1])
        )


@dataclass(frozen=True)
class OneTerm:
    """Of the other detectors, whose only column is smoothed (sigma in clips).

    `aggregate` is what of the video is added to each of its clips: none, max, mean, or highest,
    the mean of the highest fifth.
    """

    smooth: float
    aggregate: str
    video_curve: Logistic | None = None
    place_curve: Logistic | None = None

    def __post_init__(self) -> None:
        if self.aggregate not in AGGREGATES:
            raise UsageError(f"{self.aggregate!r} is no aggregate; give one of {AGGREGATES}")
        if not self.smooth >= 0:
            raise UsageError(f"smoothing is a number of clips, 0 or more; got {self.smooth}")

    def judge(self, raw: Floats, bounds: Bounds) -> Judged:
        """Scores of raw values (n, 1)."""
        place = smooth(raw[:, 0], bounds, self.smooth)
        score = place + np.repeat(self._added(place, bounds), np.diff(bounds))
        video = highest(place, bounds)
        return Judged(
            score,
            place,
            video,
            self.place_curve.probability(score) if self.place_curve else None,
            self.video_curve.probability(video) if self.video_curve else None,
        )

    def calibrated(self, held_out: Floats, videos: Videos) -> OneTerm:
        """With curves fitted to held-out raw values (n, 1)."""
        judged = self.judge(held_out, videos.bounds)
        return replace(
            self,
            video_curve=video_curve(judged.video, videos),
            place_curve=place_curve(judged.score, videos),
        )

    def _added(self, place: Floats, bounds: Bounds) -> Floats:
        if self.aggregate == "max":
            return maximum(place, bounds)
        if self.aggregate == "mean":
            return np.add.reduceat(place, bounds[:-1]) / np.diff(bounds)
        return highest(place, bounds) if self.aggregate == "highest" else np.zeros(len(bounds) - 1)


def video_curve(values: Floats, videos: Videos) -> Logistic | None:
    """Probability that a video is abnormal, from a value a video, (V,)."""
    return fit_logistic(values, videos.labels == ABNORMAL)


def place_curve(values: Floats, videos: Videos) -> Logistic | None:
    """Probability that a clip is anomalous, from values (n,), both kinds as likely beforehand."""
    abnormal = videos.clip_labels == ABNORMAL
    weights = np.where(abnormal, ranks(values, videos.bounds) ** PLACE_EXPONENT, 1.0)
    for label in (NORMAL, ABNORMAL):
        its = videos.clip_labels == label
        if its.any():
            weights[its] *= 0.5 * len(values) / weights[its].sum()
    return fit_logistic(values, abnormal, weights)
