"""Pictures of a video file, decoded one after another, and every sign of damage on the way."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import av
import av.container
import av.logging
import av.packet
import av.video.frame
import av.video.stream

from featurestore.errors import UnreadableVideo

# What FFmpeg has to say is a sign of damage, so it must reach us; it must not reach the console.
# Repetitions count too: PyAV drops a message that equals the last one, be it another file's.
av.logging.set_level(av.logging.ERROR)
av.logging.set_skip_repeated(False)
logging.getLogger("libav").addHandler(logging.NullHandler())

Log: TypeAlias = tuple[int, str, str]  # level, who, message

HARMLESS = (
    "unable to decode APP fields",  # mjpeg: a camera's own header
    "SEI type",  # h264, hevc: remarks beside the pictures
)
"""FFmpeg's errors that leave the pictures as they are."""

# Formats that may be recorded from the middle: what comes before the first key frame cannot be
# decoded by anybody and is no part of the video.
MID_STREAM = {"mpegts", "mpeg", "h264", "hevc", "mpegvideo", "m4v"}
# Formats whose presentation times can be compared. In AVI they merely count packets.
TIMED = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "mpegts", "mpeg"}

# By its suffix FFmpeg takes any .mp4 for one; these are the boxes that true ones begin with.
MP4_BEGINNINGS = {b"ftyp", b"mdat", b"free", b"skip", b"wide", b"styp", b"uuid"}


class Broken(Exception):
    """The stream shows damage here: the pictures delivered before are right, from here on not."""


class Stream:
    """The video stream of a file, from its first picture or, after ``seek``, from a key frame.

    ``packet`` only demultiplexes, ``picture`` decodes too; a stream is good for one of them at a
    time. Damage shows as any of: an error while demultiplexing or decoding, a packet or a picture
    flagged as corrupt, an error that FFmpeg merely logs. (Of 2760 generated files with bytes
    flipped, overwritten, dropped or cut off, flags and errors alone passed 214 with wrong pictures
    of which a logged error told; no sound file, generated or real, logs any.)

    Leading pictures are exempt: those shown before the key frame that decoding starts from, which
    in open GOPs refer to what comes before it. Where they show damage they are left out.
    """

    def __init__(self, path: Path) -> None:
        """Raises UnreadableVideo if the file does not open or has no video stream."""
        self.path = path
        self._container = _open(path)
        try:
            self.video = _video_stream(path, self._container)
        except UnreadableVideo:
            self._container.close()
            raise
        # One thread a worker: blocks are what runs in parallel, and frames come out at once.
        self.video.thread_type = "NONE"
        self.format = self._container.format.name
        self._begun = self.format not in MID_STREAM
        self._restart(None, maimed=False)

    def _restart(self, key_time: int | None, *, maimed: bool) -> None:
        self._packets: Iterator[av.packet.Packet[Any]] = self._container.demux(self.video)
        self._ready: deque[av.video.frame.VideoFrame] = deque()
        self._ended = False
        self._key_time = key_time  # pictures before it are leading ones; None once it has come
        self._maimed = maimed  # leading pictures are left out
        self._first_key = key_time is None and self.format in TIMED  # to be taken as key_time

    def seek(self, time: int) -> None:
        """Go to the key frame of that time (in ticks of the stream): its picture is the next, if
        the container finds it. Raises Broken if it cannot seek."""
        with av.logging.Capture() as logs:
            try:
                self._container.seek(time, stream=self.video)
            except av.FFmpegError as error:
                raise Broken(f"seeking failed ({_words(error, logs)})") from error
        self._begun = True
        self._restart(time, maimed=True)

    @property
    def announced(self) -> int:
        """Frames by the header: its count, else duration times rate; 0 where it has neither."""
        if self.video.frames:
            return self.video.frames
        rate = self.video.average_rate or self.video.guessed_rate
        if self.video.duration is not None and self.video.time_base is not None:
            seconds = float(self.video.duration * self.video.time_base)
        else:
            seconds = (self._container.duration or 0) / av.time_base
        return max(0, round(seconds * float(rate))) if rate else 0

    def packet(self) -> av.packet.Packet[Any] | None:
        """The next packet, None at the end. Raises Broken at a sign of damage."""
        with av.logging.Capture() as logs:
            packet = self._next_packet(logs)
        if sign := (_corrupt(packet) or _logged(logs)):
            raise Broken(sign)
        return packet

    def picture(self) -> av.video.frame.VideoFrame | None:
        """The next picture in order of presentation, None at the end.

        Raises:
            Broken: a sign of damage. Going on after it is not exact.
        """
        while True:
            while self._ready:
                picture = self._ready.popleft()
                if self._leading(picture.pts):
                    self._maimed = self._maimed or picture.is_corrupt
                    if self._maimed:
                        continue
                    return picture
                self._key_time = None
                if picture.is_corrupt:
                    raise Broken("FFmpeg could decode only a part of the picture")
                return picture
            if self._ended:
                return None
            self._ready.extend(self._decode())

    def _decode(self) -> list[av.video.frame.VideoFrame]:
        """The pictures that the next packet brings, which may be none."""
        pictures = []
        with av.logging.Capture() as logs:
            packet = self._next_packet(logs)
            if packet is None:
                return []
            if self._first_key and packet.is_keyframe:
                self._first_key = False
                # A hidden one (edit list) hides the pictures that lead to it as well.
                self._key_time = None if packet.is_discard else packet.pts
            sign = _corrupt(packet)
            try:
                pictures = packet.decode()
            except av.FFmpegError as error:
                sign = sign or f"it cannot be decoded ({_words(error, logs)})"
        sign = sign or _logged(logs)
        if sign and not self._leading(packet.pts):
            # Which picture a message is about is not known: none of this packet's is passed on.
            raise Broken(sign)
        self._maimed = self._maimed or bool(sign)
        return pictures

    def _leading(self, time: int | None) -> bool:
        return self._key_time is not None and time is not None and time < self._key_time

    def _next_packet(self, logs: list[Log]) -> av.packet.Packet[Any] | None:
        while not self._ended:
            try:
                packet = next(self._packets)
            except StopIteration:
                self._ended = True
            except av.FFmpegError as error:
                self._ended = True  # the demultiplexer cannot go on after an error
                words = _words(error, logs)
                raise Broken(f"the file cannot be read on ({words})") from error
            else:
                self._begun = self._begun or packet.is_keyframe
                if self._begun or packet.size == 0:
                    return packet
        return None

    def close(self) -> None:
        """Let go of the file."""
        with av.logging.Capture():
            self._container.close()


