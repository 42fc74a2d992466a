"""Extraction's speed as ratios, each measured side by side in one run on this machine.

    python -m tests.benchmarks.extract [--rounds 3] [--only engines|overhead|nine] [--clips N]
        [--backbones s3d r3d all] [--sizes 320x240 1280x720]

1. engines: OpenVINO, in the precision that is chosen by default, over torch eager in float32, two
   crops of 16 frames, for each network. (seconds, median)
2. overhead: a worker's clips/s from the video to the store over clips/s of the bare networks on
   crops that lie in memory, for small and for large frames (H.264), in turn, in one process, by
   tasks of as many clips as extraction would make, in blocks of 32. To reach: 0.95 for all
   together, 0.9 for s3d, the fastest of the five. (Drawing 32 clips of 1280x720 takes a minute.)
3. nine: the time of one run for all nine arrays over the sum of nine runs for one array each,
   whole commands with kept conversions. To reach: 0.4 at most.

Weights are random: they cost the same. Run it with nothing else running; nothing here fails.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from featurestore.clips import CLIP_FRAMES
from featurestore.schema import BACKBONES, FEATURES
from jobs import engines, processor, sample
from jobs.backbones import Weights, resolve
from jobs.engines import Choice, Network
from jobs.estimate import CROPS, clip_cost, expected, machine_rate, task_clips
from jobs.extract import run
from jobs.making import choice_text
from jobs.options import Options
from jobs.specs import spec_of
from jobs.worker import build_networks, extract_clips
from tests.benchmarks.worker import BLOCK, begin_as_a_worker, planned

THREADS = processor.cores()


def seconds(work: Callable[[], object], rounds: int) -> float:
    """Median over ``rounds``, after one that is not counted."""
    work()
    taken = []
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def chosen(engine: str = "auto") -> Choice:
    return engines.choose(engine, device="cpu")


def opened(name: str, choice: Choice, threads: int = THREADS) -> Network:
    spec = spec_of(name)
    weights: Weights = resolve(spec, "random")
    engines.prepare(spec, weights, choice)
    return engines.open_network(spec, weights, choice, threads=threads)


def crops_for(name: str, count: int) -> torch.Tensor:
    size = spec_of(name).preprocessing.crop
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, 16, size, size), dtype=torch.uint8, generator=generator)


def compare_engines(rounds: int) -> None:
    choices = chosen("torch"), chosen()
    print("\n1. two crops of 16 frames, seconds (median)")
    print(f"   {choices[0].precision} with torch eager, {choice_text(choices[1])}")
    print(f"   {'network':<10}{'torch eager':>12}{choices[1].engine:>12}{'ratio':>8}")
    totals = [0.0, 0.0]
    for name in BACKBONES:
        crops = crops_for(name, 2)
        taken = [seconds(partial(opened(name, c).features, crops), rounds) for c in choices]
        totals = [a + b for a, b in zip(totals, taken, strict=True)]
        print(f"   {name:<10}{taken[0]:>11.2f}s{taken[1]:>11.2f}s{taken[0] / taken[1]:>8.2f}")
    print(f"   {'all five':<10}{totals[0]:>11.2f}s{totals[1]:>11.2f}s{totals[0] / totals[1]:>8.2f}")


def command(
    folder: Path, root: Path, backbones: str, name: str, *, workers: int | None = 1
) -> float:
    """Seconds of one whole extraction into a store of its own."""
    options = Options(
        dataset="folder", root=root, store=str(folder), name=name, weights="random",
        backbones=tuple(backbones.split(",")), workers=workers, device="cpu",
    )  # fmt: skip
    began = time.perf_counter()
    run(options, say=lambda line: None)
    return time.perf_counter() - began


def overhead(folder: Path, rounds: int, backbones: str, clips: int | None, size: str) -> None:
    names = list(BACKBONES) if backbones == "all" else [backbones]
    if clips is None:
        cost = sum(clip_cost({name: spec_of(name) for name in names}).values())
        clips = task_clips(cost, expected(chosen(), machine_rate(chosen())), BLOCK)
    torch.set_num_threads(1)  # as Dask has it in its workers
    width, height = map(int, size.split("x"))
    frames = CLIP_FRAMES * clips
    videos = sample.write(folder / f"{backbones}{size}", sample.Recipe(2, frames, width, height))
    tasks, setup = planned(
        folder / f"{backbones}{size}.zarr", videos / "normal_01.mp4", frames, names, chosen(),
        threads=THREADS, clips_per_task=clips,
    )  # fmt: skip
    build_networks(setup)
    bare = [(opened(name, chosen()), crops_for(name, CROPS)) for name in names]

    def once() -> float:
        began = time.perf_counter()
        for _ in range(2):
            for network, crops in bare:
                network.features(crops)
        return (time.perf_counter() - began) / 2

    extract_clips(tasks[0], setup)
    before, shares, ends = once(), [], []
    for _ in range(rounds):
        began = time.perf_counter()
        extract_clips(tasks[0], setup)
        ends.append((time.perf_counter() - began) / clips)
        after = once()
        # The machine's speed drifts: a task is compared with what ran just before and after it.
        shares.append((before + after) / 2 / ends[-1])
        before = after
    print(
        f"   {backbones:<10}{size:>10}{clips:>3} a task{statistics.median(ends):>7.2f} s/clip "
        f"{statistics.median(shares):>7.3f} of the bare rate (rounds: {min(shares):.3f} to "
        f"{max(shares):.3f})",
        flush=True,
    )


def nine(folder: Path) -> None:
    print("\n3. seconds of whole commands, one clip of 16 frames")
    root = sample.write(folder / "one", sample.Recipe(videos=2, frames=16))
    (root / "normal_01.mp4").unlink()
    for name in BACKBONES:
        opened(name, chosen())
    together = command(folder, root, "all", "nine")
    single = {name: command(folder, root, name, f"only_{name}") for name in FEATURES}
    for name, taken in single.items():
        print(f"   {name:<16}{taken:>8.1f} s")
    total = sum(single.values())
    print(f"   nine singly {total:.1f} s, together {together:.1f} s: {together / total:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", type=int, help="of a task, in 2")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=["engines", "overhead", "nine"])
    parser.add_argument("--backbones", nargs="+", default=["s3d", "r3d", "all"], metavar="NAME")
    parser.add_argument("--sizes", nargs="+", default=["320x240", "1280x720"], metavar="WxH")
    asked = parser.parse_args()
    begin_as_a_worker()
    print(f"{processor.name()}, {THREADS} threads, torch {torch.__version__}")
    if asked.only in (None, "engines"):
        compare_engines(asked.rounds)
    with tempfile.TemporaryDirectory() as made:
        if asked.only in (None, "overhead"):
            print(f"\n2. from video to store, against the bare networks, {choice_text(chosen())}")
            for name in asked.backbones:
                for size in asked.sizes:
                    overhead(Path(made), asked.rounds, name, asked.clips, size)
        if asked.only in (None, "nine"):
            nine(Path(made))


if __name__ == "__main__":
    main()
