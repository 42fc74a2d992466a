"""torch, eager: the reference on CPUs, and what runs on CUDA.

One path for both devices: uint8 crops go to the device, are normalised there and run under
autocast when the precision is not float32. On CPUs crops run one by one; on CUDA all at once.
"""

from __future__ import annotations

import time

import numpy as np
import torch
from torch import Tensor

from featurestore.errors import FeatureStoreError
from jobs import processor
from jobs.backbones import load
from jobs.engines.attention import fuse_attention
from jobs.engines.contract import Choice, Crops, Pending, check_crops
from jobs.specs import BackboneSpec
from jobs.weights import Weights

__all__ = ["TorchNetwork", "has_bfloat16"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
CROPS_AT_ONCE = {"cpu": 1, "cuda": 40}  # four clips; that figure is unmeasured


class TorchNetwork:
    """A network run by torch. See ``jobs.engines.contract.Network``.

    Args:
        threads: of this whole process, since torch knows no other; None leaves them as they are.
        as_on_cuda: arranged as for CUDA whatever the device is: how a CPU exercises that path.

    Raises:
        WeightsError: from loading.
    """

    engine = "torch"

    def __init__(
        self,
        spec: BackboneSpec,
        weights: Weights,
        choice: Choice,
        *,
        threads: int | None = None,
        versions: dict[str, str] | None = None,
        as_on_cuda: bool | None = None,
    ) -> None:
        self.spec = spec
        self.precision = choice.precision
        self.device = choice.device
        self.versions = versions or {}
        if threads is not None:
            torch.set_num_threads(threads)
        network = load(spec, weights)
        self._format = torch.contiguous_format
        as_on_cuda = choice.device == "cuda" if as_on_cuda is None else as_on_cuda
        if as_on_cuda:
            # The CPU's is left as torchvision has it: it is what the other engines are held against
            fuse_attention(network)
            self._format = torch.channels_last if spec.image else torch.channels_last_3d
        network = network.to(choice.device)
        self._network = network.to(memory_format=self._format)  # type: ignore[call-overload]
        self._at_once = CROPS_AT_ONCE["cuda" if as_on_cuda else "cpu"]
        shape = (3, 1, 1, 1)
        self._mean = torch.tensor(spec.preprocessing.mean, device=choice.device).view(shape)
        self._std = torch.tensor(spec.preprocessing.std, device=choice.device).view(shape)

    def features(self, crops: Crops) -> np.ndarray:
        """The features of ``crops``, (N, channels) float32; raises what ``start`` does."""
        return self.start(crops)()[0]

    def start(self, crops: Crops) -> Pending:
        """``crops``, N of (3, 16, h, w) uint8 on any device -> (N, channels) float32, when waited
        for. A CPU has them when this returns; a card then has all that it is to do.

        Raises:
            ValueError: crops of another shape or dtype.
            FeatureStoreError: one crop alone is more than the device's memory holds.
        """
        check_crops(self.spec, crops)
        done: list[Tensor] = []
        start = 0
        while start < len(crops):
            try:
                some = crops[start : start + self._at_once]
                done.append(self._run(some if isinstance(some, Tensor) else torch.stack([*some])))
            except torch.OutOfMemoryError as error:
                if self._at_once == 1:
                    raise FeatureStoreError(
                        f"{self.spec.name}: one crop does not fit into the memory of "
                        f"{self.device}; use --device cpu, or --precision float16"
                    ) from error
                self._at_once = (self._at_once + 1) // 2
                continue
            start += self._at_once
        there = time.perf_counter()

        def wait() -> tuple[np.ndarray, float]:
            if not done:
                return np.empty((0, self.spec.channels), np.float32), there
            features = torch.cat(done).cpu().numpy()
            return features, there if self.device == "cpu" else time.perf_counter()

        return wait

    @torch.inference_mode()
    def _run(self, crops: Tensor) -> Tensor:
        # In the order of the presets: to 0..1, less the mean, over the deviation; always in float32
        pixels = crops.to(self.device, non_blocking=True).float().div_(255)
        pixels = pixels.sub_(self._mean).div_(self._std)
        if self._format is not torch.contiguous_format:
            pixels = pixels.contiguous(memory_format=torch.channels_last_3d)
        dtype = DTYPES[self.precision]
        # cuDNN would otherwise use TF32 (10 bits of mantissa) for what is called float32
        with (
            torch.backends.cudnn.flags(
                enabled=True, benchmark=False, deterministic=True, allow_tf32=False
            ),
            torch.autocast(self.device, dtype=dtype, enabled=dtype is not torch.float32),
        ):
            features: Tensor = self._network(pixels)
        return features.float()


def has_bfloat16() -> bool:
    """Whether torch's CPU kernels for bfloat16 run on this processor, not slow loops."""
    supported: bool = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return supported and processor.has_bfloat16()
