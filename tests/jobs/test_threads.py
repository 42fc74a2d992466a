"""Where the networks' threads run: several workers of a machine must not be in each other's way."""

import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch

from jobs import engines
from jobs.backbones import resolve
from jobs.engines import Choice
from jobs.specs import SPECS


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_workers_of_a_machine_do_not_share_cores(cache: Path) -> None:
    """No thread is bound to a core: each process would bind its own to the first ones."""
    spec = SPECS["r3d"]
    choice = Choice("openvino", "float32", "cpu")
    network = engines.open_network(spec, resolve(spec, "random"), choice, threads=1)
    crops = torch.zeros(2, 3, 16, 112, 112, dtype=torch.uint8)
    found = set()
    with ThreadPoolExecutor(1) as thread:
        running = thread.submit(network.features, crops)
        while not running.done():
            with suppress(OSError):  # a thread that ends meanwhile
                for status in Path("/proc/self/task").glob("*/status"):
                    found.add(status.read_text().split("Cpus_allowed_list:")[1].split()[0])
    assert len(found) == 1


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_crops_side_by_side_come_back_in_order(threads: int, cache: Path) -> None:
    """Two at a time with an even number of threads; each as it is alone."""
    spec = SPECS["r3d"]
    choice = Choice("openvino", "float32", "cpu")
    network = engines.open_network(spec, resolve(spec, "random"), choice, threads=threads)
    generator = torch.Generator().manual_seed(0)
    crops = torch.randint(0, 256, (5, 3, 16, 112, 112), dtype=torch.uint8, generator=generator)
    together = network.features(crops)
    for row, crop in zip(together, crops, strict=True):
        np.testing.assert_array_equal(row, network.features(crop[None])[0])
    assert len(np.unique(together[:, 0])) == 5
