"""How much of the machine's matrix rate the networks reach, and what might still gain.

    python -m tests.benchmarks.rate [--backbones swin r3d ...] [--rounds 5]
    python -m tests.benchmarks.rate --batches 1 2 5 10 --streams 1 2
    python -m tests.benchmarks.rate --workers

1. Each network as extraction runs it (engine and precision by `auto`, or --engine, --precision):
   seconds a crop, GFLOP/s, and the share of the matrix rate, which is measured before and after
   each clip of ten crops. Medians of --rounds. For the five together, to reach: 0.85.
2. --batches, --streams: OpenVINO with so many crops a call and so many calls at a time; seconds for
   ten crops, and over the way of 1. Converts anew for each batch: slow.
3. --workers: one process of all cores against as many processes of one thread as there are cores,
   each with all of --backbones: seconds a clip of the machine, and a process's peak of memory.

Weights are random: they cost the same. Run it with nothing else running; nothing here fails.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from typing import Any

import torch

from featurestore.schema import BACKBONES
from jobs import engines, processor
from jobs.backbones import load, resolve
from jobs.engines import Choice
from jobs.engines.openvino_conversion import Normalised, openvino
from jobs.engines.openvino_engine import PRECISIONS
from jobs.engines.openvino_rearranged import rearrange
from jobs.estimate import CROPS
from jobs.making import choice_text
from jobs.matrix import matrix_rate
from jobs.specs import spec_of
from tests.benchmarks.extract import THREADS, crops_for, opened, seconds
from tests.benchmarks.worker import begin_as_a_worker


def shares(backbones: list[str], choice: Choice, rounds: int) -> None:
    print(f"\n1. {choice_text(choice)}, {THREADS} threads, a clip of {CROPS} crops")
    print(f"   {'network':<12}{'GFLOP':>8}{'s a crop':>10}{'GFLOP/s':>10}{'matrix':>9}{'share':>8}")
    networks = {name: opened(name, choice) for name in backbones}
    crops = {name: crops_for(name, CROPS) for name in backbones}
    for name in backbones:
        networks[name].features(crops[name][:2])
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in backbones}
    # All of them in turn, between two matrix products: the machine's own speed drifts.
    for _ in range(rounds):
        before = matrix_rate(precision=choice.precision)
        for name in backbones:
            began = time.perf_counter()
            networks[name].features(crops[name])
            took = time.perf_counter() - began
            after = matrix_rate(precision=choice.precision)
            taken[name].append((took / CROPS, (before + after) / 2))
            before = after
    for name in backbones:
        show(name, spec_of(name).gflop, taken[name])
    work = sum(spec_of(name).gflop for name in backbones)
    together = []
    for one in zip(*taken.values(), strict=True):
        spent = sum(took for took, _ in one)
        together.append((spent, sum(took * matrix for took, matrix in one) / spent))
    show("together", work, together)


def show(name: str, gflop: float, rounds: list[tuple[float, float]]) -> None:
    """Medians; the share is of each round's own matrix rate."""
    took, matrix = (statistics.median(column) for column in zip(*rounds, strict=True))
    share = statistics.median(gflop / t / m for t, m in rounds)
    print(
        f"   {name:<12}{gflop:>8.0f}{took:>10.2f}{gflop / took:>10.0f}{matrix:>9.0f}{share:>8.2f}"
    )


def variants(
    backbones: list[str],
    choice: Choice,
    rounds: int,
    batches: list[int],
    streams: list[int],
) -> None:
    print(f"\n2. OpenVINO {choice.precision}, {THREADS} threads, s for ten crops (times as fast)")
    head = "".join(f"{f'{b} crops x {s}':>20}" for b in batches for s in streams)
    print(f"   {'network':<12}{'as it is':>10}{head}")
    for name in backbones:
        crops = crops_for(name, CROPS)
        usual = seconds(partial(opened(name, choice).features, crops), rounds)
        cells = []
        for batch in batches:
            model = converted(name, batch)
            for count in streams:
                took = seconds(runner(model, crops, batch, count, choice.precision), rounds)
                cells.append(f"{took:>11.2f} ({usual / took:.2f})")
            del model
        print(f"   {name:<12}{usual:>10.2f}" + "".join(f"{cell:>20}" for cell in cells))


