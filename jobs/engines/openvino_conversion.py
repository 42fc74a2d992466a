"""torch networks -> OpenVINO networks, once, kept on disk by all that decides what they compute.

``<cache>/openvino/<backbone>-<key>/`` holds ``network.xml``, ``network.bin`` and ``facts.json``:
what the key was made of, and the sizes of the other two, by which a damaged copy is noticed.
"""

from __future__ import annotations

import ctypes
import gc
import hashlib
import json
import shutil
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import Tensor, nn

from featurestore.errors import FeatureStoreError
from jobs.specs import BackboneSpec
from jobs.weights import Weights, cache_folder

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its own insides
    import openvino

__all__ = ["Normalised", "convert", "kept_at", "openvino"]

FORM = 3
"""Counts the ways that networks were rearranged in, so that those kept in another are not used."""


class Normalised(nn.Module):
    """A network with its preset's normalising in front: (N, 3, T, h, w) uint8 -> features."""

    mean: Tensor
    std: Tensor

    def __init__(self, spec: BackboneSpec, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        shape = (3, 1, 1, 1)
        self.register_buffer("mean", torch.tensor(spec.preprocessing.mean).view(shape))
        self.register_buffer("std", torch.tensor(spec.preprocessing.std).view(shape))

    def forward(self, crops: Tensor) -> Tensor:
        features: Tensor = self.network((crops.float() / 255 - self.mean) / self.std)
        return features


def convert(spec: BackboneSpec, weights: Weights, cache: Path | None = None) -> Path:
    """The converted network's file; converted now if it is not kept already.

    Several processes may ask at once: one converts, the others wait. A process killed meanwhile
    leaves nothing that is used.

    Raises:
        WeightsError: from loading the network.
        FeatureStoreError: the cache cannot be written.
    """
    folder = kept_at(spec, weights, cache)
    if not _whole(folder):
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{folder}.lock"):
                if not _whole(folder):
                    _make(folder, spec, weights)
        except OSError as error:
            raise FeatureStoreError(
                f"{folder}: cannot keep the converted network ({error.strerror or error}); make "
                "room, or set FS_CACHE to another folder"
            ) from error
    return folder / "network.xml"


def kept_at(spec: BackboneSpec, weights: Weights, cache: Path | None = None) -> Path:
    """The folder of a converted network, whether it is there or not."""
    text = json.dumps(_facts(spec, weights), sort_keys=True)
    key = hashlib.sha256(text.encode()).hexdigest()[:16]
    return cache_folder(cache) / "openvino" / f"{spec.name}-{key}"


def _facts(spec: BackboneSpec, weights: Weights) -> dict[str, Any]:
    return {
        "model": spec.model,
        "weights": weights.digest,
        "input": _input_shape(spec),
        "mean": spec.preprocessing.mean,
        "std": spec.preprocessing.std,
        "form": FORM,
        "openvino": openvino.__version__,
        "torch": torch.__version__,
    }


def _input_shape(spec: BackboneSpec) -> list[int]:
    """One crop at a time: ten at once were no faster (CPU seconds a crop: r3d .67 against .68, s3d
    .37 against .36; EPYC, 2 cores) and took 1.2 to 1.7 GB instead of .7."""
    size = spec.preprocessing.crop
    return [1, 3, spec.preprocessing.frames, size, size]


def _whole(folder: Path) -> bool:
    try:
        sizes = json.loads((folder / "facts.json").read_text())["bytes"]
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, KeyError):
        return False


def _make(folder: Path, spec: BackboneSpec, weights: Weights) -> None:
    temporary = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        _convert(spec, weights, temporary / "network.xml")
        sizes = {path.name: path.stat().st_size for path in sorted(temporary.iterdir())}
        facts = {**_facts(spec, weights), "bytes": sizes}
        (temporary / "facts.json").write_text(json.dumps(facts, indent=1) + "\n")
        if folder.exists():  # a damaged one
            shutil.rmtree(folder)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _convert(spec: BackboneSpec, weights: Weights, target: Path) -> None:
    # Seconds; nothing that is kept already needs them
    from jobs.backbones import load
    from jobs.engines.openvino_rearranged import rearrange

    shape = _input_shape(spec)
    loaded = load(spec, weights)
    rearrange(loaded)
    network = Normalised(spec, loaded).eval()
    example = torch.zeros(shape, dtype=torch.uint8)
    with warnings.catch_warnings(), torch.inference_mode():
        # torch.jit is deprecated, and tracing warns of each shape that becomes a constant. The
        # shapes are constant here.
        warnings.simplefilter("ignore")
        # Without the check, which would run everything twice more: swin 29 s instead of 92
        traced = torch.jit.trace(network, example, check_trace=False)
        converted = openvino.convert_model(traced, input=[(shape, openvino.Type.u8)])
    _check_signature(spec, converted, shape)
    try:
        openvino.save_model(converted, target, compress_to_fp16=False)
    except RuntimeError as error:  # how it reports a disk that is full
        raise OSError(None, str(error).strip().splitlines()[-1]) from error
    # They share memory with torch's weights: only when all are gone is it free
    del loaded, network, traced, converted
    _give_memory_back()


def _check_signature(spec: BackboneSpec, converted: Any, shape: list[int]) -> None:
    """Raise FeatureStoreError unless the network maps one batch of crops to their features.

    Seen once in some dozens of conversions (openvino 2026.4.1): the traced module itself was taken
    for the input, and crops had no shape. Kept, it would have failed each run from then on.
    """
    found = [str(port.partial_shape) for port in (*converted.inputs, *converted.outputs)]
    expected = [str(openvino.PartialShape(s)) for s in (shape, [shape[0], spec.channels])]
    if found != expected:
        raise FeatureStoreError(
            f"{spec.name}: OpenVINO converted the network wrongly (expected {expected[0]} -> "
            f"{expected[1]}, got {', '.join(found)}); run again, or use --engine torch"
        )


def _give_memory_back() -> None:
    """Hand what was freed to the system. glibc keeps it otherwise: 0.8 GB a worker after swin."""
    gc.collect()
    with suppress(OSError, AttributeError):  # another C library than glibc
        ctypes.CDLL(None).malloc_trim(0)
