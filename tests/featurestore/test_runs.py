"""Runs in a store: whole or not there, whatever is killed; read by stock xarray."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from featurestore import runs
from featurestore.catalog import NewVideo
from featurestore.errors import StoreLocked, UsageError
from featurestore.lock import locked
from featurestore.runs import Column, delete_run, read_run, run_attributes, run_names, write_run
from featurestore.store import open_store
from tests.featurestore.making import make, write

CHECKOUT = Path(__file__).parents[2]
FRAMES = 10 * 16 - 3 * 5  # of the three videos of `make`


def columns(clips: int = 10, offset: float = 0.0) -> dict[str, Column]:
    score = np.arange(clips, dtype=np.float32) + np.float32(offset)
    score[1] = np.nan
    return {
        "clip_score": Column("clip", score, {"long_name": "score of the clip"}),
        "frame_score": Column(
            "frame", np.repeat(score, 16)[:FRAMES], {"long_name": "score of the frame"}
        ),
        "video_probability": Column("video", np.array([0.1, 0.9, 0.5]), {}),
    }


@pytest.fixture
def url(tmp_path: Path) -> Path:
    store = make(tmp_path / "x.zarr", names=("r3d",))
    write(store, "r3d", range(10))
    return tmp_path / "x.zarr"


def add(url: Path, name: str, offset: float = 0.0, **settings: Any) -> None:
    with locked(url):
        open_store(url, "a")
        write_run(url, name, columns(offset=offset), {"detector": "density"}, **settings)


def test_stock_xarray_reads_it(url: Path) -> None:
    """Warnings are errors in these tests: none for the store, none for the group in it."""
    add(url, "density-r3d")
    run = xr.open_zarr(url, group="scores/density-r3d", chunks=None)
    assert run.attrs == {"detector": "density"}
    assert run.clip_score.dims == ("clip",)
    assert run.clip_score.dtype == np.float32
    assert run.clip_score.attrs["long_name"] == "score of the clip"
    np.testing.assert_array_equal(run.frame_score, columns()["frame_score"].values)
    store = xr.open_zarr(url, chunks=None)
    assert store.sizes["clip"] == run.sizes["clip"]
    assert "clip_score" not in store
    tree = xr.open_datatree(url, engine="zarr", chunks=None)
    assert "/scores/density-r3d" in tree.groups


def test_there_and_back(url: Path) -> None:
    add(url, "a")
    found = read_run(url, "a")
    assert found.attributes == run_attributes(url, "a") == {"detector": "density"}
    for name, column in columns().items():
        np.testing.assert_array_equal(found.columns[name].values, column.values)
        assert found.columns[name].values.dtype == column.values.dtype
        assert found.columns[name].dim == column.dim
        assert found.columns[name].attributes == column.attributes


def test_listed_replaced_and_deleted(url: Path) -> None:
    assert run_names(url) == ()
    add(url, "b")
    add(url, "a")
    assert run_names(url) == ("a", "b")
    with pytest.raises(UsageError, match="has a run 'a' already"):
        add(url, "a", 5)
    assert read_run(url, "a").columns["clip_score"].values[0] == 0
    add(url, "a", 5, replace=True)
    assert read_run(url, "a").columns["clip_score"].values[0] == 5
    with locked(url):
        open_store(url, "a")
        delete_run(url, "a")
        with pytest.raises(UsageError, match="no run 'a'; it has b"):
            delete_run(url, "a")
    assert run_names(url) == ("b",)
    assert [p.name for p in (url / "scores").iterdir() if p.is_dir()] == ["b"]
    with pytest.raises(UsageError, match="no run 'a'; it has b"):
        read_run(url, "a")
    xr.open_zarr(url, chunks=None).load()


def test_a_store_that_grows_keeps_its_runs(url: Path) -> None:
    add(url, "a")
    with locked(url):
        store = open_store(url, "a")
        store.append([NewVideo("new", "new.avi", 40)])
        store.commit()
    assert run_names(url) == ("a",)
    assert len(read_run(url, "a").columns["clip_score"].values) == 10
    assert xr.open_zarr(url, chunks=None).sizes["clip"] == 13
    add(url, "b")
    assert run_names(url) == ("a", "b")


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../a", "-a", "a b", "a.partial"])
def test_names_that_are_none(url: Path, name: str) -> None:
    with pytest.raises(UsageError, match="cannot be the name of a run"):
        add(url, name)


def test_columns_that_are_none(url: Path) -> None:
    with pytest.raises(UsageError, match="one value a clip, frame, video"):
        Column("crop", np.zeros(3), {})
    with pytest.raises(UsageError, match="one value a clip, frame, video"):
        Column("clip", np.zeros((3, 2)), {})
    with pytest.raises(UsageError, match="b has 4 values, another array of a value a clip 3"):
        write_run(
            url, "x", {"a": Column("clip", np.zeros(3), {}), "b": Column("clip", np.zeros(4), {})},
            {},
        )  # fmt: skip
    assert run_names(url) == ()


def test_what_fails_half_way_leaves_nothing(url: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(url, "a")
    before = sorted(p.name for p in (url / "scores").iterdir())
    with monkeypatch.context() as patched:
        patched.setattr(runs.arrays, "write", _fails)
        with pytest.raises(RuntimeError, match="half-way"):
            add(url, "b")
    assert sorted(p.name for p in (url / "scores").iterdir()) == before
    assert run_names(url) == ("a",)


def _fails(*_: object) -> None:
    raise RuntimeError("half-way")


def test_the_lock_keeps_two_writers_apart(url: Path) -> None:
    with locked(url), pytest.raises(StoreLocked):
        add(url, "a")


# Killed

SERVER = """
import os, sys
import zarr
from tests.featurestore.commands import Changes
from tests.featurestore.test_runs import step
for line in sys.stdin:
    url, name, kill = line.split()
    child = os.fork()
    if child == 0:
        changes = Changes(int(kill))
        step(url, name)
        print(changes.made, flush=True)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if code:
        print("killed" if code == -9 else f"failed: {code}", flush=True)
