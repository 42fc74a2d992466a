"""The sample is what its README says: real videos, exact masks, both classes, always the same."""

import csv
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from featurestore.errors import UsageError
from jobs import sample, scene
from jobs.sample import Recipe

RECIPE = Recipe()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("sample") / "demo"
    assert sample.write(directory, RECIPE) == directory / "videos"
    return directory


def decoded(path: Path) -> NDArray[np.uint8]:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def contents(directory: Path) -> dict[str, bytes]:
    files = (path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in files}


def test_both_classes_in_both_splits() -> None:
    videos = sample.plan(RECIPE)
    assert len(videos) == 8
    for split in ("train", "test"):
        assert {v.label for v in videos if v.split == split} == {"normal", "abnormal"}
    assert {v.anomaly for v in videos} == {None, *scene.ANOMALIES}


def test_every_video_decodes_to_as_many_frames_as_its_mask(made: Path) -> None:
    videos = sorted((made / "videos").iterdir())
    assert [path.stem for path in videos] == sorted(v.name for v in sample.plan(RECIPE))
    for path in videos:
        mask = np.load(made / "masks" / f"{path.stem}.npy")
        assert mask.dtype == bool
        assert mask.shape == (16, 240, 320)
        assert decoded(path).shape == (*mask.shape, 3)


def test_labels_and_intervals_agree_with_the_masks(made: Path) -> None:
    intervals = rows(made / "intervals.csv")
    for row in rows(made / "labels.csv"):
        frames = np.load(made / "masks" / f"{row['video']}.npy").any(axis=(1, 2))
        marked = np.zeros_like(frames)
        for interval in intervals:
            if interval["video"] == row["video"]:
                marked[int(interval["start"]) : int(interval["end"])] = True
        np.testing.assert_array_equal(marked, frames)
        if row["label"] == "normal":
            assert not frames.any()
        else:  # something happens, and not all the time
            assert 4 <= frames.sum() < len(frames)


def test_masks_lie_on_what_differs_from_the_empty_scene(made: Path) -> None:
    """In the encoded file, as decoded: so frames and masks are in step, and neither is mirrored."""
    empty = scene.background(320, 240, RECIPE.seed)
    for video in sample.plan(RECIPE):
        if video.anomaly is None:
            continue
        mask = np.load(made / "masks" / f"{video.name}.npy")
        frames = decoded(made / "videos" / f"{video.name}.mp4").astype(np.float32)
        changed = np.abs(frames - empty).max(axis=-1) > 25
        assert changed[mask].mean() > 0.8, video.name
        assert changed[~mask].mean() < 0.1, video.name
        # The mask of another moment fits worse, so they are aligned to the frame.
        shown = mask.any(axis=(1, 2))[:-1] & mask.any(axis=(1, 2))[1:]
        late = changed[1:][shown][mask[:-1][shown]].mean()
        assert late < changed[:-1][shown][mask[:-1][shown]].mean() - 0.1, video.name


def test_the_unexpected_one_is_faster_than_people_walk() -> None:
    rng = np.random.default_rng(3)
    for anomaly in scene.ANOMALIES:
        figures = scene.people(rng, 320, 240, 16, anomaly)
        speeds = {f.kind: abs(f.speed) for f in figures}
        assert speeds.pop(anomaly) > 2 * max(speeds.values())


def test_the_same_recipe_gives_the_same_bytes(made: Path, tmp_path: Path) -> None:
    sample.write(tmp_path / "again", RECIPE)
    assert contents(tmp_path / "again") == contents(made)


def test_another_seed_gives_another_scene() -> None:
    (first, _), (second, _) = (next(scene.render(96, 64, 8, seed=s, video=1)) for s in (0, 1))
    assert not np.array_equal(first, second)


SMALL = Recipe(videos=2, frames=8, width=96, height=64)


def test_a_complete_sample_is_left_alone(tmp_path: Path) -> None:
    sample.write(tmp_path / "demo", SMALL)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "demo").rglob("*")}
    sample.write(tmp_path / "demo", SMALL)
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "demo").rglob("*")} == before


@pytest.mark.parametrize("harm", ["gone", "cut", "manifest"])
def test_a_harmed_sample_is_written_again(tmp_path: Path, harm: str) -> None:
    demo = tmp_path / "demo"
    sample.write(demo, SMALL)
    whole = contents(demo)
    if harm == "gone":
        (demo / "masks" / "normal_01.npy").unlink()
    elif harm == "cut":
        video = demo / "videos" / "normal_01.mp4"
        video.write_bytes(video.read_bytes()[:100])
    else:
        (demo / sample.MANIFEST).write_text("{")
    sample.write(demo, SMALL)
    assert contents(demo) == whole
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]  # no leftovers beside it


def test_another_recipe_replaces_the_sample(tmp_path: Path) -> None:
    sample.write(tmp_path / "demo", SMALL)
    sample.write(tmp_path / "demo", Recipe(videos=3, frames=9, width=96, height=64))
    assert len(list((tmp_path / "demo" / "videos").iterdir())) == 3
    assert len(decoded(tmp_path / "demo" / "videos" / "normal_02.mp4")) == 9


def test_a_failed_writing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(path: Path, frames: list[NDArray[np.uint8]]) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sample, "encode", full_disk)
    with pytest.raises(OSError, match="No space"):
        sample.write(tmp_path / "demo", SMALL)
    assert not list(tmp_path.iterdir())


def test_somebody_elses_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match="not a sample"):
        sample.write(tmp_path, SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_an_empty_folder_may_be_used(tmp_path: Path) -> None:
    (tmp_path / "demo").mkdir()
    sample.write(tmp_path / "demo", SMALL)
    assert sample.is_complete(tmp_path / "demo", SMALL)


@pytest.mark.parametrize("bad", [{"videos": 1}, {"frames": 7}, {"width": 65}, {"height": 32}])
def test_recipes_that_cannot_be(bad: dict[str, int]) -> None:
    with pytest.raises(UsageError, match=str(next(iter(bad.values())))):
        Recipe(**bad)
