"""Any image model of timm, run on the 16 frames of a clip and averaged."""

from __future__ import annotations

import math
import os
import re
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from featurestore.errors import UsageError
from jobs.backbones._torchvision import timm
from jobs.backbones.loading import mismatch, read_state, seeded
from jobs.specs import SPECS, BackboneSpec, Preprocessing
from jobs.weights import Weights

__all__ = ["ImageNetwork", "image_spec", "load_image"]


class ImageNetwork(nn.Module):
    """An image network on clips: (N, 3, T, h, w) -> (N, channels), averaged over the T frames."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, clips: Tensor) -> Tensor:
        frames = clips.transpose(1, 2)
        features: Tensor = self.network(frames.flatten(0, 1))
        features = features.unflatten(0, frames.shape[:2]).mean(1)
        return features


def image_spec(model: str) -> BackboneSpec:
    """The facts about a timm model, from timm's own registry; its name with the default tag added.

    Frames are resized as timm's evaluation transform does, but by torchvision on tensors, not by
    PIL: values differ by one or two grey levels at most, by an eighth of one on average.

    Raises:
        UsageError: no such model, or one that does not take colour images of one square size.
    """
    if not re.fullmatch(r"[A-Za-z0-9_.\-]+", model) or not timm.is_model(model):
        near = get_close_matches(model, timm.list_models(), n=3)
        hint = f"; near: {', '.join(near)}" if near else ""
        raise UsageError(f"timm has no model {model!r}{hint} (timm.list_models() names them all)")
    try:
        cfg = timm.get_pretrained_cfg(model)
    except RuntimeError as error:  # the architecture is known, the tag is not
        tags = [
            name
            for name in timm.list_pretrained()
            if name.startswith(f"{model.partition('.')[0]}.")
        ]
        raise UsageError(f"timm has no model {model!r}; there are {', '.join(tags)}") from error
    if cfg is None:
        raise UsageError(f"timm knows nothing of the weights of {model!r}")
    full = ".".join(part for part in (model.partition(".")[0], cfg.tag) if part)
    for spec in SPECS.values():
        if spec.model == full:
            return spec
    preprocessing = _preprocessing(full, cfg.to_dict())
    channels, gflop = _measure(full, preprocessing)
    url = _url(cfg)
    return BackboneSpec(
        name=f"timm_{full}",
        model=full,
        channels=channels,
        preprocessing=preprocessing,
        gflop=gflop,
        url=url,
        sha256=_digest_in(url),
        licence=cfg.license or "unknown",
        paper=cfg.origin_url or "",
        image=True,
    )


def load_image(spec: BackboneSpec, weights: Weights) -> ImageNetwork:
    """A timm image model with its weights, wrapped for clips.

    Raises:
        WeightsError: the file cannot be read, or holds the weights of another network.
    """
    if weights.path is None:
        return ImageNetwork(seeded(spec.model, weights.seed))
    state = read_state(weights.path)
    cfg: Any = timm.get_pretrained_cfg(spec.model)
    # Built with the classifier that the file has: timm compares names strictly only then
    names = [cfg.classifier] if isinstance(cfg.classifier, str) else list(cfg.classifier or ())
    rows = [state[f"{name}.weight"].shape[0] for name in names if f"{name}.weight" in state]
    classes = rows[0] if rows else cfg.num_classes
    try:
        network: Any = timm.create_model(
            spec.model,
            pretrained=True,
            num_classes=classes,
            pretrained_cfg_overlay={"state_dict": state, "num_classes": classes},
        )
    except (RuntimeError, KeyError) as error:  # torch's list of names that do not fit; a filter's
        lines = [line.strip() for line in str(error).splitlines()[1:3]] or [str(error)]
        raise mismatch(spec, weights.path, " ".join(lines)[:300]) from error
    network.reset_classifier(0)
    return ImageNetwork(network)


def _preprocessing(model: str, cfg: dict[str, Any]) -> Preprocessing:
    data = timm.data.config.resolve_data_config(pretrained_cfg=cfg)
    colours, height, width = data["input_size"]
    if colours != 3 or height != width:
        raise UsageError(
            f"timm:{model} takes {colours}x{height}x{width} images; only 3 colours and squares are "
            "supported"
        )
    length = math.floor(height / data["crop_pct"])
    interpolation = data["interpolation"]
    mode = data["crop_mode"]
    if mode not in ("center", "squash") or interpolation not in ("bilinear", "bicubic"):
        raise UsageError(
            f"timm:{model} wants crop mode {mode} and {interpolation} interpolation; only center "
            "and squash, bilinear and bicubic are supported"
        )
    return Preprocessing(
        resize=(length, length) if mode == "squash" else (length,),
        crop=height,
        mean=tuple(data["mean"]),
        std=tuple(data["std"]),
        interpolation=interpolation,
        antialias=True,  # as PIL, with which these models were trained and evaluated
    )


def _measure(model: str, preprocessing: Preprocessing) -> tuple[int, float]:
    """Width of the pooled vector, and GFLOP of a clip, without computing anything."""
    size = preprocessing.crop
    try:
        with torch.device("meta"), torch.no_grad():
            network = timm.create_model(model, num_classes=0).eval()
            with FlopCounterMode(display=False) as counter:
                pooled = network(torch.empty(1, 3, size, size))
    except (RuntimeError, NotImplementedError):
        # Some models compute with values while they are built; those are measured with numbers
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            pooled = seeded(model, 0).eval()(torch.zeros(1, 3, size, size))
    if not isinstance(pooled, Tensor) or pooled.ndim != 2:
        raise UsageError(f"timm:{model} gives no pooled vector")
    return pooled.shape[1], counter.get_total_flops() * preprocessing.frames / 1e9


def _url(cfg: Any) -> str:
    if cfg.custom_load:
        return ""  # formats of other frameworks
    if cfg.hf_hub_id:
        hub = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
        repository, _, revision = cfg.hf_hub_id.partition("@")
        file = cfg.hf_hub_filename or "model.safetensors"
        return f"{hub}/{repository}/resolve/{revision or 'main'}/{file}"
    return cfg.url if isinstance(cfg.url, str) else ""


def _digest_in(url: str) -> str:
    """The first digits of the sha256, which timm's own files carry in their names."""
    found = re.search(r"-([0-9a-f]{8,})\.[a-z]+$", url)
    return found[1] if found else ""
