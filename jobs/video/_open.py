"""What a video holds, and its frames: files and folders alike."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from featurestore.errors import UnreadableVideo, UsageError
from jobs.video._contract import FrameSource, VideoInfo
from jobs.video._folder import FolderSource, probe_folder
from jobs.video._index import read_index
from jobs.video._pyav import PyavSource
from jobs.video._scan import scan

Decoder = Literal["pyav", "decord"]
DECODERS: tuple[str, ...] = get_args(Decoder)


def probe(path: Path, *, exact: bool = True) -> VideoInfo:
    """What a video holds: how many frames truly, and whether it is damaged.

    ``exact``: where the packets of a file tell its frames reliably (most MP4, MOV, MKV and WebM)
    they are counted and the first pictures decoded, 0.3 s for 20,000 frames; every other file, and
    any that shows a sign of trouble, is decoded as a whole. Damage inside pictures of the former
    shows only when they are read (``DamagedVideo``). Of a frame folder every image is opened.
    Without ``exact`` nothing is decoded but the first pictures: an estimate, and no damage found.

    Raises:
        UnreadableVideo: it does not open, has no video stream, or not one good frame.
    """
    if path.is_dir():
        return probe_folder(path, exact=exact)
    index = read_index(path)
    frames, damage = index.packets, ""
    width, height = index.width, index.height
    decoded = exact and bool(index.untrusted or not index.complete)
    if decoded:
        whole = scan(path)
        frames, damage, width, height = whole.frames, whole.damage, whole.width, whole.height
    if frames == 0:
        raise UnreadableVideo(
            f"{path}: not one good frame ({damage or 'its video stream is empty'}); fetch or "
            "convert the file again"
        )
    remarks = [index.gap]
    if decoded and index.header_frames not in (0, frames):
        remarks.append(f"its header counts {index.header_frames} frames, it has {frames}")
    if damage:
        remarks = [f"damaged at frame {frames}: {damage}"]
    return VideoInfo(
        frames=frames,
        fps=index.fps,
        width=width,
        height=height,
        damaged_at=frames if damage else None,
        reason="; ".join(remark for remark in remarks if remark),
        seekable=not index.untrusted,
    )


def open_source(path: Path, *, frames: int, decoder: str = "pyav") -> FrameSource:
    """Frames of a video file or a frame folder; ``frames`` is what ``probe`` counted.

    ``decoder``: ``pyav``, or ``decord`` where that is installed and reads the file exactly; frame
    folders need neither.

    Raises:
        UnreadableVideo: it does not open, or decord is asked for and does not read it exactly.
        UsageError: no such decoder, or decord is not installed.
    """
    if decoder not in DECODERS:
        raise UsageError(f"no decoder {decoder!r}; there are {', '.join(DECODERS)}")
    if path.is_dir():
        return FolderSource(path, frames)
    if decoder == "decord":
        from jobs.video._decord import DecordSource

        return DecordSource(path, frames)
    return PyavSource(path, frames)
