"""``fs-submit extract``: a dataset on disk -> the features of its clips in one store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from featurestore import schema
from featurestore.catalog import NewVideo
from featurestore.clips import clip_count
from featurestore.errors import ProvenanceMismatch, StoreNotFound, UsageError
from featurestore.lock import locked
from featurestore.schema import FAILED, MISSING
from featurestore.store import Store, create, open_store
from jobs import datasets, labelling
from jobs.intake import Intake, compare
from jobs.progress import Download, Progress
from jobs.specs import BackboneSpec, spec_of
from jobs.summary import EXIT_OK, Say, announce, finish, missing
from jobs.video import Source
from jobs.worker import Setup

if TYPE_CHECKING:
    from distributed import Client

    from jobs.backbones import Weights
    from jobs.engines import Choice

__all__ = ["Options", "run", "store_path"]


@dataclass(frozen=True)
class Options:
    """What ``fs-submit extract`` is asked for; the fields are its options."""

    dataset: str
    root: Path
    store: str = "features"
    name: str | None = None
    videos: tuple[str, ...] = ()
    labels: Path | None = None
    split: tuple[str, ...] = ()
    seed: int = 0
    test_fraction: float = 0.5
    train_videos: str | None = None
    backbones: tuple[str, ...] = ("all",)
    weights: str = "official"
    engine: str = "auto"
    precision: str = "auto"
    device: str = "auto"
    decoder: str = "pyav"
    cluster: str = "local"
    workers: int | None = None
    fused: Literal["auto", "link", "copy", "none"] = "auto"
    strict: bool = False
    replace: bool = False
    retry_failed: bool = False
    dry_run: bool = False


def run(options: Options, say: Say = print) -> int:
    """Extract what is missing; returns the exit code (0, or 3 when some video failed).

    Raises:
        FeatureStoreError: with one message for the user; nothing is half-written.
    """
    every = datasets.scan(options.dataset, options.root)
    sources = datasets.select(every, options.videos)
    wanted = labelling.asked(
        options.split,
        options.dataset,
        options.root,
        seed=options.seed,
        test_fraction=options.test_fraction,
        train_videos=options.train_videos,
    )
    specs, fused = wanted_arrays(options.backbones)
    parts = list(specs)
    url = store_path(options)
    if options.dry_run:
        store = _open(url, "r")
        intake = compare(sources, store.videos() if store else [])
        announce(sources, intake, store, specs, _planned_device(options), say)
        say("dry run: nothing was computed or written")
        return EXIT_OK

    from jobs.cluster import connect, local_shape
    from jobs.indexing import index_all

    with ExitStack() as stack:
        client: Client | None = None
        if options.cluster != "local":
            client = stack.enter_context(connect(options.cluster))
        choice = _choice(options, client, say)
        weights = _checked_weights(specs, options, say)
        made = {n: provenance(spec, weights[n].digest, choice) for n, spec in specs.items()}
        if client is not None:
            _same_versions(client, specs, choice)
        stack.enter_context(locked(url))
        store = _open(url, "a")
        if store is not None:
            _refuse_imported(store)
        if store is not None and not options.replace:
            for name in set(made) & set(store.backbones):
                store.check_provenance(name, made[name])
        intake = compare(
            sources, store.videos() if store else [], retry_failed=options.retry_failed
        )
        if store is not None:
            _prepare_rows(store, intake, made, options)
            if _complete(store, intake, parts, fused):
                plan = _labels(store, intake, [], wanted, every, options)
                _record_labels(store, plan, say)
                if plan.truths or plan.splits:
                    store.commit()
                    say(f"nothing to compute: {url} has all of it; labels and splits recorded")
                else:
                    say(f"nothing to do: {url} has all of it")
                return finish(store, intake.known, parts, url, say)
        rate = announce(sources, intake, store, specs, choice.device, say)
        threads = None
        if client is None:
            workers, threads = local_shape(options.workers, choice.device)
            client = stack.enter_context(connect("local", workers, choice.device))
            say(f"{workers} worker process(es) of {threads} thread(s), on loopback only")
        say(f"Dask dashboard: {client.dashboard_link}")
        rows = index_all(client, intake.new, options.root, strict=options.strict)
        for row in rows:
            if row.reason:  # of a sound video it is a remark: its header miscounts, say
                say(f"{row.name}: {row.state}: {row.reason}")
        # Before anything is written: ground truth that does not fit ends the command here.
        plan = _labels(store, intake, rows, wanted, every, options)
        if store is None:
            block = schema.block_clips(sum(clip_count(r.frames) for r in rows))
            store = create(url, dataset=store_name(options), block=block, fused=options.fused)
        known = _record(store, intake, rows)
        _add_arrays(store, specs, fused, made)
        _record_labels(store, plan, say)
        store.commit()
        setup = Setup(
            store=url if "://" in url else str(Path(url).resolve()),
            specs=specs,
            fingerprints={n: store.fingerprint(n) for n in parts},
            weights=_absolute(options.weights),
            digests={n: w.digest for n, w in weights.items()},
            engine=choice.engine,
            precision=choice.precision,
            device=choice.device,
            decoder=options.decoder,
            threads=threads,
        )
        per_worker = rate / max(1, len(client.scheduler_info(n_workers=-1)["workers"]))
        _compute(client, store, known, setup, per_worker, options.strict)
        return finish(store, known, parts, url, say)


def _choice(options: Options, client: Client | None, say: Say) -> Choice:
    """Engine, precision and device: of this machine, or of the workers of a running cluster."""
    from jobs import engines

    asked = (options.engine, options.precision, options.device)
    if client is None:
        choice = engines.choose(*asked)
    else:
        on_workers = client.run(engines.choose, *asked)
        choice = next(iter(on_workers.values()))
        for worker, other in on_workers.items():
            if other != choice:
                raise UsageError(
                    f"the workers differ: {worker} would run {other.engine} {other.precision} on "
                    f"{other.device}, another one {choice.engine} {choice.precision} on "
                    f"{choice.device}; give --engine, --precision and --device"
                )
    if choice.note:
        say(choice.note)
    return choice


def _same_versions(client: Client, specs: Mapping[str, BackboneSpec], choice: Choice) -> None:
    """What made the features is recorded from here, so the workers must have the same packages."""
    from jobs import engines

    for spec in specs.values():
        here = engines.versions(spec, choice)
        for worker, there in client.run(engines.versions, spec, choice).items():
            if there != here:
                raise UsageError(f"{worker} has {there}, this machine {here}; install the same")


def wanted_arrays(names: Sequence[str]) -> tuple[dict[str, BackboneSpec], list[str]]:
    """``--backbones`` -> (the networks by array, fused arrays); a fused one brings its parts along.

    Raises:
        UsageError: an unknown name.
    """
    wanted: list[str] = []
    for name in names:
        wanted += list(schema.FEATURES) if name == "all" else [name]
    parts: set[str] = set()
    others: dict[str, BackboneSpec] = {}
    for name in wanted:
        if name in schema.FEATURES:
            parts.update(schema.parts_of(name))
        elif name.startswith("timm:"):
            spec = spec_of(name)
            others[spec.name] = spec
        else:
            raise UsageError(
                f"--backbones {name!r}: choose from {', '.join(schema.FEATURES)}, all, "
                "or timm:<model>"
            )
    ours = {name: spec_of(name) for name in schema.BACKBONES if name in parts}
    return {**ours, **others}, [name for name in schema.FUSED if name in wanted]


def store_path(options: Options) -> str:
    """The store of ``options``: ``<--store>/<name>.zarr``."""
    return f"{options.store.rstrip('/')}/{store_name(options)}.zarr"


def store_name(options: Options) -> str:
    """``--name``, else the folder's own name for ``folder``, else the dataset's.

    Raises:
        UsageError: a name that is no plain file name.
    """
    own = options.root.resolve().name if options.dataset == "folder" else options.dataset
    return plain_name(options.name or own)


def plain_name(name: str) -> str:
    """A store's name as it is.

    Raises:
        UsageError: it is no plain file name.
    """
    if not name or name.startswith(".") or "/" in name or "\\" in name:
        raise UsageError(f"--name {name!r}: give the store a plain name, without / and not .hidden")
    return name


def provenance(spec: BackboneSpec, digest: str, choice: Choice) -> dict[str, Any]:
    """The attributes that say how the array of ``spec`` is made; what differs never mixes."""
    from jobs import engines

    return {
        "model": spec.model,
        "preprocessing": {k: list(v) if isinstance(v, tuple) else v
                          for k, v in asdict(spec.preprocessing).items()},
        "weights": digest,
        "engine": choice.engine,
        "precision": choice.precision,
        "versions": engines.versions(spec, choice),
    }  # fmt: skip


def _planned_device(options: Options) -> str:
    from jobs import engines

    return engines.choose(options.engine, options.precision, options.device).device


def _checked_weights(
    specs: Mapping[str, BackboneSpec], options: Options, say: Say
) -> dict[str, Weights]:
    """Backbone -> its weights, found or fetched, and checked against the network."""
    from jobs import backbones

    found = backbones.resolve_all(specs.values(), options.weights, progress=Download())
    for name, spec in specs.items():
        backbones.check(spec, found[name])
    if options.weights == "random":
        say("RANDOM WEIGHTS: these features mean nothing; they only show that everything works")
    return found


def _open(url: str, mode: Literal["r", "a"]) -> Store | None:
    try:
        return open_store(url, mode)
    except StoreNotFound:
        return None


def _refuse_imported(store: Store) -> None:
    """The videos of imported features are known by name only: ours would take their place.

    Raises:
        UsageError: the store has such videos.
    """
    imported = (v.path.endswith(".npy") and v.state != "superseded" for v in store.videos())
    if store.segments or any(imported):
        raise UsageError(
            f"{store.url}: its videos came with imported features; give another --name (and "
            "import them into that store, if you want both in one)"
        )


def _prepare_rows(
    store: Store, intake: Intake, made: Mapping[str, dict[str, Any]], options: Options
) -> None:
    """Bring the rows of known videos up to date, and forget what is to be made again."""
    if intake.touched:
        store.update_videos(
            {row: {"size": bytes_, "mtime": t} for row, (bytes_, t) in intake.touched.items()}
        )
    if options.replace:
        for name in set(made) & set(store.backbones):
            try:
                store.check_provenance(name, made[name])
            except ProvenanceMismatch:
                store.replace_features(name, made[name])
    if options.retry_failed:
        clip_video, _ = store.clip_table()
        ours = np.isin(clip_video, list(intake.known))
        again: set[int] = set()
        for name in set(made) & set(store.backbones):
            failed = np.flatnonzero(ours & (store.status(name) == FAILED))
            store.mark(name, failed, MISSING)
            again.update(clip_video[failed].tolist())
        store.update_videos({row: {"state": "ok", "reason": ""} for row in again})


def _complete(store: Store, intake: Intake, parts: Sequence[str], fused: Sequence[str]) -> bool:
    wanted = {*parts, *(fused if store.fused != "none" else ())}
    if intake.new or not wanted <= {*store.backbones, *store.fused_arrays}:
        return False
    return not any(mask.any() for mask in missing(store, intake.known, parts).values())


def _labels(
    store: Store | None,
    intake: Intake,
    rows: Sequence[NewVideo],
    wanted: labelling.Asked,
    every: Sequence[Source],
    options: Options,
) -> labelling.Plan:
    """What to record of the videos asked for, those included that the store is about to get."""
    known = {v.index: v for v in store.videos()} if store else {}
    asked_for = {known[row].name: labelling.Row.of(known[row]) for row in intake.known}
    return labelling.prepare(
        wanted,
        store,
        asked_for | {row.name: labelling.Row.of(row) for row in rows},
        dataset=options.dataset,
        root=options.root,
        sources=every,
        labels_file=options.labels,
        new={row.name for row in rows},
    )


def _record_labels(store: Store, plan: labelling.Plan, say: Say) -> None:
    for remark in labelling.record(store, plan):
        say(remark)


def _record(store: Store, intake: Intake, rows: Sequence[NewVideo]) -> dict[int, Source]:
    """Add the new rows, which supersede those of their name; returns row -> source of all."""
    added = store.append(rows) if rows else range(0)
    return {**intake.known, **dict(zip(added, intake.new, strict=True))}


def _add_arrays(
    store: Store,
    specs: Mapping[str, BackboneSpec],
    fused: Sequence[str],
    made: Mapping[str, dict[str, Any]],
) -> None:
    for name in specs:
        if name not in store.backbones:
            store.add_features(name, specs[name].channels, attributes=made[name])
    for name in fused:
        if name not in store.fused_arrays and store.fused != "none":
            store.add_fused(name)


def _compute(
    client: Client,
    store: Store,
    known: Mapping[int, Source],
    setup: Setup,
    rate: float,
    strict: bool,
) -> None:
    from jobs.drive import Drive
    from jobs.estimate import clip_cost, task_clips
    from jobs.plan import make_tasks

    cost = clip_cost(setup.specs)
    videos = [
        (v.name, str(known[v.index].path.resolve()) if v.index in known else "", v.frames)
        for v in store.videos()
    ]
    tasks = make_tasks(
        missing(store, known.keys(), list(setup.specs)),
        *store.clip_table(),
        videos,
        block=store.block,
        clips_per_task=task_clips(sum(cost.values()), rate, store.block),
    )
    progress = Progress(
        clips=sum(t.clips for t in tasks),
        cost=sum(t.clips * sum(cost[b] for b in t.backbones) for t in tasks),
    )
    try:
        Drive(client, store, setup, progress, cost, strict).run(tasks)
    finally:
        progress.end()


def _absolute(weights: str) -> str:
    """Workers run in other folders, so a file or folder is named from the root."""
    return weights if weights in ("official", "random") else str(Path(weights).resolve())
