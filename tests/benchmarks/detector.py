"""The detector out of core: peak memory, and speed over that of reading alone.

    python -m tests.benchmarks.detector [--clips 1000,10000,50000] [--videos 28,1000]
                                        [--detector density] [--folder DIR]

For each size it makes a store of fused features of 3072 channels and ten crops (123 kB a clip; 6 GB
for 50,000 clips, removed afterwards), half of its videos abnormal, all of them training. In a
process of its own it then fits and scores, and reads all chunks before and after, doing nothing
with them ("scan"; decompressed and checked, by the reader that the passes use).

Printed: peak memory of the process (to stay under 1.5 GB, whatever the number of clips); for each
pass its bytes/s over the scan's, the mean of both (to reach: 0.6); the same of processor time, all
threads together, which says more when others use the machine; and the time of what is not a pass:
eigenvectors, ratios, calibration. Nothing here fails; run it with nothing else running.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from featurestore.blocks import runs, write_clips
from featurestore.catalog import NewVideo
from featurestore.schema import DONE, FEATURES, block_clips
from featurestore.store import create

FUSED = "swin_i3d"
PARTS = FEATURES[FUSED].parts


def make(url: Path, clips: int, videos: int) -> None:
    """A store of features that vary along some hundred directions, a little along all."""
    block = block_clips(clips)
    store = create(url, dataset="benchmark", block=block)
    counts = np.full(videos, clips // videos)
    counts[: clips % videos] += 1
    store.append([NewVideo(f"v{i:05d}", "", 16 * int(n)) for i, n in enumerate(counts)])
    for name in PARTS:
        store.add_features(name, FEATURES[name].channels, {"weights": "RANDOM"})
    store.add_fused(FUSED)
    store.commit()
    rng = np.random.default_rng(0)
    for name in PARTS:
        width = FEATURES[name].channels
        mixing = rng.normal(size=(200, width)).astype(np.float32)
        noise = rng.normal(size=(block, 10, width)).astype(np.float32)
        for run in runs(np.arange(clips), block):
            each = rng.normal(size=(len(run), 200)).astype(np.float32) @ mixing
            write_clips(url, name, run.start, each[:, None] + noise[: len(run)])
    for name in PARTS:
        store.mark(name, slice(None), DONE)
    store.commit()


def measure(url: Path, name: str) -> dict[str, object]:
    """Fits and scores one store; what the process has cost."""
    import xarray as xr

    import detector
    from detector.dataset import StoreReader, array_of

    ds = xr.open_zarr(url, chunks=None)
    videos = ds.sizes["video"]
    ds = ds.assign(label=("video", (np.arange(videos) % 2).astype(np.int8)))
    reader = StoreReader(array_of(ds, FUSED), np.arange(ds.sizes["clip"]))
    scans = [scan(reader)]
    begun = time.perf_counter()
    fitted = detector.fit(ds, features=FUSED, detector=name, split=np.zeros(videos))
    assert isinstance(fitted, detector.Detector)
    scores = detector.score(ds, fitted)
    seconds = time.perf_counter() - begun
    scans.append(scan(reader))
    passes = [*fitted.fitted.passes, *scores.passes]
    wall, processor = np.mean(scans, axis=0)
    total = passes[0].bytes
    return {
        "scan": total / wall,
        "passes": [
            (its.name, wall / its.seconds, processor / its.processor_seconds) for its in passes
        ],
        "rest": seconds - sum(its.seconds for its in passes),
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def scan(reader: StoreReader) -> tuple[float, float]:  # type: ignore[name-defined] # noqa: F821
    """Seconds of reading every chunk once, by the clock and of the processor."""
    begun = time.perf_counter(), time.process_time()
    for block in reader.blocks:
        reader.load(block)
    return time.perf_counter() - begun[0], time.process_time() - begun[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", default="1000,10000,50000")
    parser.add_argument("--videos", default="28,1000")
    parser.add_argument("--detector", default="density")
    parser.add_argument("--folder", type=Path, help="where the stores are made")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.measure:
        print(json.dumps(measure(asked.measure, asked.detector)))
        return
    print(f"{'clips':>8}{'videos':>8}{'scan':>12}{'memory':>10}{'rest':>8}", end="")
    print("  bytes/s of each pass over the scan's (of processor time)")
    for clips in map(int, asked.clips.split(",")):
        for videos in map(int, asked.videos.split(",")):
            folder = Path(tempfile.mkdtemp(dir=asked.folder, prefix="benchmark-"))
            try:
                make(folder / "store.zarr", clips, videos)
                command = [sys.executable, "-m", "tests.benchmarks.detector"]
                command += ["--measure", str(folder / "store.zarr"), "--detector", asked.detector]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                found = json.loads(done.stdout)
            finally:
                shutil.rmtree(folder)
            each = [f"{name} {wall:.2f} ({its:.2f})" for name, wall, its in found["passes"]]
            print(f"{clips:>8}{videos:>8}{found['scan'] / 1e6:>7.0f} MB/s", end="")
            print(f"{found['memory'] / 1e6:>7.0f} MB{found['rest']:>6.1f} s  ", end="")
            print(", ".join(each), flush=True)


if __name__ == "__main__":
    main()
