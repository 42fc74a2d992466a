"""Frames -> resized frames -> ten crops, in the arithmetic of the networks' published presets.

Everything stays uint8: the presets round to whole pixel values after resizing, and normalising
happens inside the engines. Works on any device. Crops are views of the resized frames: a copy of
all ten costs more than cutting them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from jobs.specs import Geometry, Preprocessing

__all__ = ["Cut", "Frames", "Geometry", "cut", "geometry", "resize", "ten_crops"]

Frames: TypeAlias = Tensor | Sequence[Tensor]
"""(T, H, W, 3) uint8, or T of (H, W, 3): a copy of a clip of 1280x720 takes half as long as
decoding it."""


@dataclass(frozen=True)
class Cut:
    """Crops of so many clips, made one preset after another while the first are in use."""

    clips: int
    crops: Mapping[tuple[Geometry, int], Future[list[Tensor]]]

    def of(self, preprocessing: Preprocessing) -> list[Tensor]:
        """The crops for networks with this preset: clips * 10 of (3, T, size, size) uint8."""
        return self.crops[_shape(preprocessing)].result()


def cut(clips: Sequence[Frames], presets: Iterable[Preprocessing], thread: Executor) -> Cut:
    """Each of ``clips`` in ten crops for each of ``presets``, by a thread.

    What presets share is done once.
    """
    resized: dict[Geometry, list[Tensor]] = {}

    def crops(shape: Geometry, size: int) -> list[Tensor]:
        if shape not in resized:
            resized[shape] = [resize(frames, shape) for frames in clips]
        return [crop for frames in resized[shape] for crop in ten_crops(frames, size)]

    shapes = dict.fromkeys(map(_shape, presets))
    return Cut(len(clips), {shape: thread.submit(crops, *shape) for shape in shapes})


def _shape(preprocessing: Preprocessing) -> tuple[Geometry, int]:
    return geometry(preprocessing), preprocessing.crop


def geometry(preprocessing: Preprocessing) -> Geometry:
    """How ``preprocessing`` resizes frames; hashable: networks with the same one share the work."""
    return preprocessing.geometry


def resize(frames: Frames, geometry: Geometry) -> Tensor:
    """``frames`` resized: (T, 3, h, w) uint8.

    The arithmetic of the presets, which is torchvision's on tensors: interpolated in float32, then
    rounded, half to even. (On PIL images torchvision gives other values.) Not torchvision's own
    function: importing it takes every worker 3 seconds.

    Raises:
        ValueError: not frames of that shape and dtype.
    """
    for frame in frames if isinstance(frames, Sequence) else frames[:1]:
        if frame.ndim != 3 or frame.shape[-1] != 3 or frame.dtype != torch.uint8:
            raise ValueError(
                f"expected frames (H, W, 3) uint8, got {tuple(frame.shape)} {frame.dtype}"
            )
    device, (height, width, _) = frames[0].device, frames[0].shape
    size = _size(height, width, geometry.resize)
    if size == (height, width) or device.type != "cpu":
        pixels = frames if isinstance(frames, Tensor) else torch.stack([*frames])
        pixels = pixels.permute(0, 3, 1, 2)
        return pixels if size == (height, width) else _interpolate(pixels.float(), size, geometry)
    out = torch.empty((len(frames), 3, *size), dtype=torch.uint8)
    # A processor takes a frame at a time, in numbers that stay in its cache: a clip of 1280x720 is
    # 177 MB of them, and takes three to six times as long.
    numbers = torch.empty((1, height, width, 3))
    for frame, target in zip(frames, out, strict=True):
        numbers.copy_(frame)
        target.copy_(_interpolate(numbers.permute(0, 3, 1, 2), size, geometry)[0])
    return out


def _interpolate(numbers: Tensor, size: tuple[int, int], geometry: Geometry) -> Tensor:
    """(n, 3, H, W) float32 to (n, 3, h, w) uint8."""
    resized = F.interpolate(
        numbers,
        size=size,
        mode=geometry.interpolation,
        align_corners=False,
        antialias=geometry.antialias,
    )
    if geometry.interpolation == "bicubic":
        resized = resized.clamp(0, 255)  # it overshoots at edges
    return resized.round_().to(torch.uint8)


def _size(height: int, width: int, wanted: tuple[int, ...]) -> tuple[int, int]:
    """Height and width that frames are resized to: those wanted, or by the short side, cut down."""
    if len(wanted) == 2:
        return wanted[0], wanted[1]
    (short,) = wanted
    if width <= height:
        return int(short * height / width), short
    return short, int(short * width / height)


def ten_crops(resized: Tensor, size: int) -> list[Tensor]:
    """``resized``, (T, 3, h, w) uint8, cut into ten of (3, T, size, size).

    In the order of ``featurestore.schema.CROPS``, which is torchvision's ``TenCrop``: top left, top
    right, bottom left, bottom right, centre; then the same five positions of the mirrored frame.

    Raises:
        ValueError: the frames are smaller than a crop.
    """
    height, width = resized.shape[-2:]
    if min(height, width) < size:
        raise ValueError(f"expected frames of at least {size}x{size}, got {height}x{width}")
    bottom, right = height - size, width - size
    # Python's round, half to even, as torchvision has it: 171 -> 112 starts at 30, not at 29
    middle = round(bottom / 2), round(right / 2)
    corners = ((0, 0), (0, right), (bottom, 0), (bottom, right), middle)
    clip = resized.transpose(0, 1)
    return [
        frames[:, :, top : top + size, left : left + size]
        for frames in (clip, clip.flip(-1))
        for top, left in corners
    ]
