"""What starting costs: converting the networks once, and starting with those that are kept.

    python -m tests.benchmarks.startup [--backbones swin r3d ...] [--only conversion|second|looking]

1. conversion: each network converted for OpenVINO into an empty cache, one after the other in one
   process: seconds, and that process's peak of memory so far. Beside it seconds of a ten-crop clip
   with torch eager and with OpenVINO, and after how many clips the conversion is earned back.
   To reach, for all five: 90 seconds and 3 GB.
2. second: a whole command with the kept networks, from its start until its last network is ready,
   which is when it goes to work on its first block. To reach: 15 seconds for all five.
3. looking: the best of five runs of commands that compute nothing. To reach: under a second.

Weights are random: they cost the same. Run it with nothing else running; nothing here fails.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from featurestore.schema import BACKBONES
from jobs import engines, processor, sample
from jobs.backbones import resolve
from jobs.estimate import CROPS
from jobs.making import choice_text
from jobs.specs import spec_of
from tests.benchmarks import catalog
from tests.benchmarks.extract import chosen, crops_for, opened, seconds


def convert(name: str, cache: Path) -> tuple[float, float]:
    """Seconds to convert a network, and this process's peak of memory in GB."""
    spec = spec_of(name)
    weights = resolve(spec, "random")
    began = time.perf_counter()
    engines.prepare(spec, weights, chosen("openvino"), cache=cache)
    taken = time.perf_counter() - began
    return taken, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def conversion(backbones: list[str], cache: Path) -> None:
    print("\n1. the first conversion")
    print(
        f"   {'network':<12}{'seconds':>9}{'GB so far':>11}{'torch':>9}{'OpenVINO':>10}  s a clip"
    )
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        pool.submit(chosen, "openvino").result()  # imports are not conversion
        found = {name: pool.submit(convert, name, cache).result() for name in backbones}
    for name, (taken, memory) in found.items():
        two = crops_for(name, 2)
        torch_, openvino = (
            CROPS / 2 * seconds(partial(opened(name, chosen(engine)).features, two), 1)
            for engine in ("torch", "openvino")
        )
        gain = torch_ - openvino
        earned = f"earned back after {taken / gain:.1f} clips" if gain > 0 else "never earned back"
        print(f"   {name:<12}{taken:>9.1f}{memory:>11.2f}{torch_:>9.1f}{openvino:>10.1f}  {earned}")
    total, most = sum(t for t, _ in found.values()), max(m for _, m in found.values())
    print(f"   {'together':<12}{total:>9.1f}{most:>11.2f}")


def second(backbones: list[str], folder: Path) -> None:
    print("\n2. a command with kept networks")
    for name in backbones:
        engines.prepare(spec_of(name), resolve(spec_of(name), "random"), chosen("openvino"))
    root = sample.write(folder / "sample", sample.Recipe(videos=2, frames=16))
    words = [sys.executable, "-m", "jobs.cli", "extract", "--dataset", "folder", "--root", root,
             "--videos", "normal_01", "--store", folder, "--weights", "random", "--device", "cpu",
             "--backbones", ",".join(backbones)]  # fmt: skip
    began = time.perf_counter()
    env = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen([*map(str, words)], stdout=subprocess.PIPE, text=True, env=env) as run:
        assert run.stdout is not None
        ready = 0.0
        for said in run.stdout:
            if any(word in said for word in ("dashboard", "indexed", "network ready")):
                print(f"   {time.perf_counter() - began:>6.1f} s  {said.strip()}")
            if "network ready" in said:
                ready = time.perf_counter() - began
    print(f"   at work on the first block after {ready:.1f} s, ended after "
          f"{time.perf_counter() - began:.1f} s, exit code {run.returncode}")  # fmt: skip


def looking(folder: Path) -> None:
    print("\n3. commands that only look")
    (folder / "features").mkdir()
    catalog.build(folder / "features" / "many.zarr", videos=100, clips=10)
    for words in (["--help"], ["extract", "--help"], ["datasets"], ["status"], ["split", "list"]):
        taken = []
        for _ in range(5):
            began = time.perf_counter()
            subprocess.run(
                [sys.executable, "-m", "jobs.cli", *words],
                cwd=folder,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
                stdout=subprocess.DEVNULL,
                check=True,
            )
            taken.append(time.perf_counter() - began)
        print(f"   {min(taken):>6.2f} s  fs-submit {' '.join(words)}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbones", nargs="+", default=list(BACKBONES), metavar="NAME")
    parser.add_argument("--only", choices=["conversion", "second", "looking"])
    asked = parser.parse_args()
    print(f"{processor.name()}, {choice_text(chosen('openvino'))}")
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        if asked.only in (None, "conversion"):
            conversion(asked.backbones, folder / "cache")
        if asked.only in (None, "second"):
            second(asked.backbones, folder)
        if asked.only in (None, "looking"):
            looking(folder)


if __name__ == "__main__":
    main()
