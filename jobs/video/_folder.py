"""Frames of a folder of images."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from PIL import Image, ImageOps

from featurestore.errors import DamagedVideo, UnreadableVideo
from jobs.video._contract import Frame, VideoInfo, check_range
from jobs.video._discover import IMAGE_SUFFIXES, natural

_SAME = {".jpeg": ".jpg", ".tiff": ".tif"}
# What a whole file of the kind ends with; some writers pad, so that it is looked for near the end.
_ENDS = {".jpg": b"\xff\xd9", ".png": b"IEND\xaeB`\x82"}
_TAIL_BYTES = 64
_GREY_16 = ("I;16", "I;16L", "I;16B", "I;16N", "I")
_ORIENTATION = 0x0112  # the EXIF tag
_TURNABLE = ("JPEG", "MPO", "TIFF")


class FolderSource:
    """Frames of a folder: its images in the natural order of their names (see ``FrameSource``).

    Grey becomes RGB by repetition, palettes their colours, 16 bits the upper 8, transparency is
    dropped, and a camera's orientation (EXIF, in JPEG and TIFF) is applied, as OpenCV does.
    """

    def __init__(self, path: Path, frames: int) -> None:
        """Raises UnreadableVideo if the folder cannot be listed or holds no frames."""
        self.path = path
        self.frames = frames
        self.decoded = 0
        self._files = frame_files(path)
        self._size: tuple[int, int] | None = None

    def read(self, start: int, count: int) -> Iterator[Frame]:
        """Yield frames ``start`` to ``start + count - 1`` (see ``FrameSource``)."""
        check_range(start, count, self.frames)
        return (self._frame(n) for n in range(start, start + count))

    def _frame(self, number: int) -> Frame:
        if number >= len(self._files):
            raise DamagedVideo(
                f"{self.path}: {len(self._files)} images where {self.frames} frames were counted; "
                "run again when the folder is complete",
                len(self._files),
            )
        try:
            if self._size is None and number:
                self._size = _size(self._files[0])
            frame = read_image(self._files[number])
            size = (frame.shape[1], frame.shape[0])
            self._size = self._size or size
            _check_size(self._size, size)
        except (OSError, ValueError) as error:
            raise DamagedVideo(_damage(self._files[number], number, error), number) from error
        self.decoded += 1
        return frame

    def close(self) -> None:
        """Nothing is held."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def frame_files(folder: Path) -> list[Path]:
    """The images of a folder in the natural order of their names.

    Raises:
        UnreadableVideo: it cannot be listed, or holds no images or several kinds of them.
    """
    try:
        found = [p for p in folder.iterdir() if not p.name.startswith(".") and not p.is_dir()]
    except OSError as error:
        raise UnreadableVideo(f"{folder}: cannot be listed ({error.strerror})") from error
    files = [p for p in found if p.suffix.lower() in IMAGE_SUFFIXES]
    if not files:
        raise UnreadableVideo(
            f"{folder}: no images in this folder; frames are {', '.join(sorted(IMAGE_SUFFIXES))}"
        )
    kinds = Counter(_kind(p) for p in files)
    if len(kinds) > 1:
        listed = ", ".join(f"{n} {kind}" for kind, n in kinds.most_common())
        raise UnreadableVideo(
            f"{folder}: images of several kinds ({listed}), so which are the frames is not clear; "
            "move the others to another folder"
        )
    return sorted(files, key=lambda p: natural(p.name))


def probe_folder(folder: Path, *, exact: bool) -> VideoInfo:
    """Count and check the frames of a folder.

    ``exact`` opens every image: its size, and that it is whole: by its end mark where the kind
    has one (JPEG, PNG), else by decoding it. Without it only the first is opened.

    Raises:
        UnreadableVideo: no frames, or the first is not readable.
    """
    files = frame_files(folder)
    first: tuple[int, int] | None = None
    good, damage = 0, ""
    for number, file in enumerate(files if exact else files[:1]):
        try:
            size = _checked_size(file)
            _check_size(first or size, size)
        except (OSError, ValueError) as error:
            damage = _damage(file, number, error)
            break
        first, good = first or size, number + 1
    if first is None:
        raise UnreadableVideo(f"{damage}; put the frame in order, or take the folder out")
    good = good if exact else len(files)
    return VideoInfo(
        frames=good,
        fps=float("nan"),
        width=first[0],
        height=first[1],
        damaged_at=good if damage else None,
        reason=damage or _gaps(files),
        seekable=True,
    )