def _open(path: Path) -> av.container.InputContainer:
    with av.logging.Capture() as logs:
        try:
            # An absolute path, since FFmpeg takes "a:b.mp4" for a protocol; metadata are texts
            # of whatever encoding, and no reason to refuse a video.
            return av.open(str(path.absolute()), metadata_errors="replace")
        except (av.FFmpegError, UnicodeEncodeError) as error:
            raise UnreadableVideo(_why_not_opened(path, error, logs)) from error


def _why_not_opened(path: Path, error: Exception, logs: list[Log]) -> str:
    if isinstance(error, UnicodeEncodeError):
        return f"{path}: its name is not valid UTF-8; rename the file"
    if isinstance(error, FileNotFoundError):
        return f"{path}: there is no such file; check the path, or a link that leads nowhere"
    if isinstance(error, PermissionError):
        return f"{path}: no permission to read it; chmod +r the file"
    try:
        with path.open("rb") as file:
            head = file.read(8)
    except OSError as unreadable:
        return f"{path}: cannot be read ({unreadable.strerror}); check the disk, or copy it again"
    if not head:
        return f"{path}: the file is empty (0 bytes); fetch or copy it again"
    if "moov atom not found" in _logged(logs) and head[4:] in MP4_BEGINNINGS:
        return (
            f"{path}: its index is missing (moov atom not found), so the file was cut off or never "
            "finished; fetch or copy it again"
        )
    return (
        f"{path}: not a video that FFmpeg can open ({_words(error, logs)}); fetch it again, or "
        "convert what it is (ffmpeg -i FILE FILE.mp4)"
    )


def _video_stream(
    path: Path, container: av.container.InputContainer
) -> av.video.stream.VideoStream:
    stream = container.streams.best("video")
    cover = stream is not None and stream.disposition & av.stream.Disposition.attached_pic
    if not isinstance(stream, av.video.stream.VideoStream) or cover:
        kinds = ", ".join(sorted({s.type for s in container.streams})) or "nothing"
        raise UnreadableVideo(
            f"{path}: it has no video stream (it holds {kinds}); take it out of the dataset"
        )
    if stream.codec_context is None:  # as PyAV wraps a codec that FFmpeg does not know
        raise UnreadableVideo(
            f"{path}: FFmpeg has no decoder for its video; convert the file to H.264"
        )
    return stream


def _corrupt(packet: av.packet.Packet[Any] | None) -> str:
    if packet is not None and packet.is_corrupt:
        return "a part of the file is missing or overwritten (corrupt packet)"
    return ""


def _words(error: Exception, logs: list[Log]) -> str:
    """An error in FFmpeg's most telling words."""
    return _logged(logs) or str(getattr(error, "strerror", None) or error)


def _logged(logs: list[Log]) -> str:
    """The first logged error that is no harmless one, or nothing."""
    for _, who, message in logs:
        if not any(harmless in message for harmless in HARMLESS):
            return f"{who}: {message.strip()}" if who else message.strip()
    return ""
