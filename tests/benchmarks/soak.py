"""Thousands of short videos in one run: does anything grow, get lost, or slow down?

    python -m tests.benchmarks.soak [--videos 2000] [--clips 2] [--workers 2] [--minutes 60]
        [--every 5] [--backbone timm:test_vit.r160_in1k]

Writes the videos, starts `dask scheduler`, `dask worker`s and `fs-submit extract` as a user would,
and looks every few seconds at the memory and the open file handles of each (with its child
processes) and at the clips that the store calls done. At its end: medians of the first and of the
last quarter of the time in which clips were finished, and their ratio; and every clip of the store
is read. Exit code 1 if one is lost: not done, not finite, or constant. After `--minutes` the
command is interrupted, as by Ctrl-C; then only what it called done is looked at.

Weights are random: they cost the same. Speed means something only with nothing else running.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from featurestore.clips import CLIP_FRAMES
from featurestore.schema import DONE
from featurestore.store import Store, open_store
from jobs import processor
from jobs.specs import spec_of
from tests.jobs.video.painted import paint, write_video

SIZE = (96, 64)
QUICK = {"preset": "ultrafast", "threads": "1"}  # of the encoder
CHECKOUT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Sample:
    """One look: seconds since the start, clips done, and MB and handles by role."""

    seconds: float
    clips: int
    memory: dict[str, float]
    handles: dict[str, int]


def write_videos(folder: Path, count: int, clips: int) -> None:
    """Each begins at another picture, so that no two have the same digest."""
    folder.mkdir()
    for i in range(count):
        first = i * clips * CLIP_FRAMES
        pictures = (paint((first + n) % 2**16, *SIZE) for n in range(clips * CLIP_FRAMES))
        write_video(folder / f"{i:05d}.mp4", pictures, size=SIZE, options=QUICK)


def start(folder: Path, asked: argparse.Namespace) -> dict[str, subprocess.Popen[bytes]]:
    """Scheduler, workers and driver, by role; what they say goes to ``folder/<role>.log``."""
    address = f"tcp://127.0.0.1:{free_port()}"
    dask = [sys.executable, "-m", "dask"]
    words: dict[str, list[str]] = {
        "scheduler": [*dask, "scheduler", "--host", address, "--dashboard-address", "127.0.0.1:0"]
    }
    threads = max(1, processor.cores() // asked.workers)
    for i in range(asked.workers):
        words[f"worker {i + 1}"] = [
            *dask, "worker", address, "--nthreads", str(threads), "--no-dashboard",
        ]  # fmt: skip
    words["driver"] = [
        sys.executable, "-m", "jobs.cli", "extract", "--dataset", "folder",
        "--root", str(folder / "videos"), "--store", str(folder), "--name", "soak",
        "--weights", "random", "--backbones", asked.backbone, "--cluster", address,
    ]  # fmt: skip
    env = {**os.environ, "PYTHONPATH": str(CHECKOUT), "PYTHONUNBUFFERED": "1"}
    started = {}
    for role, command in words.items():
        with (folder / f"{role.replace(' ', '_')}.log").open("wb") as log:
            started[role] = subprocess.Popen(
                command, cwd=folder, env=env, stdout=log, stderr=log, start_new_session=True
            )
    return started


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def look(pid: int) -> tuple[float, int]:
    """(MB resident, open file handles) of a process and its children; zeros when it has ended."""
    memory, handles = 0.0, 0
    try:
        root = psutil.Process(pid)
        for process in [root, *root.children(recursive=True)]:
            with process.oneshot():
                memory += process.memory_info().rss / 1e6
                handles += process.num_fds()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0.0, 0  # it, or a child, ended while it was looked at
    return memory, handles


def done(store: Store, array: str) -> int:
    return int(np.count_nonzero(store.status(array) == DONE))


def clips_done(path: Path, array: str) -> int:
    """Clips that the store calls done; 0 while there is no store or no array yet."""
    if not (path / "zarr.json").is_file():
        return 0
    store = open_store(str(path))
    return done(store, array) if array in store.backbones else 0


def watch(
    folder: Path,
    processes: dict[str, subprocess.Popen[bytes]],
    array: str,
    asked: argparse.Namespace,
) -> list[Sample]:
    """Looks until the driver ends, which is interrupted after ``--minutes``."""
    samples: list[Sample] = []
    driver, began, interrupted = processes["driver"], time.monotonic(), False
    while True:
        try:
            driver.wait(timeout=asked.every)
        except subprocess.TimeoutExpired:
            pass
        else:
            return samples
        looks = {role: look(process.pid) for role, process in processes.items()}
        seconds = time.monotonic() - began
        clips = clips_done(folder / "soak.zarr", array)
        if all(memory for memory, _ in looks.values()):
            samples.append(
                Sample(
                    seconds,
                    clips,
                    {role: memory for role, (memory, _) in looks.items()},
                    {role: handles for role, (_, handles) in looks.items()},
                )
            )
            if len(samples) % 12 == 1:
                held = ", ".join(f"{role} {mb:.0f}" for role, mb in samples[-1].memory.items())
                print(f"  {seconds:6.0f} s: {clips} clips; MB: {held}", flush=True)
        if seconds > asked.minutes * 60 and not interrupted:
            print(f"  interrupted after {asked.minutes:g} minutes", flush=True)
            driver.send_signal(signal.SIGINT)
            interrupted = True


def quarters(samples: Sequence[Sample]) -> tuple[list[Sample], list[Sample]]:
    """The first and the last quarter of the samples in which clips were being finished."""
    last = samples[-1].clips
    first_full = next(i for i, s in enumerate(samples) if s.clips)
    finished = next(i for i, s in enumerate(samples) if s.clips == last)
    working = list(samples[first_full : finished + 1])
    part = max(2, len(working) // 4)
    return working[:part], working[-part:]


def rate(part: Sequence[Sample]) -> float:
    seconds = part[-1].seconds - part[0].seconds
    return (part[-1].clips - part[0].clips) / seconds if seconds else float("nan")


def report(samples: Sequence[Sample]) -> None:
    if len({sample.clips for sample in samples}) < 3:
        print("too few looks between the first and the last clip: more videos, or a lower --every")
        return
    first, last = quarters(samples)
    print(f"\n   {'':<22}{'first quarter':>14}{'last quarter':>14}{'ratio':>8}")
    for role in first[0].memory:
        for kind, unit in (("memory", "MB"), ("handles", "handles")):
            a, b = (statistics.median(getattr(s, kind)[role] for s in p) for p in (first, last))
            print(f"   {f'{role}, {unit}':<22}{a:>14.0f}{b:>14.0f}{b / a:>8.3f}")
    a, b = rate(first), rate(last)
    print(f"   {'clips/s':<22}{a:>14.2f}{b:>14.2f}{b / a:>8.3f}")


def lost(store: Store, array: str, expected: int | None) -> int:
    """Clips not done (of ``expected``, if given), and done ones not finite or constant."""
    status = store.status(array)
    missing = 0 if expected is None else expected - done(store, array)
    broken = 0
    for begin in range(0, store.clips, 1024):
        clips = range(begin, min(begin + 1024, store.clips))
        features = store.features(array, clips)[status[clips.start : clips.stop] == DONE]
        if len(features):  # an interrupted run has stretches without
            flat = features.reshape(len(features), -1)
            broken += int((~np.isfinite(flat).all(1) | (np.ptp(flat, axis=1) == 0)).sum())
    return missing + broken


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--videos", type=int, default=2000)
    parser.add_argument("--clips", type=int, default=2, help="of each video")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=60, help="then it is interrupted")
    parser.add_argument("--every", type=float, default=5, help="seconds between two looks")
    parser.add_argument("--backbone", default="timm:test_vit.r160_in1k")
    asked = parser.parse_args()
    # A shell ignores Ctrl-C for what it starts with `&`, and children would ignore it too
    signal.signal(signal.SIGINT, signal.default_int_handler)
    array, expected = spec_of(asked.backbone).name, asked.videos * asked.clips
    print(f"{processor.name()}, {processor.cores()} cores; {asked.videos} videos of {asked.clips} "
          f"clips, {asked.backbone}, {asked.workers} workers", flush=True)  # fmt: skip
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        began = time.monotonic()
        write_videos(folder / "videos", asked.videos, asked.clips)
        print(f"  videos written in {time.monotonic() - began:.0f} s", flush=True)
        processes = start(folder, asked)
        try:
            samples = watch(folder, processes, array, asked)
        finally:
            for process in reversed(processes.values()):
                process.terminate()
            for process in processes.values():
                process.wait(timeout=60)
        code = processes["driver"].returncode
        print(f"\n{(folder / 'driver.log').read_text().strip().splitlines()[-1]}")
        if code not in (0, 130):
            sys.exit(f"fs-submit extract ended with exit code {code}:\n"
                     f"{(folder / 'driver.log').read_text()}")  # fmt: skip
        report(samples)
        store = open_store(str(folder / "soak.zarr"))
        gone = lost(store, array, expected if code == 0 else None)
        print(f"   {done(store, array)} of {expected} clips done, {gone} lost")
        sys.exit(1 if gone else 0)


if __name__ == "__main__":
    main()
