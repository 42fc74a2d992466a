"""What a catalog of very many videos costs: seconds and peak memory of each step.

    python -m tests.benchmarks.catalog [--videos 1000000] [--clips 100] [--folder DIR]

Builds a catalog of that many videos, of `--clips` clips on average, and writes it with the tables
of clips, labels, a split and the metadata of the nine arrays (no features: those are a worker's);
opens it; plans the blocks of one network; finds one video's clips. Each step is a process of its
own, so that its peak of memory is its own. To reach for a million videos and 100 million clips:
under 60 s and 1 GB for all, opening under 1 s. Nothing here fails.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from featurestore import disk
from featurestore.catalog import NewVideo
from featurestore.labels import ABNORMAL, NORMAL, Truth
from featurestore.schema import BACKBONES, FEATURES, FUSED, block_clips
from featurestore.splits import TEST, TRAIN, Split
from featurestore.store import create, open_store

BATCH = 50_000  # videos taken up at a time


def lengths(videos: int, clips: int) -> np.ndarray:
    """Frames of each video: a few clips to twice the average, the last one not whole."""
    return np.random.default_rng(0).integers(1, 2 * 16 * clips, videos)


def name(number: int) -> str:
    return f"camera{number % 997:03d}/2024-{number:07d}"


def build(url: Path, videos: int, clips: int) -> str:
    frames = lengths(videos, clips)
    store = create(url, dataset="many", block=block_clips(videos * clips))
    for backbone in BACKBONES:
        store.add_features(backbone, FEATURES[backbone].channels, {"weights": "none"})
    for fused in FUSED:
        store.add_fused(fused)
    parts = {}
    for first in range(0, videos, BATCH):
        names = {n: name(n) for n in range(first, min(first + BATCH, videos))}
        store.append(
            [NewVideo(v, f"{v}.mp4", int(frames[n]), 25.0, 640, 360) for n, v in names.items()]
        )
        store.set_truth(
            Truth(v, ABNORMAL if n % 10 == 0 else NORMAL, None, "none") for n, v in names.items()
        )
        parts |= {v: TEST if n % 5 == 0 else TRAIN for n, v in names.items()}
    store.set_split(Split("many", parts, {}, "none"))
    store.commit()
    return f"{store.clips:,} clips, {disk.stored_bytes(url) / 1e6:,.0f} MB on disk"


def open_it(url: Path, videos: int, clips: int) -> str:
    return repr(open_store(url)).partition(": ")[2].rstrip(">")


def open_with_xarray(url: Path, videos: int, clips: int) -> str:
    import xarray as xr

    sizes = xr.open_zarr(url, chunks=None).sizes
    return f"{sizes['clip']:,} clips, {sizes['frame']:,} frames"


def open_for_writing(url: Path, videos: int, clips: int) -> str:
    return repr(open_store(url, "a")).partition(": ")[2].rstrip(">")


def plan(url: Path, videos: int, clips: int) -> str:
    store = open_store(url)
    blocks = planned = 0
    for run in store.missing("r3d"):
        blocks += 1
        planned += len(run)
    return f"{blocks:,} blocks, {planned:,} clips"


def find(url: Path, videos: int, clips: int) -> str:
    video = open_store(url).video(name(videos // 2))
    return f"{video.name}: clips {video.clips.start:,} to {video.clips.stop - 1:,}"


STEPS: dict[str, Callable[[Path, int, int], str]] = {
    "build and write": build,
    "open": open_it,
    "open with xarray": open_with_xarray,
    "open for writing": open_for_writing,
    "plan the blocks": plan,
    "find one video": find,
}


def measured(step: str, url: Path, videos: int, clips: int, out: Connection) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began, cpu = time.perf_counter(), time.process_time()
    said = STEPS[step](url, videos, clips)
    seconds = time.perf_counter() - began, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    out.send((*seconds, peak / 1024, before / 1024, said))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--videos", type=int, default=1_000_000)
    parser.add_argument("--clips", type=int, default=100, help="a video, on average")
    parser.add_argument("--folder", type=Path, help="where to write  [a temporary one]")
    options = parser.parse_args()
    total, most = 0.0, 0.0
    print(f"{'step':<18}{'seconds':>9}{'of CPU':>9}{'peak MB':>9}")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        context = multiprocessing.get_context("spawn")
        for step in STEPS:
            here, there = context.Pipe(duplex=False)
            url = Path(folder) / "many.zarr"
            words = (step, url, options.videos, options.clips, there)
            process = context.Process(target=measured, args=words)
            process.start()
            there.close()
            seconds, cpu, peak, _, said = here.recv()
            process.join()
            total, most = total + seconds, max(most, peak)
            print(f"{step:<18}{seconds:>9.2f}{cpu:>9.2f}{peak:>9.0f}   {said}", flush=True)
    print(f"{'all':<18}{total:>9.2f}{'':>9}{most:>9.0f}")


if __name__ == "__main__":
    main()
