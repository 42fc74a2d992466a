"""SLURM: what its jobs ask for, the script they run, and Dask workers in them (dask-jobqueue)."""

from __future__ import annotations

import importlib.util
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dask.utils import parse_bytes

from featurestore.errors import FeatureStoreError, UsageError
from jobs import processor

if TYPE_CHECKING:
    from distributed import Security

__all__ = ["Request", "configured", "job_script", "job_settings", "parse", "require_slurm"]

# What a job asks for where --slurm does not say: all else is left to the site's own defaults.
DEFAULTS = {"cpus-per-task": "4", "mem": "16G", "time": "04:00:00", "job-name": "featurestore"}
COUNTED = ("gpus", "gpus-per-node", "gpus-per-task", "gres")  # ...:2 is two cards
# One job is one node with one task; its workers are started by Dask, not by srun.
REFUSED = {
    "array": "ask for more jobs with --workers",
    "nodes": "a job is one node; ask for more jobs with --workers",
    "ntasks": "a job is one task; ask for more jobs with --workers",
    "ntasks-per-node": "a job is one task; ask for more jobs with --workers",
    "mem-per-cpu": "give mem=, the memory of a whole job",
    "mem-per-gpu": "give mem=, the memory of a whole job",
    "wrap": "what a job runs is given; see fs-submit cluster script",
}
SCHEDULER = "tls://SCHEDULER:PORT"  # in a script that is only shown
# Workers leave before their job's time is over, or Dask would take its end for a crash: by this
# share of it, at most by so many seconds, and not all in one moment.
LEAVE_EARLY, MOST_EARLY = 0.05, 300
# As for local workers (jobs.cluster): these are read by the worker's own process.
_WORKER_CONFIG = {
    "DASK_DISTRIBUTED__WORKER__MEMORY__TARGET": "False",
    "DASK_DISTRIBUTED__WORKER__MEMORY__SPILL": "False",
    "DASK_DISTRIBUTED__WORKER__MEMORY__PAUSE": "False",
    "DASK_DISTRIBUTED__WORKER__MEMORY__TERMINATE": "0.95",
    "DASK_DISTRIBUTED__WORKER__MULTIPROCESSING_METHOD": "spawn",
}


@dataclass(frozen=True)
class Request:
    """What one job asks SLURM for.

    ``memory`` in bytes and ``seconds`` are of the whole job; ``seconds`` is None where its time has
    no limit. A job of several GPUs has a worker for each; ``directives`` are passed on as they are.
    """

    cpus: int
    memory: int
    seconds: float | None
    gpus: int
    known: dict[str, str]  # those that dask-jobqueue writes itself
    directives: tuple[str, ...]

    @property
    def workers(self) -> int:
        """Worker processes of one job."""
        return max(1, self.gpus)


def parse(texts: Sequence[str]) -> Request:
    """``--slurm``: options of sbatch, ``partition=gpu``, ``gres=gpu:1``, ``exclusive``.

    Raises:
        UsageError: an option that cannot be, or a value that is none.
    """
    given: dict[str, str | None] = {}
    for text in texts:
        name, equals, value = text.strip().lstrip("-").partition("=")
        if not re.fullmatch("[a-z][a-z0-9-]+", name) or "\n" in value or (equals and not value):
            raise UsageError(
                f"--slurm {text!r}: give long options of sbatch, one each: partition=gpu, "
                "time=8:00:00, gres=gpu:1, exclusive"
            )
        if name in REFUSED:
            raise UsageError(f"--slurm {text}: {REFUSED[name]}")
        given[name] = value if equals else None
    values = {**DEFAULTS, **{k: v for k, v in given.items() if v is not None}}
    gpus = max([_gpus(name, values[name]) for name in COUNTED if name in values], default=0)
    known = ("partition", "account", *DEFAULTS)
    if empty := [name for name in known if name in given and given[name] is None]:
        raise UsageError(f"--slurm {empty[0]}: give its value, {empty[0]}=...")
    cpus = values["cpus-per-task"]
    if not cpus.isdecimal() or int(cpus) < max(1, gpus):
        raise UsageError(f"--slurm cpus-per-task={cpus}: give a number, one for each GPU at least")
    return Request(
        cpus=int(cpus),
        memory=_bytes(values["mem"]),
        seconds=_seconds(values["time"]),
        gpus=gpus,
        known={name: values[name] for name in known if name in values},
        directives=tuple(
            f"--{name}" if value is None else f"--{name}={value}"
            for name, value in given.items()
            if name not in known
        ),
    )


