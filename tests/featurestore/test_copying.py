"""Stores copied, completed, compacted: the same values under the same names, whatever is killed."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from featurestore import disk, layout
from featurestore.blocks import write_clips
from featurestore.copying import compact, copy
from featurestore.errors import ProvenanceMismatch, StoreUnreadable, UsageError
from featurestore.labels import ABNORMAL, NORMAL, Truth
from featurestore.runs import read_run, run_names, write_run
from featurestore.schema import DONE, FAILED, FEATURES
from featurestore.splits import Split
from featurestore.store import Store, open_store
from featurestore.verify import verify
from tests.featurestore.making import MADE_BY, features, make, read, video, write
from tests.featurestore.test_runs import columns

CHECKOUT = Path(__file__).parents[2]
NAMES = ["swin", "r3d", "swin_r3d"]


def labelled(store: Store, names: str = "v0 v1 v2") -> None:
    for number, name in enumerate(names.split()):
        frames = (np.arange(store.video(name).frames) % (2 + number) == 0).astype(np.int8)
        store.set_truth([Truth(name, ABNORMAL if number else NORMAL, frames * min(number, 1), "t")])
    store.set_split(Split("one", {name: i % 2 for i, name in enumerate(names.split())}, {}, "t"))


@pytest.fixture
def url(tmp_path: Path) -> Path:
    """v0, v1, v2 of 3, 2, 5 clips; then v1 and v0 are replaced; everything is done but a clip."""
    store = make(tmp_path / "a" / "x.zarr", names=NAMES)
    labelled(store)
    for name in ("swin", "r3d"):
        write(store, name, range(10))
    write_run(store.url, "early", columns(), {"made": "early"})
    store.append([video("v1", 4, sha256="new"), video("v0", 2, sha256="new")])
    store.commit()
    labelled(store, "v2 v1 v0")
    for name in ("swin", "r3d"):
        write(store, name, [10, 11, 12, 14, 15])
    store.mark("r3d", range(13, 14), FAILED)
    store.commit()
    return tmp_path / "a" / "x.zarr"


def same_values(one: xr.Dataset, other: xr.Dataset) -> None:
    assert set(one.variables) == set(other.variables)
    for name in one.variables:
        assert one[name].dims == other[name].dims
        np.testing.assert_array_equal(one[name].values, other[name].values, err_msg=str(name))
        assert one[name].attrs == other[name].attrs, name


@pytest.mark.parametrize("fused", ["link", "copy"])
def test_a_copy_is_the_same_store(url: Path, tmp_path: Path, fused: str) -> None:
    target = tmp_path / "b" / "y.zarr"
    done = copy(url, target, fused=fused)  # type: ignore[arg-type]
    assert (done.arrays, done.clips, done.there) == (("swin", "r3d", "swin_r3d"), 30, 0)
    same_values(read(url), read(target))
    assert open_store(target).fused == fused
    assert run_names(target) == ("early",)
    for name, of in read_run(url, "early").columns.items():
        np.testing.assert_array_equal(of.values, read_run(target, "early").columns[name].values)
    assert verify(target).problems == []
    again = copy(url, target)
    assert (again.clips, again.there) == (0, 30)


def test_some_backbones_first_the_rest_later(url: Path, tmp_path: Path) -> None:
    target = tmp_path / "y.zarr"
    assert copy(url, target, names=["r3d"]).arrays == ("r3d",)
    assert open_store(target).backbones == ("r3d",)
    assert copy(url, target, names=["swin_r3d"]).arrays == ("swin", "r3d", "swin_r3d")
    same_values(read(url), read(target))
    with pytest.raises(UsageError, match="has no features s3d; it has swin, r3d, swin_r3d"):
        copy(url, target, names=["s3d"])


def test_a_copy_is_brought_up_to_date(tmp_path: Path) -> None:
    store = make(tmp_path / "x.zarr", [2, 3], names=["r3d"])
    write(store, "r3d", [0, 1, 2])
    target = tmp_path / "y.zarr"
    copy(store.url, target)
    store.append([video("v9", 2), video("v0", 4)])
    store.commit()
    write(store, "r3d", range(3, 11))
    store.update_videos({1: {"state": "damaged", "reason": "at frame 40"}})
    done = copy(store.url, target)
    assert (done.clips, done.there) == (8, 3)
    same_values(read(store.url), read(target))


def test_what_is_no_copy_is_left_alone(url: Path, tmp_path: Path) -> None:
    other = make(tmp_path / "y.zarr", [2, 3], names=["r3d"])
    before = read(other.url)
    with pytest.raises(UsageError, match="is no copy of"):
        copy(url, other.url)
    assert read(other.url).identical(before)
    with pytest.raises(UsageError, match="is the store itself"):
        copy(url, url)
    made_otherwise = make(tmp_path / "z.zarr", names=["swin"])
    made_otherwise.add_features("r3d", FEATURES["r3d"].channels, {**MADE_BY, "engine": "openvino"})
    made_otherwise.commit()
    source = make(tmp_path / "w.zarr", names=["r3d"])
    with pytest.raises(ProvenanceMismatch, match="engine"):
        copy(source.url, made_otherwise.url)


def test_imported_features_keep_their_crops_and_segments(tmp_path: Path) -> None:
    from featurestore.catalog import NewVideo
    from featurestore.store import create

    store = create(tmp_path / "x.zarr", dataset="x", block=4, segments=3)
    store.append([NewVideo("a", "a.npy", 100), NewVideo("b", "b.npy", 0)])
    store.add_features("imported_x", 7, {}, crops=1)
    store.commit()
    values = np.random.default_rng(0).random((4, 1, 7), np.float32)
    write_clips(store.url, "imported_x", 0, values)
    store.mark("imported_x", range(4), DONE)
    copy(store.url, tmp_path / "y.zarr")
    same_values(read(store.url), read(tmp_path / "y.zarr"))


def check_compacted(url: Path) -> None:
    ds = read(url)
    assert ds["video"].values.tolist() == ["v2", "v1", "v0"]
    assert ds["clip_video"].values.tolist() == [0] * 5 + [1] * 4 + [2] * 2
    for name in ("swin", "r3d"):
        wanted = features(name, [5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15])
        wanted[8] = np.nan
        np.testing.assert_array_equal(ds[name].values, wanted)
        others = slice(0, 1024) if name == "swin" else slice(1024, None)
        np.testing.assert_array_equal(ds["swin_r3d"].values[:, :, others], wanted)
    assert ds["status_r3d"].values.tolist() == [1] * 8 + [2, 1, 1]
    assert ds["status_swin"].values.tolist() == [1] * 8 + [0, 1, 1]
    assert ds["label"].values.tolist() == [0, 1, 1]
    assert ds["split"].values.tolist() == [[0, 1, 0]]
    frames = ds["frames"].values
    assert ds.sizes["frame"] == frames.sum()
    wanted = [np.zeros(frames[0]), np.arange(frames[1]) % 3 == 0, np.arange(frames[2]) % 4 == 0]
    np.testing.assert_array_equal(ds["frame_label"].values, np.concatenate(wanted))
    early = read_run(url, "early").columns
    np.testing.assert_array_equal(early["clip_score"].values, np.arange(5, 10))
    np.testing.assert_array_equal(early["video_probability"].values, [0.5])
    assert len(early["frame_score"].values) == frames[0]
    assert verify(url).problems == []
    assert not list(url.parent.glob("*.partial"))


def test_superseded_videos_are_dropped_and_all_else_stays(url: Path) -> None:
    attributes = read(url).attrs
    done = compact(url)
    assert (done.videos, done.clips) == (2, 5)
    assert done.after < done.before
    check_compacted(url)
    assert read(url).attrs == {**attributes, "compacted": 1}
    assert compact(url).videos == 0
    check_compacted(url)


def test_where_folders_cannot_be_exchanged(url: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "exchange", lambda one, other: False)
    compact(url)
    check_compacted(url)


def test_killed_between_the_two_steps_it_is_found_again(
    url: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = read(url)
    layout.halfway(url).parent.mkdir()
    url.rename(layout.halfway(url))
    with pytest.raises(StoreUnreadable, match="fs-submit compact --store"):
        open_store(url)
    compact(url)
    assert before.sizes["clip"] == 16
    check_compacted(url)


def test_a_worker_that_outlived_its_command_writes_nothing_into_it(url: Path) -> None:
    store = open_store(url)
    planned = store.fingerprint("r3d")
    write_clips(url, "r3d", 13, features("r3d", [13]), fingerprint=planned)
    write_clips(url, "r3d", 13, features("r3d", [13]) * np.nan, fingerprint=planned)
    compact(url)
    with pytest.raises(ProvenanceMismatch, match="compacted"):
        write_clips(url, "r3d", 3, features("r3d", [13]), fingerprint=planned)
    check_compacted(url)
    write_clips(url, "r3d", 0, features("r3d", [5]), fingerprint=open_store(url).fingerprint("r3d"))


# Each line it reads is done by a child of its own, so that zarr is imported once.
SERVER = """
import os, sys
import zarr
from featurestore.copying import compact, copy
from tests.featurestore.commands import Changes
for line in sys.stdin:
    kill, *urls = line.split()
    child = os.fork()
    if child == 0:
        changes = Changes(int(kill))
        compact(*urls) if len(urls) == 1 else copy(*urls)
        print(changes.made, flush=True)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if code:
        print("killed" if code == -9 else f"failed: {code}", flush=True)
