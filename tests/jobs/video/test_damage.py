"""Files that are damaged, or no videos at all: told, with the reason and the way out."""

import os
import pickle
import re
import struct
import wave
from collections.abc import Callable
from pathlib import Path

import av
import pytest

from featurestore.errors import DamagedVideo, UnreadableVideo
from jobs.video import open_source, probe
from tests.jobs.video.painted import numbers_of, write_video
from tests.jobs.video.samples import H264_B, H264_OPEN, VP9

FRAMES = 60


@pytest.fixture(autouse=True)
def nothing_on_the_console(capfd: pytest.CaptureFixture[str]) -> object:
    yield
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""


def overwritten(path: Path, frame: int) -> Path:
    """Zero some bytes inside the first packet from the `frame`-th on that is not tiny."""
    with av.open(str(path)) as box:
        packet = next(p for p in list(box.demux(video=0))[frame:] if p.size >= 100)
    data = bytearray(path.read_bytes())
    at, count = packet.pos + packet.size // 2, min(40, packet.size // 3)
    data[at : at + count] = bytes(count)
    path.write_bytes(data)
    return path


def wiped(path: Path, share: float) -> Path:
    """Zero 3000 bytes at a share of the file."""
    data = bytearray(path.read_bytes())
    at = int(len(data) * share)
    data[at : at + 3000] = bytes(3000)
    path.write_bytes(data)
    return path


def shortened(path: Path, share: float) -> Path:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    return path


def read_all(path: Path, frames: int) -> tuple[list[int], int | None]:
    """The numbers of the frames until there are no more, and where damage was met."""
    got = []
    with open_source(path, frames=frames) as source:
        try:
            for frame in source.read(0, frames):
                got += numbers_of([frame])
        except DamagedVideo as damage:
            return got, damage.frame
    return got, None


# Each is damaged where probing notices: the container, or it has to be decoded as a whole anyway.
NOTICED = {
    "cut_off.mp4": lambda p: shortened(
        write_video(p, FRAMES, options=H264_B, container={"movflags": "faststart"}), 0.7
    ),
    "cut_off_open_gop.mp4": lambda p: shortened(
        write_video(p, FRAMES, options=H264_OPEN, container={"movflags": "faststart"}), 0.7
    ),
    "cut_off.mkv": lambda p: shortened(write_video(p, FRAMES, options=H264_B), 0.7),
    "cut_off.webm": lambda p: shortened(
        write_video(p, FRAMES, codec="libvpx-vp9", options=VP9), 0.7
    ),
    "cut_off.avi": lambda p: shortened(
        write_video(p, FRAMES, codec="mjpeg", pixels="yuvj420p"), 0.7
    ),
    "overwritten.avi": lambda p: overwritten(write_video(p, FRAMES, codec="mpeg4", gop=60), 24),
    "wiped.mpg": lambda p: wiped(
        write_video(p, FRAMES, codec="mpeg2video", options={"bf": "2", "b": "400k"}, format="vob"),
        0.5,
    ),
    "wiped.ts": lambda p: wiped(write_video(p, FRAMES, options={"b": "900k"}), 0.5),
    "overwritten_beginning.mp4": lambda p: overwritten(write_video(p, FRAMES, options=H264_B), 20),
}


@pytest.mark.parametrize("name", NOTICED)
def test_damage_that_probing_notices(name: str, tmp_path: Path) -> None:
    path = NOTICED[name](tmp_path / name)
    info = probe(path)
    assert 0 < info.frames < FRAMES
    assert info.damaged_at == info.frames
    assert re.match(rf"damaged at frame {info.frames}: \w+", info.reason)
    assert not info.seekable
    assert read_all(path, info.frames) == (list(range(info.frames)), None)
    with open_source(path, frames=info.frames) as source:
        for start in range(info.frames - 1, -1, -5):
            assert numbers_of(source.read(start, 1)) == [start]


@pytest.mark.parametrize("options", [H264_B, H264_OPEN], ids=["closed", "open"])
@pytest.mark.parametrize("packet", [36, 44, 55])
def test_damage_met_by_the_reader(options: dict[str, str], packet: int, tmp_path: Path) -> None:
    """The packets of an MP4 tell the frames; that one of them is overwritten shows in decoding."""
    path = overwritten(write_video(tmp_path / "video.mp4", FRAMES, options=options), packet)
    info = probe(path)
    assert (info.frames, info.damaged_at) == (FRAMES, None)
    got, damaged_at = read_all(path, FRAMES)
    assert damaged_at == len(got)
    assert packet - 8 < len(got) < packet + 8
    assert got == list(range(len(got)))

    with open_source(path, frames=FRAMES) as source:
        with pytest.raises(DamagedVideo, match=r"video\.mp4: damaged at frame") as damage:
            list(source.read(len(got), 1))
        assert damage.value.frame == len(got)
        assert pickle.loads(pickle.dumps(damage.value)).frame == len(got)
        with pytest.raises(DamagedVideo):
            list(source.read(FRAMES - 1, 1))  # once known, everything after it is
        assert numbers_of(source.read(len(got) - 3, 3)) == list(range(len(got) - 3, len(got)))

    # What a worker does then: the frames before the damage, wherever it starts.
    with open_source(path, frames=len(got)) as source:
        for start in range(len(got) - 1, -1, -3):
            assert numbers_of(source.read(start, 1)) == [start]


def test_a_stream_that_ends_early_is_only_shorter(tmp_path: Path) -> None:
    """Nothing in a transport stream says how long it was to be."""
    path = write_video(tmp_path / "video.ts", FRAMES, options=H264_B)
    path.write_bytes(path.read_bytes()[: 188 * 70])
    info = probe(path)
    got, damaged_at = read_all(path, info.frames)
    assert damaged_at is None
    assert got[:-1] == list(range(info.frames - 1))  # the last one may be cut inside


