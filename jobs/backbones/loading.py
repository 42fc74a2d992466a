"""Networks with their weights: read from a file and compared name by name, or random numbers."""

from __future__ import annotations

import pickle
import struct
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file as load_safetensors
from torch import Tensor, nn

from featurestore.errors import WeightsError
from jobs.backbones._torchvision import timm
from jobs.backbones.video import CLASSIFIERS, VideoNetwork
from jobs.specs import BackboneSpec
from jobs.weights import Weights

__all__ = ["check", "load", "load_file"]

WRAPPERS = ("model_state", "state_dict", "model")  # pytorchvideo; Lightning and many; others
SHOWN = 3  # offending names in a message

# What torch.load raises for files that are cut, damaged or something else altogether
_UNREADABLE = (
    OSError, RuntimeError, EOFError, ValueError, KeyError, TypeError, IndexError, AttributeError,
    ImportError, AssertionError, MemoryError, OverflowError, struct.error, pickle.UnpicklingError,
    SafetensorError,
)  # fmt: skip


def load(spec: BackboneSpec, weights: Weights) -> nn.Module:
    """The network of ``spec``, ready to run: (N, 3, 16, h, w) float32, normalised -> (N, channels).

    In evaluation mode, on the CPU, without gradients.

    Raises:
        WeightsError: the file cannot be read, or holds the weights of another network.
    """
    if spec.image:
        from jobs.backbones.image import load_image

        network: nn.Module = load_image(spec, weights)
    elif weights.path is None:
        network = seeded(spec.model, weights.seed)
    else:
        with torch.device("meta"):  # neither memory nor random numbers for what is replaced
            empty = timm.create_model(spec.model, num_classes=0)
        assert isinstance(empty, VideoNetwork)
        load_file(empty, spec, weights.path)
        network = empty
    return network.eval().requires_grad_(False)


def check(spec: BackboneSpec, weights: Weights) -> None:
    """Raise what ``load`` would raise of a weights file; costs about a second for the largest."""
    if weights.path is not None:
        load(spec, weights)


def seeded(model: str, seed: int | None) -> nn.Module:
    """A timm model of random weights: the same in every process, whatever was drawn before."""
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.manual_seed(seed or 0)
        network: nn.Module = timm.create_model(model, num_classes=0)
    return network


def load_file(network: VideoNetwork, spec: BackboneSpec, path: Path) -> None:
    """Put the weights of ``path`` into a video network, and into a classifier of as many classes.

    Raises:
        WeightsError: the file cannot be read, or holds the weights of another network.
    """
    state = read_state(path)
    prefix = CLASSIFIERS[spec.model.partition(".")[0]] + "."
    head = {k.removeprefix(prefix): state.pop(k) for k in list(state) if k.startswith(prefix)}
    _assign(network.network, state, spec, path)
    # s3d's classifier is a convolution of one pixel; as a matrix it is the same
    head = {k: v.flatten(1) if v.ndim > 1 else v for k, v in head.items()}
    if network.num_classes and len(head.get("bias", ())) == network.num_classes:
        _assign(network.classifier, head, spec, path)


def read_state(path: Path) -> dict[str, Tensor]:
    """Names and tensors of a weights file (PyTorch's or safetensors), on the CPU.

    Never runs code that a file might hold (``weights_only=True``).

    Raises:
        WeightsError: not such a file, or damaged.
    """
    try:
        if path.suffix == ".safetensors":
            content: Any = load_safetensors(path)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # deprecated storages in the older official files
                content = torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        first = str(error).strip().partition("\n")[0][:200] or type(error).__name__
        raise WeightsError(
            f"{path}: not a weights file, or a damaged one ({first}); delete it to fetch it again, "
            "or give another with --weights"
        ) from error
    for wrapper in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not content:
        raise WeightsError(f"{path}: holds no weights; give another file with --weights")
    strange = [str(k) for k, v in content.items() if not isinstance(v, Tensor)]
    if strange:
        raise WeightsError(
            f"{path}: holds other things than weights ({_some(strange)}); save the network's "
            "state_dict() and give that with --weights"
        )
    return {str(name): tensor for name, tensor in content.items()}


def _assign(module: nn.Module, state: dict[str, Tensor], spec: BackboneSpec, path: Path) -> None:
    expected = module.state_dict()
    missing = [k for k in expected if k not in state]
    unexpected = [k for k in state if k not in expected]
    shapes = [
        f"{k} {tuple(state[k].shape)} instead of {tuple(v.shape)}"
        for k, v in expected.items()
        if k in state and state[k].shape != v.shape
    ]
    wrong = [
        f"{len(names)} {what} ({_some(names)})"
        for what, names in (("missing", missing), ("unknown", unexpected), ("misshapen", shapes))
        if names
    ]
    if not wrong:
        broken = [k for k, v in state.items() if v.is_floating_point() and not v.isfinite().all()]
        wrong = [f"{len(broken)} not finite ({_some(broken)})"] if broken else []
    if wrong:
        raise mismatch(spec, path, "; ".join(wrong))
    fitting = {k: state[k].to(v.dtype) for k, v in expected.items()}
    module.load_state_dict(fitting, assign=True)


def mismatch(spec: BackboneSpec, path: Path, what: str) -> WeightsError:
    """The error for a readable file whose weights are not those of ``spec``."""
    return WeightsError(
        f"{path}: not the weights of {spec.name} ({spec.model}): {what}; give the right file with "
        "--weights, or leave that out for the official one"
    )


def _some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
