"""`fs-submit datasets` and `fs-submit datasets check`, as a user runs them."""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from jobs.datasets import DATASETS
from jobs.datasets.check import check, text
from jobs.datasets.listing import text as listing
from jobs.video import VideoInfo
from tests.jobs.conftest import Command
from tests.jobs.datasets.test_avenue import COUNTS
from tests.jobs.datasets.trees import TREES, Tree, images, label_mat, mask


def whole_avenue(root: Path) -> Path:
    """As many videos, frames and anomalous frames as the real one has, in frame folders."""
    for number in range(1, 17):
        images(root / f"training/frames/{number:02d}", 3, ".jpg")
    yes, no = mask(True), mask(False)
    for number, (frames, anomalous) in enumerate(COUNTS, 1):
        images(root / f"testing/frames/{number:02d}", frames, ".jpg", digits=4)
        masks = [yes] * anomalous + [no] * (frames - anomalous)
        label_mat(root / f"ground_truth_demo/testing_label_mask/{number}_label.mat", masks)
    return root


def whole_ped2(root: Path) -> Path:
    lengths = (180, 180, 150, 180, 150, 180, 180, 180, 120, 150, 180, 180)
    for number in range(1, 17):
        images(root / f"Train/Train{number:03d}", 120 if number > 1 else 750)
    entries = []
    for number, frames in enumerate(lengths, 1):
        images(root / f"Test/Test{number:03d}", frames)
        last = {1: 50, 2: 49, 3: 49}.get(number, frames)
        entries.append(f"TestVideoFile{{end+1}}.gt_frame = [1:{last}];")
    (root / "Test/UCSDped2.m").write_text("\n".join(entries))
    return root


def test_avenue_whole_and_with_the_other_labels(command: Command, tmp_path: Path) -> None:
    root = whole_avenue(tmp_path / "avenue")
    out = command.run("datasets", "check", "--dataset", "avenue", "--root", root).stdout
    assert "21 videos (21 abnormal), 15,324 frames (3,712 of 15,324 anomalous)" in out
    assert "official: 16 to train, 21 to test" in out
    assert "bameri-s3: 24 to train, 13 to test" in out
    assert out.endswith("all well\n")
    assert len(out.splitlines()) < 24

    frames, anomalous = COUNTS[0]
    masks = [mask(n < anomalous + 155) for n in range(frames)]
    label_mat(root / "ground_truth_demo/testing_label_mask/1_label.mat", masks)
    shutil.rmtree(root / "training/frames/07")
    done = command.run("datasets", "check", "--dataset", "avenue", "--root", root, code=1)
    assert "15 training videos, 16 are published" in done.stdout
    assert "3,867 anomalous testing frames, the official ground truth has 3,712" in done.stdout
    assert "this is the count of frame_labels_avenue.npy" in done.stdout
    assert "bameri-s3" in done.stdout
    assert "names 1 videos that are not there: Train07" in done.stdout


def test_the_other_labels_are_named_when_counts_differ(tmp_path: Path) -> None:
    found = check("avenue", TREES["avenue"](tmp_path / "avenue").root)
    message = next(p for p in found.problems if "anomalous" in p)
    assert "24 anomalous testing frames, the official ground truth has 3,712" in message
    assert "another, with 3,867, is frame_labels_avenue.npy" in message


def test_ped2_for_machines(command: Command, tmp_path: Path) -> None:
    root = whole_ped2(tmp_path / "ped2")
    words = ("datasets", "check", "--dataset", "ped2", "--root", root, "--json")
    found = json.loads(command.run(*words).stdout)
    assert found["problems"] == found["remarks"] == []
    assert found["halves"]["train"] == {
        "videos": 16, "abnormal": 0, "normal": 16, "frames": 2550, "labelled_frames": 2550,
        "anomalous_frames": 0,
    }  # fmt: skip
    assert found["halves"]["test"]["frames"] == found["published"]["testing_frames"] == 2010
    assert found["splits"]["bameri-s6"] == {"train": 10, "test": 18}


