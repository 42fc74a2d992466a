"""The table of networks against what their publishers say of them."""

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from featurestore.errors import UsageError
from featurestore.schema import FEATURES
from jobs.backbones import image
from jobs.backbones._torchvision import timm, torchvision
from jobs.specs import SPECS, BackboneSpec, Geometry, Preprocessing, spec_of

video = torchvision.models.video
OFFICIAL = {
    "swin": video.Swin3D_B_Weights.KINETICS400_V1,
    "r3d": video.R3D_18_Weights.KINETICS400_V1,
    "r2plus1d": video.R2Plus1D_18_Weights.KINETICS400_V1,
    "s3d": video.S3D_Weights.KINETICS400_V1,
}


@pytest.mark.parametrize("name", OFFICIAL)
def test_torchvision_publishes_the_same(name: str) -> None:
    spec, weights = SPECS[name], OFFICIAL[name]
    preset: Any = weights.transforms()
    preprocessing = spec.preprocessing
    assert preprocessing.resize == tuple(preset.resize_size)
    assert [preprocessing.crop] * 2 == list(preset.crop_size)
    assert preprocessing.mean == tuple(preset.mean)
    assert preprocessing.std == tuple(preset.std)
    assert preprocessing.interpolation == preset.interpolation.value
    assert spec.url == weights.url
    assert spec.file_name.endswith(f"-{spec.sha256}.pth")
    assert len(spec.sha256) == 8


def test_pytorchvideo_publishes_the_same() -> None:
    from pytorchvideo.models.hub.resnet import checkpoint_paths

    assert SPECS["i3d"].url == checkpoint_paths["i3d_r50"]
    assert SPECS["i3d"].sha256 == ""


@pytest.mark.parametrize("name", SPECS)
def test_widths_and_names_are_the_stores(name: str) -> None:
    assert SPECS[name].name == name
    assert SPECS[name].channels == FEATURES[name].channels


@pytest.mark.parametrize("name", SPECS)
def test_gflop(name: str) -> None:
    spec = SPECS[name]
    size = spec.preprocessing.crop
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        timm.create_model(spec.model, num_classes=0).eval()(torch.empty(1, 3, 16, size, size))
    assert counter.get_total_flops() / 1e9 == pytest.approx(spec.gflop, rel=0.02)


def test_needs_no_torch() -> None:
    code = "import sys, jobs.specs; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_specs_travel() -> None:
    assert pickle.loads(pickle.dumps(SPECS["swin"])) == SPECS["swin"]
    assert SPECS["r3d"].preprocessing.geometry == SPECS["r2plus1d"].preprocessing.geometry
    assert len({spec.preprocessing.geometry for spec in SPECS.values()}) == 3
    assert SPECS["swin"].preprocessing.geometry == Geometry((256,), "bilinear", False)


@pytest.mark.parametrize(
    ("name", "said"), [("resnet", "unknown backbone 'resnet'"), ("r3", "did you mean r3d?")]
)
def test_unknown(name: str, said: str) -> None:
    with pytest.raises(UsageError, match=said.replace("?", r"\?")):
        spec_of(name)


@pytest.mark.parametrize(
    "change", [{"resize": (100,)}, {"resize": (1, 2, 3)}, {"std": (0.0, 1.0, 1.0)}, {"mean": (1,)}]
)
def test_preprocessing_checks_itself(change: dict[str, Any]) -> None:
    good = {"resize": (256,), "crop": 224, "mean": (0.5,) * 3, "std": (0.5,) * 3}
    Preprocessing(**good)
    with pytest.raises(ValueError, match="expected"):
        Preprocessing(**{**good, **change})


@pytest.mark.parametrize(
    "model",
    ["resnet18.a1_in1k", "inception_v3.tv_in1k", "test_vit.r160_in1k", "convnext_atto.d2_in1k"],
)
def test_image_models_are_timms(model: str) -> None:
    spec = spec_of(f"timm:{model}")
    assert spec.name == f"timm_{model}"
    assert spec.image
    assert spec_of(spec.name) == spec
    data = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(model).to_dict())
    resize, crop, *_, normalise = timm.data.create_transform(**data, is_training=False).transforms
    preprocessing = spec.preprocessing
    assert preprocessing.resize == (resize.size,)
    assert (preprocessing.crop, preprocessing.crop) == tuple(crop.size)
    assert preprocessing.interpolation == resize.interpolation.value
    assert preprocessing.antialias
    torch.testing.assert_close(torch.tensor(preprocessing.mean), normalise.mean)
    torch.testing.assert_close(torch.tensor(preprocessing.std), normalise.std)
    assert spec.url.startswith("https://huggingface.co/timm/")
    assert spec.file_name == f"timm_{model}.safetensors"
    assert spec.gflop > 1


def test_image_model_without_its_tag_has_one_name() -> None:
    assert spec_of("timm:resnet18") == spec_of("timm:resnet18.a1_in1k")
    assert spec_of("timm:resnet18").channels == 512


def test_timm_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere, where asking means importing timm, the answer is kept."""
    asked: list[str] = []
    spec = spec_of("timm:test_resnet")

    def answer(model: str) -> BackboneSpec:
        asked.append(model)
        return spec

    monkeypatch.setattr(image, "image_spec", answer)
    monkeypatch.setenv("FS_CACHE", str(tmp_path))
    assert spec_of("timm:test_resnet") == spec
    assert asked == ["test_resnet"]  # timm is here
    assert list(tmp_path.iterdir()) == []
    monkeypatch.delitem(sys.modules, "timm")
    for _ in range(3):
        assert spec_of("timm:test_resnet") == spec
        assert hash(spec_of(spec.name)) == hash(spec)
    assert asked[1:] == ["test_resnet", "test_resnet.r160_in1k"]
    for kept in (tmp_path / "timm").iterdir():
        kept.write_text(kept.read_text()[:50])  # damaged
    assert spec_of("timm:test_resnet") == spec
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.example")  # is in the answer
    assert spec_of("timm:test_resnet") == spec
    assert len(asked) == 5
    monkeypatch.setenv("FS_CACHE", str(Path(__file__)))  # nothing can be kept there
    assert spec_of("timm:test_resnet") == spec
    assert len(asked) == 6


def test_our_own_networks_by_timms_name() -> None:
    assert spec_of("timm:swin3d_b") is SPECS["swin"]
    assert spec_of("timm:i3d_r50.k400") is SPECS["i3d"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("timm:resnet_18", "near: resnet"),
        ("timm:resnet18.mine", r"there are resnet18\..*a1_in1k"),
        ("timm:hf-hub:timm/resnet18", "timm has no model"),
        ("timm:../x", "timm has no model"),
        ("timm:", "timm has no model"),
    ],
)
def test_image_models_that_do_not_exist(name: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        spec_of(name)
