"""Kills at points spread over a run: after the rerun the store equals one written undisturbed."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
import xarray as xr

from featurestore.store import open_store
from jobs import sample
from tests.jobs.conftest import FAST, FAST_ARRAY, Command, kill_group, wait_for

CLIPS = 48


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight videos of 6 clips: enough for tasks of several blocks."""
    recipe = sample.Recipe(videos=8, frames=90, width=96, height=80)
    return sample.write(tmp_path_factory.mktemp("many") / "s", recipe)


@pytest.fixture(scope="module")
def undisturbed(many: Path, tmp_path_factory: pytest.TempPathFactory) -> xr.Dataset:
    command = Command(tmp_path_factory.mktemp("undisturbed"))
    command.extract(many)
    return xr.open_zarr(command.folder / "features" / "videos.zarr").load()


def done(store: Path) -> int:
    """Clips marked done, as the next run will find them."""
    if not (store / "zarr.json").exists():
        return 0
    opened = open_store(str(store))
    return int((opened.status(FAST_ARRAY) == 1).sum()) if FAST_ARRAY in opened.backbones else 0


def same(command: Command, expected: xr.Dataset) -> None:
    found = xr.open_zarr(command.folder / "features" / "videos.zarr").load()
    xr.testing.assert_identical(found.drop_vars("mtime"), expected.drop_vars("mtime"))
    assert np.isfinite(found[FAST_ARRAY]).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    "fraction",
    [
        0.0,
        pytest.param(0.05, marks=pytest.mark.long),
        0.4,
        pytest.param(0.8, marks=pytest.mark.long),
    ],
)
def test_whole_command_killed(
    command: Command, many: Path, undisturbed: xr.Dataset, fraction: float
) -> None:
    store = command.folder / "features" / "videos.zarr"
    process = command.start(
        "extract", "--dataset", "folder", "--root", many, "--weights", "random",
        "--backbones", FAST, "--workers", 2,
    )  # fmt: skip
    wait_for(lambda: done(store) >= fraction * CLIPS or process.poll() is not None)
    kill_group(process)
    finished = done(store)
    assert finished < CLIPS
    out = command.extract(many, "--workers", 2)
    assert f"{CLIPS - finished} of {CLIPS - finished} clips" in out  # none of them twice
    same(command, undisturbed)


@pytest.mark.slow
def test_workers_killed(command: Command, many: Path, undisturbed: xr.Dataset) -> None:
    store = command.folder / "features" / "videos.zarr"
    process = command.start(
        "extract", "--dataset", "folder", "--root", many, "--weights", "random",
        "--backbones", FAST, "--workers", 2,
    )  # fmt: skip
    for least in (1, CLIPS // 2):
        wait_for(lambda least=least: done(store) >= least or process.poll() is not None)
        workers = [
            p for p in psutil.Process(process.pid).children(recursive=True)
            if "spawn_main" in " ".join(p.cmdline())
        ]  # fmt: skip
        assert workers
        workers[0].kill()
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, out + err
    assert re.search("a worker died while working on", out)
    same(command, undisturbed)


POISON = """
import os
import jobs.reading

# Dask runs this file in the nanny and again in the worker
if not hasattr(jobs.reading, "opened"):
    jobs.reading.opened = jobs.reading.open_source

def open_source(path, **settings):
    if path.stem == "normal_02":
        os._exit(11)  # as a crash in a decoder would end the process
    return jobs.reading.opened(path, **settings)

jobs.reading.open_source = open_source
"""


@pytest.mark.slow
def test_a_video_that_kills_workers_does_not_stop_the_others(
    command: Command, many: Path, tmp_path: Path
) -> None:
    poison = tmp_path / "poison.py"
    poison.write_text(POISON)
    command.env["DASK_DISTRIBUTED__WORKER__PRELOAD"] = json.dumps([str(poison)])
    out = command.extract(many, "--workers", 2, code=3)
    (one,) = command.status()
    assert [p["video"] for p in one["problems"]] == ["normal_02"]
    assert "workers died repeatedly" in one["problems"][0]["reason"]
    assert one["arrays"][FAST_ARRAY]["done"] == CLIPS - 6
    assert one["arrays"][FAST_ARRAY]["failed"] == 6
    assert "normal_02: failed" in out
    command.env.clear()
    command.extract(many, "--retry-failed")
    (one,) = command.status()
    assert one["arrays"][FAST_ARRAY]["done"] == CLIPS
    assert one["problems"] == []


NO_MEMORY = """
import os
from jobs import engines

engines.prepare = lambda *words, **more: os._exit(137)  # as the kernel would, out of memory
"""


@pytest.mark.slow
def test_a_worker_that_dies_preparing_a_network_is_no_videos_fault(
    command: Command, many: Path, tmp_path: Path
) -> None:
    preload = tmp_path / "no_memory.py"
    preload.write_text(NO_MEMORY)
    command.env["DASK_DISTRIBUTED__WORKER__PRELOAD"] = json.dumps([str(preload)])
    out = command.extract(many, "--workers", 1, code=1)
    assert f"workers died 3 times preparing {FAST_ARRAY}" in out
    assert "Traceback" not in out
    command.env.clear()
    (one,) = command.status()
    assert one["videos"] == {"ok": 8}
    assert one["arrays"][FAST_ARRAY]["missing"] == CLIPS


@pytest.mark.slow
def test_interrupted_ends_cleanly(command: Command, many: Path, undisturbed: xr.Dataset) -> None:
    import os
    import signal

    store = command.folder / "features" / "videos.zarr"
    process = command.start(
        "extract", "--dataset", "folder", "--root", many, "--weights", "random",
        "--backbones", FAST, "--workers", 2,
    )  # fmt: skip
    wait_for(lambda: done(store) >= 4 or process.poll() is not None)
    os.killpg(process.pid, signal.SIGINT)  # what Ctrl-C in a terminal sends, workers included
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, out + err
    assert "run the same command again" in err
    assert "Traceback" not in err
    command.extract(many)
    same(command, undisturbed)


def test_a_batch_systems_sigterm_where_the_shell_ignores_sigint() -> None:
    """As in a script's `fs-submit ... & wait`."""
    code = (
        "import os, signal, sys, time, click\n"
        "from jobs.cli import cli, main\n"
        "def work():\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    time.sleep(30)\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "cli.add_command(click.Command('work', callback=work))\n"
        "sys.argv[1:] = ['work']\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr.strip().split(";")[0]) == (130, "stopped")
