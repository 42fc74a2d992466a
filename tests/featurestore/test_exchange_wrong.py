"""What is wrong with features of others is found before anything is written."""

import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featurestore.errors import (
    FeatureFileError,
    LabelError,
    SplitError,
)
from featurestore.exchange import Given, import_features
from featurestore.store import open_store
from tests.featurestore.making import read
from tests.featurestore.test_exchange import CHANNELS, RNG, rtfm, stored


def wrong(folder: Path, what: str) -> Given:
    """Files as RTFM keeps them, with one thing wrong."""
    given = rtfm(folder)
    file = given.folder / "SH_Test" / "b_i3d.npy"
    change: dict[str, Any] = {
        "pickled": lambda: np.save(file, np.array([{"x": 1}], object), allow_pickle=True),
        "text": lambda: file.write_text("hello"),
        "cut": lambda: file.write_bytes(file.read_bytes()[:-9]),
        "integers": lambda: np.save(file, np.zeros((2, 10, CHANNELS), np.int32)),
        "channels": lambda: np.save(file, np.zeros((2, 10, 3), np.float32)),
        "crops": lambda: np.save(file, np.zeros((2, 5, CHANNELS), np.float32)),
        "flat": lambda: np.save(file, np.zeros((2, CHANNELS), np.float32)),
        "empty": lambda: np.save(file, np.zeros((0, 10, CHANNELS), np.float32)),
        "gone": lambda: file.unlink(),
        "short gt": lambda: np.save(folder / "gt.npy", np.zeros(47)),
        "odd gt": lambda: np.save(folder / "gt.npy", np.full(48, 2.0)),
        "no lists": lambda: None,
        "no such list": lambda: None,
        "twice": lambda: (folder / "x-i3d-test-10crop.list").write_text("b_i3d.npy\n" * 2),
        "both halves": lambda: (folder / "x-i3d-test-10crop.list").write_text("a_i3d.npy\n"),
    }[what]
    change()
    lists = {"no lists": [], "no such list": ["gone.list"]}.get(what, given.lists)
    return Given(given.folder, lists, given.gt, suffix="_i3d")


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("pickled", r"b_i3d\.npy: is no plain .* pickled .* convert it once: python -c"),
        ("text", r"b_i3d\.npy: is no plain \.npy array"),
        ("cut", r"b_i3d\.npy: cannot be read as a \.npy array"),
        ("integers", r"b_i3d\.npy: expected floats of shape .* got int32 \(2, 10, 7\)"),
        ("channels", r"b_i3d\.npy: \(2, 10, 3\), but .*a_i3d\.npy has \(2, 10, 7\)"),
        ("crops", r"b_i3d\.npy: has no axis of 10 crops"),
        ("flat", r"b_i3d\.npy: without crops, others have them"),
        ("empty", r"b_i3d\.npy: \(0, 10, 7\): holds no features"),
        ("gone", r"test-10crop\.list: /mnt/yu/data/SH_Test/b_i3d\.npy is not below .*--suffix"),
        ("short gt", r"gt\.npy: has 47 labels, but the 2 test videos .* make 48 \(ours\), 48"),
        ("odd gt", r"gt\.npy: labels are 0 or 1, but it also has \[2\.0\]"),
        ("no lists", r"gt\.npy: is of test videos, but no list names any"),
        ("no such list", r"gone\.list: cannot be read as a list of files"),
        ("twice", r"video 'b' stands there twice"),
        ("both halves", r"video 'a' stands there twice"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_found_before_anything_is_written(
    tmp_path: Path, what: str, message: str
) -> None:
    with pytest.raises(FeatureFileError, match=message):
        import_features(wrong(tmp_path, what), tmp_path / "x.zarr", dataset="x")
    assert not (tmp_path / "x.zarr").exists()


def test_labels_that_contradict_each_other(tmp_path: Path) -> None:
    given = rtfm(tmp_path)
    table = "video,split,label\na,train,normal\nn,train,normal\nb,test,{}\nm,test,{}\n"
    for labels, error, message in (
        (("normal", "normal"), LabelError, "b .*: is called normal, but 12 of its frames are"),
        (
            ("abnormal", "abnormal"),
            None,
            "m: is called abnormal, but gt.npy has no anomalous",
        ),
    ):
        (tmp_path / "x.csv").write_text(table.format(*labels))
        wanted = Given(given.folder, [str(tmp_path / "x.csv")], given.gt, suffix="_i3d")
        if error:
            with pytest.raises(error, match=message):
                import_features(wanted, tmp_path / "x.zarr", dataset="x")
            assert not (tmp_path / "x.zarr").exists()
            with pytest.raises(FeatureFileError, match="a: its label contradicts --abnormal-first"):
                import_features(
                    Given(given.folder, wanted.lists, suffix="_i3d", abnormal_first=1),
                    tmp_path / "x.zarr", dataset="x",
                )  # fmt: skip
        else:
            assert message in "\n".join(import_features(wanted, tmp_path / "x.zarr", dataset="x"))


def test_a_split_that_contradicts_the_store(tmp_path: Path) -> None:
    given, url = rtfm(tmp_path), tmp_path / "x.zarr"
    import_features(given, url, dataset="sh")
    (tmp_path / "other.csv").write_text("video,split,label\na,train,normal\n")
    before = read(url)
    with pytest.raises(SplitError, match="a: normal in the split, abnormal in the truth"):
        import_features(
            Given(given.folder, [str(tmp_path / "other.csv")], suffix="_i3d"), url, dataset="sh"
        )
    assert read(url).identical(before)


def test_the_way_to_convert_pickled_files_works(tmp_path: Path) -> None:
    """The command that the message gives, run as it stands there."""
    whole = RNG.normal(size=(3, 10, 4)).astype(np.float32)
    listed = np.empty(3, object)
    listed[:] = list(whole)
    path = tmp_path / "it's pickled.npy"
    np.save(path, listed, allow_pickle=True)
    with pytest.raises(FeatureFileError) as error:
        import_features(Given(tmp_path), tmp_path / "x.zarr", dataset="x")
    command = shlex.split(str(error.value).partition("convert it once: ")[2])
    assert command[0] == "python"
    subprocess.run([sys.executable, *command[1:]], check=True)
    import_features(Given(tmp_path), tmp_path / "x.zarr", dataset="x")
    np.testing.assert_array_equal(stored(open_store(tmp_path / "x.zarr"), path.stem), whole)
