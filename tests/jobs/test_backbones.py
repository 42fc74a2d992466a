"""Every registered network: shape, width, loading, and that it is the publisher's own."""

import hashlib
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from openvino import opset13
from safetensors.torch import save_file
from torch import Tensor, nn

from featurestore.errors import WeightsError
from jobs import backbones
from jobs.backbones import Weights, image, loading, resolve
from jobs.backbones._torchvision import timm, torchvision
from jobs.engines.attention import FusedAttention, fuse_attention
from jobs.engines.openvino_conversion import openvino
from jobs.engines.openvino_engine import biases_as_inputs
from jobs.engines.openvino_rearranged import (
    FoldedConvolution,
    WindowedBlocks,
    rearrange,
    windows_of,
)
from jobs.specs import SPECS, spec_of

RANDOM = Weights(None, "RANDOM(seed=0)", "random numbers", 0)
SMALL = {"swin": 64, "r3d": 64, "r2plus1d": 64, "s3d": 224, "i3d": 224}  # pixels; what they allow
EVERY = [*SPECS, "timm:test_resnet", "timm:test_vit", "timm:test_efficientnet"]


def clips(name: str, count: int = 1) -> Tensor:
    spec = spec_of(name)
    size = SMALL.get(name, spec.preprocessing.crop)
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 3, 16, size, size, generator=generator)


def published(name: str) -> nn.Module:
    """The whole network, classifier included, from its publisher's code."""
    if name == "i3d":
        from pytorchvideo.models.hub import i3d_r50

        network: nn.Module = i3d_r50(pretrained=False)
    else:
        network = torchvision.models.get_model(SPECS[name].model.partition(".")[0])
    return network.eval()


@pytest.fixture(scope="module", autouse=True)
def quick_numbers() -> Iterator[None]:
    """swin's truncated normal numbers take 8 seconds each time; these tests need no such ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.init, "trunc_normal_", nn.init.normal_)
        yield


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A weights file as published, of random numbers, for each network: written when asked for."""
    folder = tmp_path_factory.mktemp("published")

    def write(name: str) -> Path:
        path = folder / f"{name}.pth"
        if not path.exists():
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(3)
                state = published(name).state_dict()
                for key, value in state.items():  # as if it had been trained
                    if key.endswith("running_mean"):
                        value.normal_(std=0.1)
                    elif key.endswith("running_var"):
                        value.uniform_(0.5, 1.5)
            torch.save({"model_state": state} if name == "i3d" else state, path)
        return path

    return write


@pytest.mark.parametrize("name", EVERY)
def test_forward(name: str) -> None:
    spec = spec_of(name)
    network = backbones.load(spec, RANDOM)
    assert not network.training
    assert not any(p.requires_grad for p in network.parameters())
    with torch.inference_mode():
        features = network(clips(name))
    assert features.shape == (1, spec.channels)
    assert features.dtype == torch.float32
    assert features.isfinite().all()
    # Random weights must not lose the signal on the way: a detector is to be tried on these
    assert features.std() > 1e-3


@pytest.mark.parametrize("name", SPECS)
def test_is_the_published_network(name: str, files: Callable[[str], Path]) -> None:
    """With the classifier of the file behind our pooled vector, the publisher's own scores."""
    model = SPECS[name].model
    overlay = {"file": str(files(name))}
    ours = timm.create_model(model, pretrained=True, pretrained_cfg_overlay=overlay).eval()
    assert ours.num_classes == 400
    assert ours.num_features == SPECS[name].channels
    with torch.device("meta"):
        theirs = published(name)
    theirs.load_state_dict(loading.read_state(files(name)), assign=True)
    clip = clips(name)
    with torch.inference_mode():
        torch.testing.assert_close(ours(clip), theirs(clip), rtol=1e-4, atol=1e-5)
        ours.reset_classifier(0)
        pooled = ours(clip)
        weights = Weights(files(name), "sha256:", "a test")
        assert torch.equal(backbones.load(SPECS[name], weights)(clip), pooled)


@pytest.mark.parametrize("name", SPECS)
def test_registered_with_timm(name: str) -> None:
    spec = SPECS[name]
    assert spec.model in timm.list_pretrained(spec.model)
    with torch.device("meta"):
        network = timm.create_model(spec.model, num_classes=0)
    assert network.num_features == spec.channels
    assert network.num_classes == 0
    assert isinstance(network.get_classifier(), nn.Identity)
    assert network.pretrained_cfg["url"] == spec.url
    assert network.pretrained_cfg["mean"] == spec.preprocessing.mean
    network.reset_classifier(7)
    assert network.get_classifier().out_features == 7


