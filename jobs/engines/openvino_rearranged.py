"""Networks written so that OpenVINO runs them faster: the same function of the same weights.

Two places are not what a processor is good at as they are published; the figures are of openvino
2026.4 on a Xeon with AMX, 2 cores, one crop:

- swin's shifted attention, where mask and bias are added with another view between them, which
  keeps OpenVINO from doing an attention in one go: 1.13 times as fast in bfloat16, 1.11 in float32.
- first convolutions over three channels, in hardware that multiplies 32 numbers at a time in
  bfloat16: i3d 1.29, s3d 1.15, r3d 1.13, r2plus1d 1.05 times as fast; in float32 it is the same.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jobs.engines.attention import FusedAttention, fuse_attention, window_mask

__all__ = ["FoldedConvolution", "PlainAttention", "rearrange"]


def rearrange(network: nn.Module) -> None:
    """Put the quicker forms into ``network``, in place; the names of other weights stay."""
    fuse_attention(network, PlainAttention)
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Conv3d) and FoldedConvolution.takes(child):
                setattr(module, name, FoldedConvolution(child))


class PlainAttention(FusedAttention):
    """Attention in the operations that OpenVINO knows as one: products, two sums and a softmax.

    Bias and mask stay two tensors: added up they are one for each window, which takes 225 MB and
    3% of swin's time.
    """

    def _mixed(self, qkv: Tensor, grid: list[int], window: list[int], shift: list[int]) -> Tensor:
        batch = qkv.shape[1]
        q, k, v = qkv.flatten(1, 2)  # (B * windows, heads, tokens, C / heads)
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        plain: Any = self.plain
        scores = scores + plain.get_relative_position_bias(window)
        if any(shift):
            mask = window_mask(grid, window, shift).to(scores)[:, None]
            scores = scores + mask.repeat(batch, 1, 1, 1)
        mixed: Tensor = scores.softmax(-1) @ v
        return mixed


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
