"""Real videos: surveillance and test clips, with counts that others found (SOURCES.txt)."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jobs.video import discover, open_source, probe

pytestmark = pytest.mark.long

# Sound ones by the number of frames; what is damaged has fewer than its decoder gives out.
COUNTS = {
    "decord_video_90.mov": 3,
    "discard_first_keyframe.mp4": 25,
    "escalator.avi": 198,
    "flipping_a_pancake.mkv": 310,
    "highway.mpg": 1700,
    "mmaction2_test.avi": 164,
    "no_duration.webm": 74,
    "shop.avi": 157,
    "testWMV.wmv": 25,
    "v_GGSY1Qvo990.mp4": 355,
    "vtest_lamminhthien.avi": 341,
    "walk.mkv": 89,
}
# What decord 0.6 cannot do exactly: pictures hidden by an edit list, packets without pictures, no
# duration in the header.
NOT_BY_DECORD = {
    "discard_first_keyframe.mp4", "escalator.avi", "no_duration.webm", "shop.avi",
}  # fmt: skip


def starts(frames: int) -> list[int]:
    return np.random.default_rng(1).choice(frames, min(frames, 8), replace=False).tolist()


@pytest.mark.parametrize("name", COUNTS)
def test_counts_and_any_start(name: str, shared_data: Path) -> None:
    path = shared_data / "videos" / name
    info = probe(path)
    assert (info.frames, info.damaged_at) == (COUNTS[name], None)
    # Small enough to keep the whole of the longest.
    with open_source(path, frames=info.frames) as source:
        whole = [frame[::8, ::8].copy() for frame in source.read(0, info.frames)]
    assert len(whole) == info.frames
    with open_source(path, frames=info.frames) as source:
        for start in starts(info.frames):
            (frame,) = source.read(start, 1)
            assert frame.shape == (info.height, info.width, 3)
            assert (frame[::8, ::8] == whole[start]).all()


@pytest.mark.parametrize("name", sorted(COUNTS.keys() - NOT_BY_DECORD))
def test_decord_gives_the_same(name: str, shared_data: Path) -> None:
    pytest.importorskip("decord")
    path, frames = shared_data / "videos" / name, min(COUNTS[name], 200)
    with (
        open_source(path, frames=COUNTS[name]) as one,
        open_source(path, frames=COUNTS[name], decoder="decord") as other,
    ):
        for a, b in zip(one.read(0, frames), other.read(0, frames), strict=True):
            assert np.abs(a.astype(int) - b).max() <= 2


def test_the_damaged_one(shared_data: Path) -> None:
    path = shared_data / "videos" / "decord_corrupted.mp4"
    info = probe(path)
    assert (info.frames, info.damaged_at) == (28, 28)
    assert info.reason.startswith("damaged at frame 28: ")
    with open_source(path, frames=28) as source:
        assert len(list(source.read(0, 28))) == 28


def test_every_file_is_in_a_test(shared_data: Path) -> None:
    names = {s.path.name for s in discover(shared_data / "videos")}
    assert names == COUNTS.keys() | {"decord_corrupted.mp4"}


@pytest.mark.parametrize(
    ("video", "volume"),
    [
        ("testing_videos/08.avi", "testing_vol08.mat"),
        ("testing_videos/21.avi", "testing_vol21.mat"),
        ("training_videos/12.avi", "training_vol12.mat"),
    ],
)
def test_avenue_frames_are_those_of_its_volumes(video: str, volume: str, shared_data: Path) -> None:
    """The authors' own record of the frames, in order: each of ours is most like its own."""
    loadmat = pytest.importorskip("scipy.io").loadmat
    theirs = loadmat(shared_data / "avenue" / "vol" / volume)["vol"].astype(np.float32)
    path = shared_data / "avenue" / video
    frames = probe(path).frames
    assert frames == theirs.shape[2]
    ours = np.empty((frames, 120, 160), np.float32)
    with open_source(path, frames=frames) as source:
        for number, frame in enumerate(source.read(0, frames)):
            grey = Image.fromarray(frame).convert("L").resize((160, 120), Image.Resampling.BOX)
            ours[number] = grey
    # What moves, not the place: the difference to the mean picture.
    ours -= ours.mean(axis=0)
    theirs = np.moveaxis(theirs, 2, 0) - theirs.mean(axis=2)
    likeness = np.corrcoef(ours.reshape(frames, -1), theirs.reshape(frames, -1))[:frames, frames:]
    best = likeness.argmax(axis=1)
    assert (best == np.arange(frames)).mean() > 0.97
    assert np.abs(best - np.arange(frames)).max() <= 1  # two that are alike, at most
    assert np.diag(likeness).min() > 0.8


@pytest.mark.parametrize(("name", "frames"), [("01_0014", 265), ("01_0015", 433)])
def test_shanghaitech_is_as_long_as_its_masks(name: str, frames: int, shared_data: Path) -> None:
    info = probe(shared_data / "shanghaitech" / "videos" / f"{name}.mp4")
    assert (info.frames, info.damaged_at, info.width, info.height) == (frames, None, 856, 480)


@pytest.mark.parametrize(("name", "frames"), [("08", 36), ("18", 294), ("21", 76)])
def test_avenue_is_as_long_as_its_masks(name: str, frames: int, shared_data: Path) -> None:
    masks = np.load(shared_data / "avenue" / "pixel_masks_volLabel.npz")
    assert masks[f"{name}_shape"][0] == frames
    info = probe(shared_data / "avenue" / "testing_videos" / f"{name}.avi")
    assert (info.frames, info.damaged_at) == (frames, None)


def test_a_real_frame_folder(shared_data: Path) -> None:
    """Ped2's Test005 as it circulates: 0-based JPEGs; the same frames as the video's."""
    folder = shared_data / "ped2" / "frames_jpeg_original" / "Test005"
    info = probe(folder)
    video = probe(shared_data / "ped2" / "videos" / "Test005.mp4")
    assert info.frames == video.frames
    assert (info.width, info.height, info.reason) == (360, 240, "")
    with (
        open_source(folder, frames=info.frames) as one,
        open_source(shared_data / "ped2" / "videos" / "Test005.mp4", frames=info.frames) as other,
    ):
        for a, b in zip(one.read(0, 40), other.read(0, 40), strict=True):
            assert np.abs(a.astype(int) - b).mean() < 4
