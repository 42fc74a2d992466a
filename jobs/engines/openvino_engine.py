"""OpenVINO: the engine for CPUs. Runs the networks that ``openvino_conversion`` keeps on disk."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from featurestore.errors import FeatureStoreError
from jobs import processor
from jobs.engines.contract import Choice, Crops, check_crops
from jobs.specs import BackboneSpec
from jobs.weights import Weights

__all__ = ["OpenvinoNetwork", "has_bfloat16"]

PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}


class OpenvinoNetwork:
    """A network run by OpenVINO. See ``jobs.engines.contract.Network``.

    Args:
        threads: that it computes with; None: one a core.

    Raises:
        WeightsError: from the conversion, if it is not kept already.
        FeatureStoreError: the converted network cannot be kept, or not be compiled.
    """

    engine = "openvino"

    def __init__(
        self,
        spec: BackboneSpec,
        weights: Weights,
        choice: Choice,
        *,
        threads: int | None = None,
        cache: Path | None = None,
        versions: dict[str, str] | None = None,
    ) -> None:
        # It imports torch, which deciding on an engine does without
        from jobs.engines.openvino_conversion import convert, openvino

        self.spec = spec
        self.precision = choice.precision
        self.device = choice.device
        self.versions = versions or {}
        kept = convert(spec, weights, cache)
        threads = threads or processor.cores()
        # Two crops at a time, each by half of the threads: on two cores all five take 1.18 times as
        # long one after another in bfloat16, 1.07 in float32 (Xeon with AMX). And a core that is
        # busy decoding holds up one of them, not all.
        streams = 1 if threads % 2 else 2
        settings = {
            "INFERENCE_PRECISION_HINT": PRECISIONS[choice.precision],
            "PERFORMANCE_HINT": "THROUGHPUT",
            "NUM_STREAMS": str(streams),
            "INFERENCE_NUM_THREADS": str(threads),
            # It would count cores from the first, in each process: all workers of a machine would
            # share the first one's cores (two of one thread took twice as long).
            "ENABLE_CPU_PINNING": "NO",
        }
        core = openvino.Core()
        core.set_property({"ENABLE_MMAP": True})  # workers share the weights' pages until compiled
        try:
            self._calls = openvino.AsyncInferQueue(
                core.compile_model(kept, "CPU", settings), streams
            )
        except RuntimeError as error:
            raise FeatureStoreError(
                f"{kept.parent}: OpenVINO cannot compile the network kept there "
                f"({str(error).strip().splitlines()[-1]}); delete the folder, or use --engine torch"
            ) from error

    def features(self, crops: Crops) -> np.ndarray:
        """``crops``, N of (3, 16, h, w) uint8 -> (N, channels) float32.

        Raises:
            ValueError: crops of another shape or dtype.
        """
        check_crops(self.spec, crops)
        features = np.empty((len(crops), self.spec.channels), np.float32)

        def keep(call: Any, crop: int) -> None:
            features[crop] = call.get_output_tensor(0).data[0]

        self._calls.set_callback(keep)
        for i, crop in enumerate(crops):
            self._calls.start_async([crop.cpu().numpy()[None]], i)  # copied into the call's own
        self._calls.wait_all()
        return features


def has_bfloat16() -> bool:
    """Whether OpenVINO computes in bfloat16 here, and the processor too."""
    # OpenVINO (2026.4) says BF16 of every AVX-512 processor, also where it has to convert
    if not processor.has_bfloat16():
        return False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own insides
        import openvino
    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