def test_pretrained_with_other_classes(files: Callable[[str], Path]) -> None:
    overlay = {"file": str(files("r3d"))}
    network = timm.create_model(
        "r3d_18.k400", pretrained=True, num_classes=3, pretrained_cfg_overlay=overlay
    )
    assert network.eval()(clips("r3d")).shape == (1, 3)


def test_registered_with_timm_refuses_what_it_does_not_know() -> None:
    with pytest.raises(TypeError, match="r3d_18 takes no in_chans"):
        timm.create_model("r3d_18", in_chans=1)


def checksum(network: nn.Module) -> str:
    digest = hashlib.sha256()
    for value in network.state_dict().values():
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()


@pytest.mark.parametrize("name", ["s3d", "timm:test_vit"])
def test_random_weights_are_the_same_everywhere(name: str) -> None:
    torch.manual_seed(99)
    expected = torch.rand(3)
    torch.manual_seed(99)
    first = checksum(backbones.load(spec_of(name), RANDOM))
    assert torch.equal(torch.rand(3), expected)  # and nobody else's numbers change
    torch.manual_seed(5)
    assert checksum(backbones.load(spec_of(name), RANDOM)) == first
    other = Weights(None, "RANDOM(seed=1)", "random numbers", 1)
    assert checksum(backbones.load(spec_of(name), other)) != first
    code = (
        "from tests.jobs.test_backbones import *\n"
        f"print(checksum(backbones.load(spec_of({name!r}), RANDOM)))"
    )
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", code]
    out = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout
    assert out.strip() == first


