"""The detector's commands, as a user types them."""

import json
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result

from detector.methods import METHODS
from featurestore.catalog import NewVideo
from featurestore.errors import SplitError, UsageError
from featurestore.lock import locked
from featurestore.runs import read_run, run_names
from featurestore.store import create, open_store
from jobs import status
from jobs.cli_detector import COMMANDS, CONVENTIONS, DETECTORS
from tests.detector.stores import make

QUICK = ("--resamples", "20")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of stores, of which one is scored."""
    folder = tmp_path_factory.mktemp("features")
    make(folder / "made.zarr")
    done = run("score", "--store", folder, *QUICK)
    assert done.exit_code == 0
    return folder


def run(*words: object) -> Result:
    """What `fs-submit WORDS` does. Errors for the user are raised, as `main` gets them."""
    group = click.Group("fs-submit", commands={c.name: c for c in COMMANDS if c.name})
    return CliRunner().invoke(group, [str(word) for word in words], catch_exceptions=False)


def test_tables_here_are_those_of_the_detector() -> None:
    from featurestore.align import CONVENTIONS as KNOWN

    assert DETECTORS.split(", ") == list(METHODS)
    assert CONVENTIONS == KNOWN


def test_score_says_progress_apart_from_the_table(folder: Path) -> None:
    done = run("score", "--store", folder / "made.zarr", "--features", "timm_a", *QUICK)
    assert "perfect video-level classifier" in done.stdout
    assert "weak: timm_a is scored" in done.stderr
    assert "is scored" not in done.stdout


def test_score_as_json(folder: Path) -> None:
    done = run("score", "--store", folder, "--split", "weak", "--json", *QUICK)
    (found,) = json.loads(done.stdout)
    assert [row["features"] for row in found["rows"]] == ["timm_a", "timm_b", "fusion"]
    assert 0.5 < found["rows"][0]["evaluations"][0]["overall"]["auc"] <= 1
    assert found["runs"] == [f"density-{name}-weak" for name in ("timm_a", "timm_b", "fusion")]


def test_options_reach_the_detector(tmp_path: Path) -> None:
    make(tmp_path / "made.zarr", arrays=("timm_a",))
    run(
        "score", "--store", tmp_path, "--name", "made", "--features", "timm_a",
        "--split", "weak", "--detector", "ratio", "--smooth", "0.5", "--aggregate", "mean",
        "--run", "mine", "--seed", "7", *QUICK,
    )  # fmt: skip
    (member,) = read_run(tmp_path / "made.zarr", "mine").attributes["members"]
    wanted = {"detector": "ratio", "smooth": 0.5, "aggregate": "mean", "seed": 7}
    assert {key: member[key] for key in wanted} == wanted
    done = run(
        "score", "--store", tmp_path, "--split", "random:2", "--train-videos", "4,3", *QUICK
    )  # fmt: skip
    assert "Mean ± standard deviation over 2 splits." in done.stdout
    with pytest.raises(UsageError, match="--train-videos '4': give the abnormal and the normal"):
        run("score", "--store", tmp_path, "--train-videos", "4")


def test_stores_without_a_split_are_named_and_left_out(tmp_path: Path) -> None:
    make(tmp_path / "made.zarr", arrays=("timm_a",))
    create(tmp_path / "empty.zarr", dataset="empty", block=4)
    with pytest.raises(UsageError, match="no features"):
        run("score", "--store", tmp_path / "empty.zarr")
    make(tmp_path / "official.zarr", arrays=("timm_a",))
    (tmp_path / "empty.zarr").rename(tmp_path / "gone")
    done = run("score", "--store", tmp_path, "--detector", "ratio", "--features", "timm_a",
               "--split", "weak", *QUICK)  # fmt: skip
    assert done.stdout.count("split weak") == 2
    with pytest.raises(SplitError, match="no split 'nothing'"):
        run("score", "--store", tmp_path / "made.zarr", "--split", "nothing")
    with pytest.raises(SplitError, match="see above"):
        run("score", "--store", tmp_path, "--split", "nothing")


def test_evaluate(folder: Path) -> None:
    everything = run("evaluate", "--store", folder, *QUICK)
    assert "density-fusion-weak" in everything.stdout
    one = run("evaluate", "density-timm_a-weak", "--store", folder, "--json", *QUICK)
    floor = run(
        "evaluate", "density-timm_a-weak", "--store", folder, "--json", "--convention", "floor",
        *QUICK,
    )  # fmt: skip
    frames = [json.loads(d.stdout)[0]["rows"][0]["evaluations"][0]["frames"] for d in (one, floor)]
    assert frames == [8 * 87, 8 * 80]
    with pytest.raises(UsageError, match="no store in .* has x; runs there: density-fusion-weak"):
        run("evaluate", "x", "--store", folder)


def test_runs_are_listed_compared_and_deleted(tmp_path: Path) -> None:
    make(tmp_path / "made.zarr")
    assert run("runs", "--store", tmp_path).stdout == "no runs yet: fs-submit score\n"
    run("score", "--store", tmp_path, *QUICK)
    listed = json.loads(run("runs", "--store", tmp_path, "--json").stdout)
    assert {(one["features"], one["split"]) for one in listed} == {
        ("timm_a", "weak"), ("timm_b", "weak"), ("fusion", "weak")
    }  # fmt: skip
    looked = status.text(status.collect(str(tmp_path)))
    assert "runs of scores: density-fusion-weak, density-timm_a-weak, density-timm_b-" in looked
    shown = run("runs", "--store", tmp_path).stdout
    assert "density-timm_a-weak  (density of timm_a, split weak, " in shown
    with locked(tmp_path / "made.zarr"):
        store = open_store(tmp_path / "made.zarr", "a")
        store.append([NewVideo("late", "late.avi", 40), NewVideo("later", "later.avi", 40)])
        store.commit()
    told = "2 videos came later and are not scored"
    assert run("runs", "--store", tmp_path).stdout.count(f"; {told})\n") == 3
    looked = status.text(status.collect(str(tmp_path)))
    assert f"    density-fusion-weak: {told}: fs-submit score\n" in f"{looked}\n"
    two = "density-timm_a-weak", "density-timm_b-weak"
    assert "points [" in run("runs", "--store", tmp_path, "compare", *two, *QUICK).stdout
    found = json.loads(run("runs", "--store", tmp_path, "compare", *two, "--json", *QUICK).stdout)
    assert found["overall"]["difference"] == found["overall"]["auc_b"] - found["overall"]["auc_a"]
    assert "is deleted" in run("runs", "--store", tmp_path, "delete", *two).stdout
    assert run_names(tmp_path / "made.zarr") == ("density-fusion-weak",)


def test_fit_then_score_elsewhere(tmp_path: Path) -> None:
    for name in ("one", "two"):
        make(tmp_path / f"{name}.zarr")
    with pytest.raises(UsageError, match="say which with --name"):
        run("fit", "--store", tmp_path, "--features", "timm_a", "--split", "weak", "-o", "x")
    words = ("--store", tmp_path, "--name", "one", "--features", "timm_a,timm_b", "--split")
    assert "Fusion" in run("fit", *words, "weak", "-o", tmp_path / "fitted").stdout
    with pytest.raises(UsageError, match="one --split"):
        run("fit", *words, "weak,official", "-o", tmp_path / "g")
    run("score", "--store", tmp_path / "two.zarr", "--fitted", tmp_path / "fitted")
    assert run_names(tmp_path / "two.zarr") == ("fitted",)
    done = run("evaluate", "fitted", "--store", tmp_path, "--split", "weak", *QUICK)
    assert "fusion" in done.stdout


def test_distributions(folder: Path) -> None:
    words = ("distributions", "--store", folder, "--features", "timm_a", "--split", "weak")
    shown = run(*words).stdout
    for family in ("cauchy", "beta", "student", "geometric"):
        assert f"  {family} " in shown
    assert "Jensen-Shannon divergence" in shown
    found: list[dict[str, Any]] = json.loads(run(*words, "--json").stdout)
    assert len(found) == 2
    assert np.isfinite(found[0]["families"]["normal"][0]["log_likelihood"])


def test_report(folder: Path, tmp_path: Path) -> None:
    page, png = tmp_path / "report.html", tmp_path / "png"
    done = run("report", "density-timm_a-weak", "--store", folder, "-o", page, "--png", png)
    assert "8 videos cannot be read where they were; no pictures" in done.stderr
    text = page.read_text()
    assert text.count("<svg") == 10
    assert "density-timm_a-weak" in text
    assert len(list(png.iterdir())) == 10


@pytest.mark.slow
def test_passes_on_dask_workers_give_the_same_scores(folder: Path, tmp_path: Path) -> None:
    make(tmp_path / "made.zarr", arrays=("timm_a",))
    run("score", "--store", tmp_path, "--cluster", "local", "--workers", "1", *QUICK)
    alone, spread = (
        read_run(store, "density-timm_a-weak").columns["clip_score"].values
        for store in (folder / "made.zarr", tmp_path / "made.zarr")
    )
    np.testing.assert_allclose(spread, alone, rtol=1e-5)
