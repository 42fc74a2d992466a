"""What `make demo` decides and says; the extraction itself is tested with the command."""

import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import jobs.extract
import jobs.options
from featurestore import schema
from featurestore.catalog import NewVideo
from featurestore.errors import WeightsError
from featurestore.store import create
from jobs import demo, weights
from jobs.specs import SPECS, BackboneSpec
from jobs.weights import Weights, WeightsUnreachable


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "weights"


def resolving(monkeypatch: pytest.MonkeyPatch, error: WeightsError | None) -> None:
    def resolve(spec: BackboneSpec, chosen: str, **rest: object) -> Weights:
        if error is not None:
            raise error
        return Weights(Path(spec.file_name), "sha256:0", spec.url)

    monkeypatch.setattr(weights, "resolve", resolve)


def test_official_weights_that_can_be_had_are_used(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolving(monkeypatch, None)
    assert demo.choose_weights() == ("official", None)


def test_without_them_random_ones_and_the_reason(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = WeightsUnreachable("cannot reach")
    resolving(monkeypatch, error)
    assert demo.choose_weights() == ("random", error)


def test_a_wrong_answer_is_no_reason_to_go_on(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolving(monkeypatch, WeightsError("another digest"))
    with pytest.raises(WeightsError, match="another digest"):
        demo.choose_weights()


def test_a_wrong_file_in_the_cache_is_no_reason_to_go_on(own_cache: Path) -> None:
    own_cache.mkdir(parents=True)
    (own_cache / SPECS["swin"].file_name).write_bytes(b"cut short")
    with pytest.raises(WeightsError, match="not the official weights"):
        demo.choose_weights()


def test_what_it_says(
    own_cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def run(options: jobs.options.Options) -> int:
        assert options.weights == "random"
        assert not options.replace  # random features never take the place of real ones
        store = create(jobs.options.store_path(options), dataset="demo", block=4)
        store.append([NewVideo("normal_01", "normal_01.mp4", 16)])
        made = {"model": "", "weights": "RANDOM(seed=0)", "engine": "torch", "precision": "float32"}
        for name in schema.BACKBONES:
            store.add_features(name, SPECS[name].channels, attributes={**made, "versions": {}})
        for name in schema.FUSED:
            store.add_fused(name)
        store.commit()
        return 3

    resolving(monkeypatch, WeightsUnreachable("no network"))
    monkeypatch.setattr(jobs.extract, "run", run)
    assert demo.main(tmp_path / "here") == 3  # the extraction's exit code
    said = capsys.readouterr().out
    assert "frame AUC" not in said  # not all is there: no scores
    assert "RANDOM WEIGHTS" in said
    assert "why: no network" in said
    assert f'xr.open_zarr("{tmp_path}/here/features/demo.zarr")' in said
    for name, features in schema.FEATURES.items():
        assert f'ds["{name}"]' in said
        assert f"float32 (clip: 1, crop: 10, channel_{features.channels}: " in said
    # What it proposes to type works.
    typed = [line.strip() for line in said.splitlines() if line.startswith("    ")]
    exec("\n".join(typed), {})  # our own text


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_the_whole_demo(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "jobs.demo"]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    for expected in ("8 of 8 clips", "nothing to compute"):
        done = subprocess.run(
            command, cwd=tmp_path, env=env, capture_output=True, text=True, check=True
        )
        assert expected in done.stdout
        assert "perfect video-level classifier" in done.stdout
        assert "4 test videos, 2 of them abnormal" in done.stdout
        for name in (*schema.FEATURES, "fusion"):
            assert re.search(rf"(?m)^{name} .* \[.*\] ", done.stdout)
            assert f"weak: {name} is scored" in done.stderr
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ds = xr.open_zarr(tmp_path / "features" / "demo.zarr")
    for features in schema.FEATURES.values():
        values = ds[features.name].values
        assert values.shape == (8, 10, features.channels)
        assert np.isfinite(values).all()
        assert values.std() > 0
