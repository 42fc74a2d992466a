"""``fs-submit bench``: with a small network, what it prints and that nothing stays behind."""

import json
from itertools import pairwise
from pathlib import Path

import pytest

from jobs.bench import Bench, Parts
from jobs.engines import Choice
from tests.jobs.conftest import FAST, FAST_ARRAY, Command

TORCH = ("--engine", "torch", "--precision", "float32", "--device", "cpu")
QUICK = Parts(decode=1.0, crops=0.5, networks=8.0, writing=0.5, gflop=800.0)


def found(device: str, workers: int = 1, clips: int | None = None) -> Bench:
    choice = Choice("", "float32", device)
    return Bench(
        choice, choice, workers, threads=2, matrix=125.0, frames="", weights="random",
        backbones={"r3d": QUICK}, whole=QUICK, clips=clips,
    )  # fmt: skip


def test_decoding_and_cutting_take_a_thread_of_a_processor_and_none_of_a_card() -> None:
    assert found("cpu").clips_per_second(QUICK) == pytest.approx(1 / 9.25)
    assert found("cuda").clips_per_second(QUICK) == pytest.approx(1 / 9)
    slow = Parts(decode=20.0, crops=0.5, networks=8.0, writing=0.5, gflop=800.0)
    assert found("cuda").clips_per_second(slow) == pytest.approx(1 / 20)


def test_shares_and_time() -> None:
    assert found("cpu").fraction(QUICK) == pytest.approx(0.8)
    assert found("cpu").seconds_left() is None
    assert found("cpu", workers=2, clips=100).seconds_left() == pytest.approx(462.5)


def test_the_command(command: Command, videos: Path) -> None:
    done = command.run("bench", "--backbones", FAST, *TORCH, "--root", videos)
    assert f"{FAST_ARRAY} (1 of 1): preparing it" in done.stderr
    table = done.stdout.splitlines()
    assert any(line.startswith("the default here: ") for line in table)
    assert "measured: torch float32 on cpu" in table
    assert "(160x120)" in done.stdout
    head, row = next((a.split(), b.split()) for a, b in pairwise(table) if "clips/s" in a)
    assert head[-4:] == ["decode", "crops", "networks", "writing"]
    assert row[0] == FAST_ARRAY
    assert sum(float(share.rstrip("%")) for share in row[-4:]) == pytest.approx(100, abs=0.3)
    assert "folder: about 18 clips, " in done.stdout
    assert list(command.folder.iterdir()) == []  # no store


def test_for_machines(command: Command) -> None:
    words = ("--backbones", FAST, *TORCH, "--json")
    said = json.loads(command.run("bench", *words).stdout)
    assert said["chosen"] == {"engine": "torch", "precision": "float32", "device": "cpu"}
    one = said["backbones"][FAST_ARRAY]
    assert one["clips_per_second"] > 0
    assert one["fraction_of_matrix_rate"] > 0
    assert said["together"] == one
    assert said["dataset_seconds"] is None


def test_errors_are_one_line(command: Command) -> None:
    for words, said in (
        (("--backbones", "vgg"), "--backbones 'vgg': choose from"),
        (("--backbones", FAST, "--dataset", "ped2"), "data/ped2 is not there"),
    ):
        out = command.run("bench", *words, code=1).stderr
        assert said in out
        assert "Traceback" not in out
