"""torchvision's 3D shifted-window attention by torch's fused kernel, for CUDA.

torchvision computes the position bias and the shift's mask anew at each call, and keeps the whole
matrix of attention (157 MB a crop in the first layers of swin3d_b). Here bias and mask are added
up once per size of input and kept, and ``scaled_dot_product_attention`` never writes the matrix.
The keeping costs 0.7 GB for swin3d_b in float32, half of that in half precision.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jobs.backbones._torchvision import torchvision

__all__ = ["FusedAttention", "fuse_attention"]

Plain = torchvision.models.video.swin_transformer.ShiftedWindowAttention3d


def fuse_attention(network: nn.Module) -> int:
    """Replace every shifted-window attention inside ``network``; returns how many there were.

    For inference: the kept bias does not follow later changes of the weights.
    """
    replaced = 0
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, Plain):
                setattr(module, name, FusedAttention(child))
                replaced += 1
    return replaced


class FusedAttention(nn.Module):
    """The same function of (B, T, H, W, C) as the ``ShiftedWindowAttention3d`` it is made from."""

    def __init__(self, plain: nn.Module) -> None:
        super().__init__()
        self.plain = plain
        self._kept: dict[tuple[object, ...], Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        plain: Any = self.plain
        size = x.shape[1:4]
        # A window is never larger than the input, and along such an axis nothing is shifted
        window = [min(w, s) for w, s in zip(plain.window_size, size, strict=True)]
        shift = [
            0 if s <= w else moved
            for w, s, moved in zip(plain.window_size, size, plain.shift_size, strict=True)
        ]
        pad = [-s % w for w, s in zip(window, size, strict=True)]
        padded = F.pad(x, (0, 0, 0, pad[2], 0, pad[1], 0, pad[0]))
        grid = [s // w for s, w in zip(padded.shape[1:4], window, strict=True)]
        if any(shift):
            padded = padded.roll([-s for s in shift], (1, 2, 3))
        windows = _cut(padded, grid, window)  # (B, windows, tokens, C)
        batch, count, tokens, channels = windows.shape
        heads = plain.num_heads
        qkv = F.linear(windows, plain.qkv.weight, plain.qkv.bias)
        qkv = qkv.view(batch, count, tokens, 3, heads, channels // heads).permute(3, 0, 1, 4, 2, 5)
        # The kernels take four axes. Shifted, each window has a bias of its own, and windows join
        # the heads: (B, windows * heads, tokens, C / heads); else they join the batch.
        q, k, v = qkv.flatten(2, 3) if any(shift) else qkv.flatten(1, 2)
        bias = self._bias(q, grid, window, shift)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        mixed = mixed.view(batch, count, heads, tokens, -1).transpose(2, 3).flatten(3)
        out = F.linear(mixed, plain.proj.weight, plain.proj.bias)
        out = _paste(out, grid, window)
        if any(shift):
            out = out.roll(shift, (1, 2, 3))
        return out[:, : size[0], : size[1], : size[2]]

    def _bias(self, like: Tensor, grid: list[int], window: list[int], shift: list[int]) -> Tensor:
        """Position bias plus mask, dtype as ``like``: (1, windows * heads, tokens, tokens), or
        (1, heads, tokens, tokens) where nothing is shifted."""
        key = (*grid, *window, *shift, like.dtype, like.device)
        if key not in self._kept:
            plain: Any = self.plain
            bias: Tensor = plain.get_relative_position_bias(window)  # (1, heads, n, n)
            if any(shift):
                mask = window_mask(grid, window, shift).to(bias)[:, None]
                bias = (bias + mask).flatten(0, 1)[None]
            self._kept[key] = bias.to(like).contiguous()
        return self._kept[key]


def window_mask(grid: list[int], window: list[int], shift: list[int]) -> Tensor:
    """-100 where two tokens of a window come from opposite ends of the rolled input, else 0;
    (windows, tokens, tokens)."""
    size = [g * w for g, w in zip(grid, window, strict=True)]
    region = torch.zeros(size, dtype=torch.int64)
    for axis, (length, w, moved) in enumerate(zip(size, window, shift, strict=True)):
        part = torch.zeros(length, dtype=torch.int64)
        if moved:
            part[length - w : length - moved] = 1
            part[length - moved :] = 2
        shape = [1, 1, 1]
        shape[axis] = length
        region = region * 3 + part.view(shape)
    tokens = _cut(region[None, ..., None], grid, window)[0, :, :, 0]
    return torch.where(tokens[:, :, None] == tokens[:, None, :], 0.0, -100.0)


def _cut(x: Tensor, grid: list[int], window: list[int]) -> Tensor:
    """(B, T, H, W, C) -> (B, windows, tokens, C)."""
    (a, b, c), (t, h, w) = grid, window
    parts = x.view(x.shape[0], a, t, b, h, c, w, x.shape[-1]).permute(0, 1, 3, 5, 2, 4, 6, 7)
    return parts.reshape(x.shape[0], a * b * c, t * h * w, x.shape[-1])


def _paste(x: Tensor, grid: list[int], window: list[int]) -> Tensor:
    """The inverse of ``_cut``."""
    (a, b, c), (t, h, w) = grid, window
    parts = x.view(x.shape[0], a, b, c, t, h, w, x.shape[-1]).permute(0, 1, 4, 2, 5, 3, 6, 7)
    return parts.reshape(x.shape[0], a * t, b * h, c * w, x.shape[-1])
