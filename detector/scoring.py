"""A whole store: fit on the training videos of its splits, score everything, keep the runs."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from detector import dataset, run, table
from detector.errors import FitError
from detector.estimator import Scores
from detector.evaluation import Evaluation, evaluate
from detector.fitting import fit, score
from detector.fusion import Fusion
from detector.methods import METHODS
from detector.run import AnyDetector
from detector.scored import Scored
from detector.table import Row
from detector.truth import named_split, scored_by, truths_of
from featurestore import schema, splits
from featurestore.align import Convention
from featurestore.arrays import zarr_store
from featurestore.errors import SplitError, UsageError
from featurestore.location import spot
from featurestore.lock import locked
from featurestore.provenance import generation
from featurestore.runs import Column, check_name, write_run
from featurestore.splits import random_splits
from featurestore.store import Url, open_store

if TYPE_CHECKING:
    import xarray as xr

FUSION: Final = "fusion"

_RANDOM: Final = re.compile(r"(random-\d+)-\d+")
_ASKED_RANDOM: Final = re.compile(r"random:([1-9]\d*)")

Say = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """What is asked for. Nothing of `features` or `splits`: all that can be used.

    `settings` change the detector's constants. `run` is the run's name, of a single one. Intervals
    come from `resamples` resamples. `test_fraction`, or `train_videos` (label -> how many), say how
    splits are drawn.
    """

    features: tuple[str, ...] = ()
    detector: str = "density"
    splits: tuple[str, ...] = ()
    seed: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)
    run: str | None = None
    convention: Convention = "ours"
    resamples: int = 2000
    test_fraction: float = 0.5
    train_videos: Mapping[int, int] | None = None


@dataclass(frozen=True)
class Outcome:
    """The table of one store and one split (or several random ones), and the runs behind it."""

    store: str
    split: str
    rows: tuple[Row, ...]
    runs: tuple[str, ...]
    remarks: tuple[str, ...]

    def text(self) -> str:
        """For people."""
        lines = [f"{self.store}, split {self.split}", table.text(self.rows), *self.remarks]
        if self.runs:
            lines.append(f"runs: {', '.join(self.runs)}")
        return "\n".join(lines)

    def json(self) -> dict[str, Any]:
        """Plain JSON."""
        return {
            "store": self.store,
            "split": self.split,
            "rows": table.json(self.rows),
            "runs": list(self.runs),
            "remarks": list(self.remarks),
        }


@dataclass(frozen=True)
class _Group:
    """Splits of one table; `stored`: they are in the store, so runs of them can be kept."""

    name: str
    parts: Mapping[str, Mapping[str, int]]
    stored: bool


def score_store(
    url: Url, options: Options, *, executor: Executor | None = None, say: Say = print
) -> list[Outcome]:
    """Fits, scores and keeps a run of each feature array for each split; then measures them.

    Of the splits of the store all are used that the detector can be trained on (those drawn at
    random only if there are no others), of the arrays all that no clip is missing of; where there
    are several backbones, their fusion too. `random:K` draws K splits and keeps no run.

    Raises UsageError, SplitError, FitError (nothing could be fitted), StoreLocked.
    """
    ds = opened(url)
    arrays, remarks = _arrays(ds, options)
    groups = _groups(ds, options)
    if options.run and (len(arrays) > 1 or len(groups) > 1 or len(groups[0].parts) > 1):
        raise UsageError("--run names one run: give one of --features and one --split")
    return [_score_group(url, ds, arrays, group, options, remarks, executor, say)
            for group in groups]  # fmt: skip


def score_with(
    url: Url,
    found: AnyDetector,
    name: str,
    *,
    source: str,
    executor: Executor | None = None,
) -> Scores:
    """Scores a store with a detector that was fitted elsewhere, and keeps the run."""
    check_name(name)
    ds = opened(url)
    scores = score(ds, found, executor=executor)
    columns = run.columns(ds, scores, found, trained_here=False)
    keep(url, ds, name, columns, run.attributes(ds, scores, found, split=None, source=source))
    return scores


def opened(url: Url) -> xr.Dataset:
    """A store as anybody opens it, lazily."""
    import xarray as xr

    open_store(url)  # its errors say what is wrong
    ds: xr.Dataset = xr.open_zarr(zarr_store(spot(url), read_only=True), chunks=None)
    ds.encoding["source"] = os.fspath(url)
    return ds


def keep(
    url: Url,
    ds: xr.Dataset,
    name: str,
    columns: Mapping[str, Column],
    attributes: Mapping[str, Any],
) -> None:
    """Writes a run, in place of the one of its name; holds the lock meanwhile.

    Raises UsageError when the store was compacted since `ds` was opened.
    """
    with locked(url):
        if open_store(url, "a").generation != generation(ds.attrs):
            raise UsageError(
                f"{url}: was compacted while {name} was computed, so its clips have other numbers; "
                "nothing was written. Run the command again."
            )
        write_run(url, name, columns, attributes, replace=True)


def complete_arrays(ds: xr.Dataset) -> tuple[list[str], dict[str, int]]:
    """Feature arrays of which no clip is missing (failed ones may be), in the order of the schema;
    and of the others how many are."""
    known = [str(name) for name in ds.data_vars if schema.is_features_name(str(name))]
    order = [
        *(n for n in schema.FEATURES if n in known),
        *sorted(set(known) - set(schema.FEATURES)),
    ]
    live = dataset.live_rows(ds)[ds["clip_video"].values]
    complete, lacking = [], {}
    for name in order:
        missing = np.zeros(len(live), bool)
        for part in schema.parts_of(name):
            if schema.status_of(part) in ds:
                missing |= ds[schema.status_of(part)].values == schema.MISSING
        count = int((missing & live).sum())
        if count:
            lacking[name] = count
        else:
            complete.append(name)
    return complete, lacking


def _arrays(ds: xr.Dataset, options: Options) -> tuple[list[str], list[str]]:
    if options.features:
        for name in options.features:
            dataset.array_of(ds, name)
        return list(options.features), []
    complete, lacking = complete_arrays(ds)
    remarks = [
        f"{name} is left out: {count:,} clips are missing; fs-submit extract computes them"
        for name, count in lacking.items()
    ]
    if not complete:
        raise UsageError(
            "; ".join(remarks) or "The store has no features; fs-submit extract computes them"
        )
    return complete, remarks


def _groups(ds: xr.Dataset, options: Options) -> list[_Group]:
    wanted = options.splits
    known = [str(name) for name in ds["split_name"].values] if "split_name" in ds else []
    if not wanted:
        if not known:
            raise SplitError("the store has no split; `fs-submit split add` adds one")
        usable = [name for name in known if _can_train(ds, named_split(ds, name), options.detector)]
        if not usable:
            raise SplitError(
                f"{options.detector} cannot be trained on {', '.join(known)}: their training "
                "videos are not both normal and abnormal ones. Add a weak split with `fs-submit "
                "split add`, or give --detector oneclass"
            )
        fixed = [name for name in usable if not _RANDOM.fullmatch(name)]
        wanted = tuple(fixed or usable)
    found: dict[str, _Group] = {}
    for name in wanted:
        drawn = _ASKED_RANDOM.fullmatch(name)
        series = _RANDOM.fullmatch(name)
        if drawn:
            found[name] = _drawn(ds, int(drawn[1]), options)
        elif not options.splits and series:
            parts = found[series[1]].parts if series[1] in found else {}
            found[series[1]] = _Group(series[1], {**parts, name: named_split(ds, name)}, True)
        else:
            found[name] = _Group(name, {name: named_split(ds, name)}, True)
    return list(found.values())


def _can_train(ds: xr.Dataset, parts: Mapping[str, int], detector: str) -> bool:
    labels = dict(zip(dataset.names_of(ds), ds["label"].values.tolist(), strict=True))
    kinds = {labels[video] for video, part in parts.items() if part == splits.TRAIN}
    method = METHODS.get(detector)
    if method is not None and method.normal_only:
        return 0 in kinds
    return {0, 1} <= kinds


def _drawn(ds: xr.Dataset, count: int, options: Options) -> _Group:
    rows = zip(
        dataset.names_of(ds), ds["label"].values.tolist(), dataset.live_rows(ds), strict=True
    )
    drawn = random_splits(
        {name: label for name, label, counts in rows if counts},
        count,
        options.seed,
        test_fraction=options.test_fraction,
        train=options.train_videos,
    )
    return _Group(f"random:{count}", {split.name: split.parts for split in drawn}, False)


def _score_group(
    url: Url,
    ds: xr.Dataset,
    arrays: Sequence[str],
    group: _Group,
    options: Options,
    remarks: Sequence[str],
    executor: Executor | None,
    say: Say,
) -> Outcome:
    measured: dict[str, list[Evaluation]] = {}
    runs: list[str] = []
    told: dict[str, list[str]] = {}  # a note -> the features that it is of
    for split, parts in group.parts.items():
        for name, found, scores in _fitted(ds, arrays, parts, options, executor, told):
            columns = run.columns(ds, scores, found, trained_here=True)
            if group.stored:
                run_name = options.run or f"{options.detector}-{name}-{split}"
                source = "fit on this store's training videos of the split"
                made = run.attributes(ds, scores, found, split=split, source=source)
                keep(url, ds, run_name, columns, made)
                runs.append(run_name)
            measured.setdefault(name, []).append(
                evaluate(
                    _scored(ds, parts, columns, options.convention), resamples=options.resamples
                )
            )
            say(f"{split}: {name} is scored")
    notes = [f"{', '.join(dict.fromkeys(names))}: {note}" for note, names in told.items()]
    if not group.stored:
        notes.append("Splits that were drawn are not in the store, so no run of them is kept.")
    rows = tuple(Row(name, tuple(its)) for name, its in measured.items())
    return Outcome(str(url), group.name, rows, tuple(runs), (*remarks, *notes))


def _fitted(
    ds: xr.Dataset,
    arrays: Sequence[str],
    parts: Mapping[str, int],
    options: Options,
    executor: Executor | None,
    told: dict[str, list[str]],
) -> Iterator[tuple[str, AnyDetector, Scores]]:
    """Each array's detector and scores, and at last the backbones' fusion."""
    values = _values(ds, parts)
    members: dict[str, tuple[Any, Scores]] = {}
    troubles: list[FitError] = []
    for name in arrays:
        try:
            found = fit(
                ds,
                name,
                detector=options.detector,
                split=values,
                seed=options.seed,
                executor=executor,
                **options.settings,
            )
        except FitError as error:
            if options.features:
                raise
            troubles.append(error)
            told.setdefault(f"left out: {error}", []).append(name)
            continue
        scores = score(ds, found, executor=executor)
        for note in (*found.notes, *_left_out(scores)):
            told.setdefault(note, []).append(name)
        if len(schema.parts_of(name)) == 1 and not isinstance(found, Fusion):
            members[name] = found, scores
        yield name, found, scores
    if troubles and len(troubles) == len(arrays):
        raise troubles[0]
    # A fused array would count its parts twice.
    if not options.features and len(members) > 1:
        fusion = Fusion([found for found, _ in members.values()])
        yield FUSION, fusion, fusion.combine([scores for _, scores in members.values()])


def _values(ds: xr.Dataset, parts: Mapping[str, int]) -> npt.NDArray[np.int8]:
    """A split as one value a row of the video table."""
    live = dataset.live_rows(ds)
    return np.array(
        [
            parts.get(name, splits.UNUSED) if counts else splits.UNUSED
            for name, counts in zip(dataset.names_of(ds), live, strict=True)
        ],
        np.int8,
    )


def _left_out(scores: Scores) -> Iterator[str]:
    if scores.left_out:
        counts = ", ".join(f"{len(its):,} {reason}" for reason, its in scores.left_out.items())
        yield f"clips without a score: {counts}; of {splits.shown(scores.left_out_videos)}"


def _scored(
    ds: xr.Dataset, parts: Mapping[str, int], columns: Mapping[str, Column], convention: Convention
) -> Scored:
    probability = columns.get("frame_probability")
    return scored_by(
        truths_of(ds, parts),
        columns["frame_score"].values,
        None if probability is None else probability.values,
        convention=convention,
    )
