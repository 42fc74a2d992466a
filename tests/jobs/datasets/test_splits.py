"""The splits that come with the package."""

from pathlib import Path

import pytest

from featurestore.errors import DatasetError
from featurestore.labels import ABNORMAL, NORMAL
from featurestore.splits import TEST, TRAIN, read_csv
from jobs.datasets import DATASETS, named_splits, official_split

# dataset, split -> abnormal and normal videos to train, and to test
SIZES = {
    ("ped2", "bameri-s6"): (6, 4, 6, 12),
    ("ped2", "tevad"): (6, 4, 6, 12),
    ("avenue", "bameri-s3"): (14, 10, 7, 6),
    ("shanghaitech", "zhong2019"): (63, 175, 44, 155),
}
SHARED = {
    "ped2_weak_FatemeBameri_s6": ("ped2", "bameri-s6"),
    "ped2_weak_TEVAD": ("ped2", "tevad"),
    "avenue_weak_FatemeBameri_s3": ("avenue", "bameri-s3"),
    "shanghaitech_weak": ("shanghaitech", "zhong2019"),
}


def test_all_of_them_are_here() -> None:
    assert {(d, s) for d in DATASETS for s in named_splits(d)} == set(SIZES)


@pytest.mark.parametrize(("dataset", "name"), SIZES)
def test_sizes(dataset: str, name: str) -> None:
    split = named_splits(dataset)[name]
    sizes = [
        sum(split.labels[video] == label for video in split.videos(part))
        for part in (TRAIN, TEST)
        for label in (ABNORMAL, NORMAL)
    ]
    assert tuple(sizes) == SIZES[dataset, name]
    assert split.name == name
    assert "github.com/" in split.source


@pytest.mark.parametrize("file", SHARED)
def test_they_are_the_published_ones(file: str, shared_data: Path) -> None:
    dataset, name = SHARED[file]
    published = read_csv(shared_data / "splits" / f"{file}.csv")
    ours = named_splits(dataset)[name]
    assert list(ours.parts.items()) == list(published.parts.items())  # in their order, too
    assert ours.labels == published.labels


def test_a_folder_has_none_of_its_own() -> None:
    assert named_splits("folder") == {}
    with pytest.raises(DatasetError, match="has no labels.csv that says which videos train"):
        official_split("folder", [], {})


def test_an_unknown_dataset() -> None:
    with pytest.raises(DatasetError, match="no dataset 'ped3': choose one of ped1, ped2, avenue"):
        named_splits("ped3")
