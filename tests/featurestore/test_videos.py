"""The table of videos: growing, superseding, changing rows, what the names may be."""

import math
from pathlib import Path

import numpy as np
import pytest

from featurestore.catalog import NewVideo
from featurestore.errors import UsageError
from featurestore.schema import DONE, FAILED, MISSING
from featurestore.store import Store, open_store
from tests.featurestore.making import expected, make, read, video, write


def test_rows_come_back_as_they_went_in(tmp_path: Path) -> None:
    store = make(tmp_path / "x.zarr", [], names=["r3d"])
    new = NewVideo("a/ü b", "/d/a.avi", 40, 29.97, 640, 360, "ab" * 32, 12345, 1.7e9 + 0.25)
    failed = NewVideo("broken", "/d/b.avi", 0, state="failed", reason="no video in it")
    assert store.append([new, failed]) == range(2)
    store.commit()
    first, second = open_store(store.url).videos()
    for field in NewVideo.__dataclass_fields__:
        assert getattr(first, field) == getattr(new, field)
    assert (first.index, first.clip_offset, first.clip_count) == (0, 0, 3)
    assert first.clips == range(3)
    assert (second.frames, second.clip_count, second.state) == (0, 0, "failed")
    assert math.isnan(second.fps)
    assert math.isnan(second.mtime)


def test_one_video_by_name(tmp_path: Path) -> None:
    store = make(tmp_path / "x.zarr", [3, 2], names=["r3d"])
    store.append([video("v0", 4), video("v9", 1)])
    assert repr(store.video("v1")) == repr(store.videos()[1])  # nan is no other nan
    assert store.video("v0").index == 2
    assert store.live_videos().tolist() == [False, True, True, True]
    with pytest.raises(UsageError, match="has no video 'v2'"):
        store.video("v2")


def test_growth_shows_at_the_commit(tmp_path: Path) -> None:
    store = make(tmp_path / "x.zarr", [3, 2], names=["swin", "r3d", "swin_r3d"])
    for name in ("swin", "r3d"):
        write(store, name, range(5))
    before = read(store.url)
    assert store.append([video("late", 6)]) == range(2, 3)
    assert read(store.url).identical(before)
    assert open_store(store.url).clips == 5
    assert store.clips == 11
    store.commit()
    ds = read(store.url)
    np.testing.assert_array_equal(ds["swin_r3d"].values, expected("swin_r3d", 11, range(5)))
    assert ds["status_swin"].values.tolist() == [DONE] * 5 + [MISSING] * 6
    write(store, "swin", range(5, 11))
    write(store, "r3d", range(5, 11))
    np.testing.assert_array_equal(
        read(store.url)["swin_r3d"].values, expected("swin_r3d", 11, range(11))
    )


def test_a_new_version_supersedes_the_old_one_at_the_commit(tmp_path: Path) -> None:
    store = make(tmp_path / "x.zarr", [3, 2], names=["r3d"])
    store.append([video("v0", 4)])
    assert [row.state for row in open_store(store.url).videos()] == ["ok", "ok"]
    store.commit()
    for rows in (store.videos(), open_store(store.url).videos()):
        assert [row.state for row in rows] == ["superseded", "ok", "ok"]
    assert read(store.url)["state"].values.tolist() == ["superseded", "ok", "ok"]
    assert store.live().tolist() == [False] * 3 + [True] * 6


def test_superseding_is_finished_after_a_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make(tmp_path / "x.zarr", [3], names=["r3d"])
    store.append([video("v0", 4)])
    monkeypatch.setattr(Store, "_mark_superseded", lambda self: None)
    store.commit()
    monkeypatch.undo()
    assert read(store.url)["state"].values.tolist() == ["ok", "ok"]
    assert open_store(store.url).live().tolist() == [False] * 3 + [True] * 4
    open_store(store.url, "a")
    assert read(store.url)["state"].values.tolist() == ["superseded", "ok"]


