"""Dask workers: a local cluster of processes, SLURM's jobs, or a scheduler that is running."""

from __future__ import annotations

import logging
import os
import re
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import dask
from distributed import Client, LocalCluster, Security, WorkerPlugin
from distributed.client import FutureCancelledError
from distributed.comm.core import CommClosedError
from distributed.utils import silence_logging_cmgr
from distributed.versions import VersionMismatchWarning

from featurestore.errors import FeatureStoreError, UsageError
from jobs import processor
from jobs.versions import check_versions

if TYPE_CHECKING:
    from jobs.options import Options

__all__ = [
    "IgnoreInterrupt",
    "PinGPU",
    "connect",
    "elsewhere",
    "local_shape",
    "require_gpu",
    "secured",
    "worker_addresses",
]

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
    # Silent workers are told by the wall clock, and a clock that jumps would make all of them so;
    # of processes of this machine the end of their connection says enough.
    "distributed.scheduler.worker-ttl": None,
    "distributed.admin.log-length": 1000,
}


class PinGPU(WorkerPlugin):
    """Gives each worker of a machine one GPU, before CUDA is touched in its process.

    By the number at the end of the worker's name. ``visible`` are the GPUs of this machine; None:
    those that the worker's own machine was given (by SLURM, say).
    """

    name = "pin-gpu"

    def __init__(self, visible: list[str] | None = None) -> None:
        self.visible = visible

    def setup(self, worker: Any) -> None:
        given = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        visible = self.visible or [v for v in given.split(",") if v]
        number = re.search(r"\d+$", str(worker.name))
        if visible and number:
            os.environ["CUDA_VISIBLE_DEVICES"] = visible[int(number[0]) % len(visible)]


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
        pages = {
            f"distributed.nanny.pre-spawn-environ.{name}": value
            for name, value in processor.large_pages().items()
        }
        with (
            dask.config.set(_CONFIG | pages),
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
    with _running(cluster) as client:
        yield client


@contextmanager
def elsewhere(options: Options, say: Callable[[str], None]) -> Iterator[Client]:
    """A client of what ``--cluster`` names that is not this machine, with versions compared.

    Raises:
        UsageError: nothing of the kind is there, no worker comes, or the hosts' versions differ.
    """
    security = _security(options)
    if options.cluster == "slurm":
        from jobs.slurm import parse, require_slurm

        request = parse(options.slurm)
        require_slurm()
        from jobs.slurm_workers import slurm_workers

        least, most = options.worker_range or (1, 1)
        made = slurm_workers(request, (least, most), security, say)
    else:
        say(f"connecting to {options.cluster}")
        made = _running(options.cluster, security)
    with made as client:
        check_versions(client, say)
        yield client


def _security(options: Options) -> Security | None:
    """Of the ``--tls-`` options; None: what Dask's own configuration has, if anything.

    Raises:
        UsageError: one of them is missing, or cannot be read.
    """
    given = {
        "--tls-ca-file": options.tls_ca_file,
        "--tls-cert": options.tls_cert,
        "--tls-key": options.tls_key,
    }
    if not any(given.values()):
        if options.cluster.startswith("tls://") and not dask.config.get(
            "distributed.comm.tls.ca-file"
        ):
            raise UsageError(
                f"--cluster {options.cluster}: give --tls-ca-file, --tls-cert and --tls-key, as "
                "the scheduler has them"
            )
        return None
    for name, path in given.items():
        if path is None:
            raise UsageError(
                f"{name} is missing: --tls-ca-file, --tls-cert and --tls-key go together"
            )
        try:
            path.read_bytes()
        except OSError as error:
            raise UsageError(f"{name} {path}: {error.strerror}") from error
    if not options.cluster.startswith(("tls://", "slurm")):
        raise UsageError(f"--tls-cert goes with --cluster tls://..., not with {options.cluster}")
    return secured(*(str(path.absolute()) for path in given.values() if path))


def secured(ca_file: str, cert: str, key: str) -> Security:
    """TLS with one certificate for whatever part this side has; paths."""
    roles = ("client", "scheduler", "worker")
    return Security(
        require_encryption=True,
        tls_ca_file=ca_file,
        **{f"tls_{role}_cert": cert for role in roles},
        **{f"tls_{role}_key": key for role in roles},
    )


@contextmanager
def _running(cluster: str, security: Security | None = None) -> Iterator[Client]:
    if "://" not in cluster:
        raise UsageError(
            f"--cluster {cluster!r}: give local (to extract also cuda, slurm), or a scheduler's "
            "address, tcp://host:port or tls://host:port"
        )
    # A client that loses its scheduler logs tracebacks of its attempts to find it again.
    with silence_logging_cmgr(logging.CRITICAL), _client(cluster, security) as client:
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


def _client(cluster: str, security: Security | None) -> Client:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", VersionMismatchWarning)  # check_versions says it
            return Client(cluster, timeout=CONNECT_SECONDS, set_as_default=True, security=security)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"--cluster {cluster}: no Dask scheduler answers there ({error}). Start one with "
            "`dask scheduler`, and workers with `dask worker tcp://HOST:8786 --nthreads 1`."
            + (" Or its certificates are of another authority." if security else "")
        ) from error


def worker_addresses(client: Client) -> frozenset[str]:
    """The workers there are.

    Raises:
        CommClosedError: the scheduler is gone (``connect`` tells the user).
    """
    # Not client.scheduler_info(): now and then that names no worker at all, as a timer of Dask's
    # asks for none and puts the answer in the same place (distributed 2026.8).
    try:
        if client.scheduler is None:
            raise CommClosedError("the client is closed")
        info = client.sync(client.scheduler.identity, n_workers=-1)
    except OSError as error:
        raise CommClosedError(f"it does not answer any more ({error})") from error
    return frozenset(info["workers"])


def require_gpu() -> None:
    """Raise UsageError unless this machine has a GPU."""
    if not _gpu_count():
        raise UsageError(
            "--cluster cuda: torch finds no CUDA device on this machine; use --cluster local"
        )


def _gpu_count() -> int:
    import torch

    return torch.cuda.device_count()


def _visible_gpus() -> list[str]:
    given = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return [v for v in given.split(",") if v] or [str(i) for i in range(_gpu_count())]
