"""The command end to end, on real encoded videos, with a small real network."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import numpy as np
import pytest
import xarray as xr
from PIL import Image

from featurestore.errors import FeatureStoreError
from featurestore.schema import CROPS
from jobs import engines, sample
from jobs.cli import cli
from tests.jobs.conftest import FAST, FAST_ARRAY, Command


def features(command: Command, name: str = "videos") -> xr.Dataset:
    return xr.open_zarr(command.folder / "features" / f"{name}.zarr").load()


@pytest.fixture(scope="module")
def extracted(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Command, str]:
    """A store of all videos, made with the defaults, and what was said; to look at only."""
    command = Command(tmp_path_factory.mktemp("extracted"), {"FS_PRECISION": "auto"})
    return command, command.extract(videos)


def test_extract_then_nothing_to_do(extracted: tuple[Command, str], videos: Path) -> None:
    command, out = extracted
    assert "6 videos" in out
    assert "18 clips" in out
    assert "Dask dashboard: http://127.0.0.1" in out
    ds = features(command)
    assert ds[FAST_ARRAY].dims == ("clip", "crop", "channel_64")
    assert ds[FAST_ARRAY].dtype == np.float32
    assert np.isfinite(ds[FAST_ARRAY]).all()
    assert tuple(ds["crop"].values) == CROPS
    assert sorted(ds["video"].values) == sorted(p.stem for p in videos.glob("*.mp4"))
    assert (ds[f"status_{FAST_ARRAY}"] == 1).all()
    np.testing.assert_array_equal(ds["clip_start"][:3], [0, 16, 24])
    assert "nothing to do" in command.extract(videos)


def test_only_what_is_needed_is_loaded(
    extracted: tuple[Command, str], command: Command, videos: Path
) -> None:
    """The network is kept since the fixture's run: what follows starts in half of the time."""
    command.env = {"PYTHONPROFILEIMPORTTIME": "1"}  # of the driver and of its worker
    out = command.extract(videos, "--videos", "normal_01", "--workers", "1")
    assert "3 of 3 clips" in out
    loaded = re.findall(r"(?m)^import time:.*\| +(\S+)$", out)
    assert not {"timm", "torchvision", "pytorchvideo", "torch._dynamo"} & set(loaded)
    # Both import Dask, the worker alone what computes. (The driver's processes for Dask's own
    # bookkeeping import nothing of these.)
    assert loaded.count("torch") == loaded.count("openvino") == 1
    assert loaded.count("distributed") >= 2
    again = command.extract(videos, "--videos", "normal_01", "--workers", "1")
    assert "nothing to do" in again
    assert not re.search(r"(?m)^import time:.*\| +(torch|openvino|distributed)$", again)


def test_added_and_replaced_videos(command: Command, videos: Path, tmp_path: Path) -> None:
    root = tmp_path / "some videos"
    root.mkdir()
    names = sorted(p.name for p in videos.glob("*.mp4"))
    for name in names[:3]:
        shutil.copy(videos / name, root / name)
    command.extract(root)
    before = features(command, root.name)
    shutil.copy(videos / names[3], root / "straße 4.mp4")
    shutil.copy(videos / names[4], root / names[0])  # another file under a known name
    (root / names[1]).touch()  # the same contents: nothing to compute
    out = command.extract(root)
    assert "new: 1 videos, replaced: 1" in out
    assert "6 of 6 clips" in out
    ds = features(command, root.name)
    states = dict(zip(ds["video"].values.tolist(), ds["state"].values.tolist(), strict=True))
    assert list(ds["state"].values) == ["superseded", "ok", "ok", "ok", "ok"]
    assert states[names[0].removesuffix(".mp4")] == "ok"
    np.testing.assert_array_equal(ds[FAST_ARRAY][3:9], before[FAST_ARRAY][3:9])
    assert not np.array_equal(ds[FAST_ARRAY][9:12], before[FAST_ARRAY][:3])
    assert "nothing to do" in command.extract(root)


