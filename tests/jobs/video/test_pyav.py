"""How the default source gets its frames: by the index where it can, and it says when it cannot."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jobs.video._cursor
from featurestore.errors import UsageError
from jobs.video import DECODERS, open_source
from jobs.video._index import read_index
from jobs.video._pyav import PyavSource
from tests.jobs.video.painted import number_of, numbers_of, write_video
from tests.jobs.video.samples import FRAMES, H264_B


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Every opening of a file to decode it."""
    paths = []

    class Counted(jobs.video._cursor.Stream):
        def __init__(self, path: Path) -> None:
            paths.append(path)
            super().__init__(path)

    monkeypatch.setattr(jobs.video._cursor, "Stream", Counted)
    return paths


@pytest.mark.parametrize("name", ["h264_open.mp4", "mpeg4_b.avi"])
def test_going_forward_opens_the_file_once(
    name: str, sample: Callable[[str], Path], opened: list[Path]
) -> None:
    with PyavSource(sample(name), FRAMES) as source:
        opened.clear()
        for start, count in ((0, 16), (16, 16), (33, 1), (50, 5), (55, 5)):
            assert numbers_of(source.read(start, count)) == list(range(start, start + count))
        assert len(opened) == 1


def test_a_jump_forward_decodes_from_the_key_frame_only(sample: Callable[[str], Path]) -> None:
    with PyavSource(sample("h264_closed.mp4"), FRAMES) as source:
        assert numbers_of(source.read(0, 1)) == [0]
        assert numbers_of(source.read(50, 1)) == [50]
        _, key_frame = source.index.entry(50)
        assert 50 - 12 < key_frame <= 50
        assert source.decoded == 1 + (50 + 1 - key_frame)
        assert numbers_of(source.read(51, 2)) == [51, 52]
        assert source.decoded == 1 + (52 + 1 - key_frame)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("h264_closed.mp4", ""),
        ("h265_open.mp4", ""),
        ("edit_list.mp4", ""),
        ("variable_rate.mkv", ""),
        ("mpeg4.mp4", "packets of mpeg4 need not be pictures"),
        ("h264_b.avi", "frames cannot be found by their time in avi"),
        ("h264.ts", "frames cannot be found by their time in mpegts"),
        ("h265_cut.mkv", "frame 0: the next picture is missing or out of order"),
    ],
)
def test_it_says_why_it_reads_from_the_beginning(
    name: str, why: str, sample: Callable[[str], Path]
) -> None:
    assert read_index(sample(name)).untrusted == why
    source = PyavSource(sample(name), 20)
    assert source.sequential == why
    assert (f"sequential: {why}" if why else "seeks") in repr(source)


def test_key_frames_that_are_none_are_noticed(sample: Callable[[str], Path]) -> None:
    """Intra refresh marks pictures as key frames that are whole only some pictures later."""
    with PyavSource(sample("h264_refresh.mkv"), FRAMES) as source:
        assert not source.sequential
        assert numbers_of(source.read(40, 2)) == [40, 41]
        assert "does not bring that frame" in source.sequential


def test_an_index_that_lies_is_noticed(
    sample: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seeking that lands elsewhere, one key frame early or late, costs time and nothing else."""
    seek = jobs.video._cursor.Stream.seek
    for off in (-13, 13):

        def elsewhere(stream: Any, time: int, ticks: int = off * 512) -> None:
            seek(stream, max(time + ticks, 0))

        monkeypatch.setattr(jobs.video._cursor.Stream, "seek", elsewhere)
        with PyavSource(sample("h264_open.mp4"), FRAMES) as source:
            for start in (40, 20, 59, 13):
                assert numbers_of(source.read(start, 1)) == [start]


def test_mirrored_as_displayed(tmp_path: Path) -> None:
    """Front cameras mirror by the display matrix; its angle alone does not tell."""
    path = write_video(tmp_path / "video.mp4", 5, options=H264_B)
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40
    for quarter, (a, b, c, d) in {0: (-1, 0, 0, 1), 1: (0, 1, 1, 0)}.items():
        for place, value in ((0, a), (4, b), (12, c), (16, d)):
            data[matrix + place : matrix + place + 4] = (value << 16).to_bytes(4, signed=True)
        path.write_bytes(data)
        frames = list(PyavSource(path, 5).read(0, 5))
        mirrored = [f.transpose(1, 0, 2) if quarter else f[:, ::-1] for f in frames]
        assert numbers_of(np.ascontiguousarray(m) for m in mirrored) == list(range(5))


def test_colours_and_positions_are_right(tmp_path: Path) -> None:
    """Red, green, blue and white quarters: no channel swapped, no row or column shifted."""
    picture = np.zeros((96, 128, 3), np.uint8)
    picture[:48, :64, 0] = picture[:48, 64:, 1] = picture[48:, :64, 2] = 255
    picture[48:, 64:] = 255
    path = write_video(
        tmp_path / "video.mp4", [picture] * 3, options={"crf": "0"}, pixels="yuv444p"
    )
    frame = next(PyavSource(path, 3).read(0, 1))
    assert np.abs(frame.astype(int) - picture).max() <= 4


def test_two_sources_at_once(sample: Callable[[str], Path]) -> None:
    with (
        PyavSource(sample("h264_open.mp4"), FRAMES) as one,
        PyavSource(sample("vp9.webm"), FRAMES) as other,
    ):
        for n, (a, b) in enumerate(zip(one.read(20, 9), other.read(21, 9), strict=True), 20):
            assert (number_of(a), number_of(b)) == (n, n + 1)


def test_no_such_decoder(sample: Callable[[str], Path]) -> None:
    assert DECODERS == ("pyav", "decord")
    with pytest.raises(UsageError, match=r"no decoder 'cv2'; there are pyav, decord"):
        open_source(sample("frames_1.mp4"), frames=1, decoder="cv2")