def test_changing_rows_in_place(tmp_path: Path) -> None:
    store = make(tmp_path / "x.zarr", [3, 2, 1], names=["r3d"])
    store.update_videos(
        {
            2: {"state": "damaged", "reason": "damaged at frame 7"},
            0: {"path": "elsewhere/v0.avi", "mtime": 5.0, "size": 9},
        }
    )
    rows = open_store(store.url).videos()
    assert (rows[0].path, rows[0].mtime, rows[0].size) == ("elsewhere/v0.avi", 5.0, 9)
    assert (rows[2].state, rows[2].reason) == ("damaged", "damaged at frame 7")
    assert rows[1].state == "ok"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({9: {"state": "ok"}}, "no video 9"),
        ({0: {"frames": 3}}, "'frames' of a video cannot change"),
        ({0: {"state": "fine"}}, "'fine' is no state"),
        ({0: {"path": "a\udcff"}}, "not valid Unicode"),
    ],
)
def test_changes_that_cannot_be(
    tmp_path: Path, changes: dict[int, dict[str, object]], message: str
) -> None:
    store = make(tmp_path / "x.zarr", [3], names=["r3d"])
    before = store.videos()
    with pytest.raises(UsageError, match=message):
        store.update_videos({0: {"reason": "not written either"}, **changes})
    assert repr(store.videos()) == repr(before)


def test_reasons_may_hold_anything(tmp_path: Path) -> None:
    store = make(tmp_path / "x.zarr", [3], names=["r3d"])
    store.update_videos({0: {"reason": "cannot open 'a\udcff.avi'", "state": "failed"}})
    assert open_store(store.url).videos()[0].reason == r"cannot open 'a\udcff.avi'"


@pytest.mark.parametrize("name", ["../../etc", "/etc/passwd", "a\nb", "x" * 3000, ".zarr", "c/0"])
def test_names_are_data_and_lead_nowhere(tmp_path: Path, name: str) -> None:
    store = make(tmp_path / "in" / "x.zarr", [1], names=["r3d"])
    store.append([video(name, 2)])
    store.commit()
    write(store, "r3d", range(3))
    assert open_store(store.url).videos()[1].name == name
    assert {path.name for path in tmp_path.iterdir()} == {"in"}


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"name": ""}, "needs a name"),
        ({"name": "a\udcff"}, "not valid Unicode"),
        ({"frames": -1}, "no -1 frames"),
        ({"state": "new"}, "'new' is no state"),
    ],
)
def test_videos_that_cannot_be(columns: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        NewVideo(**{"name": "a", "path": "a", "frames": 3, **columns})  # type: ignore[arg-type]


def test_two_new_videos_of_one_name(tmp_path: Path) -> None:
    store = make(tmp_path / "x.zarr", [3], names=["r3d"])
    with pytest.raises(UsageError, match="Two videos have the name 'b'"):
        store.append([video("b", 1), video("c", 1), video("b", 2)])
    store.append([video("b", 1)])
    store.commit()
    assert len(store.videos()) == 2


def test_marking(tmp_path: Path) -> None:
    store = make(tmp_path / "x.zarr", [9], names=["r3d"])
    store.mark("r3d", slice(2, 4), DONE)
    store.mark("r3d", np.array([7, 5]), FAILED)
    store.mark("r3d", range(8, 9), DONE)
    store.mark("r3d", np.array([], dtype=int), DONE)
    assert open_store(store.url).status("r3d").tolist() == [0, 0, 1, 1, 0, 2, 0, 2, 1]
    for clips, value in ((np.array([9]), DONE), (np.array([-1]), DONE), (slice(0, 1), 3)):
        with pytest.raises(UsageError):
            store.mark("r3d", clips, value)
    with pytest.raises(UsageError, match="swin_r3d is made of swin and r3d"):
        store.mark("swin_r3d", slice(0, 1), DONE)
    with pytest.raises(UsageError, match="no features of 'swin'"):
        store.mark("swin", slice(0, 1), DONE)


def test_failed_clips_read_nan_whatever_was_written(tmp_path: Path) -> None:
    store = make(tmp_path / "x.zarr", [9], names=["r3d"])
    write(store, "r3d", range(6))
    store.mark("r3d", np.array([1, 5, 8]), FAILED)
    np.testing.assert_array_equal(read(store.url)["r3d"].values, expected("r3d", 9, [0, 2, 3, 4]))
    assert not (Path(store.url) / "r3d" / "c" / "2").exists()


def test_a_reader_writes_nothing(tmp_path: Path) -> None:
    url = make(tmp_path / "x.zarr", [3], names=["r3d"]).url
    store = open_store(url)
    for change in (
        lambda: store.append([video("b", 1)]),
        store.commit,
        lambda: store.mark("r3d", slice(0, 1), DONE),
        lambda: store.update_videos({0: {"state": "ok"}}),
        lambda: store.add_features("swin", 1024, {}),
        lambda: store.replace_features("r3d", {}),
    ):
        with pytest.raises(UsageError, match="open for reading only"):
            change()
