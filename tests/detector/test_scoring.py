"""From a store to its table: what is fitted, kept, left out and said."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import detector
from detector import scoring
from detector.errors import FitError
from detector.report import html
from detector.reviewing import (
    compare_runs,
    comparison_text,
    distributions,
    evaluate_runs,
    highest_videos,
    listed,
    places,
    report_on,
)
from detector.scoring import Options, complete_arrays, opened, score_store, score_with
from detector.table import PERFECT
from featurestore.catalog import NewVideo
from featurestore.copying import compact
from featurestore.errors import SplitError, StoreUnreadable, UsageError
from featurestore.labels import ABNORMAL, NORMAL, Truth
from featurestore.lock import locked
from featurestore.runs import delete_run, read_run, run_names
from featurestore.schema import FAILED, MISSING
from featurestore.splits import TEST, Split
from featurestore.store import create, open_store
from tests.detector.stores import FRAMES, QUICK, make


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any], list[str]]:
    """A scored store, what scoring answered, and what it said meanwhile."""
    url = make(tmp_path_factory.mktemp("store") / "made.zarr")
    said: list[str] = []
    return url, score_store(url, Options(**QUICK), say=said.append), said


def test_a_damaged_chunk_is_one_clear_error(tmp_path: Path) -> None:
    url = make(tmp_path / "made.zarr", arrays=["timm_a"])
    chunk = url / "timm_a/c/3/0/0"
    content = bytearray(chunk.read_bytes())
    content[1000] ^= 1
    chunk.write_bytes(content)
    with pytest.raises(StoreUnreadable, match=r"made\.zarr/timm_a: is damaged: .*fs-submit verify"):
        score_store(url, Options(**QUICK))


def test_a_run_of_clips_that_were_numbered_anew_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = make(tmp_path / "made.zarr", arrays=["timm_a"])
    score = scoring.score

    def slowly(*args: Any, **kwargs: Any) -> Any:
        compact(url)
        return score(*args, **kwargs)

    with locked(url):
        store = open_store(url, "a")
        first = store.videos()[0]
        store.append([NewVideo(first.name, first.path, first.frames)])
        store.mark("timm_a", slice(store.clips - first.clip_count, None), FAILED)
        store.commit()
    monkeypatch.setattr(scoring, "score", slowly)
    with pytest.raises(UsageError, match="was compacted while density-timm_a-weak was computed"):
        score_store(url, Options(**QUICK))
    assert run_names(url) == ()


def test_everything_is_scored_with_no_more_words(kept: Any) -> None:
    url, outcomes, said = kept
    (outcome,) = outcomes  # density cannot be trained on `official`
    assert outcome.split == "weak"
    assert [row.name for row in outcome.rows] == ["timm_a", "timm_b", "fusion"]
    expected = ("density-timm_a-weak", "density-timm_b-weak", "density-fusion-weak")
    assert outcome.runs == expected
    assert run_names(url) == tuple(sorted(expected))
    assert said == [f"weak: {name} is scored" for name in ("timm_a", "timm_b", "fusion")]
    for row in outcome.rows:
        (measured,) = row.evaluations
        assert measured.frames == 8 * FRAMES
        assert measured.overall.auc is not None
        assert measured.overall.auc > 0.8
        assert measured.false_alarms is not None
    assert PERFECT in outcome.text()
    assert "density-timm_a-weak" in outcome.text()
    json.dumps([one.json() for one in outcomes], allow_nan=False)


def test_scores_in_the_store_are_aligned_and_say_what_made_them(kept: Any) -> None:
    url, _, _ = kept
    ds = xr.open_zarr(url, chunks=None)
    run = xr.open_zarr(url, group="scores/density-timm_a-weak", chunks=None)
    assert run.sizes["clip"] == ds.sizes["clip"]
    assert run.sizes["frame"] == ds.sizes["frame"] == int(ds.frames.sum())
    assert run.sizes["video"] == ds.sizes["video"]
    for row in range(16):
        frames = run.frame_score.values[row * FRAMES : (row + 1) * FRAMES]
        clips = run.clip_score.values[row * 6 : row * 6 + 6]
        # The sixth clip begins at frame 71, and what is new of it at frame 80.
        np.testing.assert_array_equal(frames, np.repeat(clips, [16] * 5 + [7]))
    made = run.attrs
    assert made["split"] == "weak"
    (member,) = made["members"]
    assert member["detector"] == "density"
    assert member["seed"] == 0
    assert member["features_made"]["timm_a"]["weights"] == "sha256:0"
    assert member["training"]["abnormal videos"] == 4
    assert made["versions"]["numpy"] == np.__version__
    assert made["left_out"] == {}
    # Training clips have scores by fits that have not seen them; the others have none.
    trained = np.isfinite(run.clip_held_out.values).reshape(16, 6)
    assert trained.any(axis=1).tolist() == ([True] * 4 + [False] * 4) * 2
    assert trained[trained.any(axis=1)].all()


def test_runs_are_those_of_the_detector(kept: Any) -> None:
    url, _, _ = kept
    ds = opened(url)
    found = detector.fit(ds, "timm_a", split="weak")
    scores = detector.score(ds, found)
    run = read_run(url, "density-timm_a-weak")
    np.testing.assert_array_equal(
        run.columns["clip_score"].values, scores.clip_score.astype(np.float32)
    )
    np.testing.assert_array_equal(
        run.columns["video_score"].values, scores.video_score.astype(np.float32)
    )


def test_evaluate_again_is_the_same_table(kept: Any) -> None:
    url, outcomes, _ = kept
    (again,) = evaluate_runs(url, outcomes[0].runs, **QUICK)
    assert [row.evaluations for row in again.rows] == [row.evaluations for row in outcomes[0].rows]
    assert [row.name for row in again.rows] == ["timm_a", "timm_b", "fusion"]
    floor = evaluate_runs(url, outcomes[0].runs[:1], convention="floor", **QUICK)
    assert floor[0].rows[0].evaluations[0].frames == 8 * 80
    ceil = evaluate_runs(url, outcomes[0].runs[:1], convention="ceil", **QUICK)
    assert ceil[0].rows[0].evaluations[0].frames == 8 * 96
    with pytest.raises(UsageError, match="no run 'x'; it has density-fusion-weak"):
        evaluate_runs(url, ["x"])


def test_no_peeking(kept: Any, tmp_path: Path) -> None:
    """With garbage for the ground truth of test videos every score is the same, bit for bit."""
    url, _, _ = kept
    blind = make(tmp_path / "made.zarr", truth_of_tests=False)
    score_store(blind, Options(**QUICK), say=lambda _: None)
    assert run_names(blind) == run_names(url)
    for name in run_names(url):
        first, second = read_run(url, name), read_run(blind, name)
        assert list(first.columns) == list(second.columns)
        for column, of in first.columns.items():
            assert of.values.tobytes() == second.columns[column].values.tobytes(), (name, column)
    measured = [
        evaluate_runs(store, ["density-timm_a-weak"], **QUICK)[0].rows[0].evaluations[0]
        for store in (url, blind)
    ]
    assert measured[0].overall.auc != measured[1].overall.auc  # it does read them


def test_scoring_again_replaces_the_runs(tmp_path: Path) -> None:
    url = make(tmp_path / "made.zarr", arrays=("timm_a",))
    first = score_store(url, Options(**QUICK), say=lambda _: None)
    before = read_run(url, "density-timm_a-weak").columns["clip_score"].values
    second = score_store(url, Options(settings={"smooth": 3.0}, **QUICK), say=lambda _: None)
    assert first[0].runs == second[0].runs == run_names(url)
    after = read_run(url, "density-timm_a-weak")
    assert (after.columns["clip_score"].values != before).any()
    assert after.attributes["members"][0]["smooth"] == 3.0
    named = Options(features=("timm_a",), splits=("weak",), run="mine", **QUICK)
    assert score_store(url, named, say=lambda _: None)[0].runs == ("mine",)
    with pytest.raises(UsageError, match="--run names one run"):
        score_store(url, Options(run="mine", splits=("weak", "official"), **QUICK))


def test_incomplete_arrays_are_left_out_and_named(tmp_path: Path) -> None:
    url = make(tmp_path / "made.zarr")
    with locked(url):
        store = open_store(url, "a")
        store.mark("timm_a", [3, 4], MISSING)
        store.mark("timm_b", [60, 61, 95], FAILED)
    assert complete_arrays(opened(url)) == (["timm_b"], {"timm_a": 2})
    (outcome,) = score_store(url, Options(**QUICK), say=lambda _: None)
    assert [row.name for row in outcome.rows] == ["timm_b"]  # and nothing to fuse
    told = "\n".join(outcome.remarks)
    assert "timm_a is left out: 2 clips are missing; fs-submit extract" in told
    assert "timm_b: clips without a score: 3 failed; of u2, u7" in told
    run = read_run(url, "density-timm_b-weak")
    assert np.flatnonzero(np.isnan(run.columns["clip_score"].values)).tolist() == [60, 61, 95]
    assert run.attributes["left_out"] == {"failed": 3}
    (measured,) = outcome.rows[0].evaluations
    assert measured.unscored_frames == 7  # of u7's last clip; u2 trains
    with locked(url):
        open_store(url, "a").mark("timm_b", [0], MISSING)
    with pytest.raises(UsageError, match=r"timm_a is left out: 2.*; timm_b is left out: 1 clips"):
        score_store(url, Options(**QUICK))


def test_a_detector_of_normal_videos_takes_the_official_split(tmp_path: Path) -> None:
    url = make(tmp_path / "made.zarr", arrays=("timm_a",))
    found = score_store(url, Options(detector="oneclass", **QUICK), say=lambda _: None)
    assert [outcome.split for outcome in found] == ["weak", "official"]
    assert found[1].runs == ("oneclass-timm_a-official",)
    with pytest.raises(FitError, match="no abnormal"):
        score_store(url, Options(features=("timm_a",), splits=("official",), **QUICK))


def test_random_splits(tmp_path: Path) -> None:
    url = make(tmp_path / "made.zarr", arrays=("timm_a",))
    drawn = Options(splits=("random:3",), train_videos={ABNORMAL: 4, NORMAL: 3}, **QUICK)
    (outcome,) = score_store(url, drawn, say=lambda _: None)
    assert outcome.split == "random:3"
    assert outcome.runs == run_names(url) == ()
    (row,) = outcome.rows
    assert len(row.evaluations) == 3
    assert {(e.abnormal_videos, e.normal_videos) for e in row.evaluations} == {(4, 5)}
    assert "Mean ± standard deviation over 3 splits." in outcome.text()
    assert "no run of them is kept" in outcome.text()
    with pytest.raises(SplitError):
        score_store(url, Options(splits=("random:2",), train_videos={0: 9, 1: 9}))


def test_random_splits_of_the_store_are_one_table(tmp_path: Path) -> None:
    url = make(tmp_path / "made.zarr", arrays=("timm_a",))
    with locked(url):
        store = open_store(url, "a")
        weak = store.split("weak").parts
        for number in (1, 2):
            parts = {v: p if number == 1 else 1 - p for v, p in weak.items()}
            store.set_split(Split(f"random-0-{number}", parts, {}, "drawn"))
        store.commit()
    only = Options(splits=("random-0-1", "random-0-2"), **QUICK)
    assert [o.split for o in score_store(url, only, say=lambda _: None)] == [*only.splits]
    # With a fixed split there, those drawn at random are not measured unasked.
    assert [o.split for o in score_store(url, Options(**QUICK), say=lambda _: None)] == ["weak"]


def test_errors_say_what_to_do(tmp_path: Path) -> None:
    url = make(tmp_path / "made.zarr", arrays=("timm_a",))
    with pytest.raises(UsageError, match="no features 'timm_x'; it has: timm_a"):
        score_store(url, Options(features=("timm_x",)))
    with pytest.raises(SplitError, match="no split 'x'; it has weak, official"):
        score_store(url, Options(splits=("x",)))
    with pytest.raises(UsageError, match="'x' is no detector"):
        score_store(url, Options(detector="x", features=("timm_a",), splits=("weak",)))
    bare = create(tmp_path / "bare.zarr", dataset="bare", block=4)
    bare.append([NewVideo("v", "v", 40)])
    bare.commit()
    with pytest.raises(UsageError, match="no features; fs-submit extract"):
        score_store(tmp_path / "bare.zarr", Options())
    with locked(bare.url):
        store = open_store(bare.url, "a")
        store.add_features("timm_a", 4, {})
        store.commit()
        store.mark("timm_a", slice(None), FAILED)
    with pytest.raises(SplitError, match="the store has no split; `fs-submit split add`"):
        score_store(bare.url, Options())


# Runs that are there


def test_compare_runs(kept: Any) -> None:
    url, _, _ = kept
    a, b = "density-timm_a-weak", "density-fusion-weak"
    found = compare_runs(url, a, b, resamples=100)
    (tables,) = evaluate_runs(url, [a, b], **QUICK)
    each = [row.evaluations[0].overall.auc for row in tables.rows]
    assert [found.overall.auc_a, found.overall.auc_b] == each
    shown = comparison_text(a, b, found)
    assert f"{100 * each[0]:.2f}% ({a})" in shown
    assert f"difference {100 * (each[1] - each[0]):+.2f} points [" in shown


def test_runs_of_different_splits_are_not_compared(tmp_path: Path) -> None:
    url = make(tmp_path / "made.zarr", arrays=("timm_a",))
    score_store(url, Options(detector="oneclass", **QUICK), say=lambda _: None)
    runs = "oneclass-timm_a-weak", "oneclass-timm_a-official"
    with pytest.raises(UsageError, match="of the split weak, .* of official"):
        compare_runs(url, *runs)
    assert compare_runs(url, *runs, split="weak", resamples=20).frames == 8 * FRAMES


def test_a_fitted_detector_scores_a_store_it_has_never_seen(tmp_path: Path) -> None:
    url, other = (make(tmp_path / f"{n}.zarr", arrays=("timm_a",)) for n in ("one", "two"))
    detector.fit(opened(url), "timm_a", split="weak").save(tmp_path / "fitted")
    score_with(other, detector.load(tmp_path / "fitted"), "brought", source="a fit of one")
    run = read_run(other, "brought")
    assert run.attributes["split"] is None
    assert "clip_held_out" not in run.columns
    with pytest.raises(UsageError, match="give --split"):
        evaluate_runs(other, ["brought"])
    (outcome,) = evaluate_runs(other, ["brought"], split="weak", **QUICK)
    assert outcome.rows[0].evaluations[0].frames == 8 * FRAMES
    assert report_on(other, "brought", split="weak").densities is None


def test_a_report_of_a_run(kept: Any) -> None:
    url, _, _ = kept
    found = report_on(url, "density-timm_a-weak")
    assert [row.name for row in found.rows] == ["timm_a", "fusion", "timm_b"]
    assert found.densities is not None
    assert {k: len(v) for k, v in found.densities.values.items()} == {"normal": 24, "abnormal": 24}
    for values, (_, density) in zip(
        found.densities.values.values(), found.densities.fitted.values(), strict=True
    ):
        assert np.isfinite(values).all()
        assert density.shape == found.densities.at.shape
    page = html(found)
    assert page.count("<svg") == 2 + 8
    assert "RANDOM" not in page
    assert '"split": "weak"' in page.replace("&quot;", '"')


def test_a_report_says_that_weights_are_random(tmp_path: Path) -> None:
    url = make(tmp_path / "made.zarr", arrays=("timm_a",), weights="RANDOM(seed=0)")
    score_store(url, Options(**QUICK), say=lambda _: None)
    assert "RANDOM weights: the numbers mean nothing" in html(report_on(url, "density-timm_a-weak"))


def test_distributions_of_the_training_clips(kept: Any) -> None:
    url, _, _ = kept
    found = distributions(url, Options(features=("timm_a",), splits=("weak",)))
    assert [one.projection for one in found] == [
        "timm_a: is the video abnormal",
        "timm_a: where in the video",
    ]
    for one in found:
        assert one.videos == {"normal": 4, "abnormal": 4}
        assert one.clips == {"normal": 24, "abnormal": 24}
    with pytest.raises(UsageError, match="one --split"):
        distributions(url, Options(features=("timm_a",)))


def test_listed_places_and_highest(kept: Any) -> None:
    url, _, _ = kept
    assert [one["run"] for one in listed(url)] == list(run_names(url))
    assert places(opened(url), ["n0"]) == {"n0": ("nowhere/n0.avi", FRAMES)}
    of = report_on(url, "density-timm_a-weak").of
    best = highest_videos(of, 3)
    tops = {name: np.nanmax(s) for name, s in zip(of.names, of.scores, strict=True)}
    assert [tops[name] for name in best] == sorted(tops.values(), reverse=True)[:3]


def test_videos_that_came_later_have_no_score(tmp_path: Path) -> None:
    url = make(tmp_path / "made.zarr", arrays=("timm_a",))
    first = score_store(url, Options(**QUICK), say=lambda _: None)
    with locked(url):
        store = open_store(url, "a")
        store.append([NewVideo("late", "late.avi", 40)])
        store.commit()
        store.set_truth([Truth("late", NORMAL, np.zeros(40, np.int8), "made")])
        parts = {**store.split("weak").parts, "late": TEST}
        store.set_split(Split("weak", parts, {}, "made"), replace=True)
    (outcome,) = evaluate_runs(url, **QUICK)
    (measured,) = outcome.rows[0].evaluations
    assert (measured.frames, measured.unscored_frames) == (8 * FRAMES, 40)
    run = "density-timm_a-weak"
    told = (
        "1 videos came into the store later and are not scored, 1 of them test videos of weak: "
        "late. To have them scored: fs-submit score"
    )
    assert outcome.remarks == (f"{run}: {told}",)
    assert f"{run}: {told}" in outcome.text()
    assert "40 frames without a score left out." in outcome.text()
    assert report_on(url, run).remarks == [f"{run}: {told}"]
    assert [one["later_videos"] for one in listed(url)] == [1]
    # Stock xarray opens all of it, and our own numbers are those of the scores that are there.
    tree = xr.open_datatree(url, engine="zarr", chunks=None)
    assert np.isnan(tree[f"scores/{run}/frame_score"].values[16 * FRAMES :]).all()
    (before,) = first[0].rows[0].evaluations
    assert (measured.overall.auc, measured.overall.ap) == (before.overall.auc, before.overall.ap)
    score_store(url, Options(features=("timm_a",), run="again", **QUICK), say=lambda _: None)
    compared = compare_runs(url, run, "again", resamples=20)
    assert compared.remarks == (f"{run}: {told}",)
    assert compared.frames == 8 * FRAMES
    assert comparison_text(run, "again", compared).endswith(told)
    with locked(url):
        open_store(url, "a")
        delete_run(url, run)
        delete_run(url, "again")
    with pytest.raises(UsageError, match="has no run; fs-submit score makes one"):
        evaluate_runs(url)
