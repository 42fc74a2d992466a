"""What `discover` takes for a video, and what it calls it."""

import os
from pathlib import Path

import pytest

from featurestore.errors import DatasetError
from jobs.video import Source, digest, discover, probe, stat_source
from jobs.video._discover import natural
from tests.jobs.video.painted import write_folder, write_video


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def found(root: Path) -> dict[str, str]:
    """Name -> path below the root, in the order found."""
    return {s.name: s.path.relative_to(root).as_posix() for s in discover(root)}


def test_natural_order() -> None:
    names = ["x 20", "a10b02", "a1", "b01x", "a10", "a2", "a", "b1", "x 3", "a10b1"]
    expected = ["a", "a1", "a2", "a10", "a10b1", "a10b02", "b1", "b01x", "x 3", "x 20"]
    assert sorted(names, key=natural) == expected


def test_any_depth_in_natural_order(tmp_path: Path) -> None:
    touch(tmp_path, "b/2.mp4", "b/10.AVI", "b/1.mkv", "a/deep/er/x.webm", "top.MOV", "readme.txt")
    touch(tmp_path, "frames 2/001.jpg", "frames 10/001.TIF", "frames 10/notes.txt")
    assert list(found(tmp_path)) == [
        *("a/deep/er/x", "b/1", "b/2", "b/10", "frames 2", "frames 10", "top"),
    ]
    kinds = {s.name: s.kind for s in discover(tmp_path)}
    assert kinds["frames 2"] == kinds["frames 10"] == "frames"
    assert kinds["top"] == "file"


@pytest.mark.parametrize("suffix", ["mp4", "avi", "mov", "mkv", "webm", "mpg", "mpeg", "ts", "wmv"])
def test_videos_by_suffix_alone(suffix: str, tmp_path: Path) -> None:
    touch(tmp_path, f"empty.{suffix.upper()}")
    assert [s.name for s in discover(tmp_path)] == ["empty"]


def test_a_folder_may_hold_frames_and_folders(tmp_path: Path) -> None:
    touch(tmp_path, "one/001.png", "one/more/001.png", "one/more/deeper/video.mp4")
    assert list(found(tmp_path)) == ["one", "one/more", "one/more/deeper/video"]


def test_images_beside_videos_are_their_pictures(tmp_path: Path) -> None:
    touch(tmp_path, "clip.mp4", "clip.jpg", "cover.png")
    assert found(tmp_path) == {"clip": "clip.mp4"}


def test_two_of_one_name_keep_their_suffix(tmp_path: Path) -> None:
    touch(tmp_path, "x/a.mp4", "x/a.avi", "x/b.mp4", "y/a.mp4", "c.mp4", "c/001.png")
    assert found(tmp_path) == {
        "c": "c",
        "c.mp4": "c.mp4",
        "x/a.avi": "x/a.avi",
        "x/a.mp4": "x/a.mp4",
        "x/b": "x/b.mp4",
        "y/a": "y/a.mp4",
    }


def test_names_stay_different_whatever_the_suffixes(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "a.avi", "a.mp4.avi", "a.mp4.mp4.mkv")
    sources = discover(tmp_path)
    assert len({s.name for s in sources}) == 4


def test_names_of_all_kinds(tmp_path: Path) -> None:
    touch(tmp_path, "with space.mp4", "größe/人.mp4", "v1.2.mp4", "a..b.mp4")
    assert set(found(tmp_path)) == {"with space", "größe/人", "v1.2", "a..b"}


def test_a_name_that_is_no_text(tmp_path: Path) -> None:
    try:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.mp4")).touch()
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    (source,) = discover(tmp_path)
    assert source.name == "caf\\xe9"
    assert source.path.exists()


def test_hidden_things_and_stores_are_left_out(tmp_path: Path) -> None:
    touch(tmp_path, ".mp4", "...mp4", ".git/a.mp4", "._a.mp4", "features.zarr/c/a.mp4", "a.mp4")
    touch(tmp_path, "frames/.001.png")
    assert list(found(tmp_path)) == ["a"]


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    elsewhere, root = tmp_path / "elsewhere", tmp_path / "root"
    touch(elsewhere, "v.mp4", "deep/001.jpg")
    touch(root, "a/one.mp4")
    (root / "linked").symlink_to(elsewhere)
    (root / "a" / "up").symlink_to(root)
    (root / "a" / "self").symlink_to(".")
    (elsewhere / "to_root").symlink_to(root)
    (root / "gone.mp4").symlink_to(tmp_path / "nowhere.mp4")
    names = list(found(root))
    assert names == ["a/one", "gone", "linked/deep", "linked/v"]
    assert not any(part in ("", ".", "..") for name in names for part in name.split("/"))


def test_the_root_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_folder(tmp_path / "my frames", 2)
    assert discover(folder) == [Source("my frames", folder, "frames")]
    video = write_video(tmp_path / "one.mp4", 2)
    assert discover(video) == [Source("one", video, "file")]
    monkeypatch.chdir(folder)
    assert discover(Path()) == [Source("my frames", Path(), "frames")]
    assert discover(Path("../my frames"))[0].name == "my frames"


def test_nothing_there(tmp_path: Path) -> None:
    assert discover(tmp_path) == []
    with pytest.raises(DatasetError, match=r"nowhere: this folder cannot be listed .*; check"):
        discover(tmp_path / "nowhere")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list everything")
def test_a_folder_that_cannot_be_listed_is_told(tmp_path: Path) -> None:
    touch(tmp_path, "closed/a.mp4", "b.mp4")
    (tmp_path / "closed").chmod(0)
    with pytest.raises(DatasetError, match="closed: this folder cannot be listed"):
        discover(tmp_path)
    (tmp_path / "closed").chmod(0o700)


def test_identity_of_files_and_folders(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.mp4", 2)
    folder = write_folder(tmp_path / "frames", 12, name="{}.png")
    os.utime(folder / "7.png", (1e9, 2e9))
    assert stat_source(video) == (video.stat().st_size, video.stat().st_mtime)
    assert stat_source(folder) == (sum(p.stat().st_size for p in folder.iterdir()), 2e9)

    before = digest(video), digest(folder)
    assert all(len(d) == 64 for d in before)
    (folder / "notes.txt").write_text("not a frame")
    assert (digest(video), digest(folder)) == before

    (folder / "7.png").rename(folder / "13.png")  # the same bytes, in another order
    assert digest(folder) != before[1]
    (folder / "13.png").rename(folder / "7.png")
    assert digest(folder) == before[1]
    with (folder / "7.png").open("ab") as file:
        file.write(b"x")
    assert digest(folder) != before[1]
    video.write_bytes(b"another")
    assert digest(video) != before[0]


def test_identity_of_what_is_not_there(tmp_path: Path) -> None:
    for use in (stat_source, digest, probe):
        with pytest.raises(ValueError, match=r"gone\.mp4: .*[Nn]o such file"):
            use(tmp_path / "gone.mp4")
