"""What can be wrong with a store is found, named, and mended so that the next extract heals it."""

import json
from pathlib import Path

import numpy as np
import pytest

from featurestore.blocks import missing, write_clips
from featurestore.findings import Findings
from featurestore.labels import ABNORMAL, Truth
from featurestore.lock import locked, writer
from featurestore.mend import mend
from featurestore.runs import run_names, write_run
from featurestore.schema import DONE
from featurestore.splits import Split
from featurestore.store import open_store
from featurestore.verify import verify
from tests.featurestore.making import expected, features, make, read, video, write
from tests.featurestore.test_runs import columns

CLIPS = 10
BACKBONES = ["swin", "r3d", "s3d"]
NAMES = [*BACKBONES, "swin_r3d", "swin_s3d"]


def whole(url: Path, fused: str = "link") -> Path:
    """Five arrays complete, with labels, a split and a run; block 4."""
    store = make(url, names=NAMES, fused=fused)
    for name in BACKBONES:
        write(store, name, range(CLIPS))
    frames = np.arange(store.video("v0").frames) % 2
    store.set_truth([Truth("v0", ABNORMAL, frames.astype(np.int8), "t")])
    store.set_split(Split("one", {"v0": 0, "v1": 1}, {}, "t"))
    write_run(store.url, "density", columns(), {})
    return url


@pytest.fixture
def url(tmp_path: Path) -> Path:
    return whole(tmp_path / "x.zarr")


def heal(url: Path) -> None:
    """Mends, computes what is missing as extract does; then all must be as if never broken."""
    with locked(url):
        mend(verify(url, alone=True))
        store = open_store(url, "a")
        for name in store.backbones:
            write(store, name, np.flatnonzero(missing(store.status(name), store.live())).tolist())
    assert [str(problem) for problem in verify(url).problems] == []
    ds = read(url)
    for name in NAMES:
        np.testing.assert_array_equal(ds[name].values, expected(name, CLIPS, range(CLIPS)))


def said(found: Findings) -> str:
    return "\n".join(map(str, found.problems))


