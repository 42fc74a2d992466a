"""How much work is missing, and about how long it takes on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TYPE_CHECKING

from jobs import processor
from jobs.matrix import matrix_rate, numpy_rate, torch_rate
from jobs.specs import BackboneSpec

if TYPE_CHECKING:
    from distributed import Client

    from jobs.engines import Choice

__all__ = ["clip_cost", "expected", "local_rate", "machine_rate", "task_clips", "worker_rate"]

CROPS = 10
TASK_SECONDS = 30.0  # what a kill may cost, and how often the store hears of progress
# Share of the matrix rate that the networks reach, measured with OpenVINO: float32 0.67 to 0.9 on
# three processors, bfloat16 0.49 to 0.53 with AMX. On CUDA it is a guess until someone measures it.
SHARE = {("cpu", "float32"): 0.75, ("cpu", "bfloat16"): 0.5}
SHARE_ON_CUDA = 0.3


def clip_cost(specs: Mapping[str, BackboneSpec]) -> dict[str, float]:
    """Backbone -> GFLOP of one ten-crop clip."""
    return {name: CROPS * max(spec.gflop, 0.1) for name, spec in specs.items()}


def machine_rate(choice: Choice, client: Client | None = None) -> float:
    """Matrix rate, GFLOP/s, of this machine or of all workers of a cluster together.

    Takes about half a second. On CUDA it is the first card's.
    """
    asked = (choice.device, choice.precision)
    if client is not None:
        from jobs.cluster import worker_addresses

        one: float = client.submit(_rate_on_worker, *asked, pure=False).result()
        return one * len(worker_addresses(client))
    if choice.device != "cuda":
        return matrix_rate(*asked)
    # In a process of its own: the driver would hold a part of the first card for the whole run
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as apart:
        return apart.submit(matrix_rate, *asked).result()


def local_rate(choice: Choice, client: Client) -> float:
    """``machine_rate`` of this machine, by a worker of its own local cluster ``client``.

    torch's part is measured there: the driver needs torch for nothing else.
    """
    from distributed import KilledWorker

    if choice.device == "cuda":
        return machine_rate(choice)
    asked = (choice.device, choice.precision, processor.cores())
    try:
        rate: float = client.submit(torch_rate, *asked, pure=False).result()
    except KilledWorker:  # what that means is for the work itself to find out
        return matrix_rate(*asked)
    # numpy's is measured here: Dask leaves its workers' numpy one thread
    return max(rate, numpy_rate()) if choice.precision == "float32" else rate


def expected(choice: Choice, rate: float) -> float:
    """GFLOP/s that the networks should reach where the matrix rate is ``rate``."""
    return rate * SHARE.get((choice.device, choice.precision), SHARE_ON_CUDA)


def worker_rate(rate: float, client: Client) -> float:
    """The share of one worker."""
    from jobs.cluster import worker_addresses

    return rate / max(1, len(worker_addresses(client)))


def task_clips(cost_per_clip: float, rate: float, block: int) -> int:
    """Clips of one task: about ``TASK_SECONDS`` of work for one worker, at most a block."""
    return int(min(block, max(1, TASK_SECONDS * rate // max(cost_per_clip, 1e-9))))


def _rate_on_worker(device: str, precision: str) -> float:
    """The matrix rate of the worker that runs this, with the threads that Dask gives it."""
    import distributed

    threads = int(distributed.get_worker().state.nthreads)
    return matrix_rate(device, precision, threads)
