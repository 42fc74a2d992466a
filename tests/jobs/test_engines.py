"""One contract for every engine; torch eager on the CPU is the reference."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from featurestore.errors import FeatureStoreError, UsageError, WeightsError
from jobs import backbones, engines, processor
from jobs.backbones import Weights, resolve
from jobs.engines import Choice, Network, openvino_conversion
from jobs.engines.torch_engine import TorchNetwork
from jobs.specs import SPECS, BackboneSpec, spec_of

ROOT = Path(__file__).parents[2]
FLOAT32 = [Choice("torch", "float32", "cpu"), Choice("openvino", "float32", "cpu")]
BFLOAT16 = [Choice("torch", "bfloat16", "cpu"), Choice("openvino", "bfloat16", "cpu")]
CUDA = [Choice("torch", p, "cuda") for p in ("float32", "float16", "bfloat16")]
LEAST_COSINE = {"float32": 0.9999, "float16": 0.999, "bfloat16": 0.999}
TINY = "timm:test_resnet"


def runs_here(choice: Choice) -> None:
    if choice.device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    asked = (choice.precision, choice.device)
    if asked == ("bfloat16", "cpu") and not engines.has_bfloat16(choice.engine):
        pytest.skip("this processor has no bfloat16")


def label(choice: Choice) -> str:
    return f"{choice.engine}-{choice.precision}-{choice.device}"


def crops_of(spec: BackboneSpec, count: int) -> Tensor:
    """(count, 3, 16, h, w) uint8: blobs that move."""
    generator = torch.Generator().manual_seed(2)
    size = spec.preprocessing.crop
    coarse = torch.rand(count, 3, 4, 5, 6, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (16, size, size), mode="trilinear")
    return (smooth * 255).byte()


def expected_of(spec: BackboneSpec, weights: Weights, crops: Tensor) -> np.ndarray:
    """The network as it is loaded, nothing of an engine."""
    network = backbones.load(spec, weights)
    shape = (3, 1, 1, 1)
    mean, std = (
        torch.tensor(x).view(shape) for x in (spec.preprocessing.mean, spec.preprocessing.std)
    )
    with torch.inference_mode():
        return network((crops.float() / 255 - mean) / std).numpy()


def assert_alike(found: np.ndarray, expected: np.ndarray, precision: str) -> None:
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    cosine = (found * expected).sum(1) / lengths
    assert cosine.min() >= LEAST_COSINE[precision], cosine
    # Features of random weights all point nearly the same way, so the cosine alone proves little
    error = np.abs(found - expected).max() / np.abs(expected).max()
    assert error < (1e-4 if precision == "float32" else 2e-2), error


@pytest.fixture(scope="module")
def r3d() -> tuple[BackboneSpec, Weights, Tensor, np.ndarray]:
    spec = SPECS["r3d"]
    weights, crops = resolve(spec, "random"), crops_of(spec, 2)
    return spec, weights, crops, expected_of(spec, weights, crops)


@pytest.mark.parametrize("choice", FLOAT32 + BFLOAT16 + CUDA, ids=label)
def test_contract(
    choice: Choice, r3d: tuple[BackboneSpec, Weights, Tensor, np.ndarray], cache: Path
) -> None:
    runs_here(choice)
    spec, weights, crops, expected = r3d
    engines.prepare(spec, weights, choice)
    network: Network = engines.open_network(spec, weights, choice, threads=2)
    assert network.spec == spec
    given = (network.engine, network.precision, network.device)
    assert given == (choice.engine, choice.precision, choice.device)
    assert network.versions == engines.versions(spec, choice)
    assert {"torch", "torchvision"} <= network.versions.keys()
    assert ("openvino" in network.versions) == (choice.engine == "openvino")

    features = network.features(crops)
    assert features.shape == (2, 512)
    assert features.dtype == np.float32
    assert_alike(features, expected, choice.precision)

    # The same each time, in any order and layout, any number at once, and never written over
    kept = features.copy()
    strided = crops.flip(0).transpose(3, 4).contiguous().transpose(3, 4)
    np.testing.assert_array_equal(network.features(strided), features[::-1])
    assert network.features(crops[:0]).shape == (0, 512)
    if choice.device == "cpu":  # on CUDA the kernels may depend on how many there are
        np.testing.assert_array_equal(network.features(crops[1:]), features[1:])
    np.testing.assert_array_equal(features, kept)

    views = [crop[..., :112] for crop in torch.nn.functional.pad(crops, (0, 4))]
    np.testing.assert_array_equal(network.features(views), features)

    for wrong in (crops.float(), crops[..., :-1], crops[0], crops[:, :, :8], [crops[0], crops]):
        with pytest.raises(ValueError, match=r"expected crops \(3, 16, 112, 112\) uint8, got"):
            network.features(wrong)


@pytest.mark.parametrize("choice", FLOAT32 + BFLOAT16, ids=label)
@pytest.mark.parametrize("name", [TINY, "timm:test_vit"])
def test_image_models(name: str, choice: Choice, cache: Path) -> None:
    runs_here(choice)
    spec = spec_of(name)
    weights, crops = resolve(spec, "random"), crops_of(spec, 2)
    network = engines.open_network(spec, weights, choice, threads=2)
    assert "timm" in network.versions
    assert_alike(network.features(crops), expected_of(spec, weights, crops), choice.precision)


# Converting takes most of the time. All five are converted and held against their publishers' own
# code, which is more, in test_right_features.
@pytest.mark.parametrize(
    "name", ["r3d", *(pytest.param(n, marks=pytest.mark.long) for n in SPECS if n != "r3d")]
)
def test_openvino_is_torch(name: str, cache: Path) -> None:
    spec = SPECS[name]
    weights, crops = resolve(spec, "random"), crops_of(spec, 1)
    found = [engines.open_network(spec, weights, c, threads=2).features(crops) for c in FLOAT32]
    assert found[0].shape == (1, spec.channels)
    assert_alike(found[1], found[0], "float32")
    if engines.has_bfloat16("openvino"):
        network = engines.open_network(spec, weights, BFLOAT16[1], threads=2)
        assert_alike(network.features(crops), found[0], "bfloat16")


# -- choosing


@pytest.fixture
def no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)


@pytest.fixture(params=["float32", "bfloat16"])
def fastest(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A processor without bfloat16, and one that has it; what OpenVINO is to compute in."""
    has = request.param == "bfloat16"
    for engine in ("openvino", "torch"):
        monkeypatch.setattr(f"jobs.engines.{engine}_engine.has_bfloat16", lambda: has)
    return str(request.param)