def test_the_real_avenue_files(shared_data: Path, command: Command, tmp_path: Path) -> None:
    """Four of 37 videos: everything that is there fits, and what is missing is told."""
    root = tmp_path / "avenue"
    for half in ("testing_videos", "training_videos"):
        shutil.copytree(shared_data / "avenue" / half, root / half, copy_function=shutil.copyfile)
    packed = np.load(shared_data / "avenue/pixel_masks_volLabel.npz")
    for number in (8, 21):
        rows = np.unpackbits(packed[f"{number:02d}"], axis=1).reshape(-1, 360, 640)
        label_mat(root / f"ground_truth_demo/testing_label_mask/{number}_label.mat", list(rows))
    words = ("datasets", "check", "--dataset", "avenue", "--root", root)
    found = json.loads(command.run(*words, "--json", code=1).stdout)
    assert found["counted"] == "packets"
    assert found["halves"]["train"]["frames"] == 145
    assert found["halves"]["test"]["videos"] == 3
    assert found["halves"]["test"]["labelled_frames"] == 36 + 76
    assert found["halves"]["test"]["anomalous_frames"] == 36 + 53
    problems = "\n".join(found["problems"])
    assert "Test18: its mask 18_label.mat is not in" in problems
    assert "3 testing videos, 21 are published" in problems
    assert "bameri-s3" in problems


@pytest.mark.parametrize("name", TREES)
def test_a_part_of_each(name: str, tmp_path: Path) -> None:
    """Whatever is there fits: only counts, and splits that name the rest, are complained about."""
    tree = TREES[name](tmp_path / "data")
    found = check(tree.dataset, tree.root)
    assert not [p for p in found.problems if "published" not in p and "official" not in p
                and not p.startswith("split ")]  # fmt: skip
    assert sum(half.videos for half in found.halves.values()) == len(tree.frames)
    assert sum(half.frames for half in found.halves.values()) == sum(tree.frames.values())
    flags = [tree.flags(video) for video in tree.frames]
    assert sum(half.anomalous_frames for half in found.halves.values()) == sum(
        int(f.sum()) for f in flags if f is not None
    )
    assert DATASETS[tree.dataset].title in text(found)


def remove_masks(tree: Tree) -> None:
    shutil.rmtree(tree.root / "ground_truth_demo")


def break_a_video(tree: Tree) -> None:
    (tree.root / "testing_videos/01.avi").write_bytes(b"RIFF, and nothing more")


def swap_a_video(tree: Tree) -> None:
    shutil.copy(tree.root / "training_videos/01.avi", tree.root / "testing_videos/01.avi")


def take_a_video_away(tree: Tree) -> None:
    (tree.root / "testing_videos/02.avi").unlink()


def double_a_video(tree: Tree) -> None:
    shutil.copy(tree.root / "training_videos/01.avi", tree.root / "training_videos/1.avi")


def lose_everything(tree: Tree) -> None:
    for half in ("training_videos", "testing_videos"):
        shutil.rmtree(tree.root / half)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (remove_masks, "no ground truth found; expected is a mask a frame"),
        (break_a_video, "01.avi: "),
        (swap_a_video, "1_label.mat: ground truth of 18 frames, but Test01 has 20"),
        (take_a_video_away, "1 pieces of ground truth are of videos that are not there"),
        (double_a_video, "two videos are named 'Train01'"),
        (lose_everything, "no video of CUHK Avenue in"),
    ],
)
def test_what_is_wrong_is_told(spoil: Callable[[Tree], None], message: str, tmp_path: Path) -> None:
    tree = TREES["avenue"](tmp_path / "avenue")
    before = check("avenue", tree.root).problems
    assert not any(message in problem for problem in before)
    spoil(tree)
    problems = check("avenue", tree.root).problems
    assert any(message in problem for problem in problems), problems


def test_a_remark_of_the_ground_truth_is_shown(tmp_path: Path) -> None:
    tree = TREES["ped2"](tmp_path / "ped2")
    script = tree.root / "Test/UCSDped2.m"
    script.write_text(script.read_text().replace("4:10", "4:12"))
    shown = text(check("ped2", tree.root))
    assert "Test001: UCSDped2.m and Test001_gt disagree in 2 frames (10-11, counted" in shown


