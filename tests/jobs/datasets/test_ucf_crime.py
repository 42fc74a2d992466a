"""UCF-Crime: the annotation, class folders, and the official counts."""

from pathlib import Path

import numpy as np
import pytest

from featurestore.errors import DatasetError
from featurestore.labels import ABNORMAL, NORMAL
from featurestore.splits import TEST, TRAIN, read_csv
from jobs.datasets import ground_truth, official_split, scan, truth
from jobs.datasets.ucf_crime import read_annotation
from tests.jobs.datasets.trees import ANNOTATION, Tree, ucf_crime

NAME = "Temporal_Anomaly_Annotation_for_Testing_Videos.txt"


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return ucf_crime(tmp_path / "ucf")


def annotate(tree: Tree, text: str) -> None:
    (tree.root / NAME).write_text(text)


def test_an_interval_may_end_with_the_one_after_the_last_frame(tree: Tree) -> None:
    """Five official ones do, by one or two frames; the published evaluation cuts them, too."""
    found = truth("ucf_crime", tree.root, tree.frames)
    assert found["Arson011_x264"].remark == "its last interval ends at frame 18 of 17; it was cut"
    assert found["Abuse028_x264"].remark == ""
    annotate(tree, ANNOTATION.replace("2  18", "2  20"))
    with pytest.raises(DatasetError, match="line 2: frames 2 to 20 of Arson011_x264 .* 17 frames"):
        truth("ucf_crime", tree.root, tree.frames)


def test_names_with_and_without_the_codec(tree: Tree) -> None:
    annotate(tree, ANNOTATION.replace("_x264", ""))
    found = truth("ucf_crime", tree.root, tree.frames)
    for video in tree.frames:
        flags = tree.flags(video)
        if flags is not None:
            np.testing.assert_array_equal(found[video].frames, flags)


def test_the_copy_with_frame_counts(tree: Tree) -> None:
    lines = [f"{line.strip()}\t{99}" for line in ANNOTATION.splitlines()]
    annotate(tree, "\n".join(lines))
    found = truth("ucf_crime", tree.root, tree.frames)
    np.testing.assert_array_equal(found["Abuse028_x264"].frames, tree.flags("Abuse028_x264"))


def test_the_annotation_may_lie_anywhere(tree: Tree, tmp_path: Path) -> None:
    other = tree.root / "Temporal_Anomaly_Annotation_For_Testing_Videos/Txt_formate"
    other.mkdir(parents=True)
    (tree.root / NAME).rename(other / "Temporal_Anomaly_Annotation.txt")
    found = truth("ucf_crime", tree.root, tree.frames)
    assert found["Abuse028_x264"].frames is not None
    (other / "Temporal_Anomaly_Annotation.txt").rename(tmp_path / "annotation.txt")
    found = truth("ucf_crime", tree.root, tree.frames, tmp_path / "annotation.txt")
    assert found["Abuse028_x264"].frames is not None


def test_without_annotation_there_is_no_official_split(tree: Tree) -> None:
    (tree.root / NAME).unlink()
    found = truth("ucf_crime", tree.root, tree.frames)
    assert found["Normal_Videos_003_x264"].label == NORMAL
    with pytest.raises(DatasetError, match="which abnormal videos are for testing is in the ann"):
        official_split("ucf_crime", scan("ucf_crime", tree.root), found)


