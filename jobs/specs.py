"""Facts about the networks: shapes, preprocessing, where the official weights are. Tables only.

Imports no torch, so that the command line can plan with it. ``spec_of("timm:<model>")`` is the one
exception: what timm knows is asked of timm, the first time such a network is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal, NamedTuple

from featurestore.errors import UsageError

__all__ = ["SPECS", "BackboneSpec", "Geometry", "Interpolation", "Preprocessing", "spec_of"]

Interpolation = Literal["bilinear", "bicubic"]
Triple = tuple[float, float, float]


class Geometry(NamedTuple):
    """How frames are resized. Networks that share one share the resized frames."""

    resize: tuple[int, ...]
    interpolation: Interpolation
    antialias: bool


@dataclass(frozen=True)
class Preprocessing:
    """A network's published preset, as data. Ten crops take the place of its centre crop.

    Attributes:
        resize: pixels: ``(256,)`` is the length of the short side, ``(128, 171)`` height and width.
        crop: pixels, height and width of a crop.
        mean, std: per colour channel (red, green, blue), of pixels scaled to 0..1.
        interpolation, antialias: of the resize.
        frames: in a clip.
    """

    resize: tuple[int, ...]
    crop: int
    mean: Triple
    std: Triple
    interpolation: Interpolation = "bilinear"
    antialias: bool = False
    frames: int = 16

    def __post_init__(self) -> None:
        if len(self.resize) not in (1, 2) or min(self.resize) < self.crop:
            raise ValueError(
                f"expected resize of 1 or 2 lengths, none below the crop of {self.crop} pixels, "
                f"got {self.resize}"
            )
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ValueError(
                f"expected 3 means and 3 positive deviations, got {self.mean}, {self.std}"
            )

    @property
    def geometry(self) -> Geometry:
        return Geometry(self.resize, self.interpolation, self.antialias)


@dataclass(frozen=True)
class BackboneSpec:
    """One network whose features are stored.

    Attributes:
        name: of the feature array; a safe file name.
        model: its name with timm, ``timm.create_model(model, num_classes=0)``.
        channels: width of the pooled vector before the classifier.
        gflop: of one crop of 16 frames, in 10^9 floating point operations (a multiply-add is two).
        url: of the official weights; "" where none are published.
        sha256: of that file: the whole digest, or the leading hex digits that its name carries, or
            "" where nobody publishes one; the first copy fetched is then the one kept to.
        image: runs on frames, averaged over the clip, instead of on clips.
    """

    name: str
    model: str
    channels: int
    preprocessing: Preprocessing
    gflop: float
    url: str
    sha256: str
    licence: str
    paper: str
    image: bool = False

    @property
    def file_name(self) -> str:
        """Name of the official weights file; "" where none are published."""
        last = self.url.rpartition("/")[2]
        # Every image model's file on the hub is called model.safetensors
        return f"{self.name}.{last.rpartition('.')[2]}" if last and self.image else last


_KINETICS_MEAN = (0.43216, 0.394666, 0.37645)
_KINETICS_STD = (0.22803, 0.22145, 0.216989)
_PYTORCH = "https://download.pytorch.org/models"
_PYTORCHVIDEO = "https://dl.fbaipublicfiles.com/pytorchvideo/model_zoo/kinetics"
_PRESET_112 = Preprocessing((128, 171), 112, _KINETICS_MEAN, _KINETICS_STD)

_TABLE = (
    BackboneSpec(
        name="swin",
        model="swin3d_b.k400",
        channels=1024,
        preprocessing=Preprocessing((256,), 224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        gflop=281.0,
        url=f"{_PYTORCH}/swin3d_b_1k-24f7c7c6.pth",
        sha256="24f7c7c6",
        licence="BSD-3-Clause (torchvision)",
        paper="https://arxiv.org/abs/2106.13230",
    ),
    BackboneSpec(
        name="r3d",
        model="r3d_18.k400",
        channels=512,
        preprocessing=_PRESET_112,
        gflop=81.0,
        url=f"{_PYTORCH}/r3d_18-b3b3357e.pth",
        sha256="b3b3357e",
        licence="BSD-3-Clause (torchvision)",
        paper="https://arxiv.org/abs/1711.11248",
    ),
    BackboneSpec(
        name="r2plus1d",
        model="r2plus1d_18.k400",
        channels=512,
        preprocessing=_PRESET_112,
        gflop=81.0,
        url=f"{_PYTORCH}/r2plus1d_18-91a641e6.pth",
        sha256="91a641e6",
        licence="BSD-3-Clause (torchvision)",
        paper="https://arxiv.org/abs/1711.11248",
    ),
    BackboneSpec(
        name="s3d",
        model="s3d.k400",
        channels=1024,
        preprocessing=Preprocessing((256, 256), 224, _KINETICS_MEAN, _KINETICS_STD),
        gflop=36.0,
        url=f"{_PYTORCH}/s3d-d76dad2f.pth",
        sha256="d76dad2f",
        licence="BSD-3-Clause (torchvision)",
        paper="https://arxiv.org/abs/1712.04851",
    ),
    BackboneSpec(
        name="i3d",
        model="i3d_r50.k400",
        channels=2048,
        preprocessing=Preprocessing((256,), 224, (0.45, 0.45, 0.45), (0.225, 0.225, 0.225)),
        gflop=114.0,
        url=f"{_PYTORCHVIDEO}/I3D_8x8_R50.pyth",
        sha256="",
        licence="Apache-2.0 (pytorchvideo)",
        paper="https://arxiv.org/abs/1705.07750",
    ),
)

SPECS: dict[str, BackboneSpec] = {spec.name: spec for spec in _TABLE}


def spec_of(name: str) -> BackboneSpec:
    """The facts about backbone ``name``: one of ``SPECS``, or ``timm:<model>`` for an image model.

    The name of a timm model's own array (``timm_<model>``) is taken too.

    Raises:
        UsageError: no such network, or one that cannot be run here.
    """
    if name in SPECS:
        return SPECS[name]
    if name.startswith(("timm:", "timm_")):
        from jobs.timm_facts import facts_of

        return facts_of(name[len("timm:") :])
    near = get_close_matches(name, SPECS, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    raise UsageError(
        f"unknown backbone {name!r}{hint}: there are {', '.join(SPECS)} and timm:<model>"
    )