"""
OFFSETS = {"first": 0.0, "replaced": 2.0}
STEPS = (*OFFSETS, "deleted")


def step(url: str, name: str) -> None:
    """One change of the runs, as a command makes it; the same call again finishes it."""
    with locked(url):
        open_store(url, "a")
        if name == "deleted":
            if "a" in run_names(url):
                delete_run(url, "a")
            return
        write_run(url, "a", columns(offset=OFFSETS[name]), {"step": name}, replace=True)


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    with subprocess.Popen(
        [sys.executable, "-c", SERVER],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=CHECKOUT,
    ) as process:  # fmt: skip
        stdin, stdout = process.stdin, process.stdout
        assert stdin is not None
        assert stdout is not None

        def run(url: Path, name: str, kill: int) -> str:
            stdin.write(f"{url} {name} {kill}\n")
            stdin.flush()
            return stdout.readline().strip()

        yield run
        stdin.close()


def state(url: Path) -> dict[str, str]:
    """The runs that are listed, each of them whole and that of one step."""
    found = {}
    for name in run_names(url):
        run = read_run(url, name)
        for column, of in columns(offset=OFFSETS[run.attributes["step"]]).items():
            np.testing.assert_array_equal(run.columns[column].values, of.values)
        found[name] = run.attributes["step"]
        xr.open_zarr(url, group=f"scores/{name}", chunks=None).load()
    xr.open_zarr(url, chunks=None).load()
    return found


@pytest.mark.slow
def test_killed_anywhere_a_run_is_whole_or_not_listed(url: Path, server: Any) -> None:
    before: dict[str, str] = {}
    kills = 0
    for name in STEPS:
        reference = url.with_name(f"{name}.zarr")
        subprocess.run(["cp", "-a", url, reference], check=True)
        points = int(server(reference, name, 0))
        after = state(reference)
        assert after != before
        for point in np.unique(np.linspace(1, 0.95 * points, 4, dtype=int)):
            trial = url.with_name(f"{name}-{point}.zarr")
            subprocess.run(["cp", "-a", url, trial], check=True)
            assert server(trial, name, point) == "killed"
            kills += 1
            # Replacing is deleting and adding, so there may also be none.
            assert state(trial) in (before, after, {})
            # Another command's commit lists nothing that is not whole.
            with locked(trial):
                open_store(trial, "a").commit()
            assert state(trial) in (before, after, {})
            int(server(trial, name, 0))
            assert state(trial) == after
            left = {p.name for p in (trial / "scores").iterdir() if p.is_dir()}
            assert left == set(after)
        subprocess.run(["rm", "-rf", url], check=True)
        reference.rename(url)
        before = after
    assert kills == 3 * 4
