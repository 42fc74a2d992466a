"""A worker's own code, called in this process: what benchmarks run in turn with something else.

The speed of a shared machine drifts by half within minutes. Two whole commands, minutes apart,
then compare the machine with itself; a task of one clip and a bare network do not.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np

from featurestore.catalog import NewVideo
from featurestore.store import create
from jobs import processor
from jobs.backbones import resolve
from jobs.engines import Choice, versions
from jobs.making import provenance
from jobs.plan import Task, make_tasks
from jobs.specs import spec_of
from jobs.worker import Setup

BLOCK = 32  # clips


def begin_as_a_worker() -> None:
    """Begin this benchmark again with a worker's memory, which is settled as a process begins."""
    environment = os.environ | processor.large_pages()
    if environment != os.environ:
        os.execve(sys.executable, sys.orig_argv, environment)


def planned(
    url: Path, video: Path, frames: int, backbones: list[str], choice: Choice, *,
    threads: int, clips_per_task: int,
) -> tuple[list[Task], Setup]:  # fmt: skip
    """A new store of one video, and the tasks that fill it: for ``extract_clips(task, setup)``."""
    specs = {name: spec_of(name) for name in backbones}
    weights = {name: resolve(spec, "random") for name, spec in specs.items()}
    store = create(url, dataset="benchmark", block=BLOCK)
    store.append([NewVideo("video", str(video), frames)])
    for name, spec in specs.items():
        made = provenance(spec, weights[name].digest, choice, versions(spec, choice))
        store.add_features(name, spec.channels, made)
    store.commit()
    setup = Setup(
        store=str(url), specs=specs, weights="random",
        digests={n: w.digest for n, w in weights.items()},
        fingerprints={n: store.fingerprint(n) for n in specs}, engine=choice.engine,
        precision=choice.precision, device=choice.device, decoder="pyav", threads=threads,
    )  # fmt: skip
    every = {name: np.ones(store.clips, bool) for name in specs}
    videos = [("video", str(video), frames)]
    tasks = make_tasks(
        every, *store.clip_table(), videos, block=BLOCK, clips_per_task=clips_per_task
    )
    return tasks, setup
