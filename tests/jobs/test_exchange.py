"""`fs-submit import` and `export`, by what they print and leave; and what does not mix."""

import io
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from featurestore.errors import FeatureStoreError, UsageError
from featurestore.store import open_store
from jobs.cli import cli
from jobs.progress import Counted
from jobs.rows import refuse_imported


def run(*words: object, code: int = 0) -> str:
    done = CliRunner().invoke(cli, [str(word) for word in words])
    if isinstance(done.exception, FeatureStoreError):
        assert code == 1
        return str(done.exception)
    assert done.exit_code == code, done.output
    return done.output


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    folder = tmp_path / "i3d"
    folder.mkdir()
    for name in "abcd":
        np.save(folder / f"{name}.npy", rng.normal(size=(2, 10, 5)).astype(np.float32))
    Path("mine.csv").write_text("video,split,label,frames\na,train,abnormal,30\nb,train,normal,32\n"
                                "c,test,abnormal,20\nd,test,normal,17\n")  # fmt: skip
    np.save("gt.npy", np.arange(37) < 9)
    return folder


def test_in_and_out_again(files: Path) -> None:
    shown = run("import", files, "--list", "mine.csv", "--gt", "gt.npy", "--made-by", "I3D, RGB")
    assert "features/i3d.zarr: 8 clips with imported_rtfm" in shown
    shown = run("status")
    assert "imported (rtfm .npy files), made by: I3D, RGB" in shown
    assert "labels: 2 normal, 2 abnormal; splits: mine (2 train, 2 test)" in shown
    shown = run("export", "out")
    assert "out: 2 videos to train, the first 1 of them abnormal" in shown
    assert "gt.npy: 64 frames, 9 anomalous" in shown
    run("import", "out/features", "--list", "out/videos.csv", "--gt", "out/gt.npy",
        "--name", "again", "--array", "imported_i3d", "--split-name", "mine")  # fmt: skip
    first, again = (open_store(f"features/{name}.zarr") for name in ("i3d", "again"))
    for video in "abcd":
        values = [s.features(a, s.video(video).clips) for s, a in
                  ((first, "imported_rtfm"), (again, "imported_i3d"))]  # fmt: skip
        assert values[0].tobytes() == values[1].tobytes()
        np.testing.assert_array_equal(values[0], np.load(files / f"{video}.npy"))
        labels = [s.frame_labels(s.video(video).index).tolist() for s in (first, again)]
        assert labels[0] == labels[1]
    assert first.split("mine").parts == again.split("mine").parts


def test_videos_left_out_show_in_the_exit_code(files: Path) -> None:
    values = np.load(files / "d.npy")
    values[0] = np.nan
    np.save(files / "d.npy", values)
    run("import", files, "--list", "mine.csv")
    shown = run("export", "out", code=3)
    assert "left out, for clips without features: d" in shown
    assert "no gt.npy: no frame labels of the test videos are known" in shown
    assert not Path("out/gt.npy").exists()


def test_what_is_wrong_is_one_message(files: Path) -> None:
    np.save(files / "a.npy", np.array([{}], object), allow_pickle=True)
    assert "a.npy: is no plain .npy array but pickled" in run("import", files, code=1)
    assert "no folder of .npy files" in run("import", "nowhere", code=1)
    assert not Path("features").exists()
    assert "give the store a plain name" in run("import", files, "--name", "a/b", code=1)


def test_progress_of_work_that_takes_a_while() -> None:
    quick, slow = Terminal(), Terminal()
    for shown, seconds in ((quick, 0), (slow, 10)):
        counted = Counted("imported", shown)
        counted._began -= seconds
        for done in range(4):
            counted(done, 3)
    assert quick.getvalue() == ""
    assert slow.getvalue().startswith("\r\x1b[K0 of 3 videos imported")
    assert slow.getvalue().endswith("s left\n")
    assert "\r\x1b[K3 of 3 videos imported, " in slow.getvalue()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_ours_do_not_take_the_place_of_imported_features(files: Path) -> None:
    run("import", files, "--list", "mine.csv")
    with pytest.raises(UsageError, match="came with imported features; give another --name"):
        refuse_imported(open_store("features/i3d.zarr"))