"""


@pytest.fixture(scope="module")
def killed() -> Iterator[Callable[..., int | None]]:
    """Copies or compacts in a process that kills itself at this change of the disk: None, or how
    many changes it made without."""
    with subprocess.Popen(
        [sys.executable, "-c", SERVER],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=CHECKOUT,
    ) as process:  # fmt: skip
        stdin, stdout = process.stdin, process.stdout
        assert stdin is not None
        assert stdout is not None

        def run(at: int, *urls: Path) -> int | None:
            stdin.write(f"{at} {' '.join(map(str, urls))}\n")
            stdin.flush()
            answer = stdout.readline().strip()
            return None if answer == "killed" else int(answer)

        yield run
        stdin.close()


@pytest.mark.slow
def test_killed_anywhere_and_run_again_a_copy_is_whole(
    url: Path, tmp_path: Path, killed: Callable[..., int | None]
) -> None:
    made = killed(0, url, tmp_path / "whole.zarr")
    assert made is not None
    for number, point in enumerate(np.linspace(2, 0.95 * made, 4, dtype=int)):
        target = tmp_path / f"y{number}.zarr"
        assert killed(int(point), url, target) is None
        copy(url, target)
        same_values(read(url), read(target))
        assert verify(target).problems == []


@pytest.mark.slow
def test_killed_anywhere_compacting_leaves_the_old_store_or_the_new(
    url: Path, tmp_path: Path, killed: Callable[..., int | None]
) -> None:
    before = read(url)
    twin = tmp_path / "twin.zarr"
    subprocess.run(["cp", "-a", url, twin], check=True)
    made = killed(0, twin)
    assert made is not None
    for point in [*np.linspace(2, 0.9 * made, 3, dtype=int), made - 2]:
        for attempt in range(5):
            one = tmp_path / f"{point}_{attempt}" / "x.zarr"
            one.parent.mkdir()
            subprocess.run(["cp", "-a", url, one], check=True)
            if (done := killed(int(point), one)) is None:
                break
            # It ended before: of zarr's threads now one makes a folder, now two ask for it at once,
            # and the number of changes differs by a few.
            point = done - 2
        else:
            pytest.fail(f"was never killed, though it made {done} changes")
        if read(one).sizes["clip"] == 16:
            same_values(read(one), before)
        compact(one)
        check_compacted(one)
