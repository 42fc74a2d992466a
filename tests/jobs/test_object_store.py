"""The commands on a store that lies on an object store (moto's S3, on loopback), end to end."""

import filecmp
import io
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner, Result

from featurestore import place as places
from featurestore.blocks import write_clips
from featurestore.errors import StoreUnreadable, UsageError
from featurestore.place import place_of
from featurestore.schema import DONE
from featurestore.store import open_store
from jobs import sample
from jobs.cli import cli
from jobs.drive import Drive
from jobs.progress import Progress
from jobs.worker import Setup
from tests import s3
from tests.benchmarks.driver import Answer, NoCluster
from tests.detector.stores import make as make_scored
from tests.jobs.conftest import FAST, FAST_ARRAY, Command, kill_group, wait_for
from tests.jobs.simulated import SPEC, setup_of, store_of, tasks_of

pytest.importorskip("obstore", reason="pip install .[objects]")

CLIPS = 48
COST = {SPEC.name: 1.0}
SECRET_WORDS = (s3.KEY, s3.SECRET)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight videos of 6 clips, with labels and a split."""
    recipe = sample.Recipe(videos=8, frames=90, width=96, height=80)
    return sample.write(tmp_path_factory.mktemp("many") / "s", recipe)


@pytest.fixture(scope="module")
def here(many: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a store on the disk."""
    command = Command(tmp_path_factory.mktemp("here"))
    command.run(*extract(many, "features"))
    return command.folder / "features"


@pytest.fixture(scope="module", autouse=True)
def options(s3_server: s3.Server) -> Iterator[None]:
    """This process too has the keys; commands get them by their environment."""
    before = places.in_use()
    places.use(s3_server.options)
    yield
    places.use(before)


def done(url: str) -> int:
    """Clips marked done, as the next run will find them."""
    time.sleep(0.5)  # the server has others to answer
    try:
        store = open_store(url)
    except FileNotFoundError:
        return 0
    return int((store.status(FAST_ARRAY) == DONE).sum()) if store.backbones else 0


def same(server: s3.Server, url: str, here: Path) -> None:
    """Bit for bit."""
    found = s3.stock(url, server).drop_attrs(deep=False)
    expected = xr.open_zarr(here, chunks=None).load().drop_attrs(deep=False)
    xr.testing.assert_identical(found, expected)
    for name in found.data_vars:
        if found[name].dtype.kind != "T":
            assert found[name].values.tobytes() == expected[name].values.tobytes()


def extract(many: Path, folder: str) -> tuple[object, ...]:
    return ("extract", "--dataset", "folder", "--root", many, "--weights", "random",
            "--backbones", FAST, "--store", folder, "--labels", many.parent / "intervals.csv",
            "--split", f"weak={many.parent / 'labels.csv'}")  # fmt: skip


@pytest.fixture(scope="module")
def there(
    many: Path, s3_server: s3.Server, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, str]:
    """The folder of a store on the object store, begun by a command that was killed half-way; and
    what the second run said."""
    folder = f"{s3_server.bucket('extracted')}/features"
    command = Command(tmp_path_factory.mktemp("there"), s3_server.env)
    url = f"{folder}/videos.zarr"
    process = command.start(*extract(many, folder))
    wait_for(lambda: done(url) > 0 or process.poll() is not None)
    kill_group(process)
    finished = done(url)
    assert 0 < finished < CLIPS
    said = command.run(*extract(many, folder))
    assert f"{CLIPS - finished} of {CLIPS - finished} clips" in said.stdout + said.stderr
    return folder, said.stdout + said.stderr


@pytest.mark.slow
def test_killed_and_run_again_it_equals_the_store_here(
    there: tuple[str, str], here: Path, s3_server: s3.Server
) -> None:
    folder, said = there
    same(s3_server, f"{folder}/videos.zarr", here / "videos.zarr")
    assert not place_of(f"{folder}/videos.zarr.lock").exists()
    assert f"xarray.open_zarr('{folder}/videos.zarr')" in said
    assert not any(word in said for word in SECRET_WORDS)
    # Nor are they in anything that lies there.
    place = place_of(folder)
    for path in place.sizes():
        if path.endswith("zarr.json"):
            content = (place / path).read_bytes().decode()
            assert not any(word in content for word in SECRET_WORDS), path


def submit(*words: object, code: int = 0) -> Result:
    before = places.in_use()
    try:
        result = CliRunner().invoke(cli, [str(word) for word in words])
    finally:
        places.use(before)  # the command has its own
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