def test_videos_are_picked_by_name_and_glob(command: Command, videos: Path) -> None:
    for given, expected in (("normal_01", "1 videos, about 3"), ("normal_*", "3 videos, about 9")):
        assert f"{expected} clips" in command.extract(videos, "--videos", given, "--dry-run")
    out = command.extract(videos, "--videos", "nobody", code=1)
    assert "'nobody' matches none" in out


def test_dry_run_writes_nothing(command: Command, videos: Path) -> None:
    out = command.extract(videos, "--dry-run")
    assert "about 18 clips" in out
    assert " s on a machine like this" in out or " min" in out
    assert list(command.folder.iterdir()) == []


def test_every_option_has_an_environment_variable(command: Command, videos: Path) -> None:
    command.env = {
        "FS_DATASET": "folder", "FS_ROOT": str(videos), "FS_BACKBONES": FAST,
        "FS_WEIGHTS": "random", "FS_ENGINE": "openvino", "FS_STORE": "elsewhere", "FS_NAME": "mine",
        "FS_VIDEOS": "normal_01",
    }  # fmt: skip
    command.run("extract")
    assert (command.folder / "elsewhere" / "mine.zarr").is_dir()
    command.env = {}
    shown = command.run("extract", "--help").stdout
    options = [line.split()[0] for line in shown.splitlines() if line.strip().startswith("--")]
    for option in options:
        if option != "--help":
            assert f"FS_{option[2:].replace('-', '_').upper()}" in shown, option


def test_names_in_the_environment_may_hold_blanks(command: Command, videos: Path) -> None:
    root = command.folder / "some"
    root.mkdir()
    for name in ("a b", "c", "d"):
        shutil.copy(videos / "normal_01.mp4", root / f"{name}.mp4")
    command.env = {"FS_VIDEOS": "a b,c"}
    assert "2 videos, about 6 clips" in command.extract(root, "--dry-run")


def test_one_store_that_is_none_does_not_hide_the_others(
    extracted: tuple[Command, str], tmp_path: Path
) -> None:
    shutil.copytree(extracted[0].folder, tmp_path / "work", symlinks=True)
    command = Command(tmp_path / "work")
    (command.folder / "features" / "odd.zarr").mkdir()
    (command.folder / "features" / "odd.zarr" / "thesis.txt").touch()
    odd, ours = command.status()
    assert "something else" in str(odd["error"])
    assert ours["clips"] == 18
    assert "error: " in command.run("status").stdout
    command.env = {"FS_DATASET": "folder", "FS_NAME": "videos", "FS_JSON": "1"}
    assert '"clips": 18' in command.run("status").stdout


def test_status_says_what_is_there(extracted: tuple[Command, str]) -> None:
    command, _ = extracted
    (one,) = command.status()
    array = one["arrays"][FAST_ARRAY]
    assert (array["done"], array["missing"], array["failed"]) == (18, 0, 0)
    assert array["bytes"] > 18 * 10 * 64 * 4
    assert array["made"]["weights"] == "RANDOM(seed=0)"
    assert array["made"]["engine"] == "openvino"
    assert array["made"]["precision"] == engines.choose(device="cpu").precision
    assert "torch" in array["made"]["versions"]
    shown = command.run("status").stdout
    assert "RANDOM" in shown
    assert "6 ok" in shown
    assert "no store in nowhere" in command.run("status", "--store", "nowhere", code=1).stderr


def test_features_made_otherwise_are_not_mixed(command: Command, videos: Path) -> None:
    command.extract(videos, "--videos", "normal_01")
    again = ("--videos", "normal_0[12]", "--backbones", FAST, "--engine", "torch")
    out = command.extract(videos, *again, code=1)
    for said in ('engine: "openvino" -> "torch"', "--replace", "--store"):
        assert said in out
    command.extract(videos, *again, "--replace")
    assert command.status()[0]["arrays"][FAST_ARRAY]["done"] == 6
    assert command.status()[0]["arrays"][FAST_ARRAY]["made"]["engine"] == "torch"
    out = command.extract(videos, *again[:-2])  # auto goes on as the store was begun
    assert "going on with torch float32" in out
    assert "nothing to do" in out


