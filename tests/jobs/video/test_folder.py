"""Frame folders: what counts as a frame, what it looks like, and what is wrong with it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from featurestore.errors import DamagedVideo, UnreadableVideo
from jobs.video import open_source, probe
from tests.jobs.video.painted import numbers_of, paint, write_folder


def read_until_damage(folder: Path, frames: int) -> tuple[list[int], int | None, str]:
    got = []
    try:
        for frame in open_source(folder, frames=frames).read(0, frames):
            got += numbers_of([frame])
    except DamagedVideo as damage:
        return got, damage.frame, str(damage)
    return got, None, ""


def half(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def text(file: Path) -> None:
    file.write_text("no picture")


def larger(file: Path) -> None:
    Image.fromarray(paint(0, 160, 96)).save(file)


@pytest.mark.parametrize(
    ("break_it", "why"),
    [
        (half, "truncated|broken|unrecognized|cannot identify"),
        (empty, r"the file is empty \(0 bytes\)"),
        (text, "cannot identify image file"),
        (larger, r"160x96 pixels, the first frame has 128x96"),
    ],
)
@pytest.mark.parametrize("kind", ["jpg", "png", "tif", "bmp"])
def test_damage(kind: str, break_it: Callable[[Path], None], why: str, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "frames", 20, name=f"{{:03d}}.{kind}")
    broken = folder / f"013.{kind}"
    break_it(broken)
    info = probe(folder)
    assert (info.frames, info.damaged_at) == (12, 12)
    assert info.reason.startswith(f"{broken}: frame 12 is damaged: ")
    got, damaged_at, reason = read_until_damage(folder, 20)
    assert (got, damaged_at) == (list(range(12)), 12)
    assert reason.startswith(f"{broken}: frame 12 is damaged: ")
    with pytest.raises(DamagedVideo, match=why):
        list(open_source(folder, frames=20).read(12, 1))
    assert numbers_of(open_source(folder, frames=20).read(13, 7)) == list(range(13, 20))


def test_damage_that_only_decoding_tells(tmp_path: Path) -> None:
    """A JPEG with its end mark, and zeros within: probing looks at the mark, reading decodes."""
    folder = write_folder(tmp_path / "frames", 20, name="{:03d}.png")
    data = bytearray((folder / "013.png").read_bytes())
    middle = len(data) // 2
    data[middle : middle + 40] = bytes(40)
    (folder / "013.png").write_bytes(data)
    assert probe(folder).damaged_at is None
    assert read_until_damage(folder, 20)[:2] == (list(range(12)), 12)


def test_a_frame_that_vanishes(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "frames", 20)
    source = open_source(folder, frames=20)
    (folder / "014.png").unlink()
    with pytest.raises(DamagedVideo, match=r"014\.png: frame 13 is damaged: .*No such file"):
        list(source.read(0, 20))
    got, damaged_at, reason = read_until_damage(folder, 20)
    assert (len(got), damaged_at) == (19, 19)
    assert "19 images where 20 frames were counted" in reason


@pytest.mark.parametrize("break_it", [half, empty, text])
def test_a_first_frame_that_is_damaged(break_it: Callable[[Path], None], tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "frames", 3, name="{:03d}.jpg")
    break_it(folder / "001.jpg")
    for exact in (True, False):
        with pytest.raises(UnreadableVideo, match=r"001\.jpg: frame 0 is damaged: .*; put"):
            probe(folder, exact=exact)


def test_no_frames(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing here")
    (tmp_path / ".hidden.png").write_bytes(b"")
    with pytest.raises(UnreadableVideo, match=r"no images in this folder; frames are \.bmp, "):
        probe(tmp_path)


def test_several_kinds_of_images(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "frames", 20, name="{:03d}.jpg")
    write_folder(folder, 3, name="{:03d}.bmp")
    for use in (probe, lambda path: open_source(path, frames=20)):
        with pytest.raises(UnreadableVideo, match=r"several kinds \(20 \.jpg, 3 \.bmp\).*; move"):
            use(folder)


def test_what_is_no_frame_is_left_out(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "frames", 12, name="{}.JPEG")
    write_folder(folder / "deeper", 3)
    (folder / "Thumbs.db").write_bytes(b"x")
    (folder / "._1.jpeg").write_bytes(b"x")  # as macOS leaves them
    assert probe(folder).frames == 12
    assert read_until_damage(folder, 12)[0] == list(range(12))


@pytest.mark.parametrize(
    ("names", "remark"),
    [
        (["001", "002", "004", "005"], "jump from 002.png to 004.png;"),
        (["1", "2", "4", "5", "9", "10"], "jump from 2.png to 4.png and at 1 more places;"),
        (["000", "005", "010", "015"], ""),
        (["8", "9", "10", "11"], ""),
        (["a", "b", "c", "d"], ""),
        (["x1", "y5", "z9"], ""),
        (["scene 2 frame 1", "scene 2 frame 2", "scene 2 frame 3"], ""),
        (["01", "1", "2", "3"], "jump from 01.png to 1.png;"),
    ],
)
def test_gaps_are_told_and_closed(names: list[str], remark: str, tmp_path: Path) -> None:
    for number, name in enumerate(names):
        Image.fromarray(paint(number)).save(tmp_path / f"{name}.png")
    info = probe(tmp_path)
    assert (info.frames, info.damaged_at) == (len(names), None)
    assert remark in info.reason
    assert bool(remark) == bool(info.reason)
    assert read_until_damage(tmp_path, len(names))[0] == list(range(len(names)))


def one(folder: Path) -> np.ndarray:
    info = probe(folder)
    (frame,) = open_source(folder, frames=1).read(0, 1)
    assert frame.shape == (info.height, info.width, 3)
    assert frame.dtype == np.uint8
    return frame


GREY = np.arange(96 * 128).reshape(96, 128) % 256


@pytest.mark.parametrize("kind", ["png", "tif"])
def test_sixteen_bits(kind: str, tmp_path: Path) -> None:
    """The upper eight, whatever range a frame uses: a dark one stays dark."""
    Image.fromarray((GREY * 257).astype(np.uint16)).save(tmp_path / f"1.{kind}")
    assert (one(tmp_path) == GREY[:, :, None]).all()


def test_colours(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (96, 128, 3)).astype(np.uint8)
    Image.fromarray(picture).save(tmp_path / "1.png")
    assert (one(tmp_path) == picture).all()


def test_palettes_and_transparency(tmp_path: Path) -> None:
    image = Image.fromarray(np.where(GREY > 127, 1, 0).astype(np.uint8), mode=None)
    image = image.convert("P")
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.save(tmp_path / "1.png")
    assert (one(tmp_path) == np.where(GREY[:, :, None] > 127, (200, 100, 50), (10, 20, 30))).all()

    clear = Image.fromarray(paint(5)).convert("RGBA")
    clear.putalpha(0)
    clear.save(tmp_path / "1.png")
    assert (one(tmp_path) == paint(5)).all()


def test_black_and_white(tmp_path: Path) -> None:
    Image.fromarray(GREY > 127).save(tmp_path / "1.tif")
    assert (one(tmp_path) == np.where(GREY > 127, 255, 0)[:, :, None]).all()


def test_a_camera_held_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned right
    Image.fromarray(paint(9)).save(tmp_path / "1.jpg", exif=exif, quality=95)
    frame = one(tmp_path)
    assert frame.shape == (128, 96, 3)
    assert numbers_of([np.rot90(frame)]) == [9]


def test_what_is_no_picture_of_light(tmp_path: Path) -> None:
    Image.fromarray(GREY.astype(np.float32)).save(tmp_path / "1.tif")
    with pytest.raises(UnreadableVideo, match="floating point"):
        probe(tmp_path)


def test_several_pages(tmp_path: Path) -> None:
    pages = [Image.fromarray(paint(n)) for n in range(3)]
    pages[0].save(tmp_path / "1.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(UnreadableVideo, match="3 pages in one TIFF; write one image a file"):
        probe(tmp_path)
