"""Dask workers in SLURM's jobs: asked for, waited for, more and fewer of them, given back."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import dask
from dask_jobqueue.slurm import SLURMCluster
from distributed import Client, Security
from distributed.core import Status
from distributed.deploy.adaptive import Adaptive

from featurestore.errors import FeatureStoreError, UsageError
from jobs.cluster import PinGPU, secured
from jobs.slurm import Request, configured, job_settings
from jobs.weights import cache_folder

__all__ = ["Needed", "slurm_workers", "states_of"]

IDLE_ROUNDS = 60  # a job idle for so many of Dask's rounds, a second each, is given back
LOOK_SECONDS = 5.0  # between two looks at SLURM's queue
MOST_STILLBORN = 3  # jobs that ended before their worker came: then no more are asked for

Say = Callable[[str], None]


class Needed(Adaptive):
    """One worker for each task that Dask holds, between the minimum and the maximum.

    The driver gives two tasks to each worker, so the number doubles while there is work for all,
    and falls when there is not; only idle workers are given back. (Dask's own rule divides by the
    threads of a worker, which ours use for one task.) A job that ended is asked for again.
    """

    def __init__(self, cluster: Jobs, *, say: Say, **settings: Any) -> None:
        self.jobs = cluster
        self._say = say
        self._said = ""
        self._looked = time.monotonic()
        self._stillborn = 0
        super().__init__(cluster, **settings)

    async def target(self) -> int:
        scheduler: Any = self.jobs.scheduler
        held = sum([len(worker.processing) for worker in scheduler.workers.values()])
        return int(held) + len(scheduler.unrunnable) + len(scheduler.queued)

    async def recommendations(self, target: int) -> dict[str, Any]:
        if len(self.plan) != len(self.requested):
            await self.jobs.ask(0)  # again for jobs that ended
        found: dict[str, Any] = await super().recommendations(target)
        return found

    async def scale_up(self, n: int) -> None:  # type: ignore[override]
        per_job = self.jobs.workers_of_a_job
        await self.jobs.ask(-(-n // per_job))

    async def adapt(self) -> None:
        try:
            await self._drop_stillborn()
            await super().adapt()
        except RuntimeError as error:  # sbatch refused: over a limit, say. It is tried again.
            self._once(f"SLURM gave no further job: {_last_line(error)}")

    async def _drop_stillborn(self) -> None:
        """Forget jobs that left SLURM's queue before their workers came, so that others take over.

        Dask hears only of jobs whose workers it has seen.
        """
        if time.monotonic() - self._looked < LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        awaited = self.jobs.awaited()
        if not awaited:
            return
        there = await asyncio.to_thread(states_of, list(awaited))
        arrived = set(self.jobs.awaited())  # meanwhile
        for job in set(awaited) & arrived - set(there):
            self._stillborn += 1
            self.jobs.forget(awaited[job])
            self._once(f"job {job} ended before its worker came: see its output, slurm-{job}.out")
        if self._stillborn >= MOST_STILLBORN:
            self.minimum = min(self.minimum, len(self.observed))
            self.maximum = len(self.observed)
            self._once(f"{self._stillborn} jobs ended so: no more of them are asked for")

    def _once(self, message: str) -> None:
        if message != self._said:
            self._said = message
            self._say(message)


class Jobs(SLURMCluster):
    """dask-jobqueue's cluster, where what sbatch says is heard."""

    @property
    def workers_of_a_job(self) -> int:
        return int(self._job_kwargs["processes"])

    async def ask(self, jobs: int) -> None:
        """Have ``jobs`` jobs at least, and those that were asked for before.

        Raises:
            RuntimeError: sbatch refused one; its words are in it.
        """
        while len(self.worker_spec) < jobs:
            self.worker_spec.update(self.new_worker_spec())
        try:
            await self
        except RuntimeError:
            # Dask counts a refused job among those that run, and would wait for it for ever.
            for name in [n for n, job in self.workers.items() if job.job_id is None]:
                self.forget(name)
            raise

    def forget(self, name: str) -> None:
        """A job that is no more."""
        job = self.workers.pop(name, None)
        self.worker_spec.pop(name, None)
        if job is not None:
            job.status = Status.failed  # or closing the cluster would trip over it

    def awaited(self) -> dict[str, str]:
        """Numbers of the jobs none of whose workers has come -> the jobs' names in Dask."""
        seen = {str(info["name"]) for info in self.scheduler_info["workers"].values()}
        return {
            job.job_id: name
            for name, job in self.workers.items()
            if job.job_id is not None
            and not any(n == name or n.startswith(f"{name}-") for n in seen)
        }


