"""Which frames a file holds, and where reading may start, without decoding it."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from jobs.video._cursor import Cursor
from jobs.video._stream import Broken, Stream

# Containers whose packets carry true presentation times and whose seeking lands on key frames.
# In AVI times count packets, TS and PS have to guess where frames begin, FLV and ASF have no index.
CONTAINERS = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"}
# Codecs of which a packet is a picture. Not MPEG-4 part 2 (packets for "not coded" and packed
# pictures: escalator.avi has 200 packets and 198 pictures) nor VP8 (hidden reference pictures).
CODECS = {"h264", "hevc", "vp9", "av1", "mjpeg", "prores"}
# Formats made for channels that lose packets: what is lost leaves no trace but a gap in time.
LOSSY = {"mpegts", "mpeg"}
# More pictures than any codec reorders: what is lost at the beginning shows among these.
HEAD_FRAMES = 32


@dataclass(frozen=True)
class Index:
    """What a pass over a file's packets tells.

    ``times``: presentation times of the packets that are shown, int64 ticks, ascending; ``keys``:
    those of key frames, shown or not. ``untrusted`` says why frames cannot be numbered by these
    times; it is empty where they can. ``complete``: there are no fewer packets than the header
    counts (``header_frames``; 0: it does not). ``packets`` are those shown, timed or not. ``gap``
    says where a broadcast stream lacks pictures, as far as its times tell.
    """

    times: NDArray[np.int64]
    keys: NDArray[np.int64]
    untrusted: str
    complete: bool
    packets: int
    header_frames: int
    gap: str
    fps: float
    width: int
    height: int

    def entry(self, frame: int, *, earlier: int = 0) -> tuple[int, int] | None:
        """(time, number) of the last key frame at or before ``frame``, or the ``earlier``-th one
        before that; None where there is none. Numbers of hidden key frames are those of the first
        picture that is shown after them."""
        place = int(np.searchsorted(self.keys, self.times[frame], side="right")) - 1 - earlier
        if place < 0:
            return None
        time = int(self.keys[place])
        return time, int(np.searchsorted(self.times, time))


def read_index(path: Path) -> Index:
    """Go through a file's packets (0.3 s for 20,000 frames) and decode the first few pictures.

    Raises:
        UnreadableVideo: the file does not open or has no video stream.
    """
    times, keys, packets, untimed = array("q"), array("q"), 0, 0
    trouble = ""
    stream = Stream(path)
    try:
        video = stream.video
        try:
            while (packet := stream.packet()) is not None:
                if packet.size == 0 and packet.pts is None:
                    continue  # the end, as PyAV tells it to the decoder
                packets += 1
                if packet.pts is None:
                    untimed += 1
                    continue
                if not packet.is_discard:  # an edit list hides it
                    times.append(packet.pts)
                if packet.is_keyframe:
                    keys.append(packet.pts)
        except Broken as broken:
            trouble = str(broken)
        shown = np.unique(np.frombuffer(times, np.int64))
        codec = video.codec_context.codec.canonical_name
        untrusted = trouble or _untrusted(stream.format, codec, untimed, len(times) - len(shown))
        rate = video.guessed_rate or video.average_rate
        fps = float(rate) if rate else float("nan")
        if not untrusted and len(shown) > 1:
            assert video.time_base is not None
            fps = (len(shown) - 1) / float((shown[-1] - shown[0]) * video.time_base)
        header = video.frames
        size = (video.width, video.height)
    finally:
        stream.close()
    if not untrusted:
        untrusted, size = _check_head(path, shown)
    return Index(
        times=shown,
        keys=np.unique(np.frombuffer(keys, np.int64)),
        untrusted=untrusted,
        complete=packets >= header,
        packets=len(times) + untimed,
        header_frames=header,
        gap=_gap(shown) if stream.format in LOSSY and not untimed else "",
        fps=fps,
        width=size[0],
        height=size[1],
    )


def _untrusted(container: str, codec: str, untimed: int, doubled: int) -> str:
    if container not in CONTAINERS:
        return f"frames cannot be found by their time in {container}"
    if codec not in CODECS:
        return f"packets of {codec} need not be pictures"
    if untimed:
        return f"{untimed} packets have no presentation time"
    if doubled:
        return f"{doubled} presentation times occur twice"
    return ""


def _gap(times: NDArray[np.int64]) -> str:
    steps = np.diff(times)
    if len(steps) == 0:
        return ""
    usual = np.median(steps)
    if (np.abs(steps - usual) > 0.1 * usual).mean() > 0.1:
        return ""  # no even rate to begin with
    gaps = np.flatnonzero(steps > 1.5 * usual)
    if len(gaps) == 0:
        return ""
    lost = round(float((steps[gaps] / usual - 1).sum()))
    return (
        f"by its times about {lost} frames are missing, the first after frame {gaps[0]}; "
        "frames are counted in order, without them"
    )


def _check_head(path: Path, times: NDArray[np.int64]) -> tuple[str, tuple[int, int]]:
    """Decode the first pictures: are they what the index says? (why not, displayed size)

    A file cut out of another may begin with pictures that refer to what was cut away and that
    decoders leave out; one that holds the two fields of a picture apart has twice the packets.
    """
    cursor = Cursor(path, times)
    try:
        while cursor.position < min(HEAD_FRAMES, len(times)):
            cursor.picture()
    except Broken as broken:
        return f"frame {cursor.position}: {broken}", cursor.size
    finally:
        cursor.close()
    return "", cursor.size
