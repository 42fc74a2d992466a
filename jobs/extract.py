"""``fs-submit extract``: a dataset on disk -> the features of its clips in one store."""

from __future__ import annotations

import importlib.util
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from featurestore import schema
from featurestore.catalog import NewVideo
from featurestore.errors import ProvenanceMismatch, StoreNotFound, UsageError
from featurestore.location import local_path
from featurestore.lock import locked
from featurestore.schema import FAILED, MISSING
from featurestore.shorten import shorten
from featurestore.store import Store, create, open_store
from jobs import datasets
from jobs.intake import Intake, compare
from jobs.progress import Download, Progress
from jobs.specs import BackboneSpec, spec_of
from jobs.summary import EXIT_OK, Say, about_clips, announce, finish, missing
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
    _check_options(options)
    everything = datasets.scan(options.dataset, options.root)
    sources = datasets.select(everything, options.videos)
    specs, fused = wanted_arrays(options.backbones)
    parts = list(specs)
    url = store_path(options)

    from jobs.cluster import connect, local_shape
    from jobs.estimate import machine_rate, worker_rate

    with ExitStack() as stack:
        client: Client | None = None
        if options.cluster != "local":
            say(f"connecting to {options.cluster}")
            client = stack.enter_context(connect(options.cluster))
        choice = _choice(options, client, say)
        if options.dry_run:
            _dry_run(sources, specs, options, machine_rate(choice.device, client), say)
            return EXIT_OK
        weights = _checked_weights(specs, options, say)
        versions = _versions(client, specs, choice)
        made = {
            n: provenance(spec, weights[n].digest, choice, versions[n]) for n, spec in specs.items()
        }
        stack.enter_context(locked(url))
        store = _open(url, "a")
        if store is not None:
            _check_fused(store, options)
        if store is not None and not options.replace:
            for name in set(made) & set(store.backbones):
                store.check_provenance(name, made[name])
        intake = compare(
            sources, store.videos() if store else [], retry_failed=options.retry_failed
        )
        if store is not None:
            _prepare_rows(store, intake, made, options, say)
            if _complete(store, intake, parts, fused):
                say(f"nothing to do: {url} has all of it")
                return finish(store, intake.known, parts, url, say)
        # A new store's blocks are sized for all of the dataset, whatever is asked for today.
        about = about_clips(everything if store is None else intake.new)
        rate = machine_rate(choice.device, client)
        announce(sources, intake, store, about, specs, rate, say)
        threads = None
        if client is None:
            workers, threads = local_shape(options.workers, choice.device)
            client = stack.enter_context(connect("local", workers, choice.device))
            say(f"{workers} worker process(es) of {threads} thread(s), on loopback only")
        if client.dashboard_link:
            say(f"Dask dashboard: {client.dashboard_link}")

        from jobs.indexing import index_all

        rows = index_all(client, intake.new, options.root, strict=options.strict)
        for row in rows:
            if row.reason:  # of a sound video it is a remark: its header miscounts, say
                say(f"{row.name}: {row.state}: {row.reason}")
        if store is None:
            block = schema.block_clips(sum(about.values()))
            store = create(url, dataset=store_name(options), block=block, fused=options.fused)
        known = _record(store, intake, rows)
        _add_arrays(store, specs, fused, made)
        store.commit()
        setup = Setup(
            store=str(local_path(url).resolve()),
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
        per_worker = worker_rate(rate, client)
        short = _compute(client, store, known, setup, per_worker, options.strict)
        if short:
            known = _shortened(store, known, short)
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


def _versions(
    client: Client | None, specs: Mapping[str, BackboneSpec], choice: Choice
) -> dict[str, dict[str, str]]:
    """Backbone -> versions of the packages that have a part in its numbers, where it will run."""
    from jobs import engines

    if client is None:
        return {name: engines.versions(spec, choice) for name, spec in specs.items()}
    found: dict[str, dict[str, str]] = {}
    for name, spec in specs.items():
        on_workers = client.run(engines.versions, spec, choice)
        one = next(iter(on_workers))
        found[name] = on_workers[one]
        for other, there in on_workers.items():
            if there != found[name]:
                raise UsageError(f"{other} has {there}, {one} {found[name]}; install the same")
    return found


def _dry_run(
    sources: Sequence[Source],
    specs: Mapping[str, BackboneSpec],
    options: Options,
    rate: float,
    say: Say,
) -> None:
    store = _open(store_path(options), "r")
    intake = compare(sources, store.videos() if store else [], retry_failed=options.retry_failed)
    announce(
        sources, intake, store, about_clips(intake.new), specs, rate, say,
        retry_failed=options.retry_failed,
    )  # fmt: skip
    if options.replace:
        say("--replace: what was made with other settings is computed anew, and not counted here")
    say("dry run: nothing was computed or written")


def _check_options(options: Options) -> None:
    """Raise UsageError for what can be told before anything is looked at."""
    if options.store.rstrip("/").endswith(".zarr"):
        raise UsageError(
            f"--store {options.store}: give the folder that holds the store, and --name its name"
        )
    if options.workers is not None and options.cluster != "local":
        raise UsageError("--workers goes with --cluster local; a running cluster has its own")
    if options.decoder == "decord" and importlib.util.find_spec("decord") is None:
        raise UsageError("--decoder decord: it is not installed; pip install decord")


def _check_fused(store: Store, options: Options) -> None:
    if options.fused not in ("auto", store.fused):
        raise UsageError(
            f"--fused {options.fused}: {store.url} was made with --fused {store.fused}; "
            "give another --store, or leave the option out"
        )
    asked = sorted(set(options.backbones) & set(schema.FUSED))
    if asked and store.fused == "none":
        raise UsageError(
            f"--backbones {asked[0]}: {store.url} was made with --fused none; give another --store"
        )


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
    if not parts and not others:
        raise UsageError(f"--backbones is empty: choose from {', '.join(schema.FEATURES)}, or all")
    ours = {name: spec_of(name) for name in schema.BACKBONES if name in parts}
    return {**ours, **others}, [name for name in schema.FUSED if name in wanted]


def store_path(options: Options) -> str:
    """The store of ``options``: ``<--store>/<name>.zarr``."""
    if not options.store:
        raise UsageError("--store is empty; give a folder, for example ./features")
    return f"{options.store.rstrip('/')}/{store_name(options)}.zarr"


def store_name(options: Options) -> str:
    """``--name``, else the folder's own name for ``folder``, else the dataset's.

    Raises:
        UsageError: a name that is no plain file name.
    """
    own = options.root.resolve().name if options.dataset == "folder" else options.dataset
    name = options.name or own
    if not name or name.startswith(".") or "/" in name or "\\" in name:
        raise UsageError(f"--name {name!r}: give the store a plain name, without / and not .hidden")
    return name


def provenance(
    spec: BackboneSpec, digest: str, choice: Choice, versions: Mapping[str, str]
) -> dict[str, Any]:
    """The attributes that say how the array of ``spec`` is made; what differs never mixes."""
    return {
        "model": spec.model,
        "preprocessing": {k: list(v) if isinstance(v, tuple) else v
                          for k, v in asdict(spec.preprocessing).items()},
        "weights": digest,
        "engine": choice.engine,
        "precision": choice.precision,
        "versions": dict(versions),
    }  # fmt: skip


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


def _prepare_rows(
    store: Store, intake: Intake, made: Mapping[str, dict[str, Any]], options: Options, say: Say
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
        _retry(store, intake, set(made) & set(store.backbones))
    damaged = sum(store.videos()[row].state == "damaged" for row in intake.known)
    if options.strict and damaged:
        say(f"--strict: {damaged} videos were found damaged before; their good clips stay")


def _retry(store: Store, intake: Intake, backbones: Collection[str]) -> None:
    """Failed clips of these backbones are missing again; videos without any are sound again."""
    clip_video, _ = store.clip_table()
    ours = np.isin(clip_video, list(intake.known))
    failed = {name: ours & (store.status(name) == FAILED) for name in store.backbones}
    for name in backbones:
        store.mark(name, np.flatnonzero(failed[name]), MISSING)
    again = {row for name in backbones for row in clip_video[failed[name]].tolist()}
    others = (clip_video[mask].tolist() for name, mask in failed.items() if name not in backbones)
    again -= {row for rows in others for row in rows}
    store.update_videos({row: {"state": "ok", "reason": ""} for row in again})


def _complete(store: Store, intake: Intake, parts: Sequence[str], fused: Sequence[str]) -> bool:
    wanted = {*parts, *(fused if store.fused != "none" else ())}
    if intake.new or not wanted <= {*store.backbones, *store.fused_arrays}:
        return False
    return not any(mask.any() for mask in missing(store, intake.known, parts).values())


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
) -> dict[int, int]:
    """Computes what is missing; returns row -> good frames of the videos found damaged."""
    from jobs.drive import Drive
    from jobs.estimate import clip_cost, task_clips
    from jobs.plan import make_tasks

    cost = clip_cost(setup.specs)
    videos = [
        (v.name, str(known[v.index].path.absolute()) if v.index in known else "", v.frames)
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
    drive = Drive(client, store, setup, progress, cost, strict)
    try:
        drive.run(tasks)
    finally:
        progress.end()
    return {row: frames for row, frames in drive.good_frames.items() if frames}


def _shortened(
    store: Store, known: Mapping[int, Source], good_frames: Mapping[int, int]
) -> dict[int, Source]:
    """Damage that only reading found: the videos get their true length, and a last clip that ends
    with it. What was computed stays."""
    instead = shorten(store, good_frames)
    store.commit()
    kept = {row: source for row, source in known.items() if row not in good_frames}
    return {**kept, **{new: known[old] for new, old in instead.items()}}


def _absolute(weights: str) -> str:
    """Workers run in other folders, so a file or folder is named from the root."""
    return weights if weights in ("official", "random") else str(Path(weights).resolve())
