"""How much work is missing, and about how long it takes on this machine."""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TYPE_CHECKING

import numpy as np

from jobs.specs import BackboneSpec

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["clip_cost", "machine_rate", "matrix_rate", "task_clips", "worker_rate"]

CROPS = 10
TASK_SECONDS = 30.0  # what a kill may cost, and how often the store hears of progress
# Share of the matrix rate that the networks reach: measured with OpenVINO on two processors
# (0.85 to 0.9 of sgemm); on CUDA a guess, since no GPU has been measured.
SHARE = {"cpu": 0.85, "cuda": 0.3}


def clip_cost(specs: Mapping[str, BackboneSpec]) -> dict[str, float]:
    """Backbone -> GFLOP of one ten-crop clip."""
    return {name: CROPS * max(spec.gflop, 0.1) for name, spec in specs.items()}


def machine_rate(device: str, client: Client | None = None) -> float:
    """GFLOP/s that the networks should reach on this machine, or on all workers of a cluster."""
    if client is not None:
        from jobs.cluster import worker_addresses

        one: float = client.submit(matrix_rate, device, pure=False).result()
        return one * len(worker_addresses(client))
    if device != "cuda":
        return matrix_rate(device)
    # In a process of its own: the driver would hold a part of the first card for the whole run
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as apart:
        return apart.submit(matrix_rate, device).result()


def worker_rate(rate: float, client: Client) -> float:
    """The share of one worker."""
    from jobs.cluster import worker_addresses

    return rate / max(1, len(worker_addresses(client)))


def matrix_rate(device: str) -> float:
    """GFLOP/s that the networks should reach here: the rate of a matrix product, times ``SHARE``.

    Takes well under a second; on ``cuda`` it is the first card's float16 rate.
    """
    if device == "cuda":
        import torch

        a = torch.randn(4096, 4096, device="cuda", dtype=torch.float16)
        flop = 2 * 4096**3

        def product() -> None:
            torch.mm(a, a)
            torch.cuda.synchronize()
    else:
        b = np.ones((1024, 1024), np.float32)
        flop = 2 * 1024**3

        def product() -> None:
            b @ b

    product()
    best = min(_seconds(product) for _ in range(5))
    return flop / best / 1e9 * SHARE[device]


def task_clips(cost_per_clip: float, rate: float, block: int) -> int:
    """Clips of one task: about ``TASK_SECONDS`` of work for one worker, at most a block."""
    return int(min(block, max(1, TASK_SECONDS * rate // max(cost_per_clip, 1e-9))))


def _seconds(work: object) -> float:
    began = time.perf_counter()
    work()  # type: ignore[operator]
    return time.perf_counter() - began