def test_bad_videos_fail_alone_and_the_exit_code_tells(
    command: Command, videos: Path, tmp_path: Path
) -> None:
    root = tmp_path / "mixed"
    (root / "deep" / "er").mkdir(parents=True)
    good = sorted(videos.glob("*.mp4"))
    shutil.copy(good[0], root / "deep" / "er" / "good one.mp4")
    (root / "empty.mp4").touch()
    (root / "text.mp4").write_text("this is no video\n" * 100)
    whole = good[1].read_bytes()
    (root / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    out = command.extract(root, code=3)
    (one,) = command.status()
    problems = {p["video"]: p for p in one["problems"]}
    assert problems.keys() == {"empty", "text", "cut"}
    assert problems["empty"]["state"] == problems["text"]["state"] == "failed"
    assert all(str(root / f"{name}.mp4") in p["reason"] for name, p in problems.items())
    assert "text.mp4" in out
    ds = features(command, "mixed")
    row = ds["video"].values.tolist().index("deep/er/good one")
    ours = ds[FAST_ARRAY][ds["clip_video"].values == row]
    assert np.isfinite(ours).all()
    assert "nothing to do" in command.extract(root, code=3)


def test_bad_roots_are_one_clear_error(command: Command, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "no video" in command.extract(empty, code=1)
    out = command.run("extract", "--dataset", "ped2", code=1).stderr
    assert "data/ped2 is not there" in out
    assert "Train/Train001/001.tif" in out
    assert list(command.folder.iterdir()) == []


def test_a_store_of_something_else_is_left_alone(command: Command, videos: Path) -> None:
    foreign = command.folder / "features" / "videos.zarr"
    foreign.mkdir(parents=True)
    (foreign / "thesis.txt").write_text("mine")
    out = command.extract(videos, code=1)
    assert "videos.zarr" in out
    assert [p.name for p in foreign.iterdir()] == ["thesis.txt"]


def test_the_second_of_two_commands_says_who_holds_the_store(
    command: Command, videos: Path
) -> None:
    from featurestore.lock import locked

    (command.folder / "features").mkdir()
    with locked(str(command.folder / "features" / "videos.zarr")):
        out = command.extract(videos, code=1)
    assert f"{os.getpid()}" in out


def test_ped2_layouts(command: Command, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    root = tmp_path / "ped2"
    for folder, count in (("Train/Train001", 17), ("Test/Test001", 16)):
        (root / folder).mkdir(parents=True)
        for i in range(1, count + 1):
            Image.fromarray(rng.integers(0, 255, (60, 80), np.uint8)).save(
                root / folder / f"{i:03d}.tif"
            )
    shutil.copytree(root / "Test/Test001", root / "Test/Test001_gt")
    words = ("--weights", "random", "--backbones", FAST)
    command.run("extract", "--dataset", "ped2", "--root", root, *words)
    ds = features(command, "ped2")
    assert list(ds["video"].values) == ["Test001", "Train001"]
    assert list(ds["frames"].values) == [16, 17]
    assert list(ds["clip_start"].values) == [0, 0, 1]


def test_frames_of_two_sources_give_the_same_features(command: Command, tmp_path: Path) -> None:
    """A video and the folder of its frames, cut into tasks differently: equal features."""
    recipe = sample.Recipe(videos=2, frames=70, width=160, height=120)
    source = sorted(sample.write(tmp_path / "s", recipe).glob("*.mp4"))[0]
    root = tmp_path / "both"
    (root / "frames").mkdir(parents=True)
    shutil.copy(source, root / "video.mp4")
    with av.open(str(source)) as box:
        for i, frame in enumerate(box.decode(video=0)):
            Image.fromarray(frame.to_ndarray(format="rgb24")).save(root / "frames" / f"{i}.png")
    command.extract(root)
    ds = features(command, "both")
    assert list(ds["frames"].values) == [70, 70]
    a, b = (ds[FAST_ARRAY][ds["clip_video"].values == i].values for i in (0, 1))
    np.testing.assert_allclose(a, b, atol=1e-5)


def test_an_analyst_needs_none_of_our_code(extracted: tuple[Command, str], tmp_path: Path) -> None:
    store = extracted[0].folder / "features" / "videos.zarr"
    program = (
        "import sys, xarray as xr\n"
        f"ds = xr.open_zarr({str(store)!r})\n"
        "print(ds)\n"
        "ds.load()\n"
        "assert not {'featurestore', 'jobs', 'torch'} & set(sys.modules)\n"
    )
    subprocess.run(
        [sys.executable, "-W", "error", "-c", program], cwd="/", check=True,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
    )  # fmt: skip
    moved = shutil.copytree(store, tmp_path / "moved.zarr", symlinks=True)
    assert np.isfinite(xr.open_zarr(moved)[FAST_ARRAY].values).all()


@pytest.mark.parametrize(
    "words",
    [
        ("--backbones", "vgg"),
        ("--cluster", "nowhere"),
        ("--name", "a/b"),
        ("--store", "features/a.zarr"),
        ("--store", "s3://bucket"),
        ("--workers", "1000"),
    ],
)
def test_bad_options_are_one_line(
    videos: Path, words: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = words if words[0] == "--backbones" else ("--backbones", FAST, *words)
    asked = ["extract", "--dataset", "folder", "--root", str(videos), "--weights", "random", *given]
    with pytest.raises(FeatureStoreError) as stopped:  # `main` prints its one line
        cli.main(asked, standalone_mode=False)
    assert words[1] in str(stopped.value)
    assert "\n" not in str(stopped.value)
    assert not list(tmp_path.rglob("*.zarr"))


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[Path]:
    """A small disk of its own; needs the right to mount, which a container may not give."""
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True
    )
    if done.returncode:
        pytest.skip(f"cannot mount a small disk here: {done.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_disk_full_is_one_error_and_the_next_run_goes_on(command: Command, videos: Path) -> None:
    def resize(count: int) -> None:
        subprocess.run(["mount", "-o", f"remount,size={count}", str(disk)], check=True)

    with mounted(command.folder / "small", "size=4m") as disk:
        command.extract(videos, "--store", disk, "--videos", "normal_01")
        resize(shutil.disk_usage(disk).used + 20_000)  # bytes: less than the other five need
        out = command.extract(videos, "--store", disk, code=1)
        assert "No space left" in out
        assert str(disk) in out
        assert "Traceback" not in out
        resize(4_000_000)
        finished = command.status(str(disk))[0]["arrays"][FAST_ARRAY]["done"]
        assert finished < 18
        out = command.extract(videos, "--store", disk)
        assert f"{18 - finished} of {18 - finished} clips" in out
        assert command.status(str(disk))[0]["arrays"][FAST_ARRAY]["done"] == 18


def test_a_read_only_disk_is_one_error(command: Command, videos: Path) -> None:
    with mounted(command.folder / "frozen", "size=1m,ro") as disk:
        out = command.extract(videos, "--store", disk, code=1)
    assert "Read-only" in out
    assert str(disk) in out
    assert "Traceback" not in out


def test_two_videos_of_one_name(command: Command, videos: Path, tmp_path: Path) -> None:
    root = tmp_path / "ped2"
    for folder in ("training/frames/01", "training/frames/001"):
        (root / folder).mkdir(parents=True)
        Image.new("RGB", (80, 60)).save(root / folder / "0.png")
    out = command.run("extract", "--dataset", "ped2", "--root", root, code=1).stderr
    assert "two videos are named 'Train001'" in out
    assert str(root / "training/frames/001") in out
