from pathlib import Path

import pytest

from featurestore.copying import compact
from featurestore.errors import UsageError
from featurestore.location import beside, local_path
from featurestore.store import open_store


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("features/ped2.zarr", "features/ped2.zarr"),
        ("features/ped2.zarr/", "features/ped2.zarr"),
        ("file:///data/ped%202.zarr", "/data/ped 2.zarr"),
        ("file://localhost/data/x", "/data/x"),
        (Path("a") / "b", "a/b"),
        ("a:b", "a:b"),
    ],
)
def test_local(url: str | Path, path: str) -> None:
    assert local_path(url) == Path(path)


@pytest.mark.parametrize(
    "url", ["s3://bucket/x.zarr", "gs://b/x", "memory://x", "simplecache::s3://b"]
)
def test_places_that_are_no_disk(url: str) -> None:
    with pytest.raises(UsageError, match="this command works on stores on a disk"):
        local_path(url)


def test_kinds_of_places_that_nobody_knows() -> None:
    for url in ("memory://x", "simplecache::s3://b"):
        with pytest.raises(UsageError, match="works on stores on a disk"):
            open_store(url)
    with pytest.raises(UsageError, match="works on stores on a disk"):
        compact("s3://bucket/x.zarr")


@pytest.mark.parametrize("url", ["", "file://data/x.zarr", "file://"])
def test_no_place(url: str) -> None:
    with pytest.raises(UsageError):
        local_path(url)


def test_beside(tmp_path: Path) -> None:
    assert beside(tmp_path / "ped2.zarr", ".lock") == tmp_path.resolve() / "ped2.zarr.lock"
    (tmp_path / "other.zarr").symlink_to(tmp_path / "ped2.zarr")
    assert beside(tmp_path / "other.zarr", ".lock") == tmp_path.resolve() / "ped2.zarr.lock"
    with pytest.raises(UsageError, match="root of the disk"):
        beside("/", ".lock")
