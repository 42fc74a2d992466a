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
        # What is computed with in place, as attention's biases are, would be read from pages of the
        # file each time: swin 1.16 times as long in bfloat16, 1.02 in float32 (Xeon with AMX).
        core.set_property({"ENABLE_MMAP": False})
        try:
            model = core.read_model(kept)
            # Held: OpenVINO's tensors do not own what they were made of
            self._biases = biases_as_inputs(model) if choice.precision == "bfloat16" else []
            self._calls = openvino.AsyncInferQueue(
                core.compile_model(model, "CPU", settings), streams
            )
        except RuntimeError as error:
            raise FeatureStoreError(
                f"{kept.parent}: OpenVINO cannot compile the network kept there "
                f"({str(error).strip().splitlines()[-1]}); delete the folder, or use --engine torch"
            ) from error
        for call in self._calls:
            for number, bias in enumerate(self._biases, 1):
                tensor = openvino.Tensor(bias, bias.shape, openvino.Type.bf16)
                call.set_input_tensor(number, tensor)

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
            # Copied into the call's own
            self._calls.start_async({0: crop.cpu().numpy()[None]}, i)
        self._calls.wait_all()
        return features


def biases_as_inputs(model: Any) -> list[np.ndarray]:
    """Make the biases of attention inputs of ``model``, after its own.

    Returns their values, (heads, tokens, tokens) each: bfloat16, in int16 because numpy has no such
    type. They are to be given in this order with each call.

    OpenVINO leaves constants of attention in float32 where all else is bfloat16. Each number of
    swin's is used once to a few times a crop, and reading them took a sixth of its time: half as
    many bytes make it 1.10 times as fast (Xeon with AMX).
    """
    import torch
    from openvino import Type, opset13

    biases = []
    for node in model.get_ordered_ops():
        if node.get_type_name() != "ScaledDotProductAttention" or node.get_input_size() < 4:
            continue
        bias = node.input_value(3).get_node()
        if bias.get_type_name() != "Constant":
            continue
        # Not a mask of true and false, nor the single 0 that stands for no bias
        if bias.get_element_type() != Type.f32 or bias.data.ndim < 2:
            continue
        values = torch.from_numpy(bias.data.copy()).bfloat16()
        biases.append(values.view(torch.int16).numpy())
        given = opset13.parameter(list(values.shape), Type.bf16)
        node.input(3).replace_source_output(opset13.convert(given, "f32").output(0))
        model.add_parameters([given])
    return biases


def has_bfloat16() -> bool:
    """Whether OpenVINO computes in bfloat16 here, and the processor too."""
    # OpenVINO (2026.4) says BF16 of every AVX-512 processor, also where it has to convert
    if not processor.has_bfloat16():
        return False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own insides
        import openvino
    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
