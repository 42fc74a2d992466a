"""The features of the command against a second, independent path, for all five networks.

Frames by OpenCV, the publishers' own preset transforms and ``TenCrop`` by torchvision, networks by
torchvision and pytorchvideo in plain eager torch: nothing of ``jobs`` but the sample's video.
"""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

from featurestore.schema import CROPS, FEATURES
from jobs import sample
from jobs.backbones._torchvision import torchvision
from tests.jobs.conftest import Command

# Which of the ten crops are computed again: of each network some, in eager torch, which takes most
# of the time; of all networks together all ten. How crops are cut is the same for all networks.
SOME = {"swin": [0, 7], "r3d": [1, 4, 8], "r2plus1d": [3, 5, 9], "s3d": [2, 6, 4], "i3d": [1, 9]}
ALL = {name: list(range(len(CROPS))) for name in SOME}
WIDTHS = {"swin": 1024, "r3d": 512, "r2plus1d": 512, "s3d": 1024, "i3d": 2048}


def published_networks() -> dict[str, tuple[nn.Module, nn.Module, object]]:
    """name -> (network, its classifier's place, preset), of random but fixed weights."""
    from pytorchvideo.models.hub import i3d_r50

    video = torchvision.models.video
    torch.manual_seed(7)
    swin, r3d, r2plus1d, s3d = (
        getattr(video, n)() for n in ("swin3d_b", "r3d_18", "r2plus1d_18", "s3d")
    )
    i3d = i3d_r50(pretrained=False)
    return {
        "swin": (swin, "head", video.Swin3D_B_Weights.KINETICS400_V1.transforms()),
        "r3d": (r3d, "fc", video.R3D_18_Weights.KINETICS400_V1.transforms()),
        "r2plus1d": (r2plus1d, "fc", video.R2Plus1D_18_Weights.KINETICS400_V1.transforms()),
        "s3d": (s3d, "classifier", video.S3D_Weights.KINETICS400_V1.transforms()),
        "i3d": (i3d, "blocks.6.proj", None),
    }


def ten_crops(frames: torch.Tensor, preset: object) -> torch.Tensor:
    """(16, 3, H, W) uint8 -> (10, 3, 16, h, w) float32, as the preset but for the crop."""
    functional = torchvision.transforms.functional
    if preset is None:  # pytorchvideo's: short side 256, mean .45, std .225
        size, crop, mean, std = [256], 224, [0.45] * 3, [0.225] * 3
    else:
        size, (crop,) = list(preset.resize_size), set(preset.crop_size)
        mean, std = preset.mean, preset.std
    resized = functional.resize(frames, size, antialias=False)
    crops = torch.stack(torchvision.transforms.TenCrop(crop)(resized))
    floats = functional.convert_image_dtype(crops, torch.float32)
    return functional.normalize(floats, mean, std).transpose(1, 2)


def independent(path: Path, weights: Path, wanted: dict[str, list[int]]) -> dict[str, np.ndarray]:
    """Network -> features of the wanted crops; writes the weights files they are made with."""
    video = cv2.VideoCapture(str(path))
    frames = []
    while (read := video.read())[0]:
        frames.append(cv2.cvtColor(read[1], cv2.COLOR_BGR2RGB))
    assert len(frames) == 16
    clip = torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)
    out = {}
    for name, (network, place, preset) in published_networks().items():
        state = network.state_dict()
        torch.save({"model_state": state} if name == "i3d" else state, weights / f"{name}.pth")
        parent, _, leaf = place.rpartition(".")
        setattr(network.get_submodule(parent), leaf, nn.Identity())
        network.eval()
        with torch.inference_mode():
            crops = ten_crops(clip, preset)[wanted[name]]
            out[name] = torch.cat([network(c[None]) for c in crops]).numpy()
    return out


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    "wanted", [SOME, pytest.param(ALL, marks=pytest.mark.long)], ids=["some", "all"]
)
def test_all_five_networks_ten_crops(
    command: Command, tmp_path: Path, wanted: dict[str, list[int]]
) -> None:
    assert {crop for crops in wanted.values() for crop in crops} == set(range(len(CROPS)))
    recipe = sample.Recipe(videos=2, frames=16, width=320, height=240)
    folder = sample.write(tmp_path / "sample", recipe)
    weights = tmp_path / "weights"
    weights.mkdir()
    expected = independent(folder / "abnormal_01.mp4", weights, wanted)
    command.run(
        "extract", "--dataset", "folder", "--root", folder, "--videos", "abnormal_01",
        "--weights", weights, "--precision", "float32", seconds=1000,
    )  # fmt: skip
    ds = xr.open_zarr(command.folder / "features" / "videos.zarr").load()
    assert {n for n in ds if n in FEATURES} == set(FEATURES)
    for name, width in WIDTHS.items():
        found = ds[name].values
        assert found.shape == (1, len(CROPS), width)
        one = found[0, wanted[name]].astype(np.float64)
        two = expected[name].astype(np.float64)
        cosine = (one * two).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(two, axis=1)
        assert cosine.min() >= 0.9999, (name, cosine)
        # Crops of one clip resemble each other: compare what tells them apart, too, and so order.
        error = np.linalg.norm(one - two, axis=1)
        apart = np.linalg.norm(two - two.mean(axis=0), axis=1)
        assert (error < 0.05 * apart).all(), (name, error / apart)
    for name, features in FEATURES.items():
        if features.parts:
            joined = np.concatenate([ds[p].values for p in features.parts], axis=-1)
            np.testing.assert_array_equal(ds[name].values, joined)
    assert list(ds["crop"].values) == list(CROPS)
