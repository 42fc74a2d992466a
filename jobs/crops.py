"""Frames -> resized frames -> ten crops, in the arithmetic of the networks' published presets.

Everything stays uint8: the presets round to whole pixel values after resizing, and normalising
happens inside the engines. Works on any device.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from jobs.specs import Geometry, Preprocessing

__all__ = ["Cut", "Geometry", "cut", "geometry", "resize", "ten_crops"]


@dataclass(frozen=True)
class Cut:
    """Crops of so many clips, made one preset after another while the first are in use."""

    clips: int
    crops: Mapping[tuple[Geometry, int], Future[Tensor]]

    def of(self, preprocessing: Preprocessing) -> Tensor:
        """The crops for networks with this preset, (clips * 10, 3, T, size, size) uint8."""
        return self.crops[_shape(preprocessing)].result()


def cut(clips: Sequence[Tensor], presets: Iterable[Preprocessing], thread: Executor) -> Cut:
    """Each of ``clips``, (T, H, W, 3) uint8, in ten crops for each of ``presets``, by a thread.

    What presets share is done once.
    """
    resized: dict[Geometry, list[Tensor]] = {}

    def crops(shape: Geometry, size: int) -> Tensor:
        if shape not in resized:
            resized[shape] = [resize(frames, shape) for frames in clips]
        return torch.cat([ten_crops(frames, size) for frames in resized[shape]])

    shapes = dict.fromkeys(map(_shape, presets))
    return Cut(len(clips), {shape: thread.submit(crops, *shape) for shape in shapes})


def _shape(preprocessing: Preprocessing) -> tuple[Geometry, int]:
    return geometry(preprocessing), preprocessing.crop


def geometry(preprocessing: Preprocessing) -> Geometry:
    """How ``preprocessing`` resizes frames; hashable: networks with the same one share the work."""
    return preprocessing.geometry


def resize(frames: Tensor, geometry: Geometry) -> Tensor:
    """``frames``, (T, H, W, 3) uint8, resized: (T, 3, h, w) uint8.

    The arithmetic of the presets, which is torchvision's on tensors: interpolated in float32, then
    rounded, half to even. (On PIL images torchvision gives other values.) Not torchvision's own
    function: importing it takes every worker 3 seconds.

    Raises:
        ValueError: not frames of that shape and dtype.
    """
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != torch.uint8:
        raise ValueError(
            f"expected frames (T, H, W, 3) uint8, got {tuple(frames.shape)} {frames.dtype}"
        )
    pixels = frames.permute(0, 3, 1, 2)
    size = _size(frames.shape[1], frames.shape[2], geometry.resize)
    if size == tuple(pixels.shape[-2:]):
        return pixels
    out = torch.empty((*pixels.shape[:2], *size), dtype=torch.uint8, device=frames.device)
    # A processor takes a frame at a time, in numbers that stay in its cache: a clip of 1280x720 is
    # 177 MB of them, and takes three to six times as long.
    step = 1 if frames.device.type == "cpu" else len(frames)
    numbers = torch.empty((step, *frames.shape[1:]), device=frames.device)
    for some, target in zip(frames.split(step), out.split(step), strict=True):
        resized = F.interpolate(
            numbers.copy_(some).permute(0, 3, 1, 2),
            size=size,
            mode=geometry.interpolation,
            align_corners=False,
            antialias=geometry.antialias,
        )
        if geometry.interpolation == "bicubic":
            resized = resized.clamp(0, 255)  # it overshoots at edges
        target.copy_(resized.round_())
    return out


def _size(height: int, width: int, wanted: tuple[int, ...]) -> tuple[int, int]:
    """Height and width that frames are resized to: those wanted, or by the short side, cut down."""
    if len(wanted) == 2:
        return wanted[0], wanted[1]
    (short,) = wanted
    if width <= height:
        return int(short * height / width), short
    return short, int(short * width / height)


def ten_crops(resized: Tensor, size: int) -> Tensor:
    """``resized``, (T, 3, h, w) uint8, cut to (10, 3, T, size, size), contiguous.

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
    return torch.stack(
        [
            frames[:, :, top : top + size, left : left + size]
            for frames in (clip, clip.flip(-1))
            for top, left in corners
        ]
    )
