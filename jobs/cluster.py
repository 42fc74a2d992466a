"""Dask workers: a local cluster of processes, or any scheduler that is already running."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dask
from distributed import Client, LocalCluster, WorkerPlugin
from distributed.client import FutureCancelledError
from distributed.comm.core import CommClosedError

from featurestore.errors import FeatureStoreError, UsageError
from jobs import processor

__all__ = ["IgnoreInterrupt", "PinGPU", "connect", "local_shape", "worker_addresses"]

CORES_PER_WORKER = 4  # one network's threads stop gaining beyond about this many
CONNECT_SECONDS = 20
FIRST_WORKER_SECONDS = 120

# Features never stay in Dask's memory, so spilling and pausing have nothing to gain; a worker
# that outgrows its share is still ended before it takes the machine with it. One death is enough
# for the driver to hear of it: it decides what is tried again (plan.TaskQueue).
_CONFIG = {
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": 0.95,
    "distributed.worker.multiprocessing-method": "spawn",
    "distributed.scheduler.allowed-failures": 0,
    "distributed.admin.log-length": 1000,
}


class PinGPU(WorkerPlugin):
    """Gives each local worker one GPU, before CUDA is touched in its process."""

    name = "pin-gpu"

    def __init__(self, visible: list[str]) -> None:
        self.visible = visible

    def setup(self, worker: Any) -> None:
        os.environ["CUDA_VISIBLE_DEVICES"] = self.visible[int(worker.name) % len(self.visible)]


class IgnoreInterrupt(WorkerPlugin):
    """Ctrl-C reaches all processes of a terminal; what becomes of workers is the driver's call."""

    name = "ignore-interrupt"

    def setup(self, worker: Any) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def local_shape(workers: int | None, device: str) -> tuple[int, int]:
    """(worker processes, threads of each): one a GPU, else one for every four cores.

    Raises:
        UsageError: more workers than cores.
    """
    gpus = _gpu_count() if device == "cuda" else 0
    cores = processor.cores()
    most, what = (gpus, "GPUs") if device == "cuda" else (cores, "cores")
    if workers is not None and not 1 <= workers <= most:
        raise UsageError(f"--workers {workers}: this machine has {most} {what}; give 1 to {most}")
    count = workers or gpus or max(1, cores // CORES_PER_WORKER)
    return count, max(1, cores // count)


@contextmanager
def connect(cluster: str, workers: int = 1, device: str = "cpu") -> Iterator[Client]:
    """A client of a new local cluster (``"local"``) or of a running one (``"tcp://host:port"``).

    A local cluster listens on loopback only, and ends with the block. At least one worker is
    there when the block is entered.

    Raises:
        UsageError: no scheduler at that address, or no worker joins it.
    """
    if cluster == "local":
        with (
            dask.config.set(_CONFIG),
            LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                processes=True,
                host="127.0.0.1",
                dashboard_address="127.0.0.1:0",
                silence_logs=logging.CRITICAL,
            ) as local,
            Client(local) as client,
        ):
            client.register_plugin(IgnoreInterrupt())
            if device == "cuda":
                client.register_plugin(PinGPU(_visible_gpus()))
            yield client
        return
    if "://" not in cluster:
        raise UsageError(
            f"--cluster {cluster!r}: give local, or a scheduler's address, tcp://host:port"
        )
    try:
        client = Client(cluster, timeout=CONNECT_SECONDS, set_as_default=True)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"--cluster {cluster}: no Dask scheduler answers there ({error}). Start one with "
            "`dask scheduler`, and workers with `dask worker tcp://HOST:8786 --nthreads 1`."
        ) from error
    with client:
        try:
            client.wait_for_workers(1, timeout=FIRST_WORKER_SECONDS)
        except TimeoutError as error:
            raise UsageError(
                f"--cluster {cluster}: no worker joined within {FIRST_WORKER_SECONDS} s. "
                f"Start some with `dask worker {cluster}`."
            ) from error
        try:
            yield client
        except FeatureStoreError:
            raise
        except Exception as error:
            # A client that lost its scheduler fails in many ways, by what was asked of it last
            lost = isinstance(error, FutureCancelledError | CommClosedError)
            if not lost and client.status == "running":
                raise
            raise FeatureStoreError(
                f"--cluster {cluster}: the connection to the scheduler was lost ({error}). What "
                "was finished is safe: start the scheduler, and run the same command again."
            ) from error


def worker_addresses(client: Client) -> frozenset[str]:
    """The workers there are.

    Raises:
        CommClosedError: the scheduler is gone (``connect`` tells the user).
    """
    info = client.scheduler_info(n_workers=-1)
    if "workers" not in info:
        raise CommClosedError("it does not answer any more")
    return frozenset(info["workers"])


def _gpu_count() -> int:
    import torch

    return torch.cuda.device_count()


def _visible_gpus() -> list[str]:
    given = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return [v for v in given.split(",") if v] or [str(i) for i in range(_gpu_count())]