def read_image(file: Path) -> Frame:
    """An image as (H, W, 3) uint8 RGB. Raises OSError or ValueError if it is not whole, or holds
    what is no frame."""
    with _opened(file) as opened:
        _check_single(opened)
        opened.load()
        image = opened if _orientation(opened) == 1 else ImageOps.exif_transpose(opened)
        if image.mode in _GREY_16:
            # The upper 8 of 16 bits for every frame alike: stretching each by its own range
            # would make the video flicker.
            grey = (np.asarray(image).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8)
            return np.repeat(grey[:, :, None], 3, axis=2)
        if image.mode == "F":
            raise ValueError("pixels are floating point numbers, of which the range is not known")
        return np.array(image.convert("RGB"), dtype=np.uint8)


@contextmanager
def _opened(file: Path) -> Iterator[Image.Image]:
    """An image. What damage leads PIL to is ValueError or OSError, whatever PIL calls it (of 6,818
    damaged TIFFs 74 were TypeErrors)."""
    try:
        with Image.open(file) as image:
            yield image
    except (OSError, ValueError):
        raise
    except Exception as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _checked_size(file: Path) -> tuple[int, int]:
    mark = _ENDS.get(_kind(file))
    if mark is not None:
        with file.open("rb") as stream:
            stream.seek(max(file.stat().st_size - _TAIL_BYTES, 0))
            if mark in stream.read():
                return _size(file)
    height, width = read_image(file).shape[:2]
    return width, height


def _size(file: Path) -> tuple[int, int]:
    """(width, height) as displayed, from the header."""
    with _opened(file) as image:
        _check_single(image)
        if image.mode == "F":
            raise ValueError("pixels are floating point numbers, of which the range is not known")
        turned = _orientation(image) >= 5
        return (image.height, image.width) if turned else (image.width, image.height)


def _check_single(image: Image.Image) -> None:
    pages = getattr(image, "n_frames", 1) if image.format == "TIFF" else 1
    if pages > 1:
        raise ValueError(f"{pages} pages in one TIFF; write one image a file")


def _orientation(image: Image.Image) -> int:
    # Of other kinds PIL decodes the whole image to look for it.
    return int(image.getexif().get(_ORIENTATION, 1)) if image.format in _TURNABLE else 1


def _check_size(first: tuple[int, int], size: tuple[int, int]) -> None:
    if size != first:
        raise ValueError("{}x{} pixels, the first frame has {}x{}".format(*size, *first))


def _damage(file: Path, number: int, error: Exception) -> str:
    if file.exists() and file.stat().st_size == 0:
        why = "the file is empty (0 bytes)"
    elif isinstance(error, PermissionError):
        why = "no permission to read it"
    else:
        why = str(error)
    return f"{file}: frame {number} is damaged: {why}"


def _kind(file: Path) -> str:
    suffix = file.suffix.lower()
    return _SAME.get(suffix, suffix)


def _gaps(files: Sequence[Path]) -> str:
    """What is odd about the numbers in the names; frames are numbered by order all the same.

    An even step (every fifth frame) is not odd, nor are names that differ in more than a number.
    """
    parts = [re.fullmatch(r"(.*?)(\d+)(\D*)", p.stem) for p in files]
    if any(p is None for p in parts) or len({(p[1], p[3]) for p in parts if p}) != 1:
        return ""
    numbers = [int(p[2]) for p in parts if p]
    steps = np.diff(numbers)
    if len(steps) == 0 or (steps == steps[0]).all():
        return ""
    usual = int(np.bincount(steps[steps < 1 << 20]).argmax())
    odd = np.flatnonzero(steps != usual)
    before, after = files[odd[0]].name, files[odd[0] + 1].name
    return (
        f"the numbers of the frames jump from {before} to {after}"
        + (f" and at {len(odd) - 1} more places" if len(odd) > 1 else "")
        + "; frames are counted in order, without the missing ones"
    )