def test_frames_that_a_broadcast_lost(tmp_path: Path) -> None:
    """Whole packets lost leave pictures that decode; only their times tell of the others."""
    whole = write_video(tmp_path / "whole.mp4", FRAMES, options={"bf": "0"})
    path = tmp_path / "video.ts"
    with av.open(str(whole)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(source.demux(video=0)):
            packet.stream = stream
            if packet.size and not 20 <= number < 36:  # a key frame is at 36
                target.mux(packet)
    info = probe(path)
    assert (info.frames, info.damaged_at) == (FRAMES - 16, None)
    assert info.reason == (
        "by its times about 16 frames are missing, the first after frame 19; frames are counted "
        "in order, without them"
    )
    assert read_all(path, info.frames)[0] == [*range(20), *range(36, FRAMES)]


def test_pictures_that_change_their_size(tmp_path: Path) -> None:
    first = write_video(tmp_path / "first.h264", 20, options=H264_B)
    other = write_video(tmp_path / "other.h264", 20, options=H264_B, size=(160, 96))
    path = tmp_path / "both.h264"
    path.write_bytes(first.read_bytes() + other.read_bytes())
    info = probe(path)
    assert (info.frames, info.damaged_at, info.width) == (20, 20, 128)
    assert info.reason == "damaged at frame 20: pictures change from 128x96 to 160x96"
    assert read_all(path, 20) == (list(range(20)), None)
    assert read_all(path, 40) == (list(range(20)), 20)


def test_fewer_frames_than_were_counted(tmp_path: Path) -> None:
    """The file became shorter since."""
    path = write_video(tmp_path / "video.avi", 20, codec="mpeg4")
    got, damaged_at = read_all(path, 25)
    assert (got, damaged_at) == (list(range(20)), 20)


def _text(path: Path) -> None:
    path.write_text("not a video\n" * 100)


def _audio(path: Path) -> None:
    with wave.open(str(path), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(bytes(16000))


def _without_index(path: Path) -> None:
    shortened(write_video(path, FRAMES, options=H264_B), 0.6)


def _unknown_codec(path: Path) -> None:
    write_video(path, FRAMES, options=H264_B)
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzzz"))


def _no_good_frame(path: Path) -> None:
    write_video(path, FRAMES, codec="mpeg4")
    data = bytearray(path.read_bytes())
    start = data.index(b"movi") + 12
    data[start:-2000] = os.urandom(1) * len(data[start:-2000])
    path.write_bytes(data)


UNREADABLE = {
    "empty.mp4": (lambda path: path.touch(), r"empty \(0 bytes\).* again"),
    "text.mp4": (_text, r"not a video that FFmpeg can open \(.+\); fetch it again, or convert"),
    "sound.mp4": (_audio, r"no video stream \(it holds audio\); take it out"),
    "without_index.mp4": (_without_index, r"moov atom not found.*cut off"),
    "unknown_codec.mp4": (_unknown_codec, "no decoder for its video; convert"),
    "no_good_frame.avi": (_no_good_frame, r"not one good frame \(.+\); fetch"),
    "missing.mp4": (lambda path: None, "no such file; check the path"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_not_readable_at_all(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    make, why = UNREADABLE[name]
    make(path)
    with pytest.raises(UnreadableVideo, match=f"^{re.escape(str(path))}: .*{why}"):
        probe(path)
    assert issubclass(UnreadableVideo, ValueError)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_permission(tmp_path: Path) -> None:
    path = write_video(tmp_path / "video.mp4", 2)
    path.chmod(0)
    with pytest.raises(UnreadableVideo, match="no permission to read it"):
        probe(path)


@pytest.mark.parametrize(
    "name", ["a:b.mp4", "with space.mp4", "größe 人.mp4", "%03d.mp4", "-i.mp4"]
)
def test_names_mean_nothing(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = write_video(tmp_path / "video.mp4", 5).rename(tmp_path / name)
    assert probe(Path(path.name)).frames == 5
    assert read_all(Path(path.name), 5) == (list(range(5)), None)


def test_texts_of_another_encoding_are_no_reason(tmp_path: Path) -> None:
    path = write_video(tmp_path / "video.mp4", 5)
    data = path.read_bytes()
    assert data.count(b"Lavf") == 1
    path.write_bytes(data.replace(b"Lavf", b"\xff\xe4\xf6\xfc"))
    assert probe(path).frames == 5


def test_an_estimate_decodes_nothing(sample: Callable[[str], Path], tmp_path: Path) -> None:
    for name in ("mpeg4_b.avi", "h264_open.mp4", "h264.ts", "raw.h264"):
        assert probe(sample(name), exact=False).frames == FRAMES
    damaged = NOTICED["overwritten.avi"](tmp_path / "overwritten.avi")
    assert probe(damaged, exact=False).damaged_at is None


def test_a_header_that_lies(tmp_path: Path) -> None:
    """As in real files: the count is what is decoded."""
    path = write_video(tmp_path / "video.avi", 20, codec="mpeg4")
    data = bytearray(path.read_bytes())
    total = data.index(b"strh") + 8 + 32  # dwLength of the stream's header
    assert struct.unpack_from("<I", data, total) == (20,)
    struct.pack_into("<I", data, total, 40)
    path.write_bytes(data)
    info = probe(path)
    assert (info.frames, info.damaged_at) == (20, None)
    assert info.reason == "its header counts 40 frames, it has 20"
