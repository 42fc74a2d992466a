"""Workers that compute nothing, for tests and benchmarks of the driver: the real cluster, the real
store, the real loop. Importable by spawned processes."""

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from featurestore.catalog import NewVideo
from featurestore.store import Store, create
from jobs.plan import Task, make_tasks
from jobs.specs import BackboneSpec, spec_of
from jobs.worker import Result, Setup, tell_begun

SPEC = spec_of("timm:test_vit.r160_in1k")
SPECS = {SPEC.name: SPEC}
SECONDS = "FS_SIMULATED_SECONDS"  # environment: how long a task takes
ALLOCATES = "hungry"  # a video of this name eats memory until its worker is ended


def build(setup: Setup) -> None:
    """Nothing to build."""


def extract(task: Task, setup: Setup) -> Result:
    """As a worker answers: after some time, with a few numbers; nothing is written."""
    import distributed

    tell_begun(task, setup)
    eaten = []
    while any(segment.name == ALLOCATES for segment in task.segments):
        eaten.append(np.ones(5_000_000))  # 40 MB, touched
        time.sleep(0.05)
    time.sleep(float(os.environ.get(SECONDS, "0")))
    seconds = {"decode": 0.1, "crops": 0.1, "networks": 1.0, "writing": 0.0}
    return Result((), task.clips, seconds, distributed.get_worker().address, 1)


def store_of(
    folder: Path | str,
    videos: Sequence[tuple[str, int]],
    block: int,
    specs: Mapping[str, BackboneSpec] = SPECS,
) -> Store:
    """A new store with these videos, (name, clips), and an array of features for each network."""
    store = create(str(folder), dataset="simulated", block=block)
    store.append([NewVideo(name, f"{name}.mp4", clips * 16) for name, clips in videos])
    for name, spec in specs.items():
        store.add_features(name, spec.channels, attributes={"model": spec.model})
    store.commit()
    return store


def tasks_of(store: Store, clips_per_task: int) -> list[Task]:
    videos = [(v.name, f"/{v.path}", v.frames) for v in store.videos()]
    missing = {name: np.ones(store.clips, bool) for name in store.backbones}
    return make_tasks(
        missing, *store.clip_table(), videos, block=store.block, clips_per_task=clips_per_task
    )


def setup_of(store: Store, specs: Mapping[str, BackboneSpec] = SPECS) -> Setup:
    return Setup(
        store=str(store.url), specs=dict(specs), weights="random",
        digests=dict.fromkeys(specs, ""), fingerprints=dict.fromkeys(specs, ""), engine="none",
        precision="float32", device="cpu", decoder="pyav", threads=1,
    )  # fmt: skip
