"""Writers killed at points spread over their work, and readers who look on meanwhile."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from featurestore.labels import ABNORMAL
from featurestore.schema import DONE
from tests.featurestore import commands
from tests.featurestore.commands import ROUNDS
from tests.featurestore.making import read

CHECKOUT = Path(__file__).parents[2]
KILLS_A_ROUND = 6

Command = Callable[[Path, int, int], str]


@pytest.fixture(scope="module")
def command() -> Iterator[Command]:
    """Runs a round of commands.py in a new process; returns what that answers."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.featurestore.commands"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=CHECKOUT,
    ) as server:  # fmt: skip
        stdin, stdout = server.stdin, server.stdout
        assert stdin is not None
        assert stdout is not None

        def run(url: Path, number: int, kill: int) -> str:
            stdin.write(f"{url} {number} {kill}\n")
            stdin.flush()
            return stdout.readline().strip()

        yield run
        stdin.close()


def tree(root: Path) -> dict[str, bytes | str]:
    """Everything in a folder: files with their content, links with where they lead."""
    return {
        str(path.relative_to(root)): str(path.readlink())
        if path.is_symlink()
        else path.read_bytes()
        for path in root.rglob("*")
        if path.is_symlink() or path.is_file()
    }


def check_done(ds: xr.Dataset) -> int:
    """What a reader sees at any time: whole tables, and all done clips right. Their number."""
    done = 0
    assert int(ds["clip_count"].sum()) == ds.sizes["clip"]
    np.testing.assert_array_equal(
        ds["clip_video"], np.repeat(np.arange(ds.sizes["video"]), ds["clip_count"])
    )
    assert int(ds["frames"].sum()) == ds.sizes["frame"]
    for row in np.flatnonzero(ds["label"].values == ABNORMAL):
        first, count = int(ds["frame_offset"][row]), int(ds["frames"][row])
        truth = commands.truth("x", count).frames
        np.testing.assert_array_equal(ds["frame_label"][first : first + count], truth)
    for name in ("r3d", "swin"):
        if name in ds:
            clips = np.flatnonzero(ds[f"status_{name}"].values == DONE)
            for clip in clips:
                expected = commands.features(name, range(clip, clip + 1))[0]
                np.testing.assert_array_equal(ds[name][clip].values, expected)
                if "swin_r3d" in ds:
                    where = slice(1024, None) if name == "r3d" else slice(1024)
                    np.testing.assert_array_equal(ds["swin_r3d"][clip, :, where], expected)
            done += len(clips)
    return done


def test_killed_anywhere_and_run_again_the_store_is_as_if_undisturbed(
    tmp_path: Path, command: Command
) -> None:
    undisturbed, url = tmp_path / "undisturbed" / "x.zarr", tmp_path / "x.zarr"
    kills = 0
    for number in range(len(ROUNDS)):
        before = tree(undisturbed) if number else {}
        sizes = {read(undisturbed).sizes["clip"]} if number else set()
        changes = int(command(undisturbed, number, 0))
        after = tree(undisturbed)
        sizes.add(read(undisturbed).sizes["clip"])
        # There may be some fewer the next time: zarr's threads race to make the same folders.
        for point in np.linspace(1, 0.95 * changes, KILLS_A_ROUND, dtype=int):
            _put_back(url, before)
            assert command(url, number, point) == "killed"
            kills += 1
            if (url / "zarr.json").exists():
                ds = xr.open_zarr(url, chunks=None)
                assert ds.sizes["clip"] in {*sizes, 0}
                check_done(ds)
            int(command(url, number, 0))
            assert tree(url) == after
            assert {p.name for p in tmp_path.iterdir()} <= {
                "undisturbed", "x.zarr", "x.zarr.lock", "x.zarr.blocks.lock"
            }  # fmt: skip
    assert kills == len(ROUNDS) * KILLS_A_ROUND


def _put_back(url: Path, content: dict[str, bytes | str]) -> None:
    subprocess.run(["rm", "-rf", url], check=True)
    for name, value in content.items():
        path = url / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(value, str):
            path.symlink_to(value)
        else:
            path.write_bytes(value)


GROW = """
import itertools, sys
from featurestore.blocks import runs, write_clips
from featurestore.catalog import NewVideo
from featurestore.splits import Split
from featurestore.store import create
from tests.featurestore.commands import features, truth
store = create(sys.argv[1], dataset="x", block=4)
store.add_features("r3d", 512, {})
for number in itertools.count():
    first = store.clips
    store.append([NewVideo(f"v{number % 7}", "v", 40), NewVideo(f"w{number}", "w", 20)])
    store.set_truth([truth(f"v{number % 7}", 40), truth(f"w{number}", 20)])
    store.set_split(Split(f"s{number}", {f"v{number % 7}": 0}, {}, ""))
    if number == 2:
        store.add_features("swin", 1024, {})
        store.add_fused("swin_r3d")
    store.commit()
    if number == 0:
        print("ready", flush=True)
    for name in store.backbones:
        for clips in runs(range(first, store.clips), store.block):
            write_clips(sys.argv[1], name, clips.start, features(name, clips))
            store.mark(name, clips, 1)
"""


def test_readers_see_the_old_or_the_new_state_while_it_grows(tmp_path: Path) -> None:
    url = tmp_path / "x.zarr"
    with subprocess.Popen(
        [sys.executable, "-c", GROW, str(url)], stdout=subprocess.PIPE, text=True, cwd=CHECKOUT
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        seen: list[int] = []
        until = time.monotonic() + 60
        while len(set(seen)) <= 5 and time.monotonic() < until:
            ds = xr.open_zarr(url, chunks=None)
            # What tells that other values are there is read before them, as it is written after.
            told = {name: ds[name].values for name in ds if str(name).startswith("status_")}
            told = {name: ("clip", values) for name, values in told.items()}
            told["label"] = ("video", ds["label"].values)
            ds = ds.load().assign(told)
            check_done(ds)
            seen.append(ds.sizes["clip"])
        assert writer.poll() is None
        writer.send_signal(signal.SIGKILL)
    assert seen == sorted(seen)
    assert len(set(seen)) > 5
    check_done(read(url))
