"""The five video networks, as timm models.

``timm.create_model("swin3d_b.k400", num_classes=0)`` gives the network whose features are stored:
a clip (N, 3, 16, h, w) in, the pooled vector before the classifier (N, num_features) out.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from jobs.backbones._torchvision import timm, torchvision
from jobs.specs import SPECS, BackboneSpec

with warnings.catch_warnings():
    # fvcore scripts functions while it is imported, which torch has deprecated
    warnings.simplefilter("ignore")
    from pytorchvideo.models.hub import resnet as pytorchvideo_hub

__all__ = ["VideoNetwork", "i3d_r50", "r2plus1d_18", "r3d_18", "s3d", "swin3d_b"]

KINETICS_CLASSES = 400

CLASSIFIERS = {
    "swin3d_b": "head",
    "r3d_18": "fc",
    "r2plus1d_18": "fc",
    "s3d": "classifier.1",
    "i3d_r50": "blocks.6.proj",
}
"""Where each network keeps its classifier, in the names of its weights file."""


class VideoNetwork(nn.Module):
    """A network without its own classifier, and ours (none by default) after it.

    Attributes:
        network: (N, 3, T, h, w) float32, normalised -> (N, num_features); its parameters bear the
            names of the official weights file.
        classifier: (N, num_features) -> (N, num_classes); the identity when ``num_classes`` is 0.
    """

    def __init__(self, network: nn.Module, num_features: int, num_classes: int) -> None:
        super().__init__()
        self.network = network
        self.num_features = self.head_hidden_size = num_features
        self.reset_classifier(num_classes)

    def forward(self, clips: Tensor) -> Tensor:
        scores: Tensor = self.classifier(self.network(clips))
        return scores

    def get_classifier(self) -> nn.Module:
        return self.classifier

    def reset_classifier(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.classifier = (
            nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()
        )


def _torchvision_network(name: str, classifier: str) -> nn.Module:
    network: nn.Module = torchvision.models.get_model(name, weights=None)
    setattr(network, classifier, nn.Identity())
    return network


def _s3d_network() -> nn.Module:
    network = _torchvision_network("s3d", "classifier")
    # torchvision leaves its convolutions to torch's default numbers, which lose the signal layer by
    # layer: features of random weights came out at 1e-7. He's keep it, as the other networks do.
    for module in network.modules():
        if isinstance(module, nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    return network


def _i3d_network() -> nn.Module:
    network: nn.Module = pytorchvideo_hub.i3d_r50(pretrained=False)
    # Its head pools windows of 4 frames, projects each, and averages over them. A projection and
    # an average can change places, so without the projection the average is what it is applied to.
    head: Any = network.get_submodule("blocks.6")
    head.proj = None
    return network


def _cfg(spec: BackboneSpec) -> dict[str, Any]:
    size = spec.preprocessing.crop
    return {
        "url": spec.url,
        "input_size": (3, size, size),
        "crop_pct": size / spec.preprocessing.resize[0],
        "interpolation": spec.preprocessing.interpolation,
        "mean": spec.preprocessing.mean,
        "std": spec.preprocessing.std,
        "num_classes": KINETICS_CLASSES,
        "classifier": "classifier",
        "license": spec.licence,
        "origin_url": spec.paper,
    }


default_cfgs = timm.models.generate_default_cfgs(
    {spec.model: _cfg(spec) for spec in SPECS.values()}
)


def _create(
    name: str, build: Callable[[], nn.Module], pretrained: bool, kwargs: dict[str, Any]
) -> VideoNetwork:
    spec = next(s for s in SPECS.values() if s.model.partition(".")[0] == name)
    cfg = timm.models.resolve_pretrained_cfg(
        name, kwargs.pop("pretrained_cfg", None), kwargs.pop("pretrained_cfg_overlay", None)
    ).to_dict()
    cache = kwargs.pop("cache_dir", None)
    num_classes = kwargs.pop("num_classes", KINETICS_CLASSES)
    if kwargs:
        raise TypeError(f"{name} takes no {', '.join(kwargs)}")
    # Without memory and random numbers for what the file replaces: swin's take 8 seconds
    with torch.device("meta") if pretrained else nullcontext():
        built = build()
    network = VideoNetwork(built, spec.channels, num_classes)
    network.pretrained_cfg = network.default_cfg = cfg
    if pretrained:
        from jobs.backbones.loading import load_file
        from jobs.weights import resolve

        found = resolve(spec, cfg.get("file") or "official", cache=Path(cache) if cache else None)
        assert found.path is not None
        load_file(network, spec, found.path)
    return network


@timm.models.register_model
def swin3d_b(pretrained: bool = False, **kwargs: Any) -> VideoNetwork:
    """Video Swin Transformer, base; Kinetics-400 from ImageNet-1k."""
    return _create("swin3d_b", lambda: _torchvision_network("swin3d_b", "head"), pretrained, kwargs)


@timm.models.register_model
def r3d_18(pretrained: bool = False, **kwargs: Any) -> VideoNetwork:
    """ResNet of 18 layers, 3D convolutions."""
    return _create("r3d_18", lambda: _torchvision_network("r3d_18", "fc"), pretrained, kwargs)


@timm.models.register_model
def r2plus1d_18(pretrained: bool = False, **kwargs: Any) -> VideoNetwork:
    """ResNet of 18 layers, each convolution split into space and time."""
    return _create(
        "r2plus1d_18", lambda: _torchvision_network("r2plus1d_18", "fc"), pretrained, kwargs
    )


@timm.models.register_model
def s3d(pretrained: bool = False, **kwargs: Any) -> VideoNetwork:
    """Inception, convolutions split into space and time."""
    return _create("s3d", _s3d_network, pretrained, kwargs)


@timm.models.register_model
def i3d_r50(pretrained: bool = False, **kwargs: Any) -> VideoNetwork:
    """Inflated ResNet of 50 layers, trained on 8 frames at stride 8."""
    return _create("i3d_r50", _i3d_network, pretrained, kwargs)
