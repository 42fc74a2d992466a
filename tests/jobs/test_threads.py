"""Where the networks' threads run: several workers of a machine must not be in each other's way."""

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

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


def test_networks_that_run_beside_each_other_give_what_each_gives_alone(cache: Path) -> None:
    choice = Choice("openvino", "float32", "cpu")
    generator = torch.Generator().manual_seed(0)
    opened = []
    for name, size in (("r3d", 112), ("r2plus1d", 112)):
        spec = SPECS[name]
        network = engines.open_network(spec, resolve(spec, "random"), choice, threads=2)
        shape = (3, 3, 16, size, size)
        crops = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        opened.append((network, crops, network.features(crops)))
    began = time.perf_counter()
    waits = [network.start(crops) for network, crops, _ in opened * 2]
    for wait, (_, _, alone) in zip(waits, opened * 2, strict=True):
        features, ended = wait()
        np.testing.assert_array_equal(features, alone)
        assert began < ended < time.perf_counter()


def test_a_crop_that_fails_is_told_of_and_the_next_ones_are_computed(cache: Path) -> None:
    spec = SPECS["r3d"]
    choice = Choice("openvino", "float32", "cpu")
    network: Any = engines.open_network(spec, resolve(spec, "random"), choice, threads=2)
    crops = torch.zeros(4, 3, 16, 112, 112, dtype=torch.uint8)
    expected = network.features(crops)
    run, calls = network._run, iter(range(100))

    def failing(crop: torch.Tensor) -> Any:
        if next(calls) == 1:
            raise RuntimeError("out of memory")
        return run(crop)

    network._run = failing
    with pytest.raises(RuntimeError, match="out of memory"):
        network.features(crops)
    np.testing.assert_array_equal(network.features(crops), expected)