def converted(name: str, batch: int) -> Any:
    """OpenVINO's model of a network that takes ``batch`` crops."""
    spec = spec_of(name)
    loaded = load(spec, resolve(spec, "random"))
    rearrange(loaded)
    network = Normalised(spec, loaded).eval()
    shape = [batch, *crops_for(name, 1).shape[1:]]
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        example = torch.zeros(shape, dtype=torch.uint8)
        traced = torch.jit.trace(network, example, check_trace=False)
        return openvino.convert_model(traced, input=[(shape, openvino.Type.u8)])


def runner(model: Any, crops: torch.Tensor, batch: int, streams: int, precision: str) -> Any:
    """Runs all of ``crops``, ``batch`` a call, ``streams`` calls at a time."""
    settings = {
        "INFERENCE_PRECISION_HINT": PRECISIONS[precision],
        "PERFORMANCE_HINT": "LATENCY" if streams == 1 else "THROUGHPUT",
        "NUM_STREAMS": str(streams),
        "INFERENCE_NUM_THREADS": str(THREADS),
        "ENABLE_CPU_PINNING": "NO",
    }
    calls = openvino.AsyncInferQueue(openvino.compile_model(model, "CPU", settings), streams)
    parts = [part.numpy() for part in crops.split(batch) if len(part) == batch]

    def run() -> None:
        for part in parts:
            calls.start_async([part])
        calls.wait_all()

    return run


def one_worker(
    backbones: list[str], choice: Choice, threads: int, begin: float
) -> tuple[float, float]:
    """Seconds of a ten-crop clip in a process of its own, with others of its kind; MB at most."""
    networks = [opened(name, choice, threads) for name in backbones]
    crops = [crops_for(name, CROPS) for name in backbones]
    for network, its in zip(networks, crops, strict=True):
        network.features(its[:2])
    time.sleep(max(0.0, begin - time.time()))  # all at once
    taken = []
    for _ in range(3):
        began = time.perf_counter()
        for network, its in zip(networks, crops, strict=True):
            network.features(its)
        taken.append(time.perf_counter() - began)
    # The first is not counted: what lay idle meanwhile may have been taken from memory
    return statistics.mean(taken[1:]), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def workers(backbones: list[str], choice: Choice, rounds: int, ready_seconds: float) -> None:
    print(f"\n3. {choice_text(choice)}: {', '.join(backbones)} in each process")
    print(f"   {'processes':>10}{'threads':>9}{'s a clip':>10}{'MB each':>9}")
    taken: dict[int, list[float]] = {}
    for name in backbones:
        opened(name, choice)
    for _ in range(rounds):
        for count in (1, THREADS):
            with ProcessPoolExecutor(count, mp_context=get_context("spawn")) as pool:
                begin = time.time() + ready_seconds
                ask = partial(one_worker, backbones, choice, THREADS // count, begin)
                running = [pool.submit(ask) for _ in range(count)]
                found = [future.result() for future in running]
            clip = max(t for t, _ in found) / count
            taken.setdefault(count, []).append(clip)
            most = max(memory for _, memory in found)
            print(f"   {count:>10}{THREADS // count:>9}{clip:>10.2f}{most:>9.0f}")
    one, many = statistics.median(taken[1]), statistics.median(taken[THREADS])
    print(f"   {THREADS} processes of one thread are {one / many:.2f} times as fast as one process")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbones", nargs="+", default=list(BACKBONES), metavar="NAME")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, nargs="+", help="crops a call, of 1, 2, 5, 10")
    parser.add_argument("--streams", type=int, nargs="+", help="calls at a time")
    parser.add_argument("--workers", action="store_true")
    parser.add_argument("--ready-seconds", type=float, default=60, help="for --workers to load in")
    asked = parser.parse_args()
    begin_as_a_worker()
    choice = engines.choose(asked.engine, asked.precision, "cpu")
    print(f"{processor.name()}, torch {torch.__version__}, openvino {openvino.__version__}")
    if asked.workers:
        workers(asked.backbones, choice, asked.rounds, asked.ready_seconds)
    elif asked.batches or asked.streams:
        variants(asked.backbones, choice, asked.rounds, asked.batches or [1], asked.streams or [1])
    else:
        shares(asked.backbones, choice, asked.rounds)


if __name__ == "__main__":
    main()
