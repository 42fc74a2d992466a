"""A folder with its own tables of intervals and labels."""

from pathlib import Path

import numpy as np
import pytest

from featurestore.errors import DatasetError, SplitError
from featurestore.labels import ABNORMAL, NORMAL, UNKNOWN
from jobs import sample
from jobs.datasets import official_split, scan, truth
from jobs.datasets.folder import read_intervals
from tests.jobs.datasets.trees import Tree, folder


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return folder(tmp_path / "mine")


def test_tables_from_elsewhere(tree: Tree, tmp_path: Path) -> None:
    other = tmp_path / "mine.csv"
    other.write_text("start, end, Video\n0,1,door/two\n")
    found = truth("folder", tree.root, tree.frames, other)
    assert np.flatnonzero(found["door/two"].frames).tolist() == [0]
    assert (found["hall"].label, found["hall"].frames) == (ABNORMAL, None)


def test_without_labels_only_what_is_marked_is_known(tree: Tree) -> None:
    """A video that no row names may be normal, or nobody may have looked at it."""
    (tree.root / "labels.csv").unlink()
    (tree.root / "intervals.csv").write_text("video,start,end\ndoor/two,3,6\nhall,,\n")
    found = truth("folder", tree.root, tree.frames)
    assert {video: known.label for video, known in found.items()} == {
        "door/one": UNKNOWN, "door/two": ABNORMAL, "hall": NORMAL
    }  # fmt: skip
    assert found["door/one"].frames is None


def test_an_unknown_video(tree: Tree) -> None:
    with (tree.root / "intervals.csv").open("a") as file:
        file.write("door/three,3,6\nyard,1,2\n")
    message = (
        r"intervals\.csv: names 2 videos that are not below .*: door/three, yard\. Videos are "
        "called as in door/one, door/two, hall"
    )
    with pytest.raises(DatasetError, match=message):
        truth("folder", tree.root, tree.frames)


def test_an_unknown_video_among_the_labels(tree: Tree) -> None:
    with (tree.root / "labels.csv").open("a") as file:
        file.write("yard,train,normal\n")
    with pytest.raises(DatasetError, match=r"labels\.csv: names 1 videos .*: yard\."):
        truth("folder", tree.root, tree.frames)


def test_a_video_in_both_halves(tree: Tree) -> None:
    with (tree.root / "labels.csv").open("a") as file:
        file.write("hall,test,abnormal\n")
    with pytest.raises(SplitError, match=r"labels\.csv: video 'hall' is in both halves"):
        truth("folder", tree.root, tree.frames)


def test_tables_that_contradict_each_other(tree: Tree) -> None:
    with (tree.root / "intervals.csv").open("a") as file:
        file.write("door/one,3,6\n")
    with pytest.raises(DatasetError, match=r"line 5: .* door/one .* labels\.csv calls it normal"):
        truth("folder", tree.root, tree.frames)
    (tree.root / "intervals.csv").write_text("video,start,end\nhall,,\n")
    with pytest.raises(DatasetError, match=r"hall has no anomalous frame, but labels\.csv calls"):
        truth("folder", tree.root, tree.frames)


def test_an_interval_beyond_the_end(tree: Tree) -> None:
    """18 may be an end: it is the first frame after."""
    (tree.root / "intervals.csv").write_text("video,start,end\ndoor/two,3,18\n")
    found = truth("folder", tree.root, tree.frames)
    assert found["door/two"].frames.tolist() == [0] * 3 + [1] * 15
    (tree.root / "intervals.csv").write_text("video,start,end\ndoor/two,3,19\n")
    with pytest.raises(DatasetError, match="line 2: frames 3 to 18 of door/two .* 18 frames, 0 to"):
        truth("folder", tree.root, tree.frames)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("video,from,to\na,1,2\n", "must name the columns video,start,end; it is 'video,from,to'"),
        ("", "must name the columns"),
        ("video,start,end\na,5,5\n", "line 2: a,5,5 is no interval"),
        ("video,start,end\na,-1,5\n", "line 2: a,-1,5 is no interval"),
        ("video,start,end\na,1,\n", "line 2: a,1, is no interval"),
        ("video,start,end\na,1.5,3\n", "is no interval"),
        ("video,start,end\n,1,3\n", "is no interval"),
        ("video,start,end\na,1,3\na,,\n", "line 3: a has no anomalous frame in one row"),
        ("video,start,end\na,,\na,1,3\n", "line 3: a has no anomalous frame in one row"),
    ],
)
def test_tables_that_make_no_sense(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "intervals.csv").write_text(text)
    with pytest.raises(DatasetError, match=message):
        read_intervals(tmp_path / "intervals.csv")


def test_a_table_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "intervals.csv").write_bytes(b"PK\x03\x04\xff\xfe")
    with pytest.raises(DatasetError, match=r"intervals\.csv: cannot be read as text"):
        read_intervals(tmp_path / "intervals.csv")


def test_the_samples_tables_are_understood(tmp_path: Path) -> None:
    """What `make demo` writes: intervals as here, labels beside them."""
    recipe = sample.Recipe(videos=2, frames=16, width=64, height=64)
    root = sample.write(tmp_path / "demo", recipe)
    frames = {s.name: 16 for s in scan("folder", root)}
    found = truth("folder", root, frames, root.parent / "intervals.csv")
    for video, known in found.items():
        if video.startswith("abnormal"):
            masks = np.load(root.parent / f"masks/{video}.npy")
            np.testing.assert_array_equal(known.frames, masks.any(axis=(1, 2)))
    (root / "labels.csv").write_bytes((root.parent / "labels.csv").read_bytes())
    found = truth("folder", root, frames, root.parent / "intervals.csv")
    assert {v: t.label for v, t in found.items()} == {"normal_01": NORMAL, "abnormal_01": ABNORMAL}
    assert official_split("folder", scan("folder", root), found, root).labels
