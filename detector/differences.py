"""Whether clips of abnormal videos are distributed otherwise than clips of normal ones.

Clips of a video are alike, so thousands of clips are no thousands of proofs. The p-values come
from giving the labels to other videos: every measure is computed anew with the videos' labels
permuted, clips staying with their video. All measures come from sums over videos, so a thousand
permutations are a few matrix products.

Values must not have been fitted on these labels: a direction that was found to part the two
classes parts them. Cross-fitted scores are what to give.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from detector import divergences
from detector.curves import Floats
from featurestore.errors import UsageError

# The kernel of every pair of clips: 5,000 of them are 0.2 GB once and some seconds.
_MMD_CLIPS: Final = 5000
_CELLS: Final = 4_000_000
# Measures of two labelings that are the same but for rounding count as equal.
_ROUNDING: Final = 1e-12


@dataclass(frozen=True)
class Difference:
    """One measure: its value in `unit`, and the share of permutations that reach it."""

    measure: str
    value: float
    unit: str
    p_value: float

    def json(self) -> dict[str, Any]:
        """Plain JSON."""
        return dataclasses.asdict(self)


def differences(
    values: npt.ArrayLike,
    videos: npt.ArrayLike,
    abnormal: npt.ArrayLike,
    *,
    permutations: int = 999,
    seed: int = 0,
) -> list[Difference]:
    """All measures of the difference between clips of abnormal and of normal videos.

    `values` (clips,), float; `videos` (clips,): the number of each one's video, 0 to V - 1;
    `abnormal` (V,): bool. Kullback-Leibler, Jensen-Shannon and Bhattacharyya are of histograms
    whose bins hold equally many clips of both classes together, half a clip added to each: so
    they do not depend on the scale of the values, and few clips give a little too much. MMD takes
    a Gaussian kernel as wide as the median distance of two clips, and of sets of more than 5,000
    clips evenly spaced ones.

    Where there are no more ways to give the labels than `permutations`, all are tried.
    Raises UsageError unless there are videos of both classes, two or more clips each.
    """
    value, video, label = _check(values, videos, abnormal)
    labelings = _labelings(label, permutations, seed)
    found = {
        **_of_histograms(value, video, labelings),
        "Wasserstein distance": (_wassersteins(value, video, labelings), "unit of the values"),
        "MMD squared": (_mmds(value, video, labelings), "of at most 2"),
    }
    return [
        # The first labeling is the true one, and counts: a p-value is never 0.
        Difference(name, float(each[0]), unit, float(np.mean(each >= each[0] - _ROUNDING)))
        for name, (each, unit) in found.items()
    ]


def _check(
    values: npt.ArrayLike, videos: npt.ArrayLike, abnormal: npt.ArrayLike
) -> tuple[Floats, npt.NDArray[np.intp], npt.NDArray[np.bool_]]:
    value, video = np.asarray(values, np.float64), np.asarray(videos)
    label = np.asarray(abnormal, bool)
    if value.ndim != 1 or value.shape != video.shape or label.ndim != 1:
        raise UsageError(
            f"One value and one video a clip, one label a video; got shapes {value.shape}, "
            f"{video.shape}, {label.shape}"
        )
    if not np.isfinite(value).all():
        raise UsageError("A value is NaN or infinite; leave out clips without a value")
    if len(video) and not 0 <= video.min() <= video.max() < len(label):
        raise UsageError(f"Clips are of videos {video.min()} to {video.max()}, not of {len(label)}")
    # Videos without clips have nothing to say, and would be dealt labels all the same.
    present = np.unique(video)
    video, label = np.searchsorted(present, video), label[present]
    for name, of_class in (("abnormal", label), ("normal", ~label)):
        if np.isin(video, np.flatnonzero(of_class)).sum() < 2:
            raise UsageError(f"Differences need two or more clips of {name} videos")
    return value, video.astype(np.intp), label


def _labelings(label: npt.NDArray[np.bool_], permutations: int, seed: int) -> Floats:
    """The true labeling, then others: 0 or 1, float64 (labelings, V)."""
    chosen = int(label.sum())
    if math.comb(len(label), chosen) <= permutations + 1:
        every = [np.array(c, int) for c in itertools.combinations(range(len(label)), chosen)]
        others = np.zeros((len(every), len(label)))
        for row, members in enumerate(every):
            others[row, members] = 1
        others = others[(others != label).any(axis=1)]
    else:
        generator = np.random.default_rng(seed)
        others = generator.permuted(np.tile(label.astype(float), (permutations, 1)), axis=1)
    return np.vstack([label.astype(float), others])


def _of_histograms(
    value: Floats, video: npt.NDArray[np.intp], labelings: Floats
) -> dict[str, tuple[Floats, str]]:
    bins = max(4, round(2 * len(value) ** (1 / 3)))
    edges = np.unique(np.quantile(value, np.linspace(0, 1, bins + 1)[1:-1]))
    bin_ = np.searchsorted(edges, value, "right")
    counts = np.zeros((labelings.shape[1], len(edges) + 1))
    np.add.at(counts, (video, bin_), 1)
    p, q = labelings @ counts + 0.5, (1 - labelings) @ counts + 0.5
    p, q = p / p.sum(axis=1, keepdims=True), q / q.sum(axis=1, keepdims=True)
    return {
        "KL of abnormal from normal": (divergences.kl(p, q), "nats"),
        "KL of normal from abnormal": (divergences.kl(q, p), "nats"),
        "Jensen-Shannon divergence": (divergences.jensen_shannon(p, q), "nats"),
        "Bhattacharyya distance": (divergences.bhattacharyya(p, q), "nats"),
    }


def _wassersteins(value: Floats, video: npt.NDArray[np.intp], labelings: Floats) -> Floats:
    clips = np.bincount(video, minlength=labelings.shape[1])
    per_abnormal = labelings / (labelings @ clips)[:, None]
    per_normal = (1 - labelings) / ((1 - labelings) @ clips)[:, None]
    signed = per_abnormal - per_normal
    sorted_of = [np.sort(value[video == v]) for v in range(len(clips))]
    at = np.unique(value)
    width = np.diff(at)
    found = np.zeros(len(labelings))
    step = max(1, _CELLS // len(labelings))
    for start in range(0, len(width), step):
        part = slice(start, min(start + step, len(width)))
        below = np.stack([np.searchsorted(own, at[part], "right") for own in sorted_of])
        found += np.abs(signed @ below) @ width[part]
    return found


def _mmds(value: Floats, video: npt.NDArray[np.intp], labelings: Floats) -> Floats:
    if len(value) > _MMD_CLIPS:
        order = np.argsort(video, kind="stable")
        kept = order[np.linspace(0, len(order) - 1, _MMD_CLIPS).astype(int)]
        value, video = value[kept], video[kept]
    clips = np.bincount(video, minlength=labelings.shape[1])
    x = value[:, None]
    width = _median_distance(value)
    member = np.zeros((len(value), len(clips)))
    member[np.arange(len(value)), video] = 1
    kernel = divergences.gaussian_kernel(x, x, width) if width > 0 else np.ones((len(x), len(x)))
    sums = member.T @ (kernel @ member)
    within = []
    for labeling in (labelings, 1 - labelings):
        n = labeling @ clips
        pairs = np.maximum(n * (n - 1), 1)  # of a single clip there is no pair, and no sum either
        within.append((((labeling @ sums) * labeling).sum(axis=1) - n) / pairs)
    n, m = labelings @ clips, (1 - labelings) @ clips
    across = ((labelings @ sums) * (1 - labelings)).sum(axis=1) / (n * m)
    found: Floats = within[0] + within[1] - 2 * across
    return found


def _median_distance(value: Floats) -> float:
    """Median distance of two clips; of those that differ, if most do not."""
    some = value[np.linspace(0, len(value) - 1, min(len(value), 1000)).astype(int)]
    distances = np.abs(some[:, None] - some)[np.triu_indices(len(some), 1)]
    differing = distances[distances > 0]
    median = float(np.median(distances))
    return median if median > 0 or not len(differing) else float(np.median(differing))