def flip(path: Path) -> None:
    """One bit, in the middle."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 8
    path.write_bytes(data)


def state(root: Path) -> dict[Path, tuple[int, int]]:
    return {path: (path.lstat().st_ino, path.lstat().st_mtime_ns) for path in root.rglob("*")}


def test_a_whole_store_has_no_problem_and_is_not_touched(url: Path) -> None:
    before = state(url.parent)
    seen: list[tuple[int, int]] = []
    found = verify(url, progress=lambda done, of: seen.append((done, of)))
    assert (said(found), found.notes) == ("", [])
    assert found.checked == 3 * (2 + 1 + 2)  # three blocks of so many chunks
    assert seen[-1] == (9, 9)
    assert state(url.parent) == before


@pytest.mark.parametrize("fused", ["link", "copy"])
def test_a_flipped_bit_in_features(tmp_path: Path, fused: str) -> None:
    url = whole(tmp_path / "x.zarr", fused)
    flip(url / "s3d/c/1/0/1")
    found = verify(url)
    assert "s3d/c/1/0/1: is damaged: its checksum does not fit" in said(found)
    assert found.clips == {"s3d": {4, 5, 6, 7}}
    assert found.chunks == ["s3d/c/1/0/1"]
    heal(url)


def test_a_truncated_chunk_and_one_of_zeros(url: Path) -> None:
    path = url / "r3d/c/0/0/0"
    path.write_bytes(path.read_bytes()[:1000])
    other = url / "s3d/c/2/0/1"
    other.write_bytes(bytes(other.stat().st_size))
    assert verify(url).chunks == ["r3d/c/0/0/0", "s3d/c/2/0/1"]
    heal(url)


def test_a_chunk_that_is_gone(url: Path) -> None:
    (url / "r3d/c/1/0/0").unlink()
    (url / "swin/c/2/0/1").unlink()
    found = verify(url)
    assert "r3d: 4 clips (of v1, v2) marked done but not there" in said(found)
    assert "swin: 2 clips (of v2) marked done but NaN or infinite" in said(found)
    assert "2 chunks of swin_r3d lead nowhere" in said(found)
    heal(url)


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0, 1.5])
def test_finished_clips_that_are_nan_or_constant(url: Path, value: float) -> None:
    values = features("r3d", [6])
    values[0, 3 : 4 if np.isnan(value) else None] = value
    if np.isfinite(value):
        values[:] = value
    write_clips(url, "r3d", 6, values)
    kind = "constant" if np.isfinite(value) else "NaN or infinite"
    assert f"r3d: 1 clips (of v2) marked done but {kind}" in said(verify(url))
    heal(url)


def test_links_that_lead_astray(tmp_path: Path) -> None:
    store = make(tmp_path / "x.zarr", names=["swin", "r3d", "swin_r3d"], fused="link")
    for name in ("swin", "r3d"):
        write(store, name, range(CLIPS))
    folder = tmp_path / "x.zarr" / "swin_r3d" / "c"
    (folder / "0/0/0").unlink()
    (folder / "0/0/1").unlink()
    (folder / "0/0/1").symlink_to("../../../../r3d/c/0/0/0")
    (folder / "1/0/7").symlink_to("../../../../r3d/c/1/0/4")
    found = said(verify(store.url))
    assert "swin_r3d/c/0/0/0: 1 chunks of swin_r3d are missing" in found
    assert "swin_r3d/c/0/0/1: 1 chunks of swin_r3d lead elsewhere" in found
    assert "swin_r3d/c/1/0/7" in found
    with locked(store.url):
        mend(verify(store.url, alone=True))
    assert said(verify(store.url)) == ""
    np.testing.assert_array_equal(
        read(store.url)["swin_r3d"].values, expected("swin_r3d", CLIPS, range(CLIPS))
    )


def test_a_stale_copy_in_a_fused_array(tmp_path: Path) -> None:
    """As an older backup leaves it; in a store of links too."""
    for mode in ("link", "copy"):
        store = make(tmp_path / f"{mode}.zarr", names=["swin", "r3d", "swin_r3d"], fused=mode)
        for name in ("swin", "r3d"):
            write(store, name, range(CLIPS))
        chunk = Path(store.url) / "swin_r3d/c/0/0/2"
        other = (Path(store.url) / "r3d/c/1/0/0").read_bytes()
        chunk.unlink()
        chunk.write_bytes(other)
        assert "1 chunks of swin_r3d differ from their parts" in said(verify(store.url))
        with locked(store.url):
            mend(verify(store.url, alone=True))
        assert said(verify(store.url)) == ""


def test_leftovers_of_killed_commands(url: Path) -> None:
    (url / "r3d/c/0/0/0.abc.partial").write_bytes(b"x")
    (url.parent / "x.zarr.new.partial").mkdir()
    store = open_store(url, "a")  # sweeps
    (url / "s3d/c/0/0/0.abc.partial").write_bytes(b"x")
    store.append([video("lost", 7)])
    write(store, "r3d", range(10, 17), mark=False)
    found = said(verify(url))
    assert "s3d/c/0/0/0.abc.partial" in found
    assert "r3d/c/4" in found
    assert "changed by a command that was killed before its commit" in found
    heal(url)


def test_values_that_were_never_marked(url: Path) -> None:
    store = open_store(url, "a")
    store.append([video("late", 2)])
    store.commit()
    write(store, "r3d", [10, 11], mark=False)
    assert "r3d: 2 clips (of late) with values that were never marked done" in said(verify(url))
    with locked(url):
        mend(verify(url, alone=True))
    assert said(verify(url)) == ""
    assert np.isnan(read(url)["r3d"].values[10:]).all()


def test_files_that_are_not_ours_are_named_and_left(url: Path) -> None:
    (url / "notes.txt").write_text("mine")
    (url / "r3d" / ".DS_Store").write_text("")
    found = verify(url)
    assert "notes.txt, r3d/.DS_Store: no part of a store, and readers may warn of it (2)" in said(
        found
    )
    with locked(url):
        mend(found)
    assert (url / "notes.txt").read_text() == "mine"
    assert not all(problem.mendable for problem in verify(url).problems)


def test_a_status_that_is_damaged_is_told_from_the_features(url: Path) -> None:
    store = open_store(url, "a")
    store.append([video("late", 3)])
    store.commit()
    write(store, "r3d", [10])
    flip(url / "status_r3d/c/0")
    assert "status_r3d: is damaged" in said(verify(url))
    with locked(url):
        assert "r3d: 11 clips count as done" in mend(verify(url, alone=True))
    assert said(verify(url)) == ""
    assert read(url)["status_r3d"].values.tolist() == [DONE] * 11 + [0, 0]


@pytest.mark.parametrize(
    "name", ["clip_video", "clip_start", "clip_count", "clip_offset", "frame_offset"]
)
def test_columns_that_follow_from_others_are_written_anew(url: Path, name: str) -> None:
    before = read(url)[name].values
    flip(url / name / "c" / "0")
    assert f"{name}: is damaged" in said(verify(url))
    heal(url)
    np.testing.assert_array_equal(read(url)[name].values, before)
    store = open_store(url, "a")
    store._write(name, slice(1, 2), before[1] + 1)
    assert f"{name}: does not agree with the frames of the videos" in said(verify(url))
    heal(url)
    np.testing.assert_array_equal(read(url)[name].values, before)


def test_labels_and_splits_that_are_damaged_are_forgotten(url: Path) -> None:
    flip(url / "frame_label/c/0")
    flip(url / "split/c/0/0")
    flip(url / "label/c/0")
    found = said(verify(url))
    for name in ("frame_label", "split", "label"):
        assert f"{name}: is damaged" in found
    heal(url)
    assert set(read(url)["label"].values.tolist()) == {-1}


def test_a_damaged_run_is_deleted(url: Path) -> None:
    flip(url / "scores/density/clip_score/c/0")
    found = verify(url)
    assert "scores/density/clip_score: is damaged" in said(found)
    with locked(url):
        assert mend(found) == ["the run density is deleted"]
    assert run_names(url) == ()


@pytest.mark.parametrize("name", ["video", "frames", "state", "path"])
def test_what_cannot_be_made_again_is_told_and_left(url: Path, name: str) -> None:
    flip(url / name / "c" / "0")
    found = verify(url)
    (problem,) = found.problems
    assert (problem.where, problem.mendable) == (name, False)
    assert f"Put {name} back from a copy" in problem.way_out


def test_a_store_in_use_can_be_looked_at(url: Path) -> None:
    assert writer(url) is None
    with locked(url):
        (url / "s3d/c/0/0/0.abc.partial").write_bytes(b"x")
        assert "process" in (writer(url) or "")
        found = verify(url)
    assert said(found) == ""
    assert "another command is writing" in found.notes[0]
    assert "left over" in said(verify(url))


def test_metadata_that_is_gone_or_damaged(url: Path) -> None:
    (url / "swin_s3d/zarr.json").unlink()
    found = verify(url)
    assert "swin_s3d/zarr.json: is gone" in said(found)
    heal(url)
    content = json.loads((url / "r3d/zarr.json").read_text())
    (url / "r3d/zarr.json").write_text("{")
    (problem,) = verify(url).problems
    assert problem.where == "r3d/zarr.json"
    assert not problem.mendable
    (url / "r3d/zarr.json").write_text(json.dumps(content, indent=2))
    assert said(verify(url)) == ""


def test_every_damaged_file_is_found(url: Path) -> None:
    """Whatever single chunk is hit, verify says so."""
    chunks = [p for p in url.rglob("*") if p.is_file() and not p.is_symlink()]
    chunks = [p for p in chunks if "c" in p.relative_to(url).parts and p.name != "zarr.json"]
    unique = {p.relative_to(url).parts[0]: p for p in chunks}
    assert {*BACKBONES, "clip_video", "video", "split", "scores"} <= unique.keys()
    assert len(unique) > 20
    for path in unique.values():
        content = path.read_bytes()
        flip(path)
        problems = verify(url).problems
        path.write_bytes(content)
        assert problems, path
