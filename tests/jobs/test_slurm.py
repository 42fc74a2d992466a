"""``--cluster slurm``: what its jobs ask for, and the whole way through a SLURM that is not one."""

import asyncio
import os
import signal
import stat
from pathlib import Path
from types import SimpleNamespace

import click
import dask
import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner

from featurestore.errors import FeatureStoreError, UsageError
from featurestore.schema import FAILED
from featurestore.store import open_store
from jobs import slurm, slurm_workers
from jobs.cli import cli
from jobs.cli_cluster import Workers
from jobs.cluster import worker_addresses
from jobs.options import Options, check_options
from jobs.slurm import job_script, parse, require_slurm
from jobs.slurm_workers import Needed, states_of
from tests.jobs.conftest import FAST_ARRAY, Command, wait_for

OTHER = "timm:test_vit2.r160_in1k"

# A job is a process of this machine, in a session of its own.
SBATCH = """#!/bin/sh
[ -e "$FAKE_SLURM/refuse" ] && { echo "sbatch: error: invalid partition specified" >&2; exit 1; }
id=1
while ! mkdir "$FAKE_SLURM/$id" 2>/dev/null; do id=$((id + 1)); done
cp "$1" "$FAKE_SLURM/$id/script"
setsid bash "$FAKE_SLURM/$id/script" >"slurm-$id.out" 2>&1 </dev/null &
echo $! >"$FAKE_SLURM/$id/pid"
echo "Submitted batch job $id"
"""
SQUEUE = """#!/bin/sh
for job in "$FAKE_SLURM"/*/pid; do
    [ -e "$job" ] && kill -0 "$(cat "$job")" 2>/dev/null &&
        echo "$(basename "$(dirname "$job")") RUNNING (None)"
done
exit 0
"""
SCANCEL = """#!/bin/sh
echo "$1" >>"$FAKE_SLURM/cancelled"
kill -TERM -- "-$(cat "$FAKE_SLURM/$1/pid")" 2>/dev/null
exit 0
"""


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of jobs, with sbatch, squeue and scancel first on PATH."""
    folder, bin = tmp_path / "slurm", tmp_path / "bin"
    folder.mkdir()
    bin.mkdir()
    for name, text in (("sbatch", SBATCH), ("squeue", SQUEUE), ("scancel", SCANCEL)):
        (bin / name).write_text(text)
        (bin / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{bin}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_SLURM", str(folder))
    monkeypatch.setenv("DASK_JOBQUEUE__SLURM__INTERFACE", "lo")
    return folder


def test_options_are_those_of_sbatch() -> None:
    request = parse(
        ["partition=gpu", "--time=1-12", "gres=gpu:a100:2,shard:1", "mem=64G", "cpus-per-task=16",
         "account=lab", "exclusive", "constraint=a100&nvme"]
    )  # fmt: skip
    assert (request.cpus, request.memory, request.gpus) == (16, 64 * 2**30, 2)
    assert request.seconds == 36 * 3600
    assert request.workers == 2
    script = job_script(request)
    for line in ("-p gpu", "-A lab", "-t 1-12", "--mem=64G", "--cpus-per-task=16", "--exclusive",
                 "--gres=gpu:a100:2,shard:1", "--constraint=a100&nvme"):  # fmt: skip
        assert f"\n#SBATCH {line}\n" in script
    assert "--nthreads 8 --memory-limit 32.00GiB --nworkers 2" in script
    assert "--lifetime 129150s" in script  # before the 36 hours are over
    assert "tls://SCHEDULER:PORT" in script


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30", 1800), ("30:10", 1810), ("2:00:00", 7200), ("1-0", 86400), ("1-1:30", 91800),
     ("1-1:30:05", 91805), ("UNLIMITED", None)],
)  # fmt: skip
def test_times_of_slurm(text: str, seconds: float | None) -> None:
    request = parse([f"time={text}"])
    assert request.seconds == seconds
    assert ("--lifetime" in job_script(request)) == (seconds is not None)


@pytest.mark.parametrize(
    ("text", "says"),
    [("Partition gpu", "long options"), ("partition=", "long options"), ("partition", "its value"),
     ("array=1-4", "--workers"), ("nodes=2", "--workers"), ("mem-per-cpu=2G", "mem="),
     ("mem=lots", "32G"), ("time=soon", "H:MM:SS"), ("cpus-per-task=0", "one for each GPU"),
     ("x=1\nrm", "long options")],
)  # fmt: skip
def test_what_cannot_be_asked_for(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        parse([text])


def test_script_is_shown_and_nothing_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    words = ["cluster", "script", "--slurm", "gres=gpu:1", "--slurm", "partition=gpu"]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 0, done.output
    assert done.output.startswith("#!/usr/bin/env bash\n")
    assert "distributed.cli.dask_worker" in done.output
    assert "export GLIBC_TUNABLES=glibc.malloc.hugetlb=1\n" in done.output
    assert list(tmp_path.iterdir()) == []


def test_workers_is_one_number_or_two() -> None:
    convert = Workers().convert
    assert convert("4", None, None) == 4
    assert convert("2:16", None, None) == (2, 16)
    for wrong in ("0", "16:2", "two", ":4", "1:2:3", "0:4"):
        with pytest.raises(click.BadParameter):
            convert(wrong, None, None)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"workers": (2, 4)}, "MIN:MAX goes with --cluster slurm"),
        ({"workers": 2, "cluster": "tcp://a:1"}, "has its own"),
        ({"slurm": ("partition=a",)}, "--slurm goes with"),
        ({"tls_cert": Path("a")}, "--tls-"),
        ({"cluster": "cuda", "device": "cpu"}, "leave out --device cpu"),
    ],
)
def test_options_that_do_not_go_together(settings: dict[str, object], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        check_options(Options("folder", Path("x"), **settings))  # type: ignore[arg-type]


def test_without_slurm_or_without_dask_jobqueue(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="there is no sbatch here"):
        require_slurm()
    monkeypatch.setattr(slurm.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FeatureStoreError, match=r"pip install .\[slurm\]"):
        job_script(parse([]))


@pytest.mark.long
def test_the_whole_way(command: Command, videos: Path, fake: Path) -> None:
    """One job at first, two when there is work for two; the same arrays as local ones; all end."""
    out = command.extract(
        videos, "--cluster", "slurm", "--workers", "1:2", "--slurm", "cpus-per-task=1",
        "--slurm", "mem=2G", "--slurm", "time=30",
    )  # fmt: skip
    assert "scheduler at tls://127.0.0.1:" in out
    assert "18 of 18 clips" in out
    assert "warning" not in out.lower()
    assert "Traceback" not in out
    jobs = sorted(p.name for p in fake.iterdir() if p.is_dir())
    assert jobs == ["1", "2"]
    assert "#SBATCH --mem=2G\n" in (fake / "1" / "script").read_text()
    assert set((fake / "cancelled").read_text().split()) == {"1", "2"}
    wait_for(lambda: not states_of(jobs))
    secrets = Path(os.environ["FS_CACHE"]) / "slurm"
    assert list(secrets.iterdir()) == []
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o700
    there = xr.open_zarr(command.folder / "features" / "videos.zarr").load()
    command.extract(videos, "--name", "here")
    here = xr.open_zarr(command.folder / "features" / "here.zarr").load()
    np.testing.assert_allclose(there[FAST_ARRAY], here[FAST_ARRAY], atol=1e-5)


@pytest.mark.slow
def test_of_a_finished_store_no_job_is_asked_for(
    command: Command, videos: Path, fake: Path, tmp_path: Path
) -> None:
    """Nor is a scheduler looked for. What differs from how the store was made is told as well."""
    command.extract(videos)
    (fake / "refuse").touch()  # whoever asks for a job fails
    slurm_ = ("--cluster", "slurm", "--slurm", "cpus-per-task=1")
    nowhere = ("--cluster", "tcp://127.0.0.1:9")
    for cluster in (slurm_, nowhere):
        out = command.extract(videos, *cluster)
        assert "nothing to do: features/videos.zarr has all of it" in out
        assert "scheduler" not in out
        assert "nothing to do" in command.extract(videos, *cluster, "--retry-failed")
    intervals = videos.parent / "intervals.csv"
    out = command.extract(videos, *slurm_, "--labels", intervals)
    assert "nothing to compute" in out
    assert "labels and splits recorded" in out
    out = command.extract(videos, *slurm_, "--engine", "torch", code=1)
    assert 'engine: "openvino" -> "torch"' in out
    assert "refused the job" not in out
    # Where there is work, jobs are asked for as ever.
    for words in (("--backbones", OTHER), ("--replace",)):
        out = command.extract(videos, *slurm_, *words, code=1)
        assert "refused the job" in out
    store = open_store(command.folder / "features" / "videos.zarr", "a")
    store.mark(FAST_ARRAY, range(3), FAILED)
    assert "nothing to do" in command.extract(videos, *slurm_)
    assert "refused the job" in command.extract(videos, *slurm_, "--retry-failed", code=1)


def test_sbatch_refuses_or_all_jobs_end_at_once(
    fake: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cache: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(slurm_workers, "LOOK_SECONDS", 0.2)
    said: list[str] = []

    def enter() -> None:
        with slurm_workers.slurm_workers(parse([]), (1, 2), None, said.append):
            raise AssertionError("no worker can have come")

    (fake / "refuse").touch()
    with pytest.raises(UsageError, match="refused the job: sbatch: error: invalid partition"):
        enter()
    (fake / "refuse").unlink()
    monkeypatch.setattr(slurm.sys, "executable", "false")
    with pytest.raises(FeatureStoreError, match=r"before a worker came.*slurm-1\.out"):
        enter()


def test_a_job_that_ended_is_asked_for_again(
    fake: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cache: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(slurm_workers, "LOOK_SECONDS", 0.2)
    said: list[str] = []
    request = parse(["cpus-per-task=1", "mem=1G"])
    with (
        dask.config.set({"distributed.deploy.lost-worker-timeout": "1s"}),
        slurm_workers.slurm_workers(request, (1, 1), None, said.append) as client,
    ):
        (first,) = worker_addresses(client)
        os.killpg(int((fake / "1" / "pid").read_text()), signal.SIGKILL)
        wait_for(lambda: worker_addresses(client) not in (frozenset(), {first}))
        assert client.submit(pow, 2, 3).result() == 8
    assert {p.name for p in fake.iterdir() if p.is_dir()} == {"1", "2"}
    assert said[1:] == ["waiting for the first worker: job 1 RUNNING (None)"]


def test_jobs_that_end_before_their_worker_comes_are_not_asked_for_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each is said once; after three of them the cluster stays as it is."""
    monkeypatch.setattr(slurm_workers, "LOOK_SECONDS", -1.0)
    monkeypatch.setattr(slurm_workers, "states_of", lambda jobs: {})
    said: list[str] = []
    awaited = {"7": "a-7"}

    class FakeJobs(SimpleNamespace):
        def awaited(self) -> dict[str, str]:
            return dict(awaited)

        def forget(self, name: str) -> None:
            assert name == "a-7"

    jobs = FakeJobs(loop=None, observed={"a-0"})
    needed = Needed(jobs, say=said.append, minimum=2, maximum=8, interval=0)  # type: ignore
    for _ in range(slurm_workers.MOST_STILLBORN):
        assert (needed.minimum, needed.maximum) == (2, 8)
        asyncio.run(needed._drop_stillborn())
    assert (needed.minimum, needed.maximum) == (1, 1)
    assert said[0].startswith("job 7 ended before its worker came")
    assert "no more of them" in said[-1]