def test_a_testing_video_that_the_annotation_leaves_out(tree: Tree) -> None:
    """Normal by its folder: nothing is lost."""
    annotate(tree, "\n".join(ANNOTATION.splitlines()[:2]))
    found = truth("ucf_crime", tree.root, tree.frames)
    assert found["Normal_Videos_003_x264"].label == NORMAL
    split = official_split("ucf_crime", scan("ucf_crime", tree.root), found)
    assert split.parts["Normal_Videos_003_x264"] == TEST


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("Abuse  4  10  13  14", "Normal  -1  -1  -1  -1"),
        ("Abuse  4  10  13  14", "Abuse  -1  -1  -1  -1"),
        ("Normal  -1  -1", "Normal  4  5"),
    ],
)
def test_an_annotation_that_contradicts_the_folder(tree: Tree, before: str, after: str) -> None:
    annotate(tree, ANNOTATION.replace(before, after))
    with pytest.raises(DatasetError, match="is called .* but lies in .* one of the two is wrong"):
        truth("ucf_crime", tree.root, tree.frames)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("Abuse028_x264.mp4 Abuse 165 240 -1", "line 1: 'Abuse028_x264.mp4 Abuse 165 240 -1' is"),
        ("Abuse028_x264.mp4 Abuse 165 x -1 -1", "is not 'video class start end start end'"),
        ("Abuse028_x264.mp4 Abuse 240 165 -1 -1", "is not 'video class start end start end'"),
        ("Abuse028_x264.mp4 Abuse 0 165 -1 -1", "is not 'video class start end start end'"),
        ("Abuse028_x264.mp4 Abuse 5 -1 -1 -1", "is not 'video class start end start end'"),
        ("A.mp4 Abuse 1 2 -1 -1\n\nA_x264.mp4 Abuse 1 2 -1 -1", "stands in lines 1 and 3"),
    ],
)
def test_lines_that_make_no_sense(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / NAME).write_text(line)
    with pytest.raises(DatasetError, match=message):
        read_annotation(tmp_path / NAME)


def test_entries_of_videos_that_are_not_there(tree: Tree) -> None:
    """No error, since a part of the dataset is a dataset; `datasets check` lists them."""
    annotate(tree, ANNOTATION + "Abuse030_x264.mp4  Abuse  5  10  -1  -1\n")
    assert truth("ucf_crime", tree.root, tree.frames)
    (orphan,) = ground_truth("ucf_crime", tree.root).orphans
    assert orphan == f"{tree.root / NAME}, line 4: Abuse030"


# The real ones


@pytest.fixture(scope="module")
def real(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All 1900 names in their folders, and the annotation. The files are empty."""
    root = tmp_path_factory.mktemp("real") / "ucf"
    split = read_csv(shared_data / "splits/ucf_crime_RTFM.csv")
    for video, part in split.parts.items():
        half = "Training" if part == TRAIN else "Testing"
        folder = video.rstrip("0123456789_x").rstrip("0123456789")
        if split.labels[video] == NORMAL:
            folder = f"{half}_Normal_Videos_Anomaly"
        (root / folder).mkdir(parents=True, exist_ok=True)
        (root / folder / f"{video}.mp4").touch()
    (root / NAME).write_bytes((shared_data / "splits/ucf_crime_temporal.txt").read_bytes())
    return root


def test_the_official_split_is_the_published_one(real: Path, shared_data: Path) -> None:
    published = read_csv(shared_data / "splits/ucf_crime_RTFM.csv")
    counted = shared_data / "splits/ucf_crime_temporal_with_frames_MIST.txt"
    words = [line.split() for line in counted.read_text().splitlines()]
    frames = dict.fromkeys(published.parts, 0) | {Path(w[0]).stem: int(w[6]) for w in words}
    found = truth("ucf_crime", real, frames)
    split = official_split("ucf_crime", scan("ucf_crime", real), found)
    assert split.parts == published.parts
    assert split.labels == published.labels
    assert (len(split.videos(TRAIN)), len(split.videos(TEST))) == (1610, 290)
    tested = [found[video] for video in split.videos(TEST)]
    assert [sum(t.label == k for t in tested) for k in (ABNORMAL, NORMAL)] == [140, 150]
    assert sum(len(t.frames) for t in tested) == 1_111_808
    assert sum(int(t.frames.sum()) for t in tested) == 84_338
    assert sum(bool(t.remark) for t in tested) == 5
    assert not ground_truth("ucf_crime", real).orphans
