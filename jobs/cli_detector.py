"""``fs-submit score`` and its like: fit, score, evaluate, describe and show, from a store."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from featurestore.errors import SplitError, UsageError
from jobs.cli_option import option, random_split_options, storage_options

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from detector.scoring import Options

__all__ = ["COMMANDS", "DETECTORS"]

# Written out, so that `--help` need not import them; a test compares.
DETECTORS = (
    "density, ratio, gaussian, gmm, kde, knn, cauchy, halfcauchy, exponential, geometric, gumbel, "
    "gamma, halfnormal, normal, student, beta, oneclass, oneclass-gmm, oneclass-knn"
)
CONVENTIONS = ("ours", "floor", "ceil")

Command = Callable[..., Any]


def _all(*options: Any) -> Callable[[Command], Command]:
    def decorate(command: Command) -> Command:
        for one in reversed(options):
            command = one(command)
        return command

    return decorate


_where = _all(
    option("--store", default="features", help="Folder (or URL) of stores, or one store."),
    option("--name", "dataset", help="Only the store of this name."),
    storage_options,
)
_fitting = _all(
    option("--features", multiple=True, help="Feature arrays, by comma.  [all that are complete]"),
    option("--detector", default="density", help=f"{DETECTORS}."),
    option("--split", multiple=True, help="Splits, by comma; random:K.  [all that can train it]"),
    random_split_options,
    option("--smooth", type=click.FloatRange(0), help="Smoothing of scores; sigma in clips."),
    option("--aggregate", help="What of a video its clips' scores get: none, max, mean, highest."),
)
_measuring = _all(
    option("--resamples", type=click.IntRange(1), default=2000, help="Bootstrap resamples."),
    option(
        "--convention",
        type=click.Choice(CONVENTIONS),
        default="ours",
        help="Which frames count: all; whole clips' (floor); the last clip filled up (ceil).",
    ),
)
_json = click.option("--json", "as_json", is_flag=True, help="For machines.")


@click.command()
@_where
@_fitting
@_measuring
@option("--fitted", type=click.Path(path_type=Path), help="Score with a detector that `fit` made.")
@option("--run", help="Name of the run, if it is one.  [DETECTOR-FEATURES-SPLIT]")
@option("--cluster", help="Spread passes over Dask workers: local, or tcp://host:port.")
@option("--workers", type=click.IntRange(min=1), help="Local worker processes.")
@_json
def score(
    store: str,
    dataset: str | None,
    fitted: Path | None,
    cluster: str | None,
    workers: int | None,
    as_json: bool,
    **asked: Any,
) -> None:
    """Fit on training videos, score every clip and frame, keep the scores, measure them.

    With no more words: each store, each of its splits, each complete feature array, and the fusion
    of the backbones. Runs are kept in the store as scores/RUN.
    """
    from detector.scoring import Outcome, score_store

    urls = _stores(store, dataset)
    options = _options(asked)
    with _executor(cluster, workers) as executor:
        if fitted is not None:
            for url in urls:
                _score_with(url, fitted, options.run or fitted.name, executor)
            return
        found: list[Outcome] = []
        for url in urls:
            try:
                found += score_store(url, options, executor=executor, say=_progress)
            except SplitError as error:
                if len(urls) == 1:
                    raise
                _progress(f"{url}: {error}")
    if not found:
        raise SplitError(f"no store in {store} has a split to train on; see above")
    _show(found, as_json)


@click.command()
@_where
@_fitting
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder to write."
)
@click.option("--replace", is_flag=True, help="Replace a fitted detector that is there.")
def fit(store: str, dataset: str | None, output: Path, replace: bool, **asked: Any) -> None:
    """Fit a detector to the training videos of one split and save it: arrays and JSON."""
    import detector
    from detector.scoring import opened

    options = _options(asked)
    if not options.features or len(options.splits) != 1:
        raise UsageError("Give --features (several are fused) and one --split to fit")
    ds = opened(_one_store(store, dataset))
    found = detector.fit(
        ds, options.features if len(options.features) > 1 else options.features[0],
        detector=options.detector, split=options.splits[0], seed=options.seed, **options.settings,
    )  # fmt: skip
    found.save(output, replace=replace)
    for note in found.notes:
        click.echo(note)
    click.echo(f"{output}: {found}")


@click.command()
@_where
@click.argument("runs", nargs=-1)
@option("--split", help="Measure on its test videos.  [the one each run was made for]")
@_measuring
@_json
def evaluate(
    store: str, dataset: str | None, runs: tuple[str, ...], as_json: bool, **asked: Any
) -> None:
    """Measure RUNS (all of them) against the ground truth of the test videos."""
    from detector.reviewing import evaluate_runs

    urls = [_store_of(store, dataset, runs)] if runs else _stores(store, dataset)
    _show([outcome for url in urls for outcome in evaluate_runs(url, runs, **asked)], as_json)


@click.command()
@_where
@_fitting
@_json
def distributions(store: str, dataset: str | None, as_json: bool, **asked: Any) -> None:
    """Which families fit each class of training clips, how well, and how the classes differ."""
    from detector import distributions as tables
    from detector.reviewing import distributions

    found = distributions(_one_store(store, dataset), _options(asked))
    if as_json:
        click.echo(json.dumps([one.json() for one in found], indent=2, allow_nan=False))
    else:
        click.echo("\n\n".join(tables.text(one) for one in found))


@click.command()
@_where
@click.argument("run")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The page.  [RUN.html]")
@click.option("--png", type=click.Path(path_type=Path), help="Folder for the figures as files.")
@option("--split", help="Measure on its test videos.  [the one the run was made for]")
@option(
    "--pictures",
    type=click.IntRange(0),
    default=24,
    help="Frames are shown of so many videos, those with the highest scores.",
)
def report(
    store: str,
    dataset: str | None,
    run: str,
    output: Path | None,
    png: Path | None,
    split: str | None,
    pictures: int,
) -> None:
    """One page that shows a RUN: table, ROC, each test video over time, densities, what made it."""
    from dataclasses import replace

    from detector.report import Picture, wanted_frames, write_figures, write_report
    from detector.reviewing import highest_videos, places, report_on
    from detector.scoring import opened
    from jobs.pictures import thumbnails

    url = _store_of(store, dataset, (run,))
    found = report_on(url, run, split=split)
    chosen = highest_videos(found.of, pictures)
    wanted = wanted_frames(found.of)
    shown = {}
    for name, (path, frames) in places(opened(url), chosen).items():
        images = thumbnails(Path(path), frames, wanted[name])
        if images:
            shown[name] = [Picture(frame, jpeg) for frame, jpeg in images.items()]
    if len(shown) < len(chosen):
        _progress(f"{len(chosen) - len(shown)} videos cannot be read where they were; no pictures")
    page = output or Path(f"{run}.html")
    write_report(replace(found, pictures=shown), page)
    click.echo(f"{page}: written")
    if png is not None:
        click.echo(f"{png}: {len(write_figures(found, png))} figures written")


@click.group(invoke_without_command=True)
@_where
@_json
@click.pass_context
def runs(context: click.Context, store: str, dataset: str | None, as_json: bool) -> None:
    """List the runs of the stores; compare two; delete some."""
    context.obj = (store, dataset)
    if context.invoked_subcommand is not None:
        return
    from detector.reviewing import listed

    found = [one for url in _stores(store, dataset) for one in listed(url)]
    if as_json:
        click.echo(json.dumps(found, indent=2))
    elif not found:
        click.echo("no runs yet: fs-submit score")
    for one in [] if as_json else found:
        click.echo(
            f"{one['store']}: {one['run']}  ({one['detector']} of {one['features']}, split "
            f"{one['split'] or 'not known'}, {one['made']}{_later(one['later_videos'])})"
        )


@runs.command()
@click.argument("a")
@click.argument("b")
@option("--split", help="Measure on its test videos.  [the one both were made for]")
@option("--resamples", type=click.IntRange(1), default=2000, help="Bootstrap resamples.")
@_json
@click.pass_obj
def compare(where: tuple[str, str | None], /, a: str, b: str, as_json: bool, **asked: Any) -> None:
    """Run B against run A: AUC of both and of their difference, paired over videos."""
    from detector.reviewing import compare_runs, comparison_text

    found = compare_runs(_store_of(*where, (a, b)), a, b, **asked)
    click.echo(
        json.dumps(found.json(), indent=2, allow_nan=False)
        if as_json
        else comparison_text(a, b, found)
    )


@runs.command()
@click.argument("names", nargs=-1, required=True)
@click.pass_obj
def delete(where: tuple[str, str | None], /, names: tuple[str, ...]) -> None:
    """Delete runs."""
    from featurestore.lock import locked
    from featurestore.runs import delete_run
    from featurestore.store import open_store

    url = _store_of(*where, names)
    with locked(url):
        open_store(url, "a")
        for name in names:
            delete_run(url, name)
            click.echo(f"{url}: {name} is deleted")


COMMANDS = (score, fit, evaluate, distributions, report, runs)


def _later(videos: int) -> str:
    return f"; {videos} videos came later and are not scored" if videos else ""


def _options(asked: dict[str, Any]) -> Options:
    from detector.scoring import Options

    settings = {key: asked.pop(key) for key in ("smooth", "aggregate")}
    train = asked.pop("train_videos")
    return Options(
        train_videos=None if train is None else _counts(train),
        features=_words(asked.pop("features")),
        splits=_words(asked.pop("split")),
        settings={key: value for key, value in settings.items() if value is not None},
        **asked,
    )


def _counts(text: str) -> dict[int, int]:
    """Label -> videos of `6,4`: 6 abnormal and 4 normal ones."""
    from featurestore.labels import ABNORMAL, NORMAL

    words = [word.strip() for word in text.split(",")]
    if len(words) != 2 or not all(word.isdecimal() for word in words):
        raise UsageError(
            f"--train-videos {text!r}: give the abnormal and the normal videos to train, as in 6,4"
        )
    return {ABNORMAL: int(words[0]), NORMAL: int(words[1])}


def _words(given: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(word for text in given for word in text.replace(",", " ").split())


def _stores(folder: str, name: str | None) -> list[str]:
    from jobs.status import stores_in

    return stores_in(folder, name)


def _one_store(folder: str, name: str | None) -> str:
    urls = _stores(folder, name)
    if len(urls) > 1:
        names = ", ".join(Path(url).stem for url in urls)
        raise UsageError(f"{folder} has {len(urls)} stores: {names}; say which with --name")
    return urls[0]


def _store_of(folder: str, name: str | None, runs: tuple[str, ...]) -> str:
    """The store that has all these runs."""
    from featurestore.runs import run_names

    urls = _stores(folder, name)
    having = [url for url in urls if set(runs) <= set(run_names(url))]
    if len(having) > 1:
        names = ", ".join(Path(url).stem for url in having)
        raise UsageError(f"{', '.join(runs)}: runs of {names}; say which with --name")
    if not having:
        known = sorted({run for url in urls for run in run_names(url)})
        raise UsageError(
            f"no store in {folder} has {', '.join(runs)}; runs there: {', '.join(known) or 'none'}"
        )
    return having[0]


def _show(found: list[Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps([one.json() for one in found], indent=2, allow_nan=False))
    else:
        click.echo("\n\n".join(one.text() for one in found))


def _progress(line: str) -> None:
    click.echo(line, err=True)


def _score_with(url: str, fitted: Path, run: str, executor: Executor | None) -> None:
    import detector
    from detector.scoring import score_with

    found = detector.load(fitted)
    scores = score_with(
        url, found, run, source=f"a fitted detector: {fitted.name}", executor=executor
    )
    for reason, clips in scores.left_out.items():
        _progress(f"{len(clips)} clips {reason}: not scored")
    click.echo(f"{url}: run {run}; measure it with: fs-submit evaluate {run} --split NAME")


@contextmanager
def _executor(cluster: str | None, workers: int | None) -> Iterator[Executor | None]:
    if cluster is None:
        yield None
        return
    from jobs.cluster import connect, local_shape

    count, _ = local_shape(workers, "cpu")
    with connect(cluster, workers=count) as client:
        yield client.get_executor()
