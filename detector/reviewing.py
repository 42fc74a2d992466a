"""Runs that are there: measured again, compared, described, shown."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from detector import dataset, run
from detector.comparison import Comparison, compare
from detector.distributions import Description, describe
from detector.evaluation import evaluate
from detector.fitting import fit
from detector.fusion import Fusion
from detector.report import Picture, Report
from detector.scored import Scored
from detector.scoring import Options, Outcome, opened
from detector.table import Row, percent
from detector.truth import named_split, scored_by, truths_of
from detector.videos import ABNORMAL
from featurestore.align import Convention
from featurestore.errors import UsageError
from featurestore.runs import Run, later_videos, read_run, run_attributes, run_names
from featurestore.splits import TEST, shown
from featurestore.store import Url, open_store

if TYPE_CHECKING:
    import xarray as xr

# Columns of the default detector's raw values.
_TWO_RATIOS = ("is the video abnormal", "where in the video")


def listed(url: Url) -> list[dict[str, Any]]:
    """Each run of a store: its name, detector, features, split, when it was made, and how many
    videos came into the store after it."""
    found = []
    later = later_videos(open_store(url))
    for name in run_names(url):
        made = run_attributes(url, name)
        found.append(
            {"store": str(url), "run": name}
            | {key: made.get(key) for key in ("detector", "features", "split", "made")}
            | {"later_videos": len(later.get(name, ()))}
        )
    return found


def evaluate_runs(
    url: Url,
    names: Sequence[str] = (),
    *,
    split: str | None = None,
    convention: Convention = "ours",
    resamples: int = 2000,
) -> list[Outcome]:
    """Measures runs (all, or those named) on the test videos of the split that each was made for,
    or of `split`; a table a split.

    Raises UsageError, naming the runs there are; SplitError.
    """
    ds = opened(url)
    names = names or run_names(url)
    if not names:
        raise UsageError(f"{url}: has no run; fs-submit score makes one")
    later = later_videos(open_store(url))
    tables: dict[str, list[tuple[str, Run]]] = {}
    for name in names:
        its = read_run(url, name)
        tables.setdefault(_split_of(its, split), []).append((name, its))
    outcomes = []
    for of, runs in tables.items():
        detectors = {its.attributes.get("detector") for _, its in runs}
        rows = []
        for name, its in runs:
            called = str(its.attributes.get("features", name)) if len(detectors) == 1 else name
            measured = evaluate(scored_run(ds, its, of, convention), resamples=resamples)
            rows.append(Row(called, (measured,)))
        remarks = [] if convention == "ours" else [f"Frames as {convention} counts them."]
        remarks += _came_later(ds, of, [name for name, _ in runs], later)
        outcomes.append(
            Outcome(str(url), of, tuple(rows), tuple(name for name, _ in runs), tuple(remarks))
        )
    return outcomes


def compare_runs(
    url: Url, a: str, b: str, *, split: str | None = None, resamples: int = 2000
) -> Comparison:
    """Run b against run a, on the frames of the test videos that both have scores of."""
    ds = opened(url)
    first, second = read_run(url, a), read_run(url, b)
    of = _split_of(first, split), _split_of(second, split)
    if of[0] != of[1]:
        raise UsageError(
            f"{a} is of the split {of[0]}, {b} of {of[1]}: other videos train and test. Give "
            "--split to measure both on one"
        )
    found = compare(
        scored_run(ds, first, of[0]), scored_run(ds, second, of[1]), resamples=resamples
    )
    remarks = _came_later(ds, of[0], list(dict.fromkeys((a, b))), later_videos(open_store(url)))
    return dataclasses.replace(found, remarks=tuple(remarks))


def comparison_text(a: str, b: str, of: Comparison) -> str:
    """The comparison for people."""
    lines = [f"{of.frames:,} frames that both score; frame AUC"]
    for where, found in (("all frames", of.overall), ("inside abnormal videos", of.inside)):
        if found is None:
            continue
        told = f"  {where}: {percent(found.auc_a, 2)} ({a}), {percent(found.auc_b, 2)} ({b}); "
        told += f"difference {100 * found.difference:+.2f} points"
        if found.interval is not None:
            low, high = (f"{100 * v:+.2f}" for v in found.interval)
            told += f" [{low}, {high}]"
        lines.append(told)
    lines.append(
        f"[..]: {percent(of.level, 0)} interval, {of.resamples:,} paired bootstrap resamples of "
        "whole videos"
    )
    lines += of.remarks
    return "\n".join(lines)


def scored_run(ds: xr.Dataset, of: Run, split: str, convention: Convention = "ours") -> Scored:
    """Scores of a run beside the ground truth of the split's test videos."""
    if "frame_score" not in of.columns:
        raise UsageError(f"run {of.name}: has no frame_score; score again")
    probability = of.columns.get("frame_probability")
    return scored_by(
        truths_of(ds, named_split(ds, split)),
        of.columns["frame_score"].values,
        None if probability is None else probability.values,
        convention=convention,
    )


