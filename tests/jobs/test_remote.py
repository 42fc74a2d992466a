"""Videos that lie on an object store (moto's S3, on loopback)."""

import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from featurestore import place as places
from featurestore.errors import DatasetError, StoreUnreadable, UnreadableVideo
from featurestore.place import place_of
from jobs import datasets, remote
from jobs.plan import Segment, Task
from jobs.reading import ClipReader, clips_of
from jobs.remote import Origin, mirrored, staged
from jobs.video import about_frames, digest, stat_source
from tests import s3
from tests.jobs.conftest import FAST, Command

pytest.importorskip("obstore", reason="pip install .[objects]")


@pytest.fixture
def root(s3_server: s3.Server, videos: Path) -> Iterator[str]:
    """The folder of short videos with its labels, on the object store."""
    before = places.in_use()
    places.use({**s3_server.options, "retry_timeout": "1", "timeout": "1s"})
    url = f"{s3_server.bucket(f'videos-{uuid.uuid4().hex}')}/data/walkway"
    for path in videos.rglob("*"):
        if path.is_file():
            (place_of(url) / path.relative_to(videos).as_posix()).write_bytes(path.read_bytes())
    (place_of(url) / "labels.csv").write_bytes((videos.parent / "labels.csv").read_bytes())
    (place_of(url) / ".hidden.mp4").write_bytes(b"no video of ours")
    yield url
    places.use(before)


def test_it_looks_like_a_folder(root: str, videos: Path) -> None:
    with mirrored(root) as folder:
        assert folder.name == "walkway"
        found, here = datasets.scan("folder", folder), datasets.scan("folder", videos)
        assert [source.name for source in found] == [source.name for source in here]
        assert (folder / "labels.csv").read_bytes() == (videos.parent / "labels.csv").read_bytes()
        origin = Origin(folder, root)
        origin.check(found)
        origin.bring_headers(found)
        for source, other in zip(found, here, strict=True):
            assert stat_source(source.path)[0] == stat_source(other.path)[0]
            assert about_frames(source.path) == about_frames(other.path) == 40
            with staged(origin.address(source.path)) as file:
                assert digest(file) == digest(other.path)
                assert stat_source(file) == stat_source(source.path)
            assert not file.exists()
            assert not file.parent.exists()
    assert not folder.exists()


def test_one_video_at_a_time_is_here(root: str, videos: Path, tmp_path: Path) -> None:
    names = sorted(path.name for path in videos.glob("*.mp4"))[:4]
    task = Task(0, ("r3d",), tuple(
        Segment(row, name, f"{root}/{name}", 40, 3 * row, (0, 16, 24))
        for row, name in enumerate(names)
    ))  # fmt: skip
    found = list(clips_of(task, "pyav", ahead=1))
    assert [number for number, _ in found] == [row for row in range(4) for _ in range(3)]
    for number, clip in found:
        assert isinstance(clip, list), clip
        assert [frame.shape for frame in clip] == [(120, 160, 3)] * 16, number
    from jobs import reading

    kept = [reader._staged for reader in reading._readers.values() if reader._staged]
    assert 1 <= len(kept) <= reading.KEPT_READERS
    while reading._readers:
        reading._readers.popitem()[1].close()
    assert not any(path.exists() for path in kept)


def test_what_is_wrong_with_a_video_and_what_with_the_connection(
    root: str, s3_server: s3.Server
) -> None:
    (place_of(root) / "odd.mp4").write_bytes(b"no video")
    with pytest.raises(UnreadableVideo, match=f"{root}/odd.mp4"):
        ClipReader(f"{root}/odd.mp4", 40, "pyav")
    with pytest.raises(UnreadableVideo, match=r"gone\.mp4: is not there any more"):
        ClipReader(f"{root}/gone.mp4", 40, "pyav")
    with s3_server.away(), pytest.raises(StoreUnreadable, match="normal_01.mp4: cannot be read"):
        ClipReader(f"{root}/normal_01.mp4", 40, "pyav")
    with pytest.raises(DatasetError, match="nothing lies there"), mirrored(f"{root}/nowhere"):
        pass
    (place_of(root) / "frames/1.jpg").write_bytes(b"an image")
    with mirrored(root) as folder, pytest.raises(DatasetError, match="frames is a folder of image"):
        Origin(folder, root).check(datasets.scan("folder", folder))


@pytest.mark.slow
def test_extract_from_there(
    root: str, command: Command, videos: Path, s3_server: s3.Server, tmp_path: Path
) -> None:
    import xarray as xr

    command.env = s3_server.env
    out = command.extract(root, "--backbones", FAST)  # type: ignore[arg-type]
    assert "18 of 18 clips" in out
    here = tmp_path / "walkway"
    shutil.copytree(videos, here)
    shutil.copy(videos.parent / "labels.csv", here)
    command.extract(here, "--backbones", FAST, "--store", "here")
    found, expected = (
        xr.open_zarr(command.folder / folder / "walkway.zarr", chunks=None).load()
        for folder in ("features", "here")
    )
    assert found["path"].values.tolist() == sorted(path.name for path in videos.glob("*.mp4"))
    xr.testing.assert_identical(*(ds.drop_attrs().drop_vars(["mtime"]) for ds in (found, expected)))
    assert found["split"].attrs["sources"] == {"official": f"{root}/labels.csv"}
    assert "nothing to do" in command.extract(root, "--backbones", FAST)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("cam1/a.mp4", True),
        ("/a.mp4", False),
        ("cam1/../../a.mp4", False),
        ("cam1/", False),
        (".hidden/a.mp4", False),
        ("x.zarr/zarr.json", False),
        ("", False),
    ],
)
def test_no_key_leads_out_of_the_mirror(path: str, wanted: bool) -> None:
    assert remote._is_wanted(path) == wanted
