from pathlib import Path

import numpy as np
import pytest

from featurestore.blocks import write_clips
from featurestore.errors import ProvenanceMismatch, UsageError
from featurestore.schema import MISSING
from featurestore.store import open_store
from tests.featurestore.making import MADE_BY, expected, features, make, read, write

OTHER = {"weights": "sha256:ab", "precision": "float16", "versions": {"torch": "2.7"}}


def test_it_reads_back_and_the_same_passes(tmp_path: Path) -> None:
    store = make(tmp_path / "x.zarr", [3], names=["r3d"])
    assert store.provenance("r3d") == MADE_BY
    store.check_provenance("r3d", MADE_BY)
    store.add_features("swin", 1024, {"mean": (0.1, 0.2), "frames": 16})
    store.commit()
    read_only = open_store(store.url)
    read_only.check_provenance("swin", {"frames": 16, "mean": (0.1, 0.2)})
    assert read_only.fingerprint("swin") == store.fingerprint("swin") != store.fingerprint("r3d")


def test_every_difference_is_named(tmp_path: Path) -> None:
    store = make(tmp_path / "x.zarr", [3], names=["r3d"])
    with pytest.raises(ProvenanceMismatch) as error:
        store.check_provenance("r3d", OTHER)
    message = str(error.value)
    for part in (
        store.url,
        'weights: "RANDOM(seed=0)" -> "sha256:ab"',
        'engine: "torch" -> nothing',
        'precision: nothing -> "float16"',
        'versions.torch: "2.6" -> "2.7"',
        "another --store",
        "--replace",
    ):
        assert part in message


@pytest.mark.parametrize("fused", ["link", "copy"])
def test_replacing_forgets_everything(tmp_path: Path, fused: str) -> None:
    store = make(tmp_path / "x.zarr", [6], names=["swin", "r3d", "swin_r3d"], fused=fused)
    for name in ("swin", "r3d"):
        write(store, name, range(6))
    store.replace_features("r3d", OTHER)
    ds = read(store.url)
    assert ds["r3d"].isnull().all()
    assert ds["swin_r3d"][..., 1024:].isnull().all()
    np.testing.assert_array_equal(ds["swin_r3d"][..., :1024], ds["swin"])
    assert (ds["status_r3d"] == MISSING).all()
    store.commit()
    assert open_store(store.url).provenance("r3d") == OTHER
    assert not [path for path in Path(store.url).rglob("*") if not path.exists()]
    write(store, "r3d", range(6))
    np.testing.assert_array_equal(
        read(store.url)["swin_r3d"].values, expected("swin_r3d", 6, range(6))
    )


def test_replacing_without_a_commit_keeps_the_old_provenance(tmp_path: Path) -> None:
    store = make(tmp_path / "x.zarr", [6], names=["r3d"])
    write(store, "r3d", range(6))
    store.replace_features("r3d", OTHER)
    again = open_store(store.url, "a")
    assert again.provenance("r3d") == MADE_BY
    assert again.status("r3d").tolist() == [MISSING] * 6
    assert read(store.url)["r3d"].isnull().all()


def test_a_worker_that_outlived_its_command_does_not_mix_features(tmp_path: Path) -> None:
    store = make(tmp_path / "x.zarr", [6], names=["r3d"])
    planned = store.fingerprint("r3d")
    write_clips(store.url, "r3d", 0, features("r3d", range(2)), fingerprint=planned)
    store.replace_features("r3d", OTHER)
    store.commit()
    with pytest.raises(ProvenanceMismatch, match="were replaced by another command"):
        write_clips(store.url, "r3d", 0, features("r3d", range(2)), fingerprint=planned)
    assert read(store.url)["r3d"].isnull().all()


@pytest.mark.parametrize(
    ("name", "channels", "attributes", "message"),
    [
        ("r3d", 512, {"channels": 3}, "must not be called channels"),
        ("r3d", 512, {"a": object()}, "must be plain JSON"),
        ("r3d", 512, {"a": float("nan")}, "must be plain JSON"),
        ("r3d", 511, {}, "cannot have 511 channels"),
        ("timm_x", 0, {}, "cannot have 0 channels"),
        ("swin_r3d", 1536, {}, "is no backbone"),
        ("../r3d", 512, {}, "is no backbone"),
        ("timm_../x", 512, {}, "is no backbone"),
        ("notes", 512, {}, "is no backbone"),
        ("swin", 1024, {}, "has an array 'swin' already"),
    ],
)
def test_features_that_cannot_be_added(
    tmp_path: Path, name: str, channels: int, attributes: dict[str, object], message: str
) -> None:
    store = make(tmp_path / "x.zarr", [3], names=["swin"])
    with pytest.raises(UsageError, match=message):
        store.add_features(name, channels, attributes)
    store.commit()
    assert store.backbones == ("swin",)


def test_fused_arrays_have_the_provenance_of_their_parts(tmp_path: Path) -> None:
    store = make(tmp_path / "x.zarr", [3], names=["swin", "r3d", "swin_r3d"])
    for ask in (store.provenance, store.status, store.fingerprint):
        with pytest.raises(UsageError, match="ask for those"):
            ask("swin_r3d")
