"""A worker's memory does not depend on the length of its video."""

import json
import os
import subprocess
import sys
from pathlib import Path

import dask
import distributed  # noqa: F401 - its part of Dask's configuration
import pytest

from jobs import processor
from tests.jobs.video.painted import write_loop

# A worker's task function, apart from the tests' own memory: tasks of 4 clips, spread over the
# video, then megabytes after each. Runs of clips all over it, as a long video is shared.
WORK = """
import json, sys
from pathlib import Path
import numpy as np, psutil
from featurestore.catalog import NewVideo
from featurestore.store import create
from jobs import engines
from jobs.backbones import resolve
from jobs.making import provenance
from jobs.plan import make_tasks
from jobs.specs import spec_of
from jobs.worker import Setup, extract_clips

path, folder, frames = sys.argv[1], sys.argv[2], int(sys.argv[3])
spec = spec_of("timm:test_resnet.r160_in1k")
weights, choice = resolve(spec, "random"), engines.choose("openvino", "float32", "cpu")
store = create(folder, dataset="long", block=32)
store.append([NewVideo("long", path, frames)])
store.add_features(spec.name, spec.channels, provenance(spec, weights.digest, choice, {}))
store.commit()
setup = Setup(
    store=folder, specs={spec.name: spec}, weights="random", digests={spec.name: weights.digest},
    fingerprints={spec.name: store.fingerprint(spec.name)}, engine=choice.engine,
    precision=choice.precision, device=choice.device, decoder="pyav", threads=2,
)
every = {spec.name: np.ones(store.clips, bool)}
tasks = make_tasks(every, *store.clip_table(), [("long", path, frames)], block=32, clips_per_task=4)
memory = []
for task in tasks[:: max(1, len(tasks) // 8)]:
    assert not extract_clips(task, setup).failures
    memory.append(psutil.Process().memory_info().rss / 1e6)
print(json.dumps(memory))
"""


@pytest.mark.long
def test_a_worker_does_not_grow_with_the_length_of_a_video(tmp_path: Path) -> None:
    # As workers are started: without MALLOC_TRIM_THRESHOLD_ glibc keeps up to 400 MB of what was
    # freed, and the memory of a worker saws up and down.
    spawned = dask.config.get("distributed.nanny.pre-spawn-environ") | processor.large_pages()
    env = {**os.environ, **{name: str(value) for name, value in spawned.items()}}
    peaks = []
    for frames in (2_000, 20_000):
        path = write_loop(tmp_path / f"{frames}.mp4", frames, (1280, 720))
        words = [
            sys.executable,
            "-c",
            WORK,
            str(path),
            str(tmp_path / f"{frames}.zarr"),
            str(frames),
        ]
        done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=500)
        assert done.returncode == 0, done.stderr
        memory = json.loads(done.stdout)
        print(f"{frames} frames: {', '.join(f'{m:.0f} MB' for m in memory)}")
        peaks.append(max(memory))
        # The first tasks warm up; a clip kept of each of the last four would be 170 MB.
        assert memory[-1] < memory[3] + 60
    assert peaks[1] < peaks[0] + 60