def report_on(
    url: Url,
    name: str,
    *,
    split: str | None = None,
    pictures: Mapping[str, Sequence[Picture]] | None = None,
) -> Report:
    """All that a report of a run shows, beside those of the same detector and split in its table.

    `pictures`: see report.Report; `wanted_frames` says of which frames.
    """
    ds = opened(url)
    its = read_run(url, name)
    of = _split_of(its, split)
    like = [its.attributes.get(key) for key in ("detector", "split")]
    others = [
        other
        for other in run_names(url)
        if other != name
        and [run_attributes(url, other).get(key) for key in ("detector", "split")] == like
    ]
    (outcome,) = evaluate_runs(url, [name, *others], split=of)
    made = [_weights(member) for member in its.attributes.get("members", ())]
    random = any("RANDOM" in weights for weights in made)
    remarks = ["The features are of RANDOM weights: the numbers mean nothing."] if random else []
    return Report(
        title=f"{ds.attrs.get('dataset', url)}: {name}",
        rows=outcome.rows,
        of=scored_run(ds, its, of),
        densities=run.densities(ds, its),
        made={"run": name, "store": str(url), **its.attributes},
        pictures=pictures or {},
        remarks=[*remarks, *outcome.remarks],
    )


def distributions(url: Url, options: Options) -> list[Description]:
    """Describes the held-out values of the training clips along a detector's projections.

    For each feature array and split that is asked for; raises UsageError, SplitError, FitError.
    """
    ds = opened(url)
    if not options.features or len(options.splits) != 1:
        raise UsageError("Give --features and one --split to describe")
    (split,) = options.splits
    found = []
    for features in options.features:
        fitted = fit(
            ds, features, detector=options.detector, split=split, seed=options.seed,
            **options.settings,
        )  # fmt: skip
        if isinstance(fitted, Fusion):
            raise UsageError("Describe the parts of a fusion one by one")
        training = fitted.fitted.training
        names = _TWO_RATIOS if training.raw.shape[1] == 2 else ("score",)
        order = np.array(training.videos.in_order)
        number = np.empty_like(order)
        number[order] = np.arange(len(order))
        for column, name in enumerate(names):
            found.append(
                describe(
                    f"{features}: {name}" + ("" if training.held_out else " (nothing held out)"),
                    training.raw[:, column],
                    number[training.videos.of_clip],
                    training.videos.labels[order] == ABNORMAL,
                    seed=options.seed,
                )
            )
    return found


def places(ds: xr.Dataset, names: Sequence[str]) -> dict[str, tuple[str, int]]:
    """Where each of some videos was when it was last read, and its number of frames."""
    rows = {name: row for row, name in enumerate(dataset.names_of(ds))}
    paths, frames = ds["path"].values, ds["frames"].values
    return {name: (str(paths[rows[name]]), int(frames[rows[name]])) for name in names}


def highest_videos(of: Scored, count: int) -> list[str]:
    """The videos with the highest scores, at most `count`."""
    best = {
        name: float(np.nanmax(scores))
        for name, scores in zip(of.names, of.scores, strict=True)
        if not np.isnan(scores).all()
    }
    return sorted(best, key=lambda name: (-best[name], name))[: max(count, 0)]


def _split_of(of: Run, asked: str | None) -> str:
    split = asked or of.attributes.get("split")
    if not split:
        raise UsageError(
            f"run {of.name}: was made by a detector fitted elsewhere, so which videos test is "
            "unknown; give --split"
        )
    return str(split)


def _came_later(
    ds: xr.Dataset, split: str, names: Sequence[str], later: Mapping[str, Sequence[str]]
) -> list[str]:
    """A sentence for the runs that lack the same videos: they came into the store after them."""
    parts = named_split(ds, split)
    alike: dict[tuple[str, ...], list[str]] = {}
    for name in names:
        if name in later:
            alike.setdefault(tuple(later[name]), []).append(name)
    return [
        f"{', '.join(runs)}: {len(videos)} videos came into the store later and are not scored, "
        f"{sum(parts.get(video) == TEST for video in videos)} of them test videos of {split}: "
        f"{shown(videos)}. To have them scored: fs-submit score"
        for videos, runs in alike.items()
    ]


def _weights(member: Mapping[str, Any]) -> str:
    return " ".join(str(made.get("weights", "")) for made in member["features_made"].values())
