"""Small pictures of the frames asked for, of files and of folders."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from jobs.pictures import WIDTH, thumbnails


def frames(folder: Path, count: int = 12) -> Path:
    """Frame i is of brightness 20 i."""
    folder.mkdir()
    for number in range(count):
        Image.new("RGB", (320, 240), (20 * number,) * 3).save(folder / f"{number:03d}.png")
    return folder


def test_pictures_are_of_the_frames_asked_for(tmp_path: Path) -> None:
    found = thumbnails(frames(tmp_path / "video"), 12, [9, 2])
    assert set(found) == {2, 9}
    for frame, jpeg in found.items():
        with Image.open(io.BytesIO(jpeg)) as image:
            assert image.format == "JPEG"
            assert image.size == (WIDTH, 120)
            assert abs(float(np.asarray(image).mean()) - 20 * frame) < 3


def test_of_a_video_that_is_gone_there_are_none(tmp_path: Path) -> None:
    assert thumbnails(tmp_path / "gone.avi", 12, [1]) == {}


def test_of_a_damaged_one_those_before_the_damage(tmp_path: Path) -> None:
    folder = frames(tmp_path / "video")
    (folder / "005.png").write_bytes(b"no picture")
    assert set(thumbnails(folder, 12, [2, 5, 9])) == {2}
    (tmp_path / "noise.avi").write_bytes(b"no video")
    assert thumbnails(tmp_path / "noise.avi", 12, [2]) == {}