@pytest.mark.usefixtures("no_cuda")
def test_choose_on_a_cpu(fastest: str) -> None:
    choice = engines.choose()
    assert choice == Choice("openvino", fastest, "cpu")
    assert choice.note == ""
    assert ("has no bfloat16" in engines.why(choice)) == (fastest == "float32")
    assert engines.choose(precision="float32") == Choice("openvino", "float32", "cpu")
    assert engines.choose("torch") == Choice("torch", "float32", "cpu")  # the reference


@pytest.mark.parametrize(
    ("flags", "expected"),
    [("fma avx2", False), ("avx2 avx512f avx512bw", False), ("avx512f avx512_bf16", True)],
)
def test_bfloat16_only_by_the_processors_own_instructions(
    flags: str, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenVINO and oneDNN claim it of every AVX-512 processor."""
    info = tmp_path / "cpuinfo"
    info.write_text(f"model name\t: Some EPYC\nflags\t\t: fpu {flags}\n")
    monkeypatch.setattr(processor, "CPUINFO", info)
    assert processor.has_bfloat16() == expected
    assert processor.name().startswith("Some EPYC (")
    if not expected:
        assert not engines.has_bfloat16("openvino")
        assert not engines.has_bfloat16("torch")


@pytest.mark.usefixtures("cuda")
def test_choose_on_a_gpu(fastest: str) -> None:
    assert engines.choose() == Choice("torch", "float16", "cuda")
    assert engines.choose(precision="bfloat16") == Choice("torch", "bfloat16", "cuda")
    assert engines.choose(precision="float32") == Choice("torch", "float32", "cuda")
    assert engines.choose(device="cpu") == Choice("openvino", fastest, "cpu")
    assert engines.choose("openvino") == Choice("openvino", fastest, "cpu")


def test_without_a_driver_torch_is_not_asked_for_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    assert processor.may_have_gpu() or not torch.cuda.is_available()
    monkeypatch.setattr(processor, "AMD_DEVICE", Path("/nowhere"))
    monkeypatch.setattr(processor, "CUDA_DRIVER", "libnowhere.so.1")
    assert not processor.may_have_gpu()
    monkeypatch.setattr(processor, "CUDA_DRIVER", "libm.so.6")  # any that is there
    assert processor.may_have_gpu()


@pytest.mark.usefixtures("no_cuda")
@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("onnx", "auto", "auto"), "--engine onnx: unknown; there are auto, openvino, torch"),
        (("auto", "int8", "auto"), "--precision int8: unknown"),
        (("auto", "auto", "tpu"), "--device tpu: unknown; there are auto, cpu, cuda"),
        (("auto", "auto", "cuda"), "torch finds no CUDA device here"),
        (("auto", "float16", "auto"), "float16 does not go with openvino on cpu"),
        (("torch", "float16", "cpu"), "float16 does not go with torch on cpu"),
    ],
)
def test_choose_refuses(given: tuple[str, str, str], said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        engines.choose(*given)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("cuda")
def test_choose_refuses_openvino_on_cuda() -> None:
    with pytest.raises(UsageError, match="--engine openvino runs on CPUs"):
        engines.choose("openvino", "auto", "cuda")


@pytest.mark.parametrize("engine", ["openvino", "torch"])
def test_choose_bfloat16_only_where_the_processor_has_it(
    engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"jobs.engines.{engine}_engine.has_bfloat16", lambda: True)
    assert engines.choose(engine, "bfloat16", "cpu") == Choice(engine, "bfloat16", "cpu")
    monkeypatch.setattr(f"jobs.engines.{engine}_engine.has_bfloat16", lambda: False)
    with pytest.raises(UsageError, match="this processor has no bfloat16"):
        engines.choose(engine, "bfloat16", "cpu")


@pytest.mark.usefixtures("no_cuda")
def test_choose_without_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda _: None)
    choice = engines.choose()
    assert choice == Choice("torch", "float32", "cpu")
    assert "OpenVINO is not installed" in choice.note
    with pytest.raises(UsageError, match="pip install openvino"):
        engines.choose("openvino")


def test_versions_import_nothing() -> None:
    code = (
        "import sys; from jobs.engines import Choice, versions; from jobs.specs import SPECS\n"
        "found = versions(SPECS['i3d'], Choice('openvino', 'float32', 'cpu'))\n"
        "assert list(found) == ['torch', 'torchvision', 'pytorchvideo', 'openvino'], found\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


# -- torch


def test_less_memory_than_hoped_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Crops that do not fit at once are run in smaller parts; that one must fit."""
    spec = spec_of(TINY)
    crops = crops_of(spec, 7)
    network = TorchNetwork(spec, resolve(spec, "random"), FLOAT32[0])
    expected = network.features(crops)
    run, tried = network._run, []

    def limited(part: Tensor, most: int) -> Tensor:
        tried.append(len(part))
        if len(part) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return run(part)

    network._at_once = 10
    monkeypatch.setattr(network, "_run", lambda part: limited(part, 3))
    np.testing.assert_allclose(network.features(crops), expected, rtol=1e-4, atol=1e-5)
    assert tried == [7, 5, 3, 3, 1]
    monkeypatch.setattr(network, "_run", lambda part: limited(part, 0))
    with pytest.raises(FeatureStoreError, match="one crop does not fit into the memory of cpu"):
        network.features(crops)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_gpus_path_on_a_cpu(
    precision: str, r3d: tuple[BackboneSpec, Weights, Tensor, np.ndarray]
) -> None:
    """All that CUDA gets and a CPU does not: channels last, all crops at once, fused attention."""
    spec, weights, crops, expected = r3d
    choice = Choice("torch", precision, "cpu")
    runs_here(choice)
    network = TorchNetwork(spec, weights, choice, as_on_cuda=True)
    assert_alike(network.features(crops), expected, precision)


@pytest.mark.slow
def test_the_gpus_swin_on_a_cpu() -> None:
    spec = SPECS["swin"]
    weights, crops = resolve(spec, "random"), crops_of(spec, 1)
    network = TorchNetwork(spec, weights, FLOAT32[0], as_on_cuda=True)
    assert_alike(network.features(crops), expected_of(spec, weights, crops), "float32")


# -- OpenVINO's kept networks


def test_a_network_converted_wrongly_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a conversion gave once: the module itself as an input, crops of no shape."""
    spec, weights = tiny()
    right = openvino_conversion.openvino.convert_model
    monkeypatch.setattr(
        openvino_conversion.openvino, "convert_model", lambda traced, input: right(traced)
    )
    with pytest.raises(FeatureStoreError, match="converted the network wrongly"):
        openvino_conversion.convert(spec, weights, tmp_path)
    assert not list((tmp_path / "openvino").glob("*/"))
    monkeypatch.undo()
    openvino_conversion.convert(spec, weights, tmp_path)


def tiny() -> tuple[BackboneSpec, Weights]:
    spec = spec_of(TINY)
    return spec, resolve(spec, "random")


def test_converted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, weights = tiny()
    choice = FLOAT32[1]
    engines.prepare(spec, weights, choice, cache=tmp_path)
    folder = openvino_conversion.kept_at(spec, weights, tmp_path)
    assert folder.parent == tmp_path / "openvino"
    assert sorted(p.name for p in folder.iterdir()) == ["facts.json", "network.bin", "network.xml"]
    facts = json.loads((folder / "facts.json").read_text())
    assert facts["weights"] == "RANDOM(seed=0)"
    assert facts["input"] == [1, 3, 16, 160, 160]
    assert not list(folder.parent.glob("*.partial"))
    monkeypatch.setattr(openvino_conversion, "_convert", None)  # whoever converts again fails
    engines.prepare(spec, weights, choice, cache=tmp_path)
    engines.open_network(spec, weights, choice, cache=tmp_path)


def test_kept_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, weights = tiny()
    kept = openvino_conversion.kept_at
    one = kept(spec, weights, tmp_path)
    assert kept(spec, weights, tmp_path) == one
    assert kept(spec, Weights(None, "RANDOM(seed=1)", "", 1), tmp_path) != one
    assert kept(SPECS["r3d"], weights, tmp_path) != one
    monkeypatch.setattr(torch, "__version__", "3.0")
    assert kept(spec, weights, tmp_path) != one


@pytest.mark.parametrize("harm", ["cut", "gone", "no facts"])
def test_a_damaged_one_is_converted_again(tmp_path: Path, harm: str) -> None:
    spec, weights = tiny()
    engines.prepare(spec, weights, FLOAT32[1], cache=tmp_path)
    folder = openvino_conversion.kept_at(spec, weights, tmp_path)
    file = folder / ("facts.json" if harm == "no facts" else "network.bin")
    if harm == "cut":
        file.write_bytes(file.read_bytes()[:100])
    else:
        file.unlink()
    crops = crops_of(spec, 1)
    network = engines.open_network(spec, weights, FLOAT32[1], cache=tmp_path)
    assert_alike(network.features(crops), expected_of(spec, weights, crops), "float32")


def test_one_that_cannot_be_compiled(tmp_path: Path) -> None:
    spec, weights = tiny()
    engines.prepare(spec, weights, FLOAT32[1], cache=tmp_path)
    file = openvino_conversion.kept_at(spec, weights, tmp_path) / "network.xml"
    file.write_bytes(b"<" * file.stat().st_size)
    with pytest.raises(FeatureStoreError, match="delete the folder, or use --engine torch"):
        engines.open_network(spec, weights, FLOAT32[1], cache=tmp_path)


def test_cache_that_cannot_be_written(tmp_path: Path) -> None:
    spec, weights = tiny()
    (tmp_path / "openvino").write_text("a file where the folder should be")
    with pytest.raises(FeatureStoreError, match=r"cannot keep the converted network .* FS_CACHE"):
        engines.prepare(spec, weights, FLOAT32[1], cache=tmp_path)


def test_wrong_weights_leave_nothing(tmp_path: Path) -> None:
    spec = SPECS["r3d"]
    (tmp_path / "r3d.pth").write_bytes(b"not weights")
    weights = resolve(spec, tmp_path)
    for choice in FLOAT32:
        with pytest.raises(WeightsError, match=r"r3d\.pth: not a weights file"):
            engines.open_network(spec, weights, choice, cache=tmp_path)
    assert [p for p in (tmp_path / "openvino").iterdir() if p.suffix != ".lock"] == []


def _prepare_in_child(cache: Path) -> float:
    made: list[int] = []
    inner: Callable[..., Any] = openvino_conversion._convert

    def counted(*args: Any) -> None:
        made.append(1)
        time.sleep(0.5)  # long enough for the others to come
        inner(*args)

    openvino_conversion._convert = counted  # type: ignore[assignment]
    engines.prepare(*tiny(), FLOAT32[1], cache=cache)
    return len(made)


def test_several_processes_convert_once(tmp_path: Path) -> None:
    with get_context("spawn").Pool(2) as pool:
        assert sum(pool.map(_prepare_in_child, [tmp_path] * 2, chunksize=1)) == 1


def test_killed_while_converting(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from tests.jobs.test_engines import *\n"
        "def hang(spec, weights, target):\n"
        "    target.write_text('half'); print('there', flush=True); time.sleep(60)\n"
        "openvino_conversion._convert = hang\n"
        "engines.prepare(*tiny(), FLOAT32[1], cache=Path(sys.argv[1]))\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"there\n"
        os.kill(process.pid, signal.SIGKILL)
    spec, weights = tiny()
    crops = crops_of(spec, 1)
    network = engines.open_network(spec, weights, FLOAT32[1], cache=tmp_path)
    assert_alike(network.features(crops), expected_of(spec, weights, crops), "float32")
    assert not list((tmp_path / "openvino").glob("*.partial"))
