"""Resizing and cropping against torchvision's own transforms, bit for bit."""

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from featurestore.schema import CROPS
from jobs import crops
from jobs.backbones._torchvision import torchvision
from jobs.crops import Geometry, geometry, resize
from jobs.specs import SPECS, Interpolation

video = torchvision.models.video
OFFICIAL = {
    "swin": video.Swin3D_B_Weights.KINETICS400_V1,
    "r3d": video.R3D_18_Weights.KINETICS400_V1,
    "r2plus1d": video.R2Plus1D_18_Weights.KINETICS400_V1,
    "s3d": video.S3D_Weights.KINETICS400_V1,
}
CENTRE = CROPS.index("center")


def ten_crops(resized: Tensor, size: int) -> Tensor:
    """(10, 3, T, size, size)."""
    return torch.stack(crops.ten_crops(resized, size))


def frames(height: int, width: int, count: int = 16) -> Tensor:
    """(count, height, width, 3) uint8, smooth and noisy at once."""
    generator = torch.Generator().manual_seed(height * 1000 + width)
    coarse = torch.rand(count, 3, 4, 5, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    noise = torch.rand(count, 3, height, width, generator=generator)
    return ((0.7 * smooth + 0.3 * noise) * 255).byte().permute(0, 2, 3, 1).contiguous()


@pytest.mark.parametrize(
    ("name", "size"),
    list(product(OFFICIAL, [(240, 360), (480, 640), (129, 97), (256, 256)])),
)
def test_centre_crop_is_the_presets(name: str, size: tuple[int, int]) -> None:
    spec, clip = SPECS[name], frames(*size)
    found = ten_crops(resize(clip, geometry(spec.preprocessing)), spec.preprocessing.crop)
    preset = OFFICIAL[name].transforms()
    expected = preset(clip.permute(0, 3, 1, 2))
    shape = (3, 1, 1, 1)
    pixels = found[CENTRE].float() / 255
    mean, std = (torch.tensor(x).view(shape) for x in (preset.mean, preset.std))
    assert torch.equal((pixels - mean) / std, expected)


@settings(max_examples=60)
@given(
    st.tuples(st.integers(17, 300), st.integers(17, 300)),
    st.one_of(st.tuples(st.integers(16, 200)), st.tuples(*[st.integers(16, 200)] * 2)),
    st.sampled_from(["bilinear", "bicubic"]),
    st.booleans(),
)
def test_resized_as_torchvision_does(
    size: tuple[int, int], wanted: tuple[int, ...], how: Interpolation, antialias: bool
) -> None:
    clip = frames(*size, count=2)
    expected = torchvision.transforms.functional.resize(
        clip.permute(0, 3, 1, 2),
        list(wanted),
        interpolation=torchvision.transforms.InterpolationMode(how),
        antialias=antialias,
    )
    found = resize(clip, Geometry(wanted, how, antialias))
    assert found.dtype == torch.uint8
    assert torch.equal(found, expected)


@pytest.mark.parametrize("size", [(112, 112), (128, 171), (129, 170), (113, 112), (300, 200)])
def test_ten_crops_are_torchvisions(size: tuple[int, int]) -> None:
    resized = frames(*size, count=3).permute(0, 3, 1, 2)
    found = ten_crops(resized, 112)
    expected = torch.stack(torchvision.transforms.TenCrop(112)(resized)).transpose(1, 2)
    assert found.shape == (10, 3, 3, 112, 112)
    assert found.dtype == torch.uint8
    assert torch.equal(found, expected)


def test_order_is_the_schemas() -> None:
    height, width, size = 6, 9, 3
    number = torch.arange(height * width, dtype=torch.uint8).view(1, 1, height, width)
    found = ten_crops(number.expand(1, 3, -1, -1), size)[:, 0, 0]
    tops = {"top": 0, "bottom": height - size}
    lefts = {"left": 0, "right": width - size}
    for i, name in enumerate(CROPS):
        image = number[0, 0].flip(-1) if name.endswith("_mirrored") else number[0, 0]
        words = name.removesuffix("_mirrored").split("_")
        top, left = (2, 3) if words == ["center"] else (tops[words[0]], lefts[words[1]])
        assert torch.equal(found[i], image[top : top + size, left : left + size]), name


@settings(max_examples=25)
@given(st.integers(8, 60), st.integers(8, 60), st.integers(1, 8))
def test_any_size(height: int, width: int, size: int) -> None:
    resized = frames(height, width, count=2).permute(0, 3, 1, 2)
    expected = torch.stack(torchvision.transforms.TenCrop(size)(resized)).transpose(1, 2)
    assert torch.equal(ten_crops(resized, size), expected)


@pytest.mark.parametrize("name", SPECS)
def test_memory_layout_of_the_frames_does_not_matter(name: str) -> None:
    shape = geometry(SPECS[name].preprocessing)
    clip = frames(90, 120, count=4)
    planes = clip.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    assert not planes.is_contiguous()
    assert torch.equal(resize(clip, shape), resize(planes, shape))
    assert torch.equal(resize(clip, shape), resize(list(clip), shape))


def test_short_side() -> None:
    shape = Geometry((256,), "bilinear", False)
    assert resize(frames(120, 180, 2), shape).shape == (2, 3, 256, 384)
    assert resize(frames(180, 120, 2), shape).shape == (2, 3, 384, 256)
    assert resize(frames(256, 300, 2), shape).shape == (2, 3, 256, 300)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_antialias_is_near_pil(interpolation: str) -> None:
    # timm's image models are evaluated on PIL's resize, which rounds between its two passes
    clip = frames(240, 320, count=1)
    mode = torchvision.transforms.InterpolationMode(interpolation)
    image = torchvision.transforms.functional.to_pil_image(clip[0].numpy())
    expected = torchvision.transforms.functional.pil_to_tensor(
        torchvision.transforms.functional.resize(image, [100], interpolation=mode)
    )
    found = resize(clip, Geometry((100,), interpolation, True))[0]  # type: ignore[arg-type]
    difference = (found.int() - expected.int()).abs()
    assert difference.max() <= 2
    assert difference.float().mean() < 0.2


def test_bad_shapes() -> None:
    shape = Geometry((128, 171), "bilinear", False)
    with pytest.raises(ValueError, match=r"expected frames \(H, W, 3\) uint8, got \(3, 90, 9"):
        resize(torch.zeros(2, 3, 90, 90, dtype=torch.uint8), shape)
    with pytest.raises(ValueError, match=r"torch\.float32"):
        resize(torch.zeros(2, 90, 90, 3), shape)
    with pytest.raises(ValueError, match="at least 112x112, got 111x200"):
        ten_crops(torch.zeros(16, 3, 111, 200, dtype=torch.uint8), 112)
