"""The same code on a scheduler and workers that were started by hand."""

import ctypes
import logging
import os
import pickle
import platform
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import trustme
import xarray as xr
from distributed import LocalCluster

from featurestore.catalog import NewVideo
from featurestore.errors import UsageError
from featurestore.lock import locked
from featurestore.store import create
from jobs import cluster, drive, engines, extract, processor, sample
from jobs.backbones import resolve
from jobs.cluster import PinGPU, connect, elsewhere, local_shape, secured, worker_addresses
from jobs.drive import Drive
from jobs.making import provenance
from jobs.options import Options
from jobs.plan import make_tasks
from jobs.progress import Progress
from jobs.specs import spec_of
from jobs.worker import Result, Setup
from tests.jobs import simulated
from tests.jobs.conftest import FAST, FAST_ARRAY, Command, wait_for


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@dataclass(frozen=True)
class Started:
    address: str
    processes: list["subprocess.Popen[bytes]"]  # the scheduler, then the workers


@pytest.fixture
def scheduler(tmp_path: Path) -> Iterator[Started]:
    """``dask scheduler`` and two ``dask worker``s on loopback."""
    address = f"tcp://127.0.0.1:{free_port()}"
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    dask = [sys.executable, "-m", "dask"]
    with (tmp_path / "dask.log").open("w") as log:
        started = [
            subprocess.Popen([*dask, *words], env=env, cwd=tmp_path, stdout=log, stderr=log)
            for words in (
                ["scheduler", "--host", address, "--dashboard-address", "127.0.0.1:0"],
                ["worker", address, "--nthreads", "1", "--no-dashboard"],
                ["worker", address, "--nthreads", "2", "--no-dashboard"],
            )
        ]
        yield Started(address, started)
        for process in reversed(started):
            process.terminate()
        for process in started:
            process.wait(timeout=30)


@pytest.mark.slow
def test_a_scheduler_started_by_hand(command: Command, videos: Path, scheduler: Started) -> None:
    some = ("--videos", "normal_*")
    out = command.extract(videos, *some, "--cluster", scheduler.address)
    assert "9 of 9 clips" in out
    there = xr.open_zarr(command.folder / "features" / "videos.zarr").load()
    command.extract(videos, *some, "--name", "here")
    here = xr.open_zarr(command.folder / "features" / "here.zarr").load()
    np.testing.assert_allclose(there[FAST_ARRAY], here[FAST_ARRAY], atol=1e-5)


@pytest.mark.slow
def test_two_commands_on_one_scheduler_and_then_it_is_gone(
    command: Command, videos: Path, scheduler: Started
) -> None:
    words = ("extract", "--dataset", "folder", "--root", videos, "--weights", "random")
    words = (*words, "--videos", "normal_*", "--cluster", scheduler.address, "--backbones")
    other = command.start(*words, "timm:test_resnet", "--name", "other")
    command.run(*words, FAST)
    out, err = other.communicate(timeout=300)
    assert other.returncode == 0, out + err
    assert "9 of 9 clips" in out

    other = command.start(*words, "timm:test_efficientnet", "--name", "late")
    wait_for(lambda: (command.folder / "features" / "late.zarr").exists())
    scheduler.processes[0].kill()
    out, err = other.communicate(timeout=300)
    assert other.returncode == 1, out + err
    assert "the connection to the scheduler was lost" in err
    assert "Traceback" not in err


def test_no_scheduler_there_is_one_clear_error(command: Command, videos: Path) -> None:
    address = f"tcp://127.0.0.1:{free_port()}"
    out = command.extract(videos, "--cluster", address, code=1)
    assert address in out
    assert "dask scheduler" in out
    assert "Traceback" not in out
    assert re.search("(?m)^error: ", out)


def test_shape_of_a_local_cluster() -> None:
    cores = len(os.sched_getaffinity(0))
    workers, threads = local_shape(None, "cpu")
    assert workers * threads <= max(cores, 1)
    assert local_shape(1, "cpu") == (1, cores)
    with pytest.raises(UsageError, match="cores"):
        local_shape(1000, "cpu")


def page_flags_of_64_mb() -> list[str]:
    """What Linux is told of memory that this process asks glibc for."""
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    address = libc.malloc(64 << 20)
    for area in re.split(r"^(?=[0-9a-f]+-)", Path("/proc/self/smaps").read_text(), flags=re.M)[1:]:
        begin, end = (int(n, 16) for n in area.split()[0].split("-"))
        if begin <= address < end:
            return area.partition("VmFlags:")[2].split()
    raise AssertionError(f"{address:x} is nowhere in /proc/self/smaps")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc's")
