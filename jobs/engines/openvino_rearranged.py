"""Networks written so that OpenVINO runs them faster: the same function of the same weights.

Two places are not what a processor is good at as they are published; the figures are of openvino
2026.4 on a Xeon with AMX, 2 cores, one crop:

- swin's windows. torchvision rolls the input where windows are shifted, so that some are made of
  pieces from opposite ends, and masks what the pieces would see of each other. Here each piece is a
  smaller window of its own: nothing is rolled, masked or computed in vain (of the third stage's
  shifted attention 43%), and tokens stay in the windows' order from block to block: 1.22 times as
  fast in bfloat16, 1.21 in float32.
- first convolutions over three channels, in hardware that multiplies 32 numbers at a time in
  bfloat16: i3d 1.29, s3d 1.15, r3d 1.13, r2plus1d 1.05 times as fast; in float32 it is the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jobs.backbones._torchvision import torchvision

__all__ = ["FoldedConvolution", "WindowedBlocks", "rearrange"]

Numbers = npt.NDArray[np.int64]
Block = torchvision.models.swin_transformer.SwinTransformerBlock
Attention = torchvision.models.video.swin_transformer.ShiftedWindowAttention3d


def rearrange(network: nn.Module) -> None:
    """Put the quicker forms into ``network``, in place; the names of other weights stay."""
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Conv3d) and FoldedConvolution.takes(child):
                setattr(module, name, FoldedConvolution(child))
            elif WindowedBlocks.takes(child):
                setattr(module, name, WindowedBlocks(child))


@dataclass(frozen=True)
class Windows:
    """Windows of one size that lie side by side: a part of the input (T, H, W).

    ``part`` are slices of the input; ``size`` is that of a window, and ``place`` where it lies in
    a whole one, as slices too, for those that are only pieces.
    """

    part: tuple[slice, ...]
    size: tuple[int, ...]
    place: tuple[slice, ...]

    @property
    def tokens(self) -> int:
        """In one window."""
        return math.prod(self.size)

    @property
    def count(self) -> int:
        """Of windows."""
        return math.prod(int(p.stop - p.start) for p in self.part) // self.tokens

    def order(self, tokens: Numbers) -> Numbers:
        """Of (T, H, W) tokens those of these windows, one window after the other: (n,)."""
        tokens = tokens[self.part]
        grid = [length // size for length, size in zip(tokens.shape, self.size, strict=True)]
        shape = [both for pair in zip(grid, self.size, strict=True) for both in pair]
        return tokens.reshape(shape).transpose(0, 2, 4, 1, 3, 5).ravel()


def windows_of(size: tuple[int, ...], window: list[int], shift: list[int]) -> list[Windows]:
    """The windows that a shifted-window attention cuts an input (T, H, W) into, by their sizes.

    A window is never larger than the input, and along such an axis nothing is shifted; else an axis
    begins with a piece of the length of the shift and ends with the rest of that window.
    """
    axes: list[list[tuple[slice, int, slice]]] = []
    for length, whole, moved in zip(size, window, shift, strict=True):
        if length <= whole or not moved:
            whole = min(length, whole)
            axes.append([(slice(0, length), whole, slice(0, whole))])
            continue
        cuts = [0, moved, length - whole + moved, length]
        places = [slice(whole - moved, whole), slice(0, whole), slice(0, whole - moved)]
        axes.append(
            [
                (slice(begin, end), place.stop - place.start, place)
                for (begin, end), place in zip(pairwise(cuts), places, strict=True)
                if end > begin
            ]
        )
    return [Windows(*zip(*parts, strict=True)) for parts in product(*axes)]


class WindowedBlocks(nn.Module):
    """Blocks of shifted-window attention, one after the other: (B, T, H, W, C), as before.

    Where a window does not fit a whole number of times, which no published preset has, the blocks
    are computed as they were.
    """

    def __init__(self, plain: nn.Module) -> None:
        super().__init__()
        self.plain = plain
        self.attention = nn.ModuleList(WindowAttention(block.attn) for block in plain.children())

    @staticmethod
    def takes(plain: nn.Module) -> bool:
        """Whether these are such blocks."""
        blocks = list(plain.children())
        return bool(blocks) and all(
            isinstance(block, Block) and isinstance(block.attn, Attention) for block in blocks
        )

    def forward(self, x: Tensor) -> Tensor:
        batch, *size, channels = (int(length) for length in x.shape)
        each: list[Any] = list(self.plain.children())
        if any(s % min(s, w) for s, w in zip(size, each[0].attn.window_size, strict=True)):
            out: Tensor = self.plain(x)
            return out
        tokens = x.flatten(1, 3)
        now = raster = np.arange(math.prod(size))
        for block, attention in zip(each, self.attention, strict=True):
            windows = windows_of(tuple(size), block.attn.window_size, block.attn.shift_size)
            order = np.concatenate([some.order(raster.reshape(size)) for some in windows])
            tokens, now = _reordered(tokens, now, order), order
            tokens = tokens + attention(block.norm1(tokens), windows)
            tokens = tokens + block.mlp(block.norm2(tokens))
        return _reordered(tokens, now, raster).view(batch, *size, channels)


class WindowAttention(nn.Module):
    """Attention within windows, of tokens (B, n, C) in their order.

    Queries, keys and values by one product each: OpenVINO takes the three apart by copying.
    """

    def __init__(self, plain: Any) -> None:
        super().__init__()
        self.plain = plain
        self.heads = plain.num_heads
        channels = plain.proj.in_features
        scales = ((channels // self.heads) ** -0.5, 1.0, 1.0)
        self.weights, self.biases = (
            nn.ParameterList(
                part * scale for part, scale in zip(both.split(channels), scales, strict=True)
            )
            for both in (plain.qkv.weight.detach(), plain.qkv.bias.detach())
        )

    def forward(self, tokens: Tensor, windows: list[Windows]) -> Tensor:
        lengths = [some.count * some.tokens for some in windows]
        qkv = [
            F.linear(tokens, weight, bias).split(lengths, 1)
            for weight, bias in zip(self.weights, self.biases, strict=True)
        ]
        whole = tuple(max(some.size[axis] for some in windows) for axis in range(3))
        # In numpy, so that constants are traced, not ways to them: those take OpenVINO 25 s
        position = self.plain.get_relative_position_bias(list(whole)).detach().numpy()
        position = position.reshape(-1, *whole, *whole)
        mixed = []
        for some, *parts in zip(windows, *qkv, strict=True):
            shape = (len(tokens) * some.count, some.tokens, self.heads)
            q, v = (part.reshape(*shape, -1).transpose(1, 2) for part in (parts[0], parts[2]))
            # The same for keys, in a way that OpenVINO does not join with the transposing below:
            # it would write the transposed keys, which takes three times as long
            k = parts[1].reshape(*shape, 1, -1).permute(0, 2, 3, 1, 4).reshape(q.shape)
            bias = position[(slice(None), *some.place, *some.place)]
            bias = bias.reshape(1, self.heads, some.tokens, some.tokens)
            scores = q @ k.transpose(-1, -2) + torch.from_numpy(bias)
            mixed.append((scores.softmax(-1) @ v).transpose(1, 2).reshape(parts[0].shape))
        return F.linear(torch.cat(mixed, 1), self.plain.proj.weight, self.plain.proj.bias)


def _reordered(tokens: Tensor, now: Numbers, order: Numbers) -> Tensor:
    """Tokens (B, n, C) that come in the order ``now``, in another."""
    if (now == order).all():
        return tokens
    return tokens[:, torch.from_numpy(now.argsort()[order])]


class FoldedConvolution(nn.Module):
    """A convolution of 7x7 in space and stride 2, as one of 4x4 over pixels folded two by two.

    Four pixels of three channels become one of twelve ("space to depth", as TensorFlow's ResNet for
    TPUs does it), so the products are longer and fewer. (N, 3, T, h, w), h and w even, as before.
    """

    def __init__(self, plain: nn.Conv3d) -> None:
        super().__init__()
        weight = F.pad(plain.weight.detach(), (1, 0, 1, 0))  # an eighth row and column before
        out, channels, time = weight.shape[:3]
        weight = weight.view(out, channels, time, 4, 2, 4, 2).permute(0, 1, 4, 6, 2, 3, 5)
        self.weight = nn.Parameter(weight.reshape(out, channels * 4, time, 4, 4))
        self.bias = plain.bias
        self.stride, self.padding = (plain.stride[0], 1, 1), (int(plain.padding[0]), 0, 0)

    @staticmethod
    def takes(plain: nn.Conv3d) -> bool:
        """Whether it is one of those."""
        shape = (plain.in_channels, *plain.kernel_size[1:], *plain.stride[1:], *plain.padding[1:])
        return shape == (3, 7, 7, 2, 2, 3, 3) and plain.dilation == (1, 1, 1) and plain.groups == 1

    def forward(self, x: Tensor) -> Tensor:
        n, channels, time, height, width = (int(size) for size in x.shape)
        x = x.view(n, channels, time, height // 2, 2, width // 2, 2).permute(0, 1, 4, 6, 2, 3, 5)
        x = x.reshape(n, channels * 4, time, height // 2, width // 2)
        # Three pixels before and after are, with the eighth row, two folded ones and one
        x = F.pad(x, (2, 1, 2, 1))
        return torch.conv3d(x, self.weight, self.bias, self.stride, self.padding)
