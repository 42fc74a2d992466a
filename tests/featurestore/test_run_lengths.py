"""Runs in a store that grows: as long as it, so that stock xarray opens all at once."""

import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from featurestore import layout, run_lengths
from featurestore import place as places
from featurestore.catalog import NewVideo
from featurestore.copying import compact, copy
from featurestore.lock import locked
from featurestore.mend import mend
from featurestore.place import place_of
from featurestore.runs import delete_run, later_videos, read_run, run_attributes, write_run
from featurestore.store import Url, open_store
from featurestore.verify import verify
from tests import s3
from tests.featurestore.making import make
from tests.featurestore.test_crash import tree
from tests.featurestore.test_runs import FRAMES, columns

CHECKOUT = Path(__file__).parents[2]
COVERS = {"clip": 10, "frame": FRAMES, "video": 3}


@pytest.fixture
def url(tmp_path: Path) -> Path:
    """Three videos of ten clips, and a run of them."""
    make(tmp_path / "x.zarr", names=("r3d",))
    write_run(tmp_path / "x.zarr", "a", columns(), {"detector": "density"})
    return tmp_path / "x.zarr"


def grow(url: Url, *names: str, frames: int = 40) -> None:
    with locked(url):
        store = open_store(url, "a")
        store.append([NewVideo(name, f"{name}.avi", frames) for name in names])
        store.commit()


def grow_as_older_software(url: Path, name: str) -> None:
    """Runs stayed as long as they were."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(run_lengths, "commit", lambda root, _: layout.commit(root))
        grow(url, name)


def check_tree(url: Path, clips: int, run: str = "a") -> None:
    """All at once, and the run alone: as long as the store, its scores where they were."""
    store = xr.open_zarr(url, chunks=None)
    assert store.sizes["clip"] == clips
    both = xr.open_datatree(url, engine="zarr", chunks=None)
    check_run(store, both[f"scores/{run}"].to_dataset())
    check_run(store, xr.open_zarr(url, group=f"scores/{run}", chunks=None))
    check_run(store, xr.open_zarr(url / "scores" / run, chunks=None))


def check_run(store: xr.Dataset, run: xr.Dataset) -> None:
    for name, of in columns().items():
        length = COVERS[of.dim]
        assert run[name].dims == (of.dim,)
        assert run[name].sizes[of.dim] == store.sizes[of.dim]
        np.testing.assert_array_equal(run[name][:length], of.values)
        assert np.isnan(run[name][length:]).all()
        assert run[name].attrs.get("covers", store.sizes[of.dim]) == length


def test_all_of_a_store_opens_at_once_before_and_after_it_grew(url: Path) -> None:
    check_tree(url, 10)
    assert later_videos(open_store(url)) == {}
    grow(url, "new")
    check_tree(url, 13)
    grow(url, "newer", "v1")
    check_tree(url, 19)
    assert later_videos(open_store(url)) == {"a": ["new", "newer", "v1"]}
    grow(url, "new", frames=0)
    check_tree(url, 19)
    assert later_videos(open_store(url)) == {"a": ["newer", "v1", "new"]}
    assert verify(url).problems == []


def test_we_read_what_was_written(url: Path) -> None:
    grow(url, "new")
    run = read_run(url, "a")
    assert run.attributes == run_attributes(url, "a") == {"detector": "density"}
    for name, of in columns().items():
        np.testing.assert_array_equal(run.columns[name].values, of.values)
        assert run.columns[name].attributes == of.attributes


def test_a_store_that_grew_while_a_run_was_made(url: Path) -> None:
    grow(url, "new")
    with locked(url):
        open_store(url, "a")
        write_run(url, "b", columns(), {})
        write_run(url, "a", columns(), {}, replace=True)
    check_tree(url, 13, "a")
    check_tree(url, 13, "b")
    assert later_videos(open_store(url)) == {"a": ["new"], "b": ["new"]}


def test_a_store_that_older_software_let_grow(url: Path) -> None:
    grow_as_older_software(url, "new")
    with pytest.raises(ValueError, match="not aligned"):
        xr.open_datatree(url, engine="zarr", chunks=None)
    assert len(read_run(url, "a").columns["clip_score"].values) == 10
    assert later_videos(open_store(url)) == {"a": ["new"]}
    found = verify(url)
    assert found.problems == []
    assert found.notes == [
        "a: shorter than the store, which grew under an older version, so that xarray refuses to "
        "open both together (open_datatree); the next command that writes makes runs as long"
    ]
    with locked(url):
        open_store(url, "a")
    check_tree(url, 13)
    assert verify(url).notes == []
    grow_as_older_software(url, "newer")
    assert later_videos(open_store(url)) == {"a": ["new", "newer"]}
    grow(url, "newest")
    check_tree(url, 19)


def test_what_a_run_says_of_itself_is_mended(url: Path) -> None:
    grow(url, "new")
    whole = tree(url)
    for spoil in (lambda path: path.write_text("{"), lambda path: path.unlink()):
        spoil(url / "scores/a/zarr.json")
        with locked(url):
            found = verify(url, alone=True)
            assert [problem.where for problem in found.problems] == ["scores/a/zarr.json"]
            mend(found)
        check_tree(url, 13)
        assert verify(url).problems == []
        assert tree(url).keys() == whole.keys()


def test_a_copy_and_a_compacted_store(url: Path, tmp_path: Path) -> None:
    grow(url, "new", "v0")
    copy(url, tmp_path / "y.zarr")
    check_tree(tmp_path / "y.zarr", 16)
    grow(url, "newer")
    copy(url, tmp_path / "y.zarr")
    check_tree(tmp_path / "y.zarr", 19)
    compact(url)
    both = xr.open_datatree(url, engine="zarr", chunks=None)
    score = both["scores/a"].to_dataset().clip_score
    np.testing.assert_array_equal(score[:7], columns()["clip_score"].values[3:])
    assert np.isnan(score[7:]).all()
    assert (len(score), score.attrs["covers"]) == (16, 7)
    assert later_videos(open_store(url)) == {"a": ["new", "v0", "newer"]}


# Killed

SERVER = """
import os, sys
import zarr
from tests.featurestore.commands import Changes
from tests.featurestore.test_run_lengths import grow
from featurestore.store import open_store
for line in sys.stdin:
    url, kill = line.split()
    child = os.fork()
    if child == 0:
        changes = Changes(int(kill))
        if "new" not in [video.name for video in open_store(url).videos()]:
            grow(url, "new")
        print(changes.made, flush=True)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if code:
        print("killed" if code == -9 else f"failed: {code}", flush=True)
