"""One odd file never stops the others, and never costs what was finished before."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from PIL import Image

from jobs import engines, worker
from jobs.backbones import resolve
from jobs.plan import Segment, Task
from jobs.specs import spec_of
from jobs.video import digest, stat_source
from jobs.worker import Setup, extract_clips
from tests.jobs.conftest import FAST, FAST_ARRAY, Command
from tests.jobs.video.painted import write_video
from tests.jobs.video.samples import H264_B
from tests.jobs.video.test_damage import overwritten

FRAMES = 60


def damaged(path: Path) -> Path:
    """An MP4 of 60 frames whose damage, near frame 44, shows only when it is decoded."""
    return overwritten(write_video(path, FRAMES, options=H264_B), 44)


def table(command: Command, name: str) -> xr.Dataset:
    return xr.open_zarr(command.folder / "features" / f"{name}.zarr").load()


def test_odd_files_are_failed_rows(command: Command, videos: Path, tmp_path: Path) -> None:
    root = tmp_path / "odd"
    root.mkdir()
    shutil.copy(videos / "normal_01.mp4", root / "good.mp4")
    (root / "gone.mp4").symlink_to("nowhere.mp4")
    (root / "loop.mp4").symlink_to("loop.mp4")
    shutil.copy(videos / "normal_02.mp4", os.fsdecode(os.fsencode(root) + b"/caf\xe9.mp4"))
    mixed, broken = root / "mixed", root / "broken"
    for folder in (mixed, broken):
        folder.mkdir()
    Image.new("RGB", (80, 60)).save(mixed / "0.jpg")
    Image.new("RGB", (80, 60)).save(mixed / "1.png")
    Image.new("RGB", (80, 60)).save(broken / "0.tif")
    data = bytearray((broken / "0.tif").read_bytes())
    data[4:8] = (len(data) - 2).to_bytes(4, "little")  # a directory of nothing
    (broken / "0.tif").write_bytes(data)
    for _ in range(2):
        out = command.extract(root, code=3)
        assert "Traceback" not in out
        ds = table(command, "odd")
        states = dict(zip(ds["video"].values.tolist(), ds["state"].values.tolist(), strict=True))
        # The last is fine: its name is written as bytes that a store can hold.
        assert states == {
            "good": "ok", "gone": "failed", "loop": "failed", "mixed": "failed", "broken": "failed",
            "caf\\xe9": "ok",
        }  # fmt: skip
        assert np.isfinite(ds[FAST_ARRAY]).all()
    assert "nothing to do" in out


def test_a_video_that_is_gone_for_now_keeps_its_features(command: Command, videos: Path) -> None:
    root = command.folder / "linked"
    disk = command.folder / "disk"
    disk.mkdir()
    root.mkdir()
    for name in ("normal_01.mp4", "normal_02.mp4"):
        shutil.copy(videos / name, disk / name)
        (root / name).symlink_to(disk / name)
    command.extract(root)
    before = table(command, "linked")
    (disk / "normal_01.mp4").rename(disk / "elsewhere.mp4")
    assert "nothing to do" in command.extract(root)
    # Where there is something left to compute of it, that fails, and only that.
    again = ("--backbones", "timm:test_resnet", "--videos", "normal_01")
    assert "there is no such file" in command.extract(root, *again, code=3)
    after = table(command, "linked")
    np.testing.assert_array_equal(after[FAST_ARRAY], before[FAST_ARRAY])
    (disk / "elsewhere.mp4").rename(disk / "normal_01.mp4")
    command.extract(root, *again, "--retry-failed")
    assert list(table(command, "linked")["state"].values) == ["ok", "ok"]


def test_damage_that_only_reading_finds_gives_the_true_length(
    command: Command, tmp_path: Path
) -> None:
    """As if it had been found when the video was indexed: frames, clips, and the last clip."""
    root = tmp_path / "damaged"
    root.mkdir()
    damaged(root / "a.mp4")
    write_video(root / "b.mp4", FRAMES, options=H264_B)
    out = command.extract(root, code=3)
    assert "a: damaged: " in out
    ds = table(command, "damaged")
    assert ds["state"].values.tolist() == ["superseded", "ok", "damaged"]
    good = int(ds["frames"][2])
    assert 36 < good < 52
    assert f"damaged at frame {good}" in str(ds["reason"].values[2])
    clips = ds.isel(clip=ds["clip_video"].values == 2)
    assert clips["clip_start"].values.tolist() == [0, 16, good - 16][: -(-good // 16)]
    assert np.isfinite(clips[FAST_ARRAY]).all()
    # The same frames as a sound video: as b, whose first clips are alike.
    sound = ds.isel(clip=ds["clip_video"].values == 1)
    np.testing.assert_array_equal(clips[FAST_ARRAY][:2], sound[FAST_ARRAY][:2])
    (one,) = command.status()
    assert one["arrays"][FAST_ARRAY]["failed"] == 0
    assert one["arrays"][FAST_ARRAY]["done"] == 7
    assert "nothing to do" in command.extract(root, code=3)
    assert table(command, "damaged").sizes["video"] == 3


def test_strict_fails_a_damaged_video_as_a_whole(command: Command, tmp_path: Path) -> None:
    root = tmp_path / "damaged"
    root.mkdir()
    damaged(root / "a.mp4")
    command.extract(root, "--strict", code=3)
    (one,) = command.status()
    assert one["videos"] == {"failed": 1}
    assert one["arrays"][FAST_ARRAY]["failed"] == 4
    assert np.isnan(table(command, "damaged")[FAST_ARRAY]).all()


@pytest.mark.parametrize("batch", [1, 4])
def test_clips_before_the_damage_are_written_whatever_the_batch(
    batch: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    path = damaged(tmp_path / "a.mp4")
    spec = spec_of(FAST)
    weights, choice = resolve(spec, "random"), engines.choose("openvino", "float32", "cpu")
    monkeypatch.setitem(worker.CLIPS_PER_BATCH, "cpu", batch)
    written: list[tuple[int, int]] = []

    def write(url: str, name: str, start: int, values: np.ndarray, **_: object) -> None:
        written.append((start, len(values)))

    monkeypatch.setattr(worker, "write_clips", write)
    setup = Setup(
        "nowhere", {spec.name: spec}, "random", {spec.name: weights.digest}, {spec.name: ""},
        choice.engine, choice.precision, choice.device, "pyav", 1,
    )  # fmt: skip
    segment = Segment(0, "a", str(path), FRAMES, 8, (0, 16, 32, 44))
    (failure,) = extract_clips(Task(2, (spec.name,), (segment,)), setup).failures
    assert failure.damaged_at is not None
    assert failure.written == failure.damaged_at // 16 == 2
    assert written == [(8, 2)]


def test_frames_that_change_places_are_noticed(command: Command, tmp_path: Path) -> None:
    """Sizes are equal, and whoever moves files keeps their times."""
    folder = tmp_path / "frames"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(4):
        Image.fromarray(rng.integers(0, 255, (60, 80, 3), np.uint8)).save(folder / f"{i}.bmp")
        os.utime(folder / f"{i}.bmp", (1e9, 1e9))
    command.extract(folder)
    before, named = digest(folder), stat_source(folder)
    (folder / "0.bmp").rename(folder / "x")
    (folder / "1.bmp").rename(folder / "0.bmp")
    (folder / "x").rename(folder / "1.bmp")
    assert digest(folder) != before
    assert stat_source(folder) != named
    assert "replaced: 1" in command.extract(folder)
    assert table(command, "frames")["state"].values.tolist() == ["superseded", "ok"]


def test_blocks_are_sized_for_the_whole_dataset(command: Command, tmp_path: Path) -> None:
    """Also where the first command is a trial with one video of many."""
    root = tmp_path / "many"
    root.mkdir()
    first = write_video(root / "00.mp4", 160, options=H264_B)
    for i in range(1, 8):
        (root / f"{i:02d}.mp4").symlink_to(first)
    command.extract(root, "--videos", "00")
    (one,) = command.status()
    assert one["block"] == 32
    assert one["arrays"][FAST_ARRAY]["done"] == 10
