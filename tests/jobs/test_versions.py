"""Hosts with other software are told before any work starts."""

import pickle
import subprocess
import sys
from dataclasses import replace

import pytest
from distributed.protocol.pickle import dumps

from featurestore.errors import FeatureStoreError, UsageError
from jobs import worker
from jobs.backbones import resolve
from jobs.versions import OURS, by_value, check_versions, differences, installed
from tests.jobs import simulated

HERE = {"python": "3.11.9", OURS: "0.1.0", "numpy": "2.4.6", "zarr": "3.1.6",
        "distributed": "2026.8.0", "torch": "2.13.0"}  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "fatal"),
    [
        ({OURS: "0.2.0"}, True),
        ({OURS: "not installed"}, True),
        ({"numpy": "1.26.4"}, True),
        ({"zarr": "2.18.0"}, True),
        ({"numpy": "2.3.0"}, False),
        ({"python": "3.12.1"}, False),
        ({"distributed": "2025.1.0"}, False),
        ({"torch": "2.6.0"}, False),
    ],
)
def test_of_one_worker(changed: dict[str, str], fatal: bool) -> None:
    workers = {"tcp://a:1": HERE, "tcp://b:1": {**HERE, **changed}}
    found = differences(HERE, HERE, workers)
    ((name, version),) = changed.items()
    line = f"{name} {HERE[name]} here, {version} on worker tcp://b:1"
    assert found == (([line], []) if fatal else ([], [line]))


def test_of_the_scheduler_and_of_many_workers() -> None:
    scheduler = {**HERE, "torch": "not installed", "python": "3.12.1"}  # it needs no torch
    workers = {f"tcp://w{i}:1": {**HERE, "python": "3.12.1"} for i in range(5)}
    assert differences(HERE, scheduler, workers) == (
        [], ["python 3.11.9 here, 3.12.1 on the scheduler, worker tcp://w0:1 and 4 more"],
    )  # fmt: skip


class Cluster:
    """One worker that has something else."""

    def __init__(self, **others: str) -> None:
        self.there = {**installed(), **others}

    def run_on_scheduler(self, asked: object) -> dict[str, str]:
        return installed()

    def run(self, asked: object) -> dict[str, dict[str, str]]:
        return {"tcp://a:1": self.there}


def test_what_is_said() -> None:
    said: list[str] = []
    check_versions(Cluster(), said.append)  # type: ignore[arg-type]
    assert said == []
    check_versions(Cluster(python="2.7.18"), said.append)  # type: ignore[arg-type]
    (line,) = said
    assert line.startswith("warning: python ")
    with pytest.raises(UsageError, match=r"zarr .* here, 2\.0 on worker tcp://a:1.* Install the"):
        check_versions(Cluster(zarr="2.0"), said.append)  # type: ignore[arg-type]


def test_a_host_without_our_package_can_answer() -> None:
    with by_value():
        sent = dumps(installed)
    code = (
        "import pickle, sys; sys.modules['jobs'] = None; "
        "sys.stdout.buffer.write(pickle.dumps(pickle.load(sys.stdin.buffer)()))"
    )
    done = subprocess.run([sys.executable, "-c", code], input=sent, capture_output=True, check=True)
    assert pickle.loads(done.stdout) == installed()


def test_a_worker_that_joins_later_with_another_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "_networks", {})  # other tests built some in this process
    name = simulated.SPEC.name
    digest = resolve(simulated.SPEC, "random").digest
    setup = worker.Setup(
        "", {name: simulated.SPEC}, "random", {name: digest}, {}, "openvino", "float32", "cpu",
        "pyav", 1,
    )  # fmt: skip
    setup = replace(setup, versions={name: {"torch": "0.1"}})
    with pytest.raises(FeatureStoreError, match=r"has \{'torch': .*'torch': '0.1'\}; install the"):
        worker.build_networks(setup)
