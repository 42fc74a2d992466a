"""What a clip's score may take from the other clips of its own video, and from nothing else."""

from __future__ import annotations

from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter1d

from detector.moments import Floats

Bounds = npt.NDArray[np.int64]

# Standard deviations after which the Gaussian is cut.
CUT: Final = 4.0


def reach(sigma: float) -> int:
    """Clips on either side that a smoothed value takes part of."""
    return int(CUT * sigma + 0.5)


def smooth(values: Floats, bounds: Bounds, sigma: float) -> Floats:
    """Values (n,) or (n, d) smoothed along each video's clips by a Gaussian, sigma in clips.

    Beyond its ends a video goes on as its nearest clip. `bounds`: see Videos. 0 smooths nothing.
    """
    if sigma == 0:
        return values
    smoothed = np.empty_like(values, dtype=np.float64)
    for begin, end in pairwise(bounds):
        gaussian_filter1d(
            values[begin:end],
            sigma,
            axis=0,
            mode="nearest",
            truncate=CUT,
            output=smoothed[begin:end],
        )
    return smoothed


def ranks(values: Floats, bounds: Bounds) -> Floats:
    """Rank of each value (n,) among its video's, over the video's clips: the highest is 1.

    Equal values share the mean of their ranks.
    """
    found = np.empty(len(values))
    for begin, end in pairwise(bounds):
        found[begin:end] = mean_ranks(values[begin:end]) / (end - begin)
    return found


def mean_ranks(values: Floats) -> Floats:
    """Rank of each value (n,), from 1; equal ones share the mean of theirs."""
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    shared = np.cumsum(counts) - (counts - 1) / 2
    return np.asarray(shared[which], np.float64)


def highest(values: Floats, bounds: Bounds) -> Floats:
    """Mean of the highest fifth of each video's values (at least of one), (V,)."""
    found = np.empty(len(bounds) - 1)
    for row, (begin, end) in enumerate(pairwise(bounds)):
        share = -(-(end - begin) // 5)
        found[row] = np.sort(values[begin:end])[-share:].mean()
    return found


def maximum(values: Floats, bounds: Bounds) -> Floats:
    """Highest value of each video, (V,)."""
    return np.maximum.reduceat(values, bounds[:-1]) if len(bounds) > 1 else np.zeros(0)
