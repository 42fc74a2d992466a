"""Splits: from files, at random, checked against videos and labels."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore.errors import SplitError, UsageError
from featurestore.labels import ABNORMAL, NORMAL, UNKNOWN
from featurestore.splits import (
    TEST,
    TRAIN,
    Split,
    check,
    random_splits,
    read_csv,
    restricted,
    write_csv,
)


def written(folder: Path, text: str) -> Path:
    path = folder / "mine.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "\ufeffLabel, split ,video,camera\nabnormal,test,b,1\n"
        '0,Train,"a, 1",2\n\n,test,ü/c,3\n1,,d,',
    )
    split = read_csv(path)
    assert split.name == "mine"
    assert split.source == "mine.csv"
    assert dict(split.parts) == {"b": TEST, "a, 1": TRAIN, "ü/c": TEST}
    assert dict(split.labels) == {"b": ABNORMAL, "a, 1": NORMAL, "d": ABNORMAL}
    assert split.videos(TEST) == ["b", "ü/c"]
    assert read_csv(path, "other", "a paper").name == "other"


names = st.text(st.characters(codec="utf-8", exclude_categories=["C"]), min_size=1).map(str.strip)


@given(st.dictionaries(names.filter(bool), st.tuples(
    st.sampled_from([TRAIN, TEST]), st.sampled_from([NORMAL, ABNORMAL, None])
), min_size=1))  # fmt: skip
def test_written_and_read(tmp_path_factory: pytest.TempPathFactory, rows: dict) -> None:  # type: ignore[type-arg]
    path = tmp_path_factory.mktemp("split") / "x.csv"
    parts = {video: part for video, (part, _) in rows.items()}
    labels = {video: label for video, (_, label) in rows.items() if label is not None}
    write_csv(path, Split("x", parts, labels, "x.csv"))
    assert read_csv(path) == Split("x", parts, labels, "x.csv")
    assert list(read_csv(path).parts) == list(parts)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("video,split,label\na,train,normal\na,test,normal", r"in both halves: lines 2 and 3"),
        ("video,split,label\na,train,normal\na,train,normal", r"'a' .* twice: lines 2 and 3"),
        ("video,split,label\na,train,odd", r"line 2: 'odd' should be normal or abnormal"),
        ("video,split,label\na,valid,normal", r"line 2: 'valid' should be train or test"),
        ("video,split,label\n,train,normal", r"line 2: names no video"),
        ("video,split,label\n", r"names no video"),
        ("", r"first line must name the columns video,split,label; it is ''"),
        ("name,half\na,train", r"first line must name .*; it is 'name,half'"),
    ],
)  # fmt: skip
def test_files_that_are_wrong(tmp_path: Path, text: str, message: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(SplitError, match=message) as error:
        read_csv(path)
    assert str(path) in str(error.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(SplitError, match="there is no such file"):
        read_csv(tmp_path / "none.csv")
    (tmp_path / "x.csv").write_bytes(b"video,split\n\xff\xfe,train")
    with pytest.raises(SplitError, match="cannot be read as text"):
        read_csv(tmp_path / "x.csv")


LABELS = {f"n{i}": NORMAL for i in range(7)} | {f"a{i}": ABNORMAL for i in range(10)} | {"u": -1}


def shares(split: Split) -> dict[int, tuple[int, int]]:
    """Label -> (videos to train, videos to test)."""
    halves = (split.videos(TRAIN), split.videos(TEST))
    return {of: tuple(sum(LABELS[v] == of for v in half) for half in halves) for of in (0, 1)}  # type: ignore[misc]


def test_random_splits_are_stratified_and_leave_out_what_is_unknown() -> None:
    for split in random_splits(LABELS, 5, 3, test_fraction=0.4):
        assert shares(split) == {NORMAL: (4, 3), ABNORMAL: (6, 4)}
        assert set(split.parts) == set(split.labels) == set(LABELS) - {"u"}
    (one,) = random_splits(LABELS, 1, 3, train={NORMAL: 2, ABNORMAL: 6})
    assert shares(one) == {NORMAL: (2, 5), ABNORMAL: (6, 4)}
    assert "6 abnormal, 2 normal to train" in one.source
    (one,) = random_splits(LABELS, 1, 3, test_fraction=0.99)
    assert shares(one) == {NORMAL: (1, 6), ABNORMAL: (1, 9)}


def test_random_splits_are_the_same_again() -> None:
    drawn = random_splits(LABELS, 4, 7)
    assert [split.name for split in drawn] == [f"random-7-{i}" for i in (1, 2, 3, 4)]
    assert random_splits(dict(reversed(LABELS.items())), 2, 7) == drawn[:2]
    assert len({tuple(split.videos(TRAIN)) for split in drawn}) == 4
    assert random_splits(LABELS, 1, 8)[0].parts != drawn[0].parts
    # Pinned: a split of this name in somebody's paper stays what it was.
    assert drawn[0].videos(TRAIN) == PINNED


PINNED = ["a0", "a2", "a3", "a8", "a9", "n0", "n2", "n4", "n6"]


@pytest.mark.parametrize("train", [{NORMAL: 7, ABNORMAL: 3}, {NORMAL: 2}, {NORMAL: 0, ABNORMAL: 1}])
def test_random_splits_that_cannot_be(train: dict[int, int]) -> None:
    with pytest.raises(SplitError, match=r"of (7 normal|10 abnormal) videos whose label is known"):
        random_splits(LABELS, 1, 0, train=train)


def test_one_class_cannot_be_drawn() -> None:
    with pytest.raises(SplitError, match="of 0 abnormal videos whose label is known"):
        random_splits({"a": NORMAL, "b": NORMAL}, 1, 0)
    with pytest.raises(UsageError):
        random_splits(LABELS, 0, 0)
    with pytest.raises(UsageError):
        random_splits(LABELS, 1, 0, test_fraction=1)


SPLIT = Split("s", {"a": TRAIN, "b": TEST}, {"a": ABNORMAL, "b": NORMAL}, "s.csv")


def test_checked_against_what_is_there() -> None:
    check(SPLIT, ["a", "b", "c"], {"a": ABNORMAL, "b": UNKNOWN})
    with pytest.raises(
        SplitError, match=r"split s \(s\.csv\): names 1 videos .* there: b\. Correct"
    ):
        check(SPLIT, ["a"], {})
    with pytest.raises(SplitError, match="of 1 videos: b: normal in the split, abnormal in the"):
        check(SPLIT, ["a", "b"], {"b": ABNORMAL})
    many = Split("s", {f"v{i}": TRAIN for i in range(9)}, {}, "s.csv")
    with pytest.raises(SplitError, match="v0, v1, v2, v3, v4 and 4 more"):
        check(many, [], {})


def test_restricted() -> None:
    assert restricted(SPLIT, ["b", "x"]) == Split("s", {"b": TEST}, {"b": NORMAL}, "s.csv")


@pytest.mark.parametrize("name", ["", " a", "a\nb"])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(UsageError, match="no name of a split"):
        Split(name, {}, {}, "")


def test_published_splits(shared_data: Path) -> None:
    counts = {"ped2_weak_TEVAD": (10, 18), "ped2_weak_FatemeBameri_s6": (10, 18),
              "shanghaitech_weak": (238, 199), "ucf_crime_RTFM": (1610, 290)}  # fmt: skip
    for name, halves in counts.items():
        split = read_csv(shared_data / "splits" / f"{name}.csv")
        assert (len(split.videos(TRAIN)), len(split.videos(TEST))) == halves
        if name == "shanghaitech_weak":
            abnormal = [sum(split.labels[v] for v in split.videos(half)) for half in (TRAIN, TEST)]
            assert abnormal == [63, 44]
