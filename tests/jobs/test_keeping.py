"""`fs-submit verify`, `compact` and `copy`, as they are typed: what they print, and exit codes."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from featurestore.errors import UsageError
from featurestore.lock import locked
from featurestore.store import open_store
from jobs.cli import cli
from tests.featurestore.making import make, video, write


def submit(*words: str | Path) -> Result:
    result = CliRunner().invoke(cli, [str(word) for word in words])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    store = make(tmp_path / "features" / "x.zarr", names=["swin", "r3d", "swin_r3d"])
    for name in ("swin", "r3d"):
        write(store, name, range(10))
    return tmp_path / "features"


def test_verify_says_what_to_do_and_repairs(folder: Path) -> None:
    url = folder / "x.zarr"
    found = submit("verify", "--store", folder)
    assert found.exit_code == 0
    assert f"{url}: 9 chunks of features read, no problem" in found.output
    (url / "s3d.partial").touch()
    chunk = url / "r3d/c/1/0/0"
    chunk.write_bytes(bytes(chunk.stat().st_size))
    found = submit("verify", "--store", folder)
    assert found.exit_code == 3
    assert "r3d/c/1/0/0: is damaged: its checksum does not fit" in found.output
    assert "-> fs-submit verify --repair, then fs-submit extract again" in found.output
    told = json.loads(submit("verify", "--store", folder, "--json").stdout)
    assert [p["where"] for p in told[0]["problems"]] == ["s3d.partial", "r3d/c/1/0/0"]
    found = submit("verify", "--store", folder, "--repair")
    assert found.exit_code == 0
    assert "another command" not in found.output
    assert "s3d.partial: left over by a command that was killed (1)" in found.output
    assert "repaired: r3d: 4 clips are marked missing" in found.output
    assert submit("verify", "--store", folder).exit_code == 0
    assert open_store(url).status("r3d").tolist() == [1] * 4 + [0] * 4 + [1] * 2


def test_verify_of_several_stores_goes_on_after_one_that_cannot_be_opened(folder: Path) -> None:
    make(folder / "y.zarr", [1], names=["r3d"])
    (folder / "x.zarr" / "zarr.json").write_text("{")
    found = submit("verify", "--store", folder)
    assert found.exit_code == 3
    assert "zarr.json: is damaged" in found.output
    assert "y.zarr: 0 chunks of features read, no problem" in found.output


def test_repair_waits_for_nobody(folder: Path) -> None:
    with locked(folder / "x.zarr"):
        assert "another command is writing" in submit("verify", "--store", folder).output
        with pytest.raises(Exception, match="another command is writing to this store"):
            submit("verify", "--store", folder, "--repair")


def test_compact_and_copy(folder: Path, tmp_path: Path) -> None:
    assert "nothing to drop" in submit("compact", "--store", folder).output
    store = open_store(folder / "x.zarr", "a")
    store.append([video("v0", 1)])
    store.commit()
    found = submit("compact", "--store", folder)
    assert "1 superseded videos (3 clips) dropped; " in found.output
    found = submit("copy", folder / "x.zarr", tmp_path / "backup", "--backbones", "swin_r3d")
    assert f"{tmp_path}/backup/x.zarr: 14 clips copied (swin, r3d, swin_r3d)" in found.output
    found = submit("copy", folder / "x.zarr", tmp_path / "backup")
    assert ": 0 clips copied (swin, r3d, swin_r3d); 14 were there" in found.output


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["gs://b/x.zarr", "s3://b/f"], "copy it to a folder first"),
        (["X", "s3://bucket/f", "--fused", "link"], "an object store has no links"),
        (["X", "s3://bucket/f", "--storage-options", "{secret"], "begins as JSON, but is none$"),
        (["X", "s3://bucket/f", "--storage-options", "secret"], "give name=value, or all as JSON$"),
        (["X", "s3://bucket/f", "--storage-options", "nonsense=1"], "s3://bucket/f/x.zarr: cannot"),
    ],
)
def test_object_stores_that_make_no_sense(folder: Path, words: list[str], what: str) -> None:
    pytest.importorskip("obstore")
    with pytest.raises(UsageError, match=what) as told:
        submit("copy", *(str(folder / "x.zarr") if word == "X" else word for word in words))
    assert "secret" not in str(told.value)