def test_other_commands_do_there_what_they_do_here(
    tmp_path: Path, s3_server: s3.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3_server.env.items():
        monkeypatch.setenv(name, value)
    here, folder = tmp_path / "here", f"{s3_server.bucket('made')}/features"
    here.mkdir()
    both = (str(here), folder)
    for f in both:
        make_scored(f"{f}/made.zarr", arrays=["timm_a"])  # type: ignore[arg-type]
    told = [json.loads(submit("status", "--store", f, "--json").stdout)[0] for f in both]
    assert [one.pop("store") for one in told] == [f"{f}/made.zarr" for f in both]
    # Here the array's own metadata counts, too.
    bytes_ = [one["arrays"]["timm_a"].pop("bytes") for one in told]
    assert 0 < bytes_[0] - bytes_[1] < 4096
    assert told[0] == told[1]
    assert "no problem" in submit("verify", "--store", folder).output
    # The same as here, of scores too; and again, in place of those that are there.
    gaussian = ("--detector", "gaussian", "--resamples", 20)
    for _ in range(2):
        tables = [submit("score", "--store", f, "--split", "weak", *gaussian).stdout for f in both]
        assert tables[0].replace(str(here), folder) == tables[1]
    runs = [json.loads(submit("runs", "--store", f, "--json").stdout) for f in both]
    assert len(runs[1]) == len(runs[0]) > 0
    run = runs[1][0]["run"]
    found = s3.stock(f"{folder}/made.zarr/scores/{run}", s3_server)
    expected = xr.open_zarr(here / "made.zarr/scores" / run, chunks=None).load()
    xr.testing.assert_equal(found, expected)
    assert "AUC" in submit("evaluate", "--store", folder, run, "--resamples", 20).stdout
    submit("report", run, "--store", folder, "-o", tmp_path / "run.html", "--pictures", 1)
    submit("runs", "--store", folder, "delete", run)
    assert "made.zarr" in submit("split", "list", "--store", folder).stdout
    # Out as others read it, and in again.
    split = ("--split", "weak")
    for number, f in enumerate(both):
        submit("export", tmp_path / f"out{number}", "--store", f, *split)
    compared = filecmp.dircmp(tmp_path / "out0", tmp_path / "out1")
    assert compared.common_dirs == ["features"]
    assert not compared.left_only + compared.right_only
    assert filecmp.dircmp(tmp_path / "out0/features", tmp_path / "out1/features").diff_files == []
    for f in both:
        submit(
            "import", tmp_path / "out0", "--list", tmp_path / "out0/videos.csv", "--store", f,
            "--name", "imported", "--dataset", "walkway", "--our-crops",
        )  # fmt: skip
    same(s3_server, f"{folder}/imported.zarr", here / "imported.zarr")
    with pytest.raises(UsageError, match="has 2 stores: imported, made"):
        submit("export", tmp_path / "none", "--store", folder)


class Killed(BaseException):
    """The driver ends where it stands, and marks nothing more."""


@dataclass
class WritesAndNeverAnswers(NoCluster):
    """Workers that write what they are given, and the driver is killed before it hears of it."""

    def submit(self, work: Any, *given: Any, key: str, **wish: Any) -> Answer:
        if len(given) == 2:
            task, setup = given
            for segment in task.segments:
                values = np.ones((len(segment.starts), 10, SPEC.channels), np.float32)
                write_clips(setup.store, SPEC.name, segment.first, values)
        if self.submitted == 40:
            raise Killed
        return super().submit(work, *given, key=key, **wish)


def test_a_killed_driver_leaves_no_value_that_the_next_command_does_not_blank(
    s3_server: s3.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"{s3_server.bucket('inhand')}/x.zarr"
    store = store_of(url, [(f"v{i}", 4) for i in range(60)], 4)
    tasks, setup = tasks_of(store, 4), setup_of(store)

    def killed() -> Drive:
        cluster: Any = WritesAndNeverAnswers(2, 100)
        return Drive(cluster, store, setup, Progress(240, 240.0, stream=io.StringIO()), COST)

    before = s3_server.requests()
    with pytest.raises(Killed):
        killed().run(tasks)
    asked = (s3_server.requests() - before)["PUT"]
    time.sleep(0.5)
    status = open_store(url).status(SPEC.name)
    written = ~np.isnan(open_store(url).features(SPEC.name, range(240))).all(axis=(1, 2))
    assert (written & (status != DONE)).sum() >= 4
    # A chunk a block, a mark a round, and a few more to name what is in hand.
    assert asked <= 41 + 41 + 6
    again = open_store(url, "a")
    written = ~np.isnan(again.features(SPEC.name, range(240))).all(axis=(1, 2))
    np.testing.assert_array_equal(written, status == DONE)
    assert not place_of(f"{url}.inhand").exists()


@pytest.mark.slow
def test_scores_by_workers_there_are_those_made_here(
    tmp_path: Path, command: Command, s3_server: s3.Server
) -> None:
    """Workers get the options from the command, whether these are in the environment or not."""
    here, folder = tmp_path / "here", f"{s3_server.bucket('scored')}/features"
    here.mkdir()
    for f in (str(here), folder):
        make_scored(f"{f}/made.zarr", arrays=["timm_a", "timm_b"])  # type: ignore[arg-type]
    words = ("score", "--split", "weak", "--resamples", 20, "--json", "--store")
    expected = json.loads(command.run(*words, here).stdout)
    local = ("--cluster", "local", "--workers", 2)
    options = ("--storage-options", json.dumps(s3_server.options))
    command.env = {"AWS_EC2_METADATA_DISABLED": "true"}
    done = command.run(*words, folder, *local, *options)
    assert json.loads(done.stdout.replace(folder, str(here))) == expected
    assert "Traceback" not in done.stderr
    command.env = s3_server.env
    runs = [one["run"] for one in json.loads(command.run("runs", "--store", here, "--json").stdout)]
    for run in runs:
        there = s3.stock(f"{folder}/made.zarr/scores/{run}", s3_server)
        xr.testing.assert_equal(there, xr.open_zarr(here / f"made.zarr/scores/{run}", chunks=None))
    # What a worker could not read is one clear error, and no key of ours is in it.
    chunk = place_of(f"{folder}/made.zarr") / "timm_a/c/3/0/0"
    content = bytearray(chunk.read_bytes())
    content[1000] ^= 1
    chunk.write_bytes(bytes(content))
    for way in ((), local):
        failed = command.run(*words, folder, *way, code=1)
        said = failed.stdout + failed.stderr
        assert "Traceback" not in said
        assert "made.zarr" in failed.stderr
        assert "damaged" in failed.stderr
        assert not any(word in said for word in SECRET_WORDS)


@pytest.mark.slow
def test_a_server_that_is_away(
    many: Path, here: Path, command: Command, s3_server: s3.Server
) -> None:
    """For longer than requests are tried again: an error. For less: it goes on by itself."""
    folder = f"{s3_server.bucket('away')}/features"
    url = f"{folder}/videos.zarr"
    command.env = {**s3_server.env, "FS_STORAGE_OPTIONS": "timeout=1s retry_timeout=2"}
    process = command.start(*extract(many, folder))
    wait_for(lambda: done(url) > 0 or process.poll() is not None)
    with s3_server.away():
        out, err = process.communicate(timeout=120)
    assert process.returncode == 1, out + err
    assert f"error: {url}/" in err
    assert "cannot be" in err
    assert "What was finished before is safe" in err
    assert "Traceback" not in err
    assert not any(word in out + err for word in SECRET_WORDS)
    finished = done(url)
    assert finished > 0
    command.env = {**s3_server.env, "FS_STORAGE_OPTIONS": "timeout=1s retry_timeout=60"}
    process = command.start(*extract(many, folder))
    wait_for(lambda: done(url) > finished or process.poll() is not None)
    with s3_server.away():
        time.sleep(4)
        assert process.poll() is None
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, out + err
    same(s3_server, url, here / "videos.zarr")


def test_wrong_keys_and_buckets_are_one_clear_error(
    s3_server: s3.Server, many: Path, command: Command
) -> None:
    bucket = s3_server.bucket("refused")
    wrong = {"AWS_ACCESS_KEY_ID": "AKIAOFANOTHER", "AWS_SECRET_ACCESS_KEY": "not/the+secret"}
    command.env = {**s3_server.env, **wrong}
    with s3_server.keys_checked():
        done = command.run("status", "--store", bucket, code=1)
    assert done.stderr.count("\n") == 1
    assert f"error: {bucket}: cannot be read: the server refuses these keys" in done.stderr
    assert not any(word in done.stderr for word in wrong.values())
    command.env = s3_server.env
    done = command.run(
        "extract", "--dataset", "folder", "--root", many, "--store", "s3://nobody-has-this", code=1
    )
    assert "no such bucket" in done.stderr
    assert done.stderr.count("\n") == 1
    with pytest.raises(StoreUnreadable, match="no such bucket"):
        submit("status", "--store", "s3://nobody-has-this/x.zarr", "--storage-options",
               json.dumps(s3_server.options))  # fmt: skip


def test_what_a_worker_is_given_does_not_show_the_keys() -> None:
    """Dask writes it into its log when a task fails."""
    setup = Setup(
        store="s3://b/x.zarr", specs={}, weights="", digests={}, fingerprints={}, engine="torch",
        precision="float32", device="cpu", decoder="pyav", threads=1,
        storage=places.Options({"secret_access_key": s3.SECRET}),
    )  # fmt: skip
    assert s3.SECRET not in repr(setup)