def test_image_network_averages_over_the_frames() -> None:
    spec = spec_of("timm:test_vit")
    network = backbones.load(spec, RANDOM)
    clip = clips("timm:test_vit", 2)
    plain = image.seeded(spec.model, 0).eval()
    with torch.inference_mode():
        one_by_one = [torch.stack([plain(c[None, :, t])[0] for t in range(16)]) for c in clip]
        found = network(clip)
    expected = torch.stack([frames.mean(0) for frames in one_by_one])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_torchvision_loads_with_or_without_its_operators() -> None:
    code = (
        "import warnings; warnings.simplefilter('error')\n"
        "from jobs.backbones._torchvision import _declared, torchvision\n"
        "from torchvision.extension import _has_ops\n"
        "assert (_declared is None) == _has_ops(), 'declared beside the real operators'\n"
        "torchvision.models.video.r3d_18\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("size", [(8, 14, 14), (8, 10, 9), (2, 7, 7), (9, 7, 14), (1, 3, 3)])
@pytest.mark.parametrize("shift", [(0, 0, 0), (4, 3, 3)])
def test_attention_is_torchvisions(size: tuple[int, int, int], shift: tuple[int, int, int]) -> None:
    swin = torchvision.models.video.swin_transformer
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        plain = swin.ShiftedWindowAttention3d(32, [8, 7, 7], list(shift), num_heads=2)
        nn.init.normal_(plain.relative_position_bias_table)
        x = torch.randn(2, *size, 32)
    written = FusedAttention(plain)
    with torch.inference_mode():
        for _ in range(2):  # the second time with the bias kept
            torch.testing.assert_close(written(x), plain(x), rtol=1e-4, atol=1e-5)


SHIFTS = ([0, 0, 0], [4, 3, 3], [4, 3, 3], [0, 3, 0])


def blocks_of_windows() -> nn.Sequential:
    """torchvision's, of 32 channels and two heads, all that they learn at random."""
    swin = torchvision.models.video.swin_transformer
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        plain = nn.Sequential(
            *[
                torchvision.models.swin_transformer.SwinTransformerBlock(
                    32, 2, [8, 7, 7], shift, attn_layer=swin.ShiftedWindowAttention3d
                )
                for shift in SHIFTS
            ]
        ).eval()
        for one in plain:
            nn.init.normal_(one.attn.relative_position_bias_table)
            nn.init.normal_(one.attn.qkv.bias)
    return plain


@pytest.mark.parametrize(
    ("size", "fits"),
    [
        ((8, 21, 14), True),  # whole windows, and pieces of them where they are shifted
        ((16, 14, 7), True),  # shifted in time; as wide as a window
        ((2, 7, 7), True),  # a single window, shorter than it may be
        ((8, 10, 14), False),
        ((9, 7, 7), False),
    ],
)
def test_blocks_of_windows_are_torchvisions(size: tuple[int, int, int], fits: bool) -> None:
    plain, block = blocks_of_windows(), WindowedBlocks
    x = torch.randn(2, *size, 32, generator=torch.Generator().manual_seed(0))
    assert block.takes(plain)
    assert not block.takes(nn.Sequential(*plain, nn.Identity()))
    written = block(plain)
    calls = []
    plain.register_forward_hook(lambda *_: calls.append(1))
    with torch.inference_mode():
        found = written(x)
        assert bool(calls) is not fits
        torch.testing.assert_close(found, plain(x), rtol=1e-4, atol=1e-5)


def test_biases_of_windows_are_inputs_in_bfloat16() -> None:
    """What OpenVINO would keep in float32: of every attention, and none is left out or mixed up."""
    size, plain = (8, 14, 7), blocks_of_windows()
    x = torch.randn(1, *size, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = plain(x)
        traced = torch.jit.trace(WindowedBlocks(plain), x, check_trace=False)
        model = openvino.convert_model(traced, input=[(list(x.shape), openvino.Type.f32)])
    biases = biases_as_inputs(model)
    assert len(biases) == sum(len(windows_of(size, [8, 7, 7], shift)) for shift in SHIFTS)
    assert len(model.inputs) == 1 + len(biases)
    compiled = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(values: list[np.ndarray]) -> np.ndarray:
        given = [openvino.Tensor(v, v.shape, openvino.Type.bf16) for v in values]
        return compiled([x.numpy(), *given])[0]

    # A bfloat16 number is within 1/256 of what it stands for
    np.testing.assert_allclose(run(biases), expected, rtol=0, atol=0.02)
    assert np.abs(run([np.zeros_like(b) for b in biases]) - expected.numpy()).max() > 0.2


@pytest.mark.parametrize("mask", [np.eye(4, dtype=bool), np.float32(0)], ids=["bool", "none"])
def test_what_is_no_bias_stays_in_the_network(mask: np.ndarray) -> None:
    given = [opset13.parameter([1, 2, 4, 8], openvino.Type.f32) for _ in "qkv"]
    mixed = opset13.scaled_dot_product_attention(*given, opset13.constant(mask))
    model = openvino.Model([mixed], given)
    assert biases_as_inputs(model) == []
    assert len(model.inputs) == 3


def test_fused_swin_is_swin() -> None:
    network = backbones.load(SPECS["swin"], RANDOM)
    with torch.inference_mode():
        clip = clips("swin")
        expected = network(clip)
        assert fuse_attention(network) == 24
        torch.testing.assert_close(network(clip), expected, rtol=1e-4, atol=1e-5)
    assert fuse_attention(backbones.load(SPECS["r3d"], RANDOM)) == 0


@pytest.mark.parametrize("name", ["r3d", "r2plus1d", "s3d", "i3d"])
def test_a_network_rearranged_is_the_same_network(name: str) -> None:
    network = backbones.load(SPECS[name], RANDOM)
    with torch.inference_mode():
        clip = clips(name)
        expected = network(clip)
        rearrange(network)
        torch.testing.assert_close(network(clip), expected, rtol=1e-4, atol=1e-5)
    assert sum(isinstance(module, FoldedConvolution) for module in network.modules()) == 1


def test_only_the_convolutions_that_gain_are_folded() -> None:
    for plain in (nn.Conv3d(3, 8, 7, 2, 2), nn.Conv3d(4, 8, 7, 2, 3), nn.Conv3d(3, 8, 7, 1, 3)):
        assert not FoldedConvolution.takes(plain)
    with torch.inference_mode():
        plain = nn.Conv3d(3, 8, (3, 7, 7), (2, 2, 2), (1, 3, 3))
        x = torch.randn(2, 3, 5, 18, 12)
        torch.testing.assert_close(FoldedConvolution(plain)(x), plain(x), rtol=1e-4, atol=1e-5)


# -- loading


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    return torchvision.models.video.r3d_18(num_classes=3).state_dict()


def loaded(path: Path) -> str:
    """What is said of a weights file for r3d; "" when it loads."""
    said = ""
    try:
        backbones.check(SPECS["r3d"], Weights(path, "sha256:", str(path)))
    except WeightsError as error:
        said = str(error)
    assert not said or (str(path) in said and "--weights" in said)
    return said


def test_accepted_forms(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    path = tmp_path / "r3d.pth"
    for content in (state, {"model_state": state}, {"state_dict": state, "epoch": 3}):
        torch.save(content, path)
        assert not loaded(path)
    torch.save(state, path, _use_new_zipfile_serialization=False)  # as the oldest official ones
    assert not loaded(path)
    without = {k: v for k, v in state.items() if not k.startswith("fc.")}
    torch.save(without, path)
    assert not loaded(path)
    half = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    save_file(half, tmp_path / "r3d.safetensors")
    assert not loaded(tmp_path / "r3d.safetensors")
    spec = SPECS["r3d"]
    network = backbones.load(spec, Weights(tmp_path / "r3d.safetensors", "sha256:", ""))
    assert {p.dtype for p in network.parameters()} == {torch.float32}


def test_truncated(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    small = {k: v for k, v in state.items() if v.numel() < 10_000}
    whole, path = tmp_path / "whole.pth", tmp_path / "cut.pth"
    for zipped in (True, False):
        torch.save(small, whole, _use_new_zipfile_serialization=zipped)
        content = whole.read_bytes()
        for part in (0, 1, 100, len(content) // 2, len(content) - 1):
            path.write_bytes(content[:part])
            assert "not a weights file, or a damaged one" in loaded(path), part
    path = tmp_path / "cut.safetensors"
    save_file(small, path)
    path.write_bytes(path.read_bytes()[:-1])
    assert "damaged" in loaded(path)


def test_something_else(tmp_path: Path) -> None:
    path = tmp_path / "r3d.pth"
    for content in (b"", b"<html>not found</html>", b"\x80\x04K\x01.", b"PK\x03\x04rest"):
        path.write_bytes(content)
        assert "not a weights file, or a damaged one" in loaded(path)
    assert "damaged" in loaded(tmp_path)
    torch.save([1, 2], path)
    assert "holds no weights" in loaded(path)
    torch.save({"epoch": 3, "weight": torch.zeros(1)}, path)
    assert "other things than weights (epoch)" in loaded(path)


def test_never_runs_code(tmp_path: Path) -> None:
    path = tmp_path / "r3d.pth"
    torch.save({"a": Harmful()}, path)
    assert "not a weights file" in loaded(path)
    assert not Path("harmed").exists()


class Harmful:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (open, ("harmed", "w"))


def test_mismatched(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    path = tmp_path / "r3d.pth"
    first = next(iter(state))
    torch.save({k: v for k, v in state.items() if k != first}, path)
    assert f"1 missing ({first})" in loaded(path)
    torch.save({**state, "a": state[first], "b": state[first]}, path)
    assert "2 unknown (a, b)" in loaded(path)
    torch.save({**state, first: torch.zeros(2, 3)}, path)
    assert f"1 misshapen ({first} (2, 3) instead of (64, 3, 3, 7, 7))" in loaded(path)
    broken = state[first].clone()
    broken[0, 0] = torch.nan
    torch.save({**state, first: broken}, path)
    assert f"1 not finite ({first})" in loaded(path)
    torch.save(torchvision.models.video.s3d().state_dict(), path)
    said = loaded(path)
    assert "not the weights of r3d" in said
    assert "missing (" in said
    assert said.count(", ...") == 2
    assert len(said) < 500


def test_image_models(tmp_path: Path) -> None:
    spec = spec_of("timm:test_resnet")
    for classes in (1000, 5):
        network = timm.create_model(spec.model, num_classes=classes).eval()
        path = tmp_path / f"{spec.name}.safetensors"
        save_file(network.state_dict(), path)
        found = resolve(spec, tmp_path)
        assert found.path == path
        ours = backbones.load(spec, found)
        network.reset_classifier(0)
        images = torch.rand(1, 3, 160, 160)
        with torch.inference_mode():
            clip = images[:, :, None].expand(-1, -1, 16, -1, -1)
            torch.testing.assert_close(ours(clip), network(images))


def test_image_model_mismatched(tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    torch.save(timm.create_model("test_vit").state_dict(), path)
    with pytest.raises(WeightsError, match="not the weights of timm_test_resnet") as caught:
        backbones.check(spec_of("timm:test_resnet"), Weights(path, "sha256:", ""))
    assert len(str(caught.value)) < 700


def test_read_state_warns_of_nothing(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert loading.read_state(tmp_path / "old.pth").keys() == state.keys()
