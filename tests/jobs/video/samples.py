"""The generated videos that every source of frames is tried on."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.jobs.video.painted import (
    HEIGHT,
    WIDTH,
    cut_before,
    write_edit_list,
    write_folder,
    write_video,
)

FRAMES = 60
OPEN_GOP = "open-gop=1:bframes=3:keyint=12:min-keyint=1:scenecut=0:b-adapt=0"
H264_B = {"x264-params": "open-gop=0:bframes=3:keyint=12:min-keyint=12:b-adapt=0"}
H264_OPEN = {"x264-params": OPEN_GOP}
H265_OPEN = {"x265-params": f"log-level=none:{OPEN_GOP}"}
VP9 = {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "16", "auto-alt-ref": "1"}
TIMES = np.cumsum(np.random.default_rng(7).integers(10, 90, FRAMES)).tolist()


@dataclass(frozen=True)
class Sample:
    """How to write it, and what is in it.

    `numbers`: those painted into the frames that are to come, in order. `quarters`: quarter turns
    anticlockwise from the painted to the displayed picture. `decord`: does decord read it exactly?
    """

    write: Callable[[Path], Path]
    numbers: tuple[int, ...] = tuple(range(FRAMES))
    size: tuple[int, int] = (WIDTH, HEIGHT)
    quarters: int = 0
    decord: bool = True
    seekable: bool = True


def _file(frames: int = FRAMES, **settings: Any) -> Callable[[Path], Path]:
    return lambda path: write_video(path, frames, **settings)


def _folder(frames: int, **settings: Any) -> Callable[[Path], Path]:
    return lambda path: write_folder(path, frames, **settings)


def _edited(*segments: tuple[int, int]) -> Callable[[Path], Path]:
    return lambda path: write_edit_list(write_video(path, FRAMES, options=H264_B), segments)


def _cut(**settings: Any) -> Callable[[Path], Path]:
    """Cut out of another at a key frame whose leading pictures refer to what is cut away."""

    def write(path: Path) -> Path:
        whole = write_video(path.with_stem(f"{path.stem}_whole"), FRAMES, **settings)
        return cut_before(whole, 1, path)

    return write


def _mid_stream(**settings: Any) -> Callable[[Path], Path]:
    """Recorded from the middle of a GOP, as broadcasts and cameras are."""

    def write(path: Path) -> Path:
        write_video(path, FRAMES, **settings)
        path.write_bytes(path.read_bytes()[7 * 188 :])
        return path

    return write


_LATER = tuple(range(12, FRAMES))
_TWICE = (*range(10, 20), *range(10, 20))

FILES: dict[str, Sample] = {
    "h264_closed.mp4": Sample(_file(options=H264_B)),
    "h264_open.mp4": Sample(_file(options=H264_OPEN)),
    "h264_pyramid.mkv": Sample(
        _file(options={"x264-params": "open-gop=1:bframes=7:b-pyramid=normal:keyint=16"})
    ),
    "h264_no_b.mov": Sample(_file(options={"bf": "0"})),
    "h264_refresh.mkv": Sample(_file(options={"x264-params": "intra-refresh=1:keyint=12"})),
    "h264_fragments.mp4": Sample(
        _file(options=H264_OPEN, container={"movflags": "frag_keyframe+empty_moov"})
    ),
    "h265_open.mp4": Sample(_file(codec="libx265", options=H265_OPEN)),
    "h265_cut.mkv": Sample(
        _cut(codec="libx265", options=H265_OPEN), _LATER, decord=False, seekable=False
    ),
    "h264_cut.mkv": Sample(_cut(options=H264_OPEN), _LATER, decord=False, seekable=False),
    "h264_cut.mp4": Sample(_cut(options=H264_OPEN), _LATER, decord=False),
    "edit_list.mp4": Sample(
        _file(options=H264_B, earlier=5, container={"avoid_negative_ts": "disabled"}),
        tuple(range(5, FRAMES)),
        decord=False,
    ),
    "edit_pieces.mp4": Sample(
        _edited((3, 20), (31, 57)), (*range(3, 20), *range(31, 57)), decord=False
    ),
    "edit_twice.mp4": Sample(_edited((10, 20), (10, 20)), _TWICE, decord=False),
    "variable_rate.mp4": Sample(_file(options=H264_B, times=TIMES)),
    "variable_rate.mkv": Sample(_file(options=H264_OPEN, times=TIMES)),
    "vp9.webm": Sample(_file(codec="libvpx-vp9", options=VP9)),
    "vp8.webm": Sample(_file(codec="libvpx", options=VP9), seekable=False),
    "mpeg4.mp4": Sample(_file(codec="mpeg4", options={"bf": "2"}), seekable=False),
    "mpeg4_b.avi": Sample(_file(codec="mpeg4", options={"bf": "2"}), seekable=False),
    "h264_b.avi": Sample(_file(options=H264_B), seekable=False),
    "mjpeg.avi": Sample(_file(codec="mjpeg", pixels="yuvj420p"), seekable=False),
    "h264.ts": Sample(_file(options=H264_B), decord=False, seekable=False),
    "mpeg2.ts": Sample(
        _file(codec="mpeg2video", options={"bf": "2"}), decord=False, seekable=False
    ),
    "mid_stream.ts": Sample(_mid_stream(options=H264_OPEN), _LATER, decord=False, seekable=False),
    "mpeg2.mpg": Sample(
        _file(codec="mpeg2video", options={"bf": "2"}, format="vob"), seekable=False
    ),
    "mpeg1.mpg": Sample(
        _file(codec="mpeg1video", options={"bf": "2"}, format="mpeg"), seekable=False
    ),
    "wmv2.wmv": Sample(_file(codec="wmv2"), seekable=False),
    "h264.flv": Sample(_file(options=H264_B), seekable=False),
    "raw.h264": Sample(_file(options=H264_B), decord=False, seekable=False),
    "odd.mp4": Sample(_file(size=(127, 95), pixels="yuv444p"), size=(127, 95)),
    "odd.webm": Sample(_file(codec="libvpx-vp9", options=VP9, size=(127, 95)), size=(127, 95)),
    "odd.avi": Sample(_file(codec="mpeg4", size=(127, 95)), size=(127, 95), seekable=False),
    "turned_left.mp4": Sample(_file(rotation=90), size=(HEIGHT, WIDTH), quarters=1),
    "turned_right.mov": Sample(_file(rotation=-90), size=(HEIGHT, WIDTH), quarters=3),
    "upside_down.mp4": Sample(_file(rotation=180), quarters=2),
    **{
        f"frames_{n}.mp4": Sample(_file(n, options=H264_B), tuple(range(n)))
        for n in (1, 15, 16, 17)
    },
    "frames_17.avi": Sample(_file(17, codec="mpeg4"), tuple(range(17)), seekable=False),
}

FOLDERS: dict[str, Sample] = {
    "from_1": Sample(_folder(20), tuple(range(20))),
    "from_0_unpadded": Sample(_folder(112, name="{}.png", first=0), tuple(range(112))),
    "named": Sample(_folder(20, name="frame{}.JPG"), tuple(range(20))),
    "tif_grey": Sample(_folder(17, name="{:03d}.tif", mode="L"), tuple(range(17))),
    "bmp_odd": Sample(
        _folder(16, name="{:05d}.bmp", size=(127, 95)), tuple(range(16)), size=(127, 95)
    ),
    "one": Sample(_folder(1), (0,)),
    "fifteen": Sample(_folder(15, name="{}.jpeg"), tuple(range(15))),
}

SAMPLES = FILES | FOLDERS
