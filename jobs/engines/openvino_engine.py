"""OpenVINO: the engine for CPUs. Runs the networks that ``openvino_conversion`` keeps on disk."""

from __future__ import annotations

import time
import warnings
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import cache
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import numpy as np

from featurestore.errors import FeatureStoreError
from jobs import processor
from jobs.engines.contract import Choice, Crops, Pending, check_crops
from jobs.specs import BackboneSpec
from jobs.weights import Weights

if TYPE_CHECKING:
    from torch import Tensor

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
            compiled = core.compile_model(model, "CPU", settings)
        except RuntimeError as error:
            raise FeatureStoreError(
                f"{kept.parent}: OpenVINO cannot compile the network kept there "
                f"({str(error).strip().splitlines()[-1]}); delete the folder, or use --engine torch"
            ) from error
        self._streams = streams
        self._calls = _calls(streams)
        self._free: SimpleQueue[tuple[Any, np.ndarray]] = SimpleQueue()
        for _ in range(streams):
            request = compiled.create_infer_request()
            for number, bias in enumerate(self._biases, 1):
                tensor = openvino.Tensor(bias, bias.shape, openvino.Type.bf16)
                request.set_input_tensor(number, tensor)
            # Here, by one thread: two that touch a tensor's numbers for the first time in a process
            # can wait for each other for ever (openvino 2026.4.1, in its binding to numpy)
            self._free.put((request, request.get_input_tensor(0).data))

    def features(self, crops: Crops) -> np.ndarray:
        """The features of ``crops``, (N, channels) float32; raises what ``start`` does."""
        return self.start(crops)()[0]

    def start(self, crops: Crops) -> Pending:
        """``crops``, N of (3, 16, h, w) uint8 -> (N, channels) float32, when waited for.

        Raises:
            ValueError: crops of another shape or dtype.
        """
        check_crops(self.spec, crops)
        there = time.perf_counter()
        rows: list[Future[tuple[np.ndarray, float]]] = []
        for number, crop in enumerate(crops):
            rows.append(self._calls.submit(self._run, crop))
            # One crop is ready for the stream that ends first; with more, clips would pile up
            if number >= self._streams:
                wait([rows[number - self._streams]])

        def features() -> tuple[np.ndarray, float]:
            if not rows:
                return np.empty((0, self.spec.channels), np.float32), there
            found, times = zip(*(row.result() for row in rows), strict=True)
            return np.stack(found), max(times)

        return features

    def _run(self, crop: Tensor) -> tuple[np.ndarray, float]:
        request, given = self._free.get()  # there are as many as threads that run this
        try:
            given[0] = crop.cpu().numpy()
            request.start_async()
            request.wait()
            return request.get_output_tensor(0).data[0].copy(), time.perf_counter()
        finally:
            self._free.put((request, given))


@cache
def _calls(streams: int) -> ThreadPoolExecutor:
    """Where all networks of this process take their turns, crop after crop: one's last crops and
    the next one's first run beside each other, and no core waits."""
    return ThreadPoolExecutor(streams, thread_name_prefix="networks")


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
