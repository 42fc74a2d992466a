"""decord, where it is asked for: exact, or refused."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featurestore.errors import DamagedVideo, UnreadableVideo, UsageError
from jobs.video import open_source, probe
from jobs.video._decord import DecordSource
from tests.jobs.video.painted import number_of, numbers_of, write_video
from tests.jobs.video.samples import FILES, FRAMES, H264_B


def test_not_installed(sample: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "decord", None)
    with pytest.raises(UsageError, match=r"pip install 'video-anomaly-feature-store\[decord\]'"):
        open_source(sample("h264_closed.mp4"), frames=FRAMES, decoder="decord")


@pytest.mark.parametrize("name", [name for name, sample in FILES.items() if not sample.decord])
def test_what_it_cannot_read_exactly_is_refused(name: str, sample: Callable[[str], Path]) -> None:
    pytest.importorskip("decord")
    path = sample(name)
    frames = probe(path).frames
    with (
        pytest.raises(UnreadableVideo, match=r": decord .*; read it with --decoder pyav") as error,
        open_source(path, frames=frames, decoder="decord") as source,
    ):
        list(source.read(0, frames))
    assert str(error.value).startswith(f"{path}: ")


@pytest.mark.parametrize("name", ["h264_open.mp4", "mpeg4_b.avi"])
def test_a_frame_too_many_or_too_few_is_noticed(
    name: str, sample: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when it drops a picture and repeats the last one, so that the count is right."""
    decord = pytest.importorskip("decord")
    following = decord.VideoReader.next

    class Dropping(decord.VideoReader):
        given = 0

        def next(self) -> Any:
            self.given += 1
            if self.given == 30:
                following(self)
            return following(self)

    monkeypatch.setattr(decord, "VideoReader", Dropping)
    with DecordSource(sample(name), FRAMES) as source:
        assert numbers_of(source.read(0, 29)) == list(range(29))
        with pytest.raises(UnreadableVideo, match="another picture than PyAV as frame 29;"):
            list(source.read(29, 1))


@pytest.mark.parametrize("part", [0.2, 0.35, 0.5, 0.65, 0.8])
@pytest.mark.parametrize("zeros", [4, 20, 60])
def test_damage_is_found_where_pyav_finds_it(part: float, zeros: int, tmp_path: Path) -> None:
    """Its FFmpeg patches up what it cannot decode and may say nothing of it at all."""
    pytest.importorskip("decord")
    path = write_video(tmp_path / "video.mp4", FRAMES, options=H264_B)
    data = bytearray(path.read_bytes())
    first = data.index(b"mdat")
    at = first + int(part * (data.index(b"moov") - first))
    data[at : at + zeros] = bytes(zeros)
    path.write_bytes(data)
    with open_source(path, frames=FRAMES) as source, pytest.raises(DamagedVideo) as truth:
        list(source.read(0, FRAMES))
    got: list[int] = []

    def read() -> None:
        with open_source(path, frames=FRAMES, decoder="decord") as source:
            got.extend(number_of(frame) for frame in source.read(0, FRAMES))

    # Its threads may fail some frames before the damage; it is then that it is refused.
    with pytest.raises((DamagedVideo, UnreadableVideo)) as told:
        read()
    assert getattr(told.value, "frame", truth.value.frame) == truth.value.frame
    assert got == list(range(len(got)))
    assert len(got) <= truth.value.frame


@pytest.mark.parametrize("name", ["h264_open.mp4", "odd.webm", "turned_left.mp4", "mpeg2.mpg"])
def test_pixels_are_pyavs(name: str, sample: Callable[[str], Path]) -> None:
    """Two libraries, two builds of FFmpeg: what both give is what is in the file."""
    pytest.importorskip("decord")
    with (
        open_source(sample(name), frames=FRAMES) as one,
        open_source(sample(name), frames=FRAMES, decoder="decord") as other,
    ):
        for a, b in zip(one.read(0, FRAMES), other.read(0, FRAMES), strict=True):
            assert np.abs(a.astype(int) - b).max() <= 1