def _gpus(name: str, value: str) -> int:
    """Cards in ``gpu:a100:2``, ``a100:2``, ``2``; of ``gres`` only those called gpu."""
    count = 0
    for part in value.split(","):
        words = part.split("(")[0].split(":")
        if name == "gres" and words[0] != "gpu":
            continue
        count += int(words[-1]) if words[-1].isdecimal() else 1
    return count


def _bytes(text: str) -> int:
    """SLURM's ``32G``: binary units, megabytes where there is none."""
    match = re.fullmatch(r"([0-9]+)([KMGT]?)B?", text.upper())
    if not match or not int(match[1]):
        raise UsageError(f"--slurm mem={text}: give the memory of a job, for example 32G")
    return int(parse_bytes(f"{match[1]}{match[2] or 'M'}iB"))


def _seconds(text: str) -> float | None:
    """SLURM's times: minutes, M:S, H:M:S, D-H, D-H:M, D-H:M:S."""
    if text.upper() in ("UNLIMITED", "INFINITE"):
        return None
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text)
    if not match:
        raise UsageError(f"--slurm time={text}: give minutes, H:MM:SS or D-HH:MM:SS")
    days, *rest = match.groups()
    parts = [int(p) for p in rest if p is not None]
    if days is None and len(parts) < 3:
        hours, minutes, seconds = 0, parts[0], parts[1] if len(parts) == 2 else 0
    else:
        hours, minutes, seconds = (*parts, 0, 0)[:3]
    return float(((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds)


def job_settings(request: Request, security: Security | None = None) -> dict[str, Any]:
    """``request`` as dask-jobqueue takes it."""
    known = request.known
    extra = []
    if request.seconds is not None:
        early = min(MOST_EARLY, LEAVE_EARLY * request.seconds)
        extra = ["--lifetime", f"{request.seconds - 1.5 * early:.0f}s"]
        extra += ["--lifetime-stagger", f"{early / 2:.0f}s"]
    environment = _WORKER_CONFIG | processor.large_pages()
    settings: dict[str, Any] = {
        "cores": request.cpus,
        "memory": f"{request.memory / 2**20:.0f} MiB",
        "processes": request.workers,
        "job_cpu": request.cpus,
        "job_mem": known["mem"],
        "walltime": known["time"],
        "job_name": known["job-name"],
        "python": sys.executable,
        "job_extra_directives": list(request.directives),
        "worker_extra_args": extra,
        "job_script_prologue": [
            *configured("job-script-prologue", []),
            *(f"export {name}={value}" for name, value in environment.items()),
        ],
    }
    settings |= {"queue": known["partition"]} if "partition" in known else {}
    settings |= {"account": known["account"]} if "account" in known else {}
    return settings if security is None else {**settings, "security": security}


def configured(name: str, default: Any) -> Any:
    """What Dask's own configuration (``~/.config/dask/jobqueue.yaml``) says of SLURM."""
    import dask
    import dask_jobqueue  # noqa: F401 - its part of the configuration

    found = dask.config.get(f"jobqueue.slurm.{name}", None)
    return default if found is None else found


def job_script(request: Request) -> str:
    """The script that sbatch is given for each job; works where there is no SLURM.

    Raises:
        FeatureStoreError: dask-jobqueue is not installed.
    """
    _require_jobqueue()
    from dask_jobqueue.slurm import SLURMJob
    from distributed import Security

    shown = {role: f"WORKER_{role.upper()}" for role in ("cert", "key")}
    security = Security(
        require_encryption=True, tls_ca_file="CA_FILE",
        tls_worker_cert=shown["cert"], tls_worker_key=shown["key"],
    )  # fmt: skip
    job = SLURMJob(SCHEDULER, name="NAME", protocol="tls://", **job_settings(request, security))
    return str(job.job_script()).strip() + "\n"


def require_slurm() -> None:
    """Raise an error that tells what is missing here to submit jobs."""
    _require_jobqueue()
    if shutil.which("sbatch") is None:
        raise UsageError(
            "--cluster slurm: there is no sbatch here; run this where jobs are submitted (a login "
            "node). fs-submit cluster script shows what a job would run."
        )


def _require_jobqueue() -> None:
    for module in ("dask_jobqueue", "cryptography"):
        if importlib.util.find_spec(module) is None:
            raise FeatureStoreError(
                f"--cluster slurm needs {module.replace('_', '-')}: pip install .[slurm]"
            )
