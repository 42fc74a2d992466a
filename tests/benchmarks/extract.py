"""Extraction's speed as ratios, each measured side by side in one run on this machine.

    python -m tests.benchmarks.extract [--clips 2] [--rounds 3] [--only engines|overhead|nine]

1. engines: OpenVINO over torch eager, one crop of 16 frames, for each network. (seconds, median)
2. overhead: end-to-end clips/s of the command over clips/s of the bare networks on crops that lie
   in memory; start-up is taken out by the difference of a long and a short run. To reach: 0.9.
3. nine: the time of one run for all nine arrays over the sum of nine runs for one array each,
   whole commands with kept conversions. To reach: 0.4 at most.

Weights are random: they cost the same. Run it with nothing else running; nothing here fails.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from featurestore.schema import BACKBONES, FEATURES
from jobs import engines, sample
from jobs.backbones import Weights, resolve
from jobs.engines import Choice, Network
from jobs.extract import run
from jobs.options import Options
from jobs.specs import spec_of

THREADS = len(os.sched_getaffinity(0))


def seconds(work: Callable[[], object], rounds: int) -> float:
    """Median over ``rounds``, after one that is not counted."""
    work()
    taken = []
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def opened(name: str, engine: str) -> Network:
    spec = spec_of(name)
    weights: Weights = resolve(spec, "random")
    choice = Choice(engine, "float32", "cpu")
    engines.prepare(spec, weights, choice)
    return engines.open_network(spec, weights, choice, threads=THREADS)


def crops_for(name: str, count: int) -> torch.Tensor:
    size = spec_of(name).preprocessing.crop
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, 16, size, size), dtype=torch.uint8, generator=generator)


def compare_engines(rounds: int) -> None:
    print("\n1. one crop of 16 frames, seconds (median)")
    print(f"   {'network':<10}{'torch eager':>12}{'OpenVINO':>12}{'ratio':>8}")
    totals = [0.0, 0.0]
    for name in BACKBONES:
        crops = crops_for(name, 1)
        taken = []
        for engine in ("torch", "openvino"):
            network = opened(name, engine)
            taken.append(seconds(lambda n=network, c=crops: n.features(c), rounds))  # type: ignore[misc]
        totals = [a + b for a, b in zip(totals, taken, strict=True)]
        print(f"   {name:<10}{taken[0]:>11.2f}s{taken[1]:>11.2f}s{taken[0] / taken[1]:>8.2f}")
    print(f"   {'all five':<10}{totals[0]:>11.2f}s{totals[1]:>11.2f}s{totals[0] / totals[1]:>8.2f}")


def command(folder: Path, root: Path, backbones: str, name: str) -> float:
    """Seconds of one whole extraction into a store of its own."""
    options = Options(
        dataset="folder", root=root, store=str(folder), name=name, weights="random",
        backbones=(backbones,), workers=1,
    )  # fmt: skip
    began = time.perf_counter()
    run(options, say=lambda line: None)
    return time.perf_counter() - began


def overhead(folder: Path, rounds: int, backbone: str, clips: int) -> None:
    network = opened(backbone, "openvino")
    crops = crops_for(backbone, 10)
    bare = seconds(lambda: network.features(crops), rounds)
    roots = {}
    for count in (clips, 3 * clips):
        recipe = sample.Recipe(videos=2, frames=8 * count)  # two videos of half the clips
        roots[count] = sample.write(folder / f"sample{count}", recipe)
    ends = []
    for i in range(rounds):
        taken = [command(folder, root, backbone, f"{backbone}{i}_{n}") for n, root in roots.items()]
        ends.append((taken[1] - taken[0]) / (2 * clips))
    end = statistics.median(ends)
    print(
        f"   {backbone:<10}{end:>9.2f} s/clip end to end{bare:>9.2f} s/clip bare"
        f"{bare / end:>8.2f} of the bare rate"
    )


def nine(folder: Path) -> None:
    print("\n3. seconds of whole commands, one clip of 16 frames")
    root = sample.write(folder / "one", sample.Recipe(videos=2, frames=16))
    (root / "normal_01.mp4").unlink()
    for name in BACKBONES:
        opened(name, "openvino")
    together = command(folder, root, "all", "nine")
    single = {name: command(folder, root, name, f"only_{name}") for name in FEATURES}
    for name, taken in single.items():
        print(f"   {name:<16}{taken:>8.1f} s")
    total = sum(single.values())
    print(f"   nine singly {total:.1f} s, together {together:.1f} s: {together / total:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=2, help="of the short run; the long one: 3 x")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=["engines", "overhead", "nine"])
    asked = parser.parse_args()
    print(f"{processor()}, {THREADS} threads, torch {torch.__version__}")
    if asked.only in (None, "engines"):
        compare_engines(asked.rounds)
    with tempfile.TemporaryDirectory() as made:
        if asked.only in (None, "overhead"):
            print("\n2. the command against the bare networks")
            for name in ("r3d", "s3d", "all"):
                if name != "all":
                    overhead(Path(made), asked.rounds, name, asked.clips)
        if asked.only in (None, "nine"):
            nine(Path(made))


def processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = {line.partition(":")[2].strip() for line in lines if line.startswith("model name")}
    flags = " ".join(line for line in lines if line.startswith("flags"))
    has = [f for f in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if f in flags]
    return f"{', '.join(names) or platform.processor()} ({', '.join(has)})"


if __name__ == "__main__":
    main()
