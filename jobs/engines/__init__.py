"""What runs a network: torch (reference, CUDA) and OpenVINO (CPUs), behind one contract."""

from __future__ import annotations

import importlib.util
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from featurestore.errors import UsageError
from jobs import processor
from jobs.engines.contract import Choice, Network, Pending
from jobs.specs import BackboneSpec

if TYPE_CHECKING:
    from jobs.weights import Weights

__all__ = [
    "Choice",
    "Network",
    "Pending",
    "choose",
    "has_bfloat16",
    "open_network",
    "prepare",
    "versions",
    "why",
]

DEVICES = ("cpu", "cuda")
PRECISIONS = {"openvino": ("float32", "bfloat16"), "torch": ("float32", "bfloat16", "float16")}


def choose(engine: str = "auto", precision: str = "auto", device: str = "auto") -> Choice:
    """What to run on, with every ``auto`` decided by what this machine has.

    ``auto``: the device is CUDA where there is one; the engine is OpenVINO on CPUs and torch on
    CUDA; the precision is float16 (by autocast) on CUDA, with OpenVINO bfloat16 where the processor
    has it, else float32. torch on CPUs is the reference, so it computes in float32.

    Raises:
        UsageError: no such thing, not on this machine, or not together.
    """
    _known("--device", device, DEVICES)
    _known("--engine", engine, tuple(PRECISIONS))
    _known("--precision", precision, PRECISIONS["torch"])
    note = ""
    if device == "auto":
        # OpenVINO means the CPU, and finding out about CUDA costs the import of torch
        device = "cuda" if engine != "openvino" and _has_cuda() else "cpu"
    elif device == "cuda" and not _has_cuda():
        raise UsageError("--device cuda: torch finds no CUDA device here; use --device cpu")
    if engine == "auto":
        if device == "cpu" and importlib.util.find_spec("openvino") is None:
            note = "OpenVINO is not installed here, so torch runs: 1.3 to 3 times slower"
        engine = "openvino" if device == "cpu" and not note else "torch"
    if engine == "openvino" and device == "cuda":
        raise UsageError("--engine openvino runs on CPUs; with --device cuda use --engine torch")
    if precision == "auto":
        precision = "float16" if device == "cuda" else "float32"
        if engine == "openvino" and importlib.util.find_spec("openvino") and has_bfloat16(engine):
            precision = "bfloat16"
    if precision not in PRECISIONS[engine] or (precision, device) == ("float16", "cpu"):
        raise UsageError(
            f"--precision {precision} does not go with {engine} on {device}; use float32 or "
            "bfloat16"
        )
    if engine == "openvino" and importlib.util.find_spec("openvino") is None:
        raise UsageError("--engine openvino: it is not installed; pip install openvino")
    if (precision, device) == ("bfloat16", "cpu") and not has_bfloat16(engine):
        raise UsageError(
            "--precision bfloat16: this processor has no bfloat16; use --precision float32"
        )
    return Choice(engine, precision, device, note)


def has_bfloat16(engine: str) -> bool:
    """Whether ``engine`` computes in bfloat16 here, by the processor's own instructions.

    Without them OpenVINO would compute in float32 and nobody would know, or slowly; torch would
    take minutes for a crop (r3d on AVX2: over 300 s for a few).
    """
    if engine == "openvino":
        from jobs.engines import openvino_engine

        return openvino_engine.has_bfloat16()
    from jobs.engines import torch_engine

    return torch_engine.has_bfloat16()


def why(choice: Choice) -> str:
    """Why ``choose()`` came to ``choice`` here, in a few words."""
    if choice.device == "cuda":
        return "there is a CUDA device: torch, in half precision"
    if choice.engine == "torch":
        return choice.note or "asked for"
    has = "has bfloat16" if choice.precision == "bfloat16" else "has no bfloat16"
    return f"no CUDA device, so OpenVINO; the processor {has}"


def prepare(
    spec: BackboneSpec, weights: Weights, choice: Choice, *, cache: Path | None = None
) -> None:
    """Do once what the engine needs before it can open a network: OpenVINO converts and keeps it.

    Nothing to do the second time. Several processes may call it at once.

    Raises:
        WeightsError: the weights cannot be loaded.
        FeatureStoreError: the converted network cannot be kept.
    """
    if choice.engine == "openvino":
        from jobs.engines.openvino_conversion import convert

        convert(spec, weights, cache)


def open_network(
    spec: BackboneSpec,
    weights: Weights,
    choice: Choice,
    *,
    threads: int | None = None,
    cache: Path | None = None,
) -> Network:
    """A network ready to run.

    Args:
        threads: to compute with; None: the engine's own default. torch sets them for the process.

    Raises:
        WeightsError: the weights cannot be loaded.
        FeatureStoreError: the engine cannot run the network.
    """
    made_by = versions(spec, choice)
    if choice.engine == "openvino":
        from jobs.engines.openvino_engine import OpenvinoNetwork

        return OpenvinoNetwork(
            spec, weights, choice, threads=threads, cache=cache, versions=made_by
        )
    from jobs.engines.torch_engine import TorchNetwork

    return TorchNetwork(spec, weights, choice, threads=threads, versions=made_by)


def versions(spec: BackboneSpec, choice: Choice) -> dict[str, str]:
    """Versions of the packages that have a part in the numbers, by name; imports none of them."""
    from_timm, from_pytorchvideo = spec.image, spec.name == "i3d"
    names = ["torch", "torchvision"]
    names += ["timm"] if from_timm else ["pytorchvideo"] if from_pytorchvideo else []
    names += ["openvino"] if choice.engine == "openvino" else []
    return {name: version(name) for name in names}


def _known(option: str, value: str, values: tuple[str, ...]) -> None:
    if value != "auto" and value not in values:
        raise UsageError(f"{option} {value}: unknown; there are auto, {', '.join(values)}")


def _has_cuda() -> bool:
    if "torch" not in sys.modules and not processor.may_have_gpu():
        return False  # what torch would say after 3 seconds of importing it
    import torch

    return torch.cuda.is_available()
