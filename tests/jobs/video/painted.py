"""Small videos and frame folders whose every picture carries its number, in blocks.

A picture is a grid of 4 x 4 blocks, bright for 1 and dark for 0: the number's 16 bits, row by row.
A bar that walks across keeps the pictures from being still, so that the codecs predict for real.
"""

import struct
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

WIDTH, HEIGHT = 128, 96
DARK, BRIGHT = 50, 205


def paint(number: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """The picture of `number`: (height, width, 3) uint8, grey."""
    bits = (number >> np.arange(16)) & 1
    rows = np.arange(height) * 4 // height
    columns = np.arange(width) * 4 // width
    grey = np.where(bits.reshape(4, 4)[rows[:, None], columns[None, :]], BRIGHT, DARK)
    bar = (number * 3) % (width - 3)
    grey[:: max(height // 8, 1), bar : bar + 3] = 128
    return np.repeat(grey.astype(np.uint8)[:, :, None], 3, axis=2)


def number_of(picture: np.ndarray) -> int:
    """The number painted into a picture, whatever its size."""
    assert picture.dtype == np.uint8
    assert picture.ndim == 3
    assert picture.shape[2] == 3
    height, width = picture.shape[:2]
    bits = 0
    for place in range(16):
        row, column = divmod(place, 4)
        block = picture[
            int((row + 0.25) * height / 4) : int((row + 0.75) * height / 4),
            int((column + 0.25) * width / 4) : int((column + 0.75) * width / 4),
        ]
        level = float(block.mean())
        assert abs(level - 127.5) > 25, f"block {place} is neither dark nor bright: {level:.0f}"
        bits |= int(level > 127.5) << place
    return bits


def numbers_of(pictures: Iterable[np.ndarray]) -> list[int]:
    """The numbers painted into pictures, in order."""
    return [number_of(picture) for picture in pictures]


def write_video(
    path: Path,
    frames: int | Iterable[np.ndarray],
    *,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    container: dict[str, str] | None = None,
    size: tuple[int, int] = (WIDTH, HEIGHT),
    rate: int = 25,
    pixels: str = "yuv420p",
    gop: int = 12,
    times: Sequence[int] | None = None,
    earlier: int = 0,
    rotation: int = 0,
    format: str | None = None,
) -> Path:
    """Encode `frames` painted pictures (or the pictures given) into a file, kind by suffix.

    `times`: presentation times in ticks of a thousandth of a second, instead of an even rate.
    `earlier`: all times are moved this many frames before 0; MP4 then hides them by an edit list.
    `rotation`: degrees that a player turns the picture anticlockwise.
    """
    pictures = (paint(n, *size) for n in range(frames)) if isinstance(frames, int) else frames
    with av.open(str(path), "w", format=format, options=container or {}) as box:
        stream = box.add_stream(codec, rate=rate, options=options or {})
        stream.width, stream.height = size
        stream.pix_fmt = pixels
        stream.gop_size = gop
        stream.codec_context.time_base = Fraction(1, 1000) if times else Fraction(1, rate)
        if rotation:
            stream.set_display_rotation(rotation)
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=pixels)
            frame.pts = times[number] if times else number
            frame.time_base = stream.codec_context.time_base
            box.mux(_moved(stream.encode(frame), earlier, rate))
        box.mux(_moved(stream.encode(None), earlier, rate))
    return path


def _moved(packets: list[av.Packet], earlier: int, rate: int) -> list[av.Packet]:
    for packet in packets:
        if earlier and packet.pts is not None and packet.dts is not None:
            ticks = round(Fraction(earlier, rate) / packet.time_base)
            packet.pts -= ticks
            packet.dts -= ticks
    return packets


def write_folder(
    folder: Path,
    frames: int,
    *,
    name: str = "{:03d}.png",
    first: int = 1,
    size: tuple[int, int] = (WIDTH, HEIGHT),
    mode: str = "RGB",
) -> Path:
    """Write `frames` painted pictures as images; `name` gets the number, from `first` on."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(frames):
        Image.fromarray(paint(number, *size)).convert(mode).save(
            folder / name.format(number + first)
        )
    return folder


def write_edit_list(path: Path, segments: Sequence[tuple[int, int]], rate: int = 25) -> Path:
    """Rewrite an MP4's edit list, so that it shows frames [first, stop) of each segment in turn."""
    data = bytearray(path.read_bytes())
    above, start, stop = [], 0, len(data)
    for kind in (b"moov", b"trak", b"edts", b"elst"):
        while data[start + 4 : start + 8] != kind:
            start += int.from_bytes(data[start : start + 4])
            assert start < stop, f"no {kind!r} in {path}"
        above.append(start)
        start, stop = start + 8, start + int.from_bytes(data[start : start + 4])
    elst = above.pop()
    _, _, first_time, _ = struct.unpack(">IIiI", data[elst + 12 : elst + 28])
    ticks = 12800 // rate  # of the media; the movie's are thousandths of a second
    body = struct.pack(">II", 0, len(segments)) + b"".join(
        struct.pack(">IiI", (b - a) * 1000 // rate, first_time + a * ticks, 0x10000)
        for a, b in segments
    )
    data[elst:stop] = struct.pack(">I4s", len(body) + 8, b"elst") + body
    for box in above:  # `moov` comes last, so that no sample moves
        size = int.from_bytes(data[box : box + 4]) + len(body) + 8 - (stop - elst)
        data[box : box + 4] = size.to_bytes(4)
    path.write_bytes(data)
    return path


def cut_before(path: Path, key_frame: int, to: Path) -> Path:
    """Copy a video's packets, without decoding, from its `key_frame`-th key frame on."""
    with av.open(str(path)) as source, av.open(str(to), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        keys = 0
        for packet in source.demux(video=0):
            keys += packet.is_keyframe
            if keys > key_frame and packet.size:
                packet.stream = stream
                target.mux(packet)
    return to


def write_loop(path: Path, frames: int, size: tuple[int, int], loop: int = 50) -> Path:
    """A long video, cheaply: `loop` painted pictures encoded once, their packets over and over."""
    short = write_video(
        path.with_stem("loop"), loop, size=size, gop=loop, options={"preset": "ultrafast"}
    )
    with av.open(str(short)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        packets = [p for p in source.demux(video=0) if p.size]
        ticks = packets[1].dts - packets[0].dts
        for number in range(frames):
            original = packets[number % loop]
            packet = av.Packet(bytes(original))
            packet.pts = packet.dts = number * ticks
            packet.time_base, packet.duration = original.time_base, ticks
            packet.is_keyframe, packet.stream = original.is_keyframe, stream
            target.mux(packet)
    short.unlink()
    return path