def test_packets_that_are_no_frames_are_counted_again(shared_data: Path, tmp_path: Path) -> None:
    """200 packets, 198 frames: the masks of 198 frames fit, and it is told why."""
    root = tmp_path / "avenue"
    (root / "testing_videos").mkdir(parents=True)
    shutil.copyfile(shared_data / "videos/escalator.avi", root / "testing_videos/01.avi")
    masks = [mask(n > 190, width=160, height=130) for n in range(198)]
    label_mat(root / "ground_truth_demo/testing_label_mask/1_label.mat", masks)
    found = check("avenue", root)
    assert found.halves["test"].frames == 198
    assert found.remarks == [
        f"{root / 'testing_videos/01.avi'}: 198 frames, though its packets look like 200"
    ]
    assert not any("1_label.mat" in problem for problem in found.problems)


def test_exact_finds_damage_that_packets_do_not_show(tmp_path: Path) -> None:
    tree = TREES["folder"](tmp_path / "mine")
    path = tree.root / "hall/009.png"
    path.unlink()  # it is a link to the others
    path.write_bytes(b"\x89PNG cut off")
    assert check("folder", tree.root).problems == []
    (problem,) = check("folder", tree.root, exact=True).problems
    assert "009.png" in problem


def test_a_screen_is_enough_for_a_thousand_problems(tmp_path: Path) -> None:
    root = tmp_path / "mine"
    for number in range(300):
        (root / f"{number:03d}.mp4").parent.mkdir(exist_ok=True)
        (root / f"{number:03d}.mp4").touch()
    found = check("folder", root)
    assert len(found.problems) == 300
    shown = text(found)
    assert "and 288 more: --json lists all" in shown
    assert len(shown.splitlines()) < 24


def test_progress_goes_to_stderr(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = TREES["avenue"](tmp_path / "avenue")
    check("avenue", tree.root)
    assert capsys.readouterr() == ("", "")  # nothing to wait for
    monkeypatch.setattr("jobs.datasets.check.QUIET_SECONDS", -1.0)
    check("avenue", tree.root)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "3 of 3 videos read" in shown.err


def test_stopping_leaves_the_rest_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the middle of 1900 long videos ends with those that were begun."""
    begun: list[Path] = []

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    def slow(path: Path, *, exact: bool) -> VideoInfo:
        begun.append(path)
        time.sleep(0.02)
        return VideoInfo(1, 25.0, 64, 48, None, "", True)

    for number in range(200):
        (tmp_path / f"{number}.mp4").touch()
    monkeypatch.setattr("jobs.datasets.check.probe", slow)
    monkeypatch.setattr("jobs.datasets.check._truth", interrupted)
    with pytest.raises(KeyboardInterrupt):
        check("folder", tmp_path)
    assert 0 < len(begun) < 30


def test_labels_from_elsewhere(command: Command, tmp_path: Path) -> None:
    tree = TREES["folder"](tmp_path / "mine")
    labels = shutil.move(tree.root / "intervals.csv", tmp_path / "elsewhere.csv")
    words = ("datasets", "check", "--dataset", "folder", "--root", tree.root)
    assert "elsewhere.csv" in command.run(*words, "--labels", labels).stdout
    out = command.run(*words, "--labels", tmp_path / "nowhere.csv", code=1).stdout
    assert "nowhere.csv: there is no such file" in out


def test_the_default_place_and_unknown_names(command: Command) -> None:
    out = command.run("datasets", "check", "--dataset", "ped1", code=1).stdout
    assert "data/ped1 is not there. Say where UCSD Ped1 lies with --root DIR" in out
    error = command.run("datasets", "check", "--dataset", "ped3", code=1).stderr
    assert "no dataset 'ped3': choose one of ped1, ped2, avenue" in error


def test_the_list(command: Command) -> None:
    out = command.run("datasets").stdout
    assert out == listing() + "\n"
    for known in DATASETS.values():
        assert f"{known.name}: {known.title}" in out
        assert known.layout.splitlines()[0] in out
        if known.name != "folder":
            assert all(fact and fact in out for fact in (known.size, known.licence, known.citation))
            assert any("://" in place for place in known.where)
    found = json.loads(command.run("datasets", "--json").stdout)
    assert [one["name"] for one in found] == list(DATASETS)
    assert found[1]["splits"] == ["official", "bameri-s6", "tevad"]
