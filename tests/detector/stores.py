"""A small store with ground truth and splits, in which anomalous clips can be told apart."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from featurestore.blocks import runs, write_clips
from featurestore.catalog import NewVideo
from featurestore.labels import ABNORMAL, NORMAL, Truth
from featurestore.schema import DONE
from featurestore.splits import TEST, TRAIN, Split
from featurestore.store import create

FRAMES = 16 * 5 + 7  # six clips, the last of which overlaps
QUICK: dict[str, Any] = {"resamples": 50}


def names(kind: str, count: int = 8) -> list[str]:
    return [f"{kind}{i}" for i in range(count)]


def make(
    url: Path,
    *,
    arrays: Sequence[str] = ("timm_a", "timm_b"),
    truth_of_tests: bool = True,
    weights: str = "sha256:0",
) -> Path:
    """Eight normal and eight abnormal videos; in abnormal ones clips 2 and 3 lie elsewhere.

    The first half of each trains in `weak`; in `official` only normal ones train.
    """
    rng = np.random.default_rng(0)
    everyone = [*names("n"), *names("u")]
    store = create(url, dataset="made", block=4)
    store.append([NewVideo(name, f"nowhere/{name}.avi", FRAMES) for name in everyone])
    for array in arrays:
        store.add_features(array, 12, {"model": array, "weights": weights, "engine": "torch"})
    store.commit()
    anomalous = np.tile(np.isin(np.arange(6), (2, 3)), 16) & np.repeat(np.arange(16) >= 8, 6)
    for array in arrays:
        values = rng.normal(size=(96, 10, 12)).astype(np.float32)
        values[anomalous, :, :3] += 1.5
        for clips in runs(np.arange(96), 4):
            write_clips(url, array, clips.start, values[clips.start : clips.stop])
        store.mark(array, slice(None), DONE)
    frames = np.zeros(FRAMES, np.int8)
    frames[32:64] = 1
    parts, labels, truths = {}, {}, []
    for row, name in enumerate(everyone):
        parts[name] = TRAIN if row % 8 < 4 else TEST
        label = ABNORMAL if row >= 8 else NORMAL
        labels[name] = label
        if parts[name] == TEST and not truth_of_tests:
            # Garbage: every test video is called abnormal, and its frames anomalous at random.
            truths.append(Truth(name, ABNORMAL, rng.integers(0, 2, FRAMES, np.int8), "garbage"))
        else:
            truths.append(Truth(name, label, frames * np.int8(label), "made"))
    store.set_truth(truths)
    store.set_split(Split("weak", parts, {}, "made"))
    official = {name: TRAIN if name in names("n", 4) else TEST for name in everyone}
    store.set_split(Split("official", official, {}, "made"))
    store.commit()
    return url
