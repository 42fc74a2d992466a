"""A small real dataset and the command itself, for the tests that run it end to end."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from jobs import sample

# A real timm network of 0.3 million parameters: quick enough to run a whole command in seconds.
FAST = "timm:test_vit.r160_in1k"
FAST_ARRAY = "timm_test_vit.r160_in1k"
ENVIRONMENT = {"PYTHONPATH": str(Path(__file__).parents[2]), "FS_PRECISION": "float32"}


@dataclass
class Command:
    """Runs ``fs-submit`` in a process of its own, as a user would, in an empty folder.

    In float32 unless told otherwise: bfloat16 is the default where the processor has it, and there
    features agree to fewer digits when they are computed in other batches.
    """

    folder: Path
    env: dict[str, str] = field(default_factory=dict)

    def start(self, *words: object) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-m", "jobs.cli", *map(str, words)],
            cwd=self.folder,
            env={**os.environ, **ENVIRONMENT, **self.env},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(
        self, *words: object, code: int = 0, seconds: float = 500
    ) -> "subprocess.CompletedProcess[str]":
        process = self.start(*words)
        try:
            out, err = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            kill_group(process)  # or it works on beneath the tests that follow
            raise
        done = subprocess.CompletedProcess(process.args, process.returncode, out, err)
        assert done.returncode == code, f"exit code {done.returncode}\n{out}\n{err}"
        return done

    def extract(self, root: Path, *words: object, code: int = 0) -> str:
        """Extract a folder with the fast network and random weights; returns what was printed."""
        done = self.run(
            "extract", "--dataset", "folder", "--root", root, "--weights", "random",
            *(() if "--backbones" in words else ("--backbones", FAST)),
            *words, code=code,
        )  # fmt: skip
        return done.stdout + done.stderr

    def status(self, store: str = "features") -> list[Mapping[str, object]]:
        return json.loads(self.run("status", "--store", store, "--json").stdout)


@pytest.fixture
def command(tmp_path: Path) -> Command:
    folder = tmp_path / "work"
    folder.mkdir()
    return Command(folder)


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of six short videos of 40 frames (3 clips each)."""
    folder = tmp_path_factory.mktemp("sample") / "walkway"
    recipe = sample.Recipe(videos=6, frames=40, width=160, height=120)
    return sample.write(folder, recipe)


def wait_for(condition: Callable[[], bool], seconds: float = 180) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)  # a condition may open a store, which takes time from what is waited for


def kill_group(process: "subprocess.Popen[str]") -> None:
    """SIGKILL the command and all its workers at once."""
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
