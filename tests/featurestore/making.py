"""Small stores for tests: videos, features that tell their clip, and reading as anybody does."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from featurestore.blocks import runs, write_clips
from featurestore.catalog import NewVideo
from featurestore.schema import BACKBONES, DONE, FEATURES, FUSED, block_clips, parts_of
from featurestore.store import Store, create

MADE_BY = {"weights": "RANDOM(seed=0)", "engine": "torch", "versions": {"torch": "2.6"}}


def video(name: str, clips: int, **columns: Any) -> NewVideo:
    """A video of so many clips, the last of which overlaps the one before."""
    return NewVideo(name, f"data/{name}.avi", frames=max(16 * clips - 5, 0), fps=25.0, **columns)


def features(name: str, clips: Sequence[int], channels: int | None = None) -> npt.NDArray[Any]:
    """Features that no other clip, crop, channel or backbone has: float32 (clips, 10, channels)."""
    channels = channels or FEATURES[name].channels
    within = np.arange(10 * channels, dtype=np.float32).reshape(10, channels)
    of_name = np.float32(sum(name.encode()) % 97)
    return np.stack([within + np.float32(10 * channels * clip) + of_name for clip in clips])


def write(store: Store, name: str, clips: Sequence[int] | range, *, mark: bool = True) -> None:
    """What a worker and then the driver do for these clips."""
    for run in runs(np.asarray(clips), store.block):
        write_clips(store.url, name, run.start, features(name, run))
    if mark:
        store.mark(name, np.asarray(clips), DONE)


def make(url: Path | str, clips: Sequence[int] = (3, 2, 5), *, names: Sequence[str] = (),
         fused: Any = "auto", block: int | None = None) -> Store:  # fmt: skip
    """A store of videos v0, v1, ... with these numbers of clips and arrays, nothing computed."""
    store = create(url, dataset="ped2", block=block or block_clips(sum(clips)), fused=fused)
    store.append([video(f"v{index}", count) for index, count in enumerate(clips)])
    for name in names or (*BACKBONES, *FUSED):
        if name in FUSED:
            store.add_fused(name)
        else:
            store.add_features(name, FEATURES[name].channels, MADE_BY)
    store.commit()
    return store


def expected(name: str, clips: int, done: Sequence[int] | range) -> npt.NDArray[Any]:
    """What an array holds when these of its clips are done."""
    parts = parts_of(name)
    whole = np.full((clips, 10, FEATURES[name].channels), np.nan, np.float32)
    if len(done):
        whole[list(done)] = np.concatenate([features(part, done) for part in parts], axis=2)
    return whole


def read(url: Path | str) -> xr.Dataset:
    """The store as somebody reads it who has none of our code."""
    dataset: xr.Dataset = xr.open_zarr(url, chunks=None).load()
    return dataset


def stored(store: Store, name: str, array: str = "imported_rtfm") -> npt.NDArray[np.float32]:
    """The features of one video."""
    return store.features(array, store.video(name).clips)
