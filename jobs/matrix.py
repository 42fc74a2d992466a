"""The machine's matrix rate: what the processor or the card reaches on a plain matrix product.

It is the line that the networks are held against: nearly all of their work are such products.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from jobs import processor

__all__ = ["matrix_rate", "numpy_rate", "torch_rate"]

SECONDS = 0.25  # for each way to multiply
LEAST, MOST = 1024, 8192  # rows of the matrices; of float32 numbers 8192 take 0.8 GB
SHORT = 0.02  # seconds: quicker products are made larger, or starting the threads is measured
TRIES = 3  # the quickest decides: one alone, held up, would leave them small, at 0.6 of the rate


def matrix_rate(
    device: str = "cpu", precision: str = "float32", threads: int | None = None
) -> float:
    """GFLOP/s of the product of two square matrices, measured in under a second.

    Args:
        precision: of the factors. On ``cuda`` float32 is without TF32, as in the networks.
        threads: that a processor computes with; None: one a core.
    """
    rate = torch_rate(device, precision, threads)
    every_core = threads is None or threads >= processor.cores()
    if (device, precision) == ("cpu", "float32") and every_core:
        # numpy's library may be the faster one (EPYC, one core: 91 GFLOP/s against 79 to 89), but
        # its threads cannot be set from here: where it was given fewer, torch's rate stands.
        rate = max(rate, numpy_rate())
    return rate


def torch_rate(
    device: str = "cpu", precision: str = "float32", threads: int | None = None
) -> float:
    """``matrix_rate`` by torch's library alone."""
    import torch

    dtype = getattr(torch, precision)

    def by_torch(rows: int) -> Callable[[], object]:
        a = torch.ones(rows, rows, dtype=dtype, device=device)

        def product() -> None:
            torch.mm(a, a)
            if device == "cuda":
                torch.cuda.synchronize()

        return product

    if device == "cuda":
        return _best(by_torch)
    wanted, before = threads or processor.cores(), torch.get_num_threads()
    torch.set_num_threads(wanted)
    try:
        return _best(by_torch)
    finally:
        torch.set_num_threads(before)


def numpy_rate() -> float:
    """GFLOP/s of numpy's product of two square float32 matrices, with the threads it has."""
    return _best(_by_numpy)


def _by_numpy(rows: int) -> Callable[[], object]:
    a = np.ones((rows, rows), np.float32)
    return lambda: a @ a


def _best(of_size: Callable[[int], Callable[[], object]]) -> float:
    """GFLOP/s of the quickest product in ``SECONDS``; ``of_size(rows)`` makes it."""
    rows = LEAST
    product = of_size(rows)
    product()  # the first one starts the threads
    taken = min(_seconds(product) for _ in range(TRIES))
    while taken < SHORT and rows < MOST:
        rows *= 2
        product = of_size(rows)
        product()
        taken = min(_seconds(product) for _ in range(TRIES))
    best, end = taken, time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        best = min(best, _seconds(product))
    return 2 * rows**3 / best / 1e9


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
