from itertools import pairwise

import pytest

from featurestore import catalog, schema
from featurestore.schema import BACKBONES, CHANNEL_CHUNK, CROPS, FEATURES, FUSED, parts_of


def test_the_nine() -> None:
    assert list(FEATURES) == [
        "swin", "r3d", "r2plus1d", "s3d", "i3d",
        "swin_r3d", "swin_r2plus1d", "swin_s3d", "swin_i3d",
    ]  # fmt: skip
    widths = [features.channels for features in FEATURES.values()]
    assert widths == [1024, 512, 512, 1024, 2048, 1536, 1536, 2048, 3072]
    assert (*BACKBONES, *FUSED) == tuple(FEATURES)
    assert parts_of("swin_i3d") == ("swin", "i3d")
    assert parts_of("i3d") == ("i3d",)
    assert parts_of("timm_resnet50") == ("timm_resnet50",)


@pytest.mark.parametrize("name", FUSED)
def test_chunks_of_fused_arrays_are_those_of_their_parts(name: str) -> None:
    parts = parts_of(name)
    assert sum(FEATURES[part].channels for part in parts) == FEATURES[name].channels
    assert all(FEATURES[part].channels % CHANNEL_CHUNK == 0 for part in parts)


def test_crops() -> None:
    assert CROPS[:5] == ("top_left", "top_right", "bottom_left", "bottom_right", "center")
    assert CROPS[5:] == tuple(f"{name}_mirrored" for name in CROPS[:5])


def test_blocks_grow_with_the_set() -> None:
    assert [schema.block_clips(n) for n in (1, 64, 65, 16_384, 16_385, 10**6)] == [
        4, 4, 32, 32, 256, 256
    ]  # fmt: skip
    sizes = [schema.block_clips(2**power) for power in range(24)]
    assert all(a <= b for a, b in pairwise(sizes))


@pytest.mark.parametrize("name", ["timm_resnet50.a1_in1k", "imported_i3d", "swin", "swin_i3d"])
def test_names_of_features(name: str) -> None:
    assert schema.is_features_name(name)
    assert schema.is_array_name(f"status_{name}")


@pytest.mark.parametrize(
    "name",
    ["", "..", "timm_..", "timm_a/b", "a/../b", "notes", "timm_", "/swin", "timm_.a", "imported_"],
)
def test_names_that_are_none(name: str) -> None:
    assert not schema.is_features_name(name)
    assert not schema.is_array_name(name)


def test_rows_have_the_columns_of_the_table() -> None:
    row = set(catalog.Video.__dataclass_fields__) - {"index", "name"} | {"video"}
    assert row == set(schema.VIDEO_TABLE)
    given = set(catalog.NewVideo.__dataclass_fields__) - {"name"} | {"video"}
    assert row - given == {"clip_offset", "clip_count"}
