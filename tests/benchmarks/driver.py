"""How many blocks a minute one driver can hand out, mark and account for.

    python -m tests.benchmarks.driver [--blocks 5000] [--block 256] [--rate 10000]
    python -m tests.benchmarks.driver --dask [--workers 4] [--in-flight 32] [--blocks 2000]

1. The real loop (jobs.drive), plan and store, with a cluster that is not there: it answers so many
   blocks a minute, at once or after --answer seconds. To reach: 10,000 a minute.
2. --dask: the same with a real scheduler and real worker processes whose tasks do nothing. A few
   workers that get many tasks each (--in-flight; else two) stand for many workers.

Blocks a minute, the driver's share of a core, its memory at the beginning and at the end, and the
messages a block (--dask: that the driver and the scheduler sent and got). Planning is timed before:
seconds and bytes a clip. No frames, no networks, and no chunks are written.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from distributed import Client

from featurestore.store import Store
from jobs import drive, processor
from jobs.plan import Task
from jobs.progress import Progress
from jobs.specs import SPECS
from jobs.worker import Result, Setup
from tests.jobs import simulated


@dataclass(eq=False)
class Answer:
    """A future of a cluster that is not there."""

    key: str
    at: float
    value: Result | None
    status: str = "finished"

    def done(self) -> bool:
        return time.monotonic() >= self.at

    def result(self, timeout: float) -> Result | None:
        return self.value


@dataclass
class NoCluster:
    """``workers`` workers that answer ``rate`` blocks a second together."""

    workers: int
    rate: float
    free: deque[float] = field(default_factory=deque)
    submitted: int = 0

    def __post_init__(self) -> None:
        self.free.extend([0.0] * self.workers)

    def submit(self, work: Any, *given: Any, key: str, **wish: Any) -> Answer:
        if len(given) == 1:  # building the networks
            return Answer(key, 0.0, None)
        task: Task = given[0]
        worker = self.submitted % self.workers
        self.submitted += 1
        at = max(time.monotonic(), self.free[0]) + self.workers / self.rate
        self.free.popleft()
        self.free.append(at)
        seconds = {"decode": 0.1, "crops": 0.1, "networks": 1.0, "writing": 0.0}
        return Answer(key, at, Result((), task.clips, seconds, f"worker-{worker}", 1))

    @property
    def scheduler(self) -> Any:
        return self

    def sync(self, asked: Any, **given: Any) -> Any:
        return asked(**given)

    def identity(self, n_workers: int) -> dict[str, Any]:
        return {"workers": {f"worker-{i}": {} for i in range(self.workers)}}

    def processing(self) -> dict[str, tuple[str, ...]]:
        return {}

    def gather(self, futures: list[Answer], **settings: Any) -> list[Any]:
        return [future.value for future in futures]

    def cancel(self, futures: Any, force: bool) -> None:
        pass

    def subscribe_topic(self, topic: str, handler: Any) -> None:
        pass

    def unsubscribe_topic(self, topic: str) -> None:
        pass


def count_messages() -> None:
    """Count what this process sends and gets over the network from now on."""
    from distributed.comm import tcp

    counts = tcp.TCP.__dict__.get("counted")
    if counts is not None:
        return
    tcp.TCP.counted = [0, 0]  # type: ignore[attr-defined]
    for place, name in enumerate(("write", "read")):
        original = getattr(tcp.TCP, name)

        async def counted(
            self: Any, *args: Any, original: Any = original, place: int = place, **more: Any
        ) -> Any:
            found = await original(self, *args, **more)
            tcp.TCP.counted[place] += 1  # type: ignore[attr-defined]
            return found

        setattr(tcp.TCP, name, counted)


def messages() -> int:
    from distributed.comm import tcp

    return sum(tcp.TCP.counted)  # type: ignore[attr-defined]


def usage() -> tuple[float, float]:
    """(seconds of processor time, MB resident) of the process that runs this."""
    process = psutil.Process()
    times = process.cpu_times()
    return times.user + times.system, process.memory_info().rss / 1e6


def run(client: Any, store: Store, setup: Setup, clips_per_task: int) -> None:
    before = usage()
    began = time.perf_counter()
    tasks = simulated.tasks_of(store, clips_per_task)
    took = time.perf_counter() - began
    grown = usage()[1] - before[1]
    print(
        f"   planning: {len(tasks)} blocks of {store.clips} clips in {took:.1f} s, "
        f"{took / store.clips * 1e6:.1f} us and {grown * 1e6 / store.clips:.0f} bytes a clip"
    )
    real = isinstance(client, Client)
    if real:
        count_messages()
        client.run_on_scheduler(count_messages)
        scheduler = client.run_on_scheduler(usage)
        sent = messages(), client.run_on_scheduler(messages)
    before, began = usage(), time.perf_counter()
    clips = sum(task.clips for task in tasks)
    with Path(os.devnull).open("w") as nowhere:
        progress = Progress(clips, float(clips), stream=nowhere)
        cost = dict.fromkeys(setup.specs, 1.0 / len(setup.specs))
        drive.Drive(client, store, setup, progress, cost).run(tasks)
    took, after = time.perf_counter() - began, usage()
    assert all((store.status(name) == 1).all() for name in setup.specs)
    print(
        f"   {len(tasks)} blocks in {took:.1f} s: {len(tasks) / took * 60:.0f} blocks a minute; "
        f"driver {(after[0] - before[0]) / took:.0%} of a core "
        f"({(after[0] - before[0]) / len(tasks) * 1e3:.2f} ms a block), "
        f"{before[1]:.0f} MB at the beginning, {after[1]:.0f} MB at the end"
    )
    if real:
        there = client.run_on_scheduler(usage)
        driver = messages() - sent[0]
        all_of_it = client.run_on_scheduler(messages) - sent[1]
        print(
            f"   scheduler {(there[0] - scheduler[0]) / took:.0%} of a core, "
            f"{scheduler[1]:.0f} MB at the beginning, {there[1]:.0f} MB at the end; messages a "
            f"block: driver {driver / len(tasks):.1f}, scheduler {all_of_it / len(tasks):.1f}"
        )


def hosts(stack: ExitStack, workers: int, folder: Path) -> Client:
    """A scheduler and workers in processes of their own."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{s.getsockname()[1]}"
    quiet = {"DASK_LOGGING__DISTRIBUTED": "error"}
    env = {**os.environ, **quiet, "PYTHONPATH": str(Path(__file__).parents[2])}
    for words in (
        ["scheduler", "--host", address, "--no-dashboard"],
        ["worker", address, "--nworkers", str(workers), "--nthreads", "1", "--no-dashboard"],
    ):
        process = subprocess.Popen([sys.executable, "-m", "dask", *words], env=env, cwd=folder)
        stack.callback(process.wait, timeout=60)
        stack.callback(process.terminate)
    client = stack.enter_context(Client(address, timeout=60))
    client.wait_for_workers(workers, timeout=120)
    return client


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--blocks", type=int, default=5000)
    parser.add_argument("--block", type=int, default=256, help="clips in one")
    parser.add_argument("--video", type=int, default=1000, help="clips of one")
    parser.add_argument("--backbones", type=int, default=5, help="how many networks")
    parser.add_argument("--workers", type=int, default=0, help="[64; of --dask 4]")
    parser.add_argument("--rate", type=float, default=10_000, help="blocks a minute")
    parser.add_argument("--dask", action="store_true")
    parser.add_argument("--in-flight", type=int, default=2, help="tasks given to each worker")
    parser.add_argument("--seconds", type=float, default=0.0, help="of a task, with --dask")
    asked = parser.parse_args()
    drive.TASKS_PER_WORKER = asked.in_flight
    os.environ[simulated.SECONDS] = str(asked.seconds)
    drive.extract_clips, drive.build_networks = simulated.extract, simulated.build
    specs = dict(list(SPECS.items())[: asked.backbones])
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        clips = asked.blocks * asked.block
        videos = [
            (f"video{i}", min(asked.video, clips - first))
            for i, first in enumerate(range(0, clips, asked.video))
        ]
        store = simulated.store_of(folder / "simulated.zarr", videos, asked.block, specs)
        workers = asked.workers or (4 if asked.dask else 64)
        how = "real Dask" if asked.dask else f"no Dask, {asked.rate:.0f} blocks a minute"
        print(f"{processor.name()}: {how}, {workers} workers, {len(specs)} networks")
        client: Any = NoCluster(workers, asked.rate / 60)
        if asked.dask:
            client = hosts(stack, workers, folder)
        run(client, store, simulated.setup_of(store, specs), asked.block)


if __name__ == "__main__":
    main()