@contextmanager
def slurm_workers(
    request: Request, workers: tuple[int, int], security: Security | None, say: Say
) -> Iterator[Client]:
    """A client of a scheduler here, whose workers run in jobs that are submitted now.

    ``workers`` are the least and the most. Entered when the first worker has come, however long
    SLURM takes; all jobs end with the block.

    Raises:
        UsageError: sbatch refuses the job.
        FeatureStoreError: all jobs ended before a worker came.
    """
    least, most = workers
    options = {**configured("scheduler-options", {}), "dashboard_address": "127.0.0.1:0"}
    with (
        nullcontext(security) if security else _certificate() as its_own,
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        Jobs(
            # For all others on that network, a scheduler is a way to run code as this user
            security=its_own,
            protocol="tls://",
            scheduler_options=options,
            silence_logs=logging.CRITICAL,
            **job_settings(request),
        ) as cluster,
    ):
        say(f"scheduler at {cluster.scheduler_address}; workers must show this run's certificate")
        jobs = -(-least // request.workers)
        try:
            cluster.sync(cluster.ask, jobs)
        except RuntimeError as error:
            raise UsageError(
                f"--cluster slurm: sbatch refused the job: {_last_line(error)}\n"
                "fs-submit cluster script shows what it was given."
            ) from error
        with Client(cluster) as client:
            if request.gpus:
                client.register_plugin(PinGPU())
            _first_worker(cluster, client, say)
            cluster.adapt(
                Adaptive=Needed, minimum=least, maximum=most, wait_count=IDLE_ROUNDS, say=say
            )
            yield client


@contextmanager
def _certificate() -> Iterator[Security]:
    """A certificate for one run, in files that only this user can read, on all hosts."""
    shared = Path(os.path.expandvars(configured("shared-temp-directory", cache_folder() / "slurm")))
    shared = shared.expanduser().absolute()
    shared.mkdir(parents=True, exist_ok=True, mode=0o700)
    made = Security.temporary().get_tls_config_for_role("scheduler")
    with tempfile.TemporaryDirectory(prefix="run-", dir=shared) as folder:  # mode 700
        for name in ("ca_file", "cert", "key"):
            (Path(folder) / name).write_text(made[name])
        yield secured(*(f"{folder}/{name}" for name in ("ca_file", "cert", "key")))


def _first_worker(cluster: Jobs, client: Client, say: Say) -> None:
    said = ""
    while True:
        try:
            client.wait_for_workers(1, timeout=LOOK_SECONDS)
        except TimeoutError:
            jobs = cluster.awaited()
            states = states_of(list(jobs))
            if jobs and not states and cluster.awaited():
                outputs = ", ".join(f"slurm-{job}.out" for job in sorted(jobs)[:3])
                raise FeatureStoreError(
                    f"--cluster slurm: all jobs ended before a worker came. Their output says why: "
                    f"{outputs} (in this folder, unless --slurm output= names another)"
                ) from None
            now = ", ".join(f"job {job} {state}" for job, state in list(states.items())[:3])
            if now != said:
                said = now
                say(f"waiting for the first worker: {now}")
        else:
            return


def states_of(jobs: list[str]) -> dict[str, str]:
    """Of these jobs, those that SLURM still has -> ``PENDING (Resources)``.

    Where squeue does not answer (SLURM's controller is busy) all count as still there.
    """
    squeue = shutil.which("squeue")
    if squeue is None:
        return dict.fromkeys(jobs, "submitted")
    words = [squeue, "--me", "--noheader", "--format=%i %T (%r)"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
    except (subprocess.SubprocessError, OSError):
        return dict.fromkeys(jobs, "submitted")
    found = dict(line.split(maxsplit=1) for line in done.stdout.splitlines() if " " in line.strip())
    return {job: found[job] for job in jobs if job in found}


def _last_line(error: Exception) -> str:
    """What a command that failed said, of dask-jobqueue's long account of it."""
    text = str(error).partition("stderr:")[2] or str(error)
    return " ".join(text.split())