@pytest.mark.skipif(platform.libc_ver()[1] < "2.35", reason="older than that setting")
def test_workers_ask_for_large_pages() -> None:
    pages = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if "[madvise]" not in (pages.read_text() if pages.exists() else ""):
        pytest.skip("Linux gives large pages to all here, or to none")
    with connect("local", 1) as client:
        assert "hg" in client.submit(page_flags_of_64_mb).result()
    if "hugetlb" not in os.environ.get("GLIBC_TUNABLES", ""):
        assert "hg" not in page_flags_of_64_mb()


def test_settings_of_glibc_that_are_there_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    for given, expected in (
        ("", "glibc.malloc.hugetlb=1"),
        ("glibc.malloc.check=1", "glibc.malloc.check=1:glibc.malloc.hugetlb=1"),
        ("glibc.malloc.hugetlb=0", "glibc.malloc.hugetlb=0"),
    ):
        monkeypatch.setenv("GLIBC_TUNABLES", given)
        assert processor.large_pages() == {"GLIBC_TUNABLES": expected}


def test_a_worker_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert local_shape(None, "cuda")[0] == 2
    with pytest.raises(UsageError, match="this machine has 2 GPUs"):
        local_shape(3, "cuda")
    assert cluster._visible_gpus() == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    pin = PinGPU(cluster._visible_gpus())
    for name, gpu in (("0", "3"), ("1", "5")):
        pin.setup(SimpleNamespace(name=name))
        assert os.environ["CUDA_VISIBLE_DEVICES"] == gpu


@pytest.mark.slow
def test_one_long_video_is_shared_and_nothing_big_travels(tmp_path: Path) -> None:
    """Both workers work on it, each builds the network once, few tasks are under way at a time."""
    recipe = sample.Recipe(videos=2, frames=16 * 40, width=96, height=80)
    root = sample.write(tmp_path / "sample", recipe)
    spec = spec_of(FAST)
    weights = resolve(spec, "random")
    choice = engines.choose("openvino", "float32", "cpu")
    url = str(tmp_path / "long.zarr")
    results: list[Result] = []
    most = 0

    class Watched(Drive):
        def _collect(self, future, waiting, running):  # type: ignore[no-untyped-def]
            nonlocal most
            most = max(most, len(running))
            results.append(future.result())
            super()._collect(future, waiting, running)

    with locked(url), connect("local", 2) as client:
        store = create(url, dataset="long", block=4)
        store.append([NewVideo(name="long", path="long.mp4", frames=640)])
        store.add_features(spec.name, spec.channels, provenance(spec, weights.digest, choice, {}))
        store.commit()
        setup = Setup(
            store=url, specs={spec.name: spec}, weights="random",
            digests={spec.name: weights.digest},
            fingerprints={spec.name: store.fingerprint(spec.name)},
            engine=choice.engine, precision=choice.precision, device=choice.device,
            decoder="pyav", threads=1,
        )  # fmt: skip
        videos = [("long", str(root / "normal_01.mp4"), 640)]
        tasks = make_tasks(
            {spec.name: np.ones(40, bool)}, *store.clip_table(), videos, block=4, clips_per_task=2
        )
        assert max(len(pickle.dumps((task, setup))) for task in tasks) < 10_000  # bytes
        Watched(client, store, setup, Progress(40, 40.0), {spec.name: 1.0}).run(tasks)
        assert (store.status(spec.name) == 1).all()
    assert len(results) == len(tasks) == 20
    assert len({r.worker for r in results}) == 2
    assert {r.built for r in results} == {1}
    assert most <= 4  # two a worker


@pytest.fixture
def simulated_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drive, "extract_clips", simulated.extract)
    monkeypatch.setattr(drive, "build_networks", simulated.build)