"""


def test_killed_anywhere_while_it_grows(url: Path) -> None:
    """Everything opens at once, whatever is killed, and the next growth ends as an undisturbed."""
    undisturbed, trial = url.with_name("undisturbed.zarr"), url.with_name("trial.zarr")
    with subprocess.Popen(
        [sys.executable, "-c", SERVER],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=CHECKOUT,
    ) as server:  # fmt: skip
        stdin, stdout = server.stdin, server.stdout
        assert stdin is not None
        assert stdout is not None

        def command(at: Path, kill: int) -> str:
            stdin.write(f"{at} {kill}\n")
            stdin.flush()
            return stdout.readline().strip()

        subprocess.run(["cp", "-a", url, undisturbed], check=True)
        changes = int(command(undisturbed, 0))
        seen, longer = set(), 0
        # All kills from when the run grows on, and some before.
        for point in (*range(1, changes - 14, 20), *range(changes - 14, changes + 1)):
            subprocess.run(["cp", "-a", url, trial], check=True)
            answer = command(trial, point)
            if answer != "killed":
                # There may be some fewer: zarr's threads race to make the same folders.
                assert point > 0.9 * changes
            both = xr.open_datatree(trial, engine="zarr", chunks=None)
            store = both.to_dataset()
            check_run(store, both["scores/a"].to_dataset())
            seen.add(store.sizes["clip"])
            alone = xr.open_zarr(trial / "scores/a", chunks=None).clip_score
            longer += alone.sizes["clip"] > store.sizes["clip"]
            assert np.isnan(alone[10:]).all()
            assert int(alone.attrs.get("covers", 10)) == 10
            if point % 3:
                command(trial, 0)
                assert tree(trial) == tree(undisturbed)
            else:
                # Another growth than that which was killed.
                grow(trial, "other", frames=20)
                check_tree(trial, store.sizes["clip"] + 2)
            assert verify(trial).problems == []
            subprocess.run(["rm", "-rf", trial], check=True)
        stdin.close()
    assert seen == {10, 13}
    assert longer > 0  # kills between a run and the commit were among these


# On an object store


@pytest.fixture
def there(s3_server: s3.Server) -> Iterator[str]:
    """The same store on an object store."""
    pytest.importorskip("obstore", reason="pip install .[objects]")
    before = places.in_use()
    places.use(s3_server.options)
    at = f"{s3_server.bucket(f'runs-{uuid.uuid4().hex}')}/x.zarr"
    make(at, names=("r3d",))
    write_run(at, "a", columns(), {"detector": "density"})
    yield at
    places.use(before)


def tree_there(url: str, server: s3.Server) -> Any:
    return xr.open_datatree(s3.objects(url, server), engine="zarr", chunks=None)


def test_it_grows_on_an_object_store(there: str, s3_server: s3.Server) -> None:
    grow(there, "new")
    both = tree_there(there, s3_server)
    assert both.sizes["clip"] == 13
    check_run(both.to_dataset(), both["scores/a"].to_dataset())
    assert not [path for path in place_of(there).sizes() if path.endswith(".partial")]
    assert verify(there).problems == []
    before = s3_server.requests()
    open_store(there, "a")
    with_run = s3_server.requests() - before
    delete_run(there, "a")
    before = s3_server.requests()
    open_store(there, "a")
    assert with_run == s3_server.requests() - before


@pytest.mark.parametrize("step", ["_put", "_list_arrays", "commit", "_end"])
def test_killed_on_an_object_store(
    there: str, s3_server: s3.Server, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """What comes after a step is not done any more, nor is anything undone."""

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(layout if step == "commit" else run_lengths, step, killed)
        with pytest.raises(KeyboardInterrupt):
            grow(there, "new")
    clips = 13 if step == "_end" else 10
    both = tree_there(there, s3_server)
    assert both.sizes["clip"] == clips
    check_run(both.to_dataset(), both["scores/a"].to_dataset())
    grow(there, "other", frames=20)
    both = tree_there(there, s3_server)
    assert both.sizes["clip"] == clips + 2
    check_run(both.to_dataset(), both["scores/a"].to_dataset())
    assert not [path for path in place_of(there).sizes() if path.endswith(".partial")]
    assert verify(there).problems == []
