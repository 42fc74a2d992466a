"""What every dataset promises, in each of its layouts."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from featurestore.errors import DatasetError
from featurestore.labels import ABNORMAL, NORMAL, UNKNOWN, fit
from featurestore.splits import TEST, TRAIN
from jobs.datasets import DATASETS, ground_truth, official_split, scan, truth
from jobs.video import probe
from tests.jobs.datasets.trees import TREES, Tree


@pytest.fixture(params=TREES)
def tree(request: pytest.FixtureRequest, tmp_path: Path) -> Tree:
    return TREES[request.param](tmp_path / "data")


def test_every_dataset_is_tried() -> None:
    assert {build.split("_circulating")[0] for build in TREES} == set(DATASETS)


def test_videos_are_found_by_name(tree: Tree) -> None:
    sources = scan(tree.dataset, tree.root)
    assert {s.name: probe(s.path).frames for s in sources} == tree.frames


def test_videos_are_found_where_the_archive_unpacks_them(tree: Tree, tmp_path: Path) -> None:
    inner = tmp_path / "unpacked" / tree.inside
    inner.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(tree.root, inner)
    root = tmp_path / "unpacked"
    assert {s.name for s in scan(tree.dataset, root)} == set(tree.frames)
    assert ground_truth(tree.dataset, root).where


def test_truth(tree: Tree) -> None:
    found = truth(tree.dataset, tree.root, tree.frames)
    assert list(found) == list(tree.frames)
    for video, known in found.items():
        flags = tree.flags(video)
        if flags is None:
            assert (known.frames, known.label) == (None, ABNORMAL)
        else:
            assert known.frames is not None
            assert known.frames.dtype == np.int8
            np.testing.assert_array_equal(known.frames, flags)
            assert known.label == (ABNORMAL if flags.any() else NORMAL)
        assert known.source
        assert str(tree.root) not in known.source


def test_truth_of_some(tree: Tree) -> None:
    """As with `--videos`: that others are not asked for is no error."""
    video = list(tree.frames)[-1]
    assert list(truth(tree.dataset, tree.root, {video: tree.frames[video]})) == [video]


def labelled(tree: Tree) -> list[str]:
    return [v for v, frames in tree.anomalous.items() if frames]


def test_lengths_that_differ_are_one_error(tree: Tree) -> None:
    frames = {**tree.frames, **dict.fromkeys(labelled(tree), 5)}
    with pytest.raises(DatasetError) as caught:
        truth(tree.dataset, tree.root, frames)
    for video in labelled(tree):
        assert video in str(caught.value)
    assert "5 frames" in str(caught.value) or "has 5" in str(caught.value)
    assert str(tree.root) in str(caught.value)


def test_a_damaged_video_keeps_the_labels_before_the_damage(tree: Tree) -> None:
    frames = {**tree.frames, **dict.fromkeys(labelled(tree), 5)}
    found = truth(tree.dataset, tree.root, frames, damaged=labelled(tree))
    for video in labelled(tree):
        fitted = fit(found[video], 5, damaged=True)
        np.testing.assert_array_equal(fitted.frames, tree.flags(video)[:5])
        assert (fitted.label, fitted.remark) == (ABNORMAL, found[video].remark)


def test_a_video_that_does_not_open_keeps_its_label(tree: Tree) -> None:
    video = labelled(tree)[0]
    source = next(s for s in scan(tree.dataset, tree.root) if s.name == video)
    if source.kind == "file":
        source.path.write_bytes(b"no video")
    found = truth(tree.dataset, tree.root, {video: 0}, damaged=[video])
    assert found[video].label == ABNORMAL
    assert len(fit(found[video], 0, damaged=True).frames) == 0


def test_without_ground_truth_labels_are_those_of_the_halves(tree: Tree) -> None:
    for name in tree.labels:
        path = tree.root / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    found = truth(tree.dataset, tree.root, tree.frames)
    for video in labelled(tree):
        assert found[video].frames is None
        assert found[video].label == ABNORMAL
        assert "found" in found[video].remark or tree.dataset == "folder"
    assert {v for v, t in found.items() if t.label == UNKNOWN} == set()


def test_official_split(tree: Tree) -> None:
    found = truth(tree.dataset, tree.root, tree.frames)
    split = official_split(tree.dataset, scan(tree.dataset, tree.root), found, tree.root)
    assert split.name == "official"
    assert set(split.videos(TRAIN)) == tree.train
    assert set(split.videos(TEST)) == set(tree.frames) - tree.train
    assert split.labels == {video: known.label for video, known in found.items()}


def test_a_video_that_is_gone(tree: Tree) -> None:
    if tree.dataset == "folder":  # its videos may be called anything
        assert truth("folder", tree.root, {"Test099": 16})["Test099"].label == UNKNOWN
        return
    with pytest.raises(DatasetError, match="Test099 is not there any more"):
        truth(tree.dataset, tree.root, {"Test099": 16})