@pytest.mark.slow
def test_a_worker_that_is_given_back_is_nobodys_fault(
    tmp_path: Path, simulated_workers: None, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """As adaptive clusters retire them; and the wall clock may jump meanwhile."""
    monkeypatch.setenv(simulated.SECONDS, "0.3")
    url = tmp_path / "s.zarr"
    with locked(url), connect("local", 2) as client:
        store = simulated.store_of(url, [(f"v{i}", 4) for i in range(20)], block=4)
        run = Drive(client, store, simulated.setup_of(store), Progress(80, 80.0),
                      {simulated.SPEC.name: 1.0})  # fmt: skip
        tasks = simulated.tasks_of(store, 4)
        retired: list[str] = []

        def retire() -> None:
            wait_for(lambda: (store.status(simulated.SPEC.name) == 1).any())
            address = min(worker_addresses(client))
            assert client.processing()[address]  # in the middle of its work
            retired.append(address)
            client.retire_workers([address])
            scheduler = client.cluster.scheduler
            assert scheduler.worker_ttl is None  # a jump would end all that are left
            monkeypatch.setattr("distributed.scheduler.time", lambda: time.time() + 86400)

        with ThreadPoolExecutor(1) as apart:
            done = apart.submit(retire)
            run.run(tasks)
            done.result()
        assert retired[0] not in worker_addresses(client)
        assert (store.status(simulated.SPEC.name) == 1).all()
    assert "died" not in capsys.readouterr().out
    assert not run.failed


@pytest.mark.slow
def test_a_video_that_takes_all_memory(
    tmp_path: Path, simulated_workers: None, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Its worker is ended by its limit, before it takes the machine along; the others pass."""
    monkeypatch.setattr(cluster, "LocalCluster", partial(LocalCluster, memory_limit="600 MB"))
    url = tmp_path / "s.zarr"
    with locked(url), connect("local", 1) as client:
        videos = [("a", 4), (simulated.ALLOCATES, 4), ("b", 4)]
        store = simulated.store_of(url, videos, block=8)
        run = Drive(client, store, simulated.setup_of(store), Progress(12, 12.0),
                      {simulated.SPEC.name: 1.0})  # fmt: skip
        run.run(simulated.tasks_of(store, 8))
        status = store.status(simulated.SPEC.name).tolist()
    assert status == [1] * 4 + [2] * 4 + [1] * 4
    assert list(run.failed) == [1]
    assert "memory ran out" in run.failed[1]
    out = capsys.readouterr().out
    assert "a worker died while working on clips 0-7 (a, hungry); trying again" in out
    assert "a worker died while working on clips 4-7 (hungry); given up" in out
    assert "hungry: failed: workers died repeatedly" in out


def test_tls_certificates_are_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = {}
    for whose in ("ours", "strangers"):
        authority = trustme.CA()
        cert = authority.issue_cert("cluster.example")
        ca, pem, key = (tmp_path / f"{whose}-{name}.pem" for name in ("ca", "cert", "key"))
        authority.cert_pem.write_to_path(str(ca))
        cert.cert_chain_pems[0].write_to_path(str(pem))
        cert.private_key_pem.write_to_path(str(key))
        paths[whose] = {"tls_ca_file": ca, "tls_cert": pem, "tls_key": key}
    ours = paths["ours"]
    security = secured(*map(str, ours.values()))
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 3)
    said: list[str] = []
    with LocalCluster(
        n_workers=1, processes=False, protocol="tls://", host="127.0.0.1", security=security,
        dashboard_address=None, silence_logs=logging.CRITICAL,
    ) as there:  # fmt: skip
        address = there.scheduler_address
        assert address.startswith("tls://")
        with elsewhere(Options("folder", tmp_path, cluster=address, **ours), said.append) as client:
            assert client.submit(pow, 2, 3).result() == 8
        assert said == [f"connecting to {address}"]  # nothing of versions: it is one process
        for others, says in (
            (paths["strangers"], "certificates are of another authority"),
            ({}, "give --tls-ca-file, --tls-cert and --tls-key"),
            ({**ours, "tls_key": None}, "--tls-key is missing"),
            ({**ours, "tls_cert": tmp_path / "none.pem"}, "none.pem: No such file"),
        ):
            options = Options("folder", tmp_path, cluster=address, **others)
            with pytest.raises(UsageError, match=says), elsewhere(options, said.append):
                raise AssertionError("let in")


def test_cluster_cuda_without_a_gpu(videos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    with pytest.raises(UsageError, match="--cluster cuda: torch finds no CUDA device"):
        extract.run(Options("folder", videos, cluster="cuda", store="nowhere"))
    assert not Path("nowhere").exists()


@pytest.mark.parametrize(("name", "gpu"), [("featurestore-7-1", "5"), ("featurestore-7", "5")])
def test_gpus_that_a_job_was_given(name: str, gpu: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the worker's own machine, not of the driver's; twice is as once."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    for _ in range(2):
        PinGPU().setup(SimpleNamespace(name=name))
        assert os.environ["CUDA_VISIBLE_DEVICES"] == gpu
