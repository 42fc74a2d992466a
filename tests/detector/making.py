"""Small features with anomalies in them, as arrays and as stores, for tests of detectors."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from featurestore.catalog import NewVideo
from featurestore.schema import DONE, parts_of
from featurestore.store import create

MADE_BY = {
    "model": "r3d_18.k400",
    "weights": "RANDOM(seed=0)",
    "engine": "torch",
    "preprocessing": {"resize": [128, 171], "crop": 112},
    "versions": {"torch": "2.6"},
}
LABELS = [0, 1, 0, 0, 1, 1, 0, 1, 0, 0, 1, 0]


def clips(
    labels: list[int] = LABELS, channels: int = 24, crops: int = 3, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Clips (n, crops, channels) float32, each clip's video and its video's label.

    The middle third of each abnormal video lies apart.
    """
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(9).normal(size=(channels, channels)) / np.sqrt(channels)
    counts = rng.integers(4, 20, len(labels))
    values, videos = [], []
    for row, (count, label) in enumerate(zip(counts, labels, strict=True)):
        video = rng.normal(size=(count, channels)) + rng.normal(size=channels) * 0.3
        if label:
            video[count // 3 : 2 * count // 3 + 1, : channels // 4] += 3.0
        each = video[:, None] @ mixing + 0.1 * rng.normal(size=(count, crops, channels))
        values.append(each + 5)
        videos += [f"v{row:02d}"] * count
    flags = np.repeat(labels, counts)
    return np.concatenate(values).astype(np.float32), np.array(videos), flags


def dataset(
    values: np.ndarray,
    videos: np.ndarray,
    labels: np.ndarray,
    train: Mapping[str, int] | None = None,
    *,
    features: str = "r3d",
    status: np.ndarray | None = None,
) -> xr.Dataset:
    """The tables of a store with these clips. `train`: video -> 0, 1 or -1; all train if None."""
    names, firsts, rows = np.unique(videos, return_index=True, return_inverse=True)
    order = np.argsort(firsts)
    place = np.empty(len(names), int)
    place[order] = np.arange(len(names))
    split = [0 if train is None else train.get(str(name), -1) for name in names[order]]
    parts = parts_of(features)
    arrays: dict[str, Any] = {
        features: (("clip", "crop", f"channel_{values.shape[-1]}"), values, dict(MADE_BY)),
        "label": ("video", labels[np.sort(firsts)].astype(np.int8)),
        "state": ("video", ["ok"] * len(names)),
        "split": (("split_name", "video"), np.array([split], np.int8)),
    }
    for part in parts:
        done = np.full(len(videos), DONE, np.uint8)
        arrays[f"status_{part}"] = ("clip", done if status is None else status)
    coordinates = {
        "clip_video": ("clip", place[rows].astype(np.int32)),
        "video": ("video", names[order]),
        "split_name": ("split_name", ["weak"]),
    }
    return xr.Dataset(arrays, coordinates)


def store(
    url: Path, values: np.ndarray, videos: np.ndarray, *, block: int = 8, name: str = "timm_tiny"
) -> None:
    """A store on disk with these clips, without labels or splits; ten crops."""
    names, counts = np.unique(videos, return_counts=True)
    made = create(url, dataset="tiny", block=block)
    made.append([NewVideo(str(n), str(n), 16 * int(c)) for n, c in zip(names, counts, strict=True)])
    made.add_features(name, values.shape[-1], MADE_BY)
    made.commit()
    from featurestore.blocks import runs, write_clips

    for run in runs(np.arange(len(values)), block):
        write_clips(url, name, run.start, values[run.start : run.stop])
    made.mark(name, np.arange(len(values)), DONE)
    made.commit()
