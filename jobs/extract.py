"""``fs-submit extract``: a dataset on disk -> the features of its clips in one store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from featurestore import schema
from featurestore.errors import StoreNotFound
from featurestore.location import absolute as whole_url
from featurestore.lock import locked
from featurestore.place import in_use
from featurestore.store import Store, create, open_store
from jobs import datasets, labelling
from jobs.estimate import expected, local_rate, machine_rate, worker_rate
from jobs.intake import Intake, compare
from jobs.making import as_recorded, checked_weights, chosen, provenance, versions_of
from jobs.options import Options, absolute, check_options, store_name, store_path, wanted_arrays
from jobs.progress import Progress
from jobs.remote import Origin
from jobs.rows import (
    add_arrays,
    bring_up_to_date,
    check_fused,
    complete,
    labels_of,
    record,
    record_labels,
    refuse_imported,
    shortened,
)
from jobs.specs import BackboneSpec
from jobs.summary import EXIT_OK, Say, about_clips, announce, finish, missing
from jobs.video import Source
from jobs.worker import Setup

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["run"]


def run(options: Options, say: Say = print) -> int:
    """Extract what is missing; returns the exit code (0, or 3 when some video failed).

    Raises:
        FeatureStoreError: with one message for the user; nothing is half-written.
    """
    check_options(options)
    everything = datasets.scan(options.dataset, options.root)
    sources = datasets.select(everything, options.videos)
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
    origin = Origin(options.root, options.origin)
    origin.check(sources)

    with ExitStack() as stack:
        client: Client | None = None
        if options.cluster == "cuda":
            from jobs.cluster import require_gpu

            require_gpu()
            options = replace(options, device="cuda")
        elif options.cluster == "slurm" and options.dry_run:
            say("dry run: no job is submitted, and this machine's speed is taken for the nodes'")
        elif not options.on_this_machine:
            if not options.dry_run and not options.replace:
                code = _without_workers(url, sources, everything, specs, fused, wanted, origin,
                                        options, say)  # fmt: skip
                if code is not None:
                    return code
            from jobs.cluster import elsewhere

            client = stack.enter_context(elsewhere(options, say))
        there = None if options.replace else _open(url, "r")
        begun = [there.provenance(n) for n in parts if n in there.backbones] if there else []
        choice = chosen(options, client, say, begun)
        if options.dry_run:
            rate = expected(choice, machine_rate(choice, client))
            _dry_run(sources, specs, options, rate, say)
            return EXIT_OK
        weights = checked_weights(specs, options, say)
        versions = versions_of(client, specs, choice)
        made = {
            n: provenance(spec, weights[n].digest, choice, versions[n]) for n, spec in specs.items()
        }
        stack.enter_context(locked(url))
        store = _open(url, "a")
        if store is not None:
            check_fused(store, options)
            refuse_imported(store)
        if store is not None and not options.replace:
            for name in set(made) & set(store.backbones):
                store.check_provenance(name, made[name])
        intake = compare(
            sources,
            store.videos() if store else [],
            retry_failed=options.retry_failed,
            origin=origin,
        )
        if store is not None:
            bring_up_to_date(store, intake, made, options, say)
            if complete(store, intake, parts, fused):
                return _end(store, intake, parts, wanted, everything, options, say)
        from jobs.cluster import connect, local_shape  # Dask: what follows needs it

        # A new store's blocks are sized for all of the dataset, whatever is asked for today.
        planned = everything if store is None else intake.new
        origin.bring_headers(planned)
        about = about_clips(planned)
        threads = None
        if client is None:
            least = options.worker_range[0] if options.worker_range else None
            workers, threads = local_shape(least, choice.device)
            client = stack.enter_context(connect("local", workers, choice.device))
            say(f"{workers} worker process(es) of {threads} thread(s), on loopback only")
            rate = local_rate(choice, client)
        else:
            rate = machine_rate(choice, client)
        if client.dashboard_link:
            say(f"Dask dashboard: {client.dashboard_link}")
        announce(sources, intake, store, about, specs, expected(choice, rate), say)

        from jobs.indexing import index_all

        rows = index_all(client, intake.new, origin, strict=options.strict)
        for row in rows:
            if row.reason:  # of a sound video it is a remark: its header miscounts, say
                say(f"{row.name}: {row.state}: {row.reason}")
        # Before anything is written: ground truth that does not fit ends the command here.
        plan = labels_of(store, intake, rows, wanted, everything, options)
        if store is None:
            block = schema.block_clips(sum(about.values()))
            store = create(url, dataset=store_name(options), block=block, fused=options.fused)
        known = record(store, intake, rows)
        add_arrays(store, specs, fused, made)
        record_labels(store, plan, say)
        store.commit()
        setup = Setup(
            store=whole_url(url),
            storage=in_use(),
            specs=specs,
            fingerprints={n: store.fingerprint(n) for n in parts},
            weights=absolute(options.weights),
            digests={n: w.digest for n, w in weights.items()},
            engine=choice.engine,
            precision=choice.precision,
            device=choice.device,
            decoder=options.decoder,
            threads=threads,
            versions=versions,
        )
        per_worker = worker_rate(rate, client)
        task_rate = expected(choice, per_worker)
        rates = per_worker, task_rate
        short = _compute(client, store, known, origin, setup, *rates, options.strict)
        if short:
            known = shortened(store, known, short)
            _compute(client, store, known, origin, setup, *rates, options.strict)
        return finish(store, known, parts, url, say)


def _without_workers(
    url: str,
    sources: Sequence[Source],
    everything: Sequence[Source],
    specs: Mapping[str, BackboneSpec],
    fused: Sequence[str],
    wanted: labelling.Asked,
    origin: Origin,
    options: Options,
    say: Say,
) -> int | None:
    """Of a store that has all of it: says so, before any job is asked for or a worker waited for.

    None: there is something to compute. What only workers know (their engine, their versions) is
    taken as the store has it. The lock is held for the moment only, not while jobs are waited for.
    """
    parts = list(specs)

    def look(store: Store) -> Intake | None:
        intake = compare(sources, store.videos(), retry_failed=options.retry_failed, origin=origin)
        ends = complete(store, intake, parts, fused, retry_failed=options.retry_failed)
        return intake if ends else None

    store = _open(url, "r")
    if store is None or look(store) is None:
        return None
    weights = checked_weights(specs, options, say)
    made = {n: as_recorded(spec, weights[n].digest, store.provenance(n), options)
            for n, spec in specs.items()}  # fmt: skip
    with locked(url):
        store = open_store(url, "a")
        check_fused(store, options)
        refuse_imported(store)
        for name in set(made) & set(store.backbones):
            store.check_provenance(name, made[name])
        intake = look(store)
        if intake is None:
            return None
        bring_up_to_date(store, intake, made, options, say)
        if not complete(store, intake, parts, fused):
            return None
        return _end(store, intake, parts, wanted, everything, options, say)


def _end(
    store: Store,
    intake: Intake,
    parts: Sequence[str],
    wanted: labelling.Asked,
    everything: Sequence[Source],
    options: Options,
    say: Say,
) -> int:
    """Of a store that has all of it: labels and splits are recorded, and it is said."""
    plan = labels_of(store, intake, [], wanted, everything, options)
    record_labels(store, plan, say)
    if plan.truths or plan.splits:
        store.commit()
        say(f"nothing to compute: {store.url} has all of it; labels and splits recorded")
    else:
        say(f"nothing to do: {store.url} has all of it")
    return finish(store, intake.known, parts, str(store.url), say)


def _dry_run(
    sources: Sequence[Source],
    specs: Mapping[str, BackboneSpec],
    options: Options,
    rate: float,
    say: Say,
) -> None:
    store = _open(store_path(options), "r")
    origin = Origin(options.root, options.origin)
    intake = compare(
        sources,
        store.videos() if store else [],
        retry_failed=options.retry_failed,
        origin=origin,
    )
    origin.bring_headers(intake.new)
    announce(
        sources, intake, store, about_clips(intake.new), specs, rate, say,
        retry_failed=options.retry_failed,
    )  # fmt: skip
    if options.replace:
        say("--replace: what was made with other settings is computed anew, and not counted here")
    say("dry run: nothing was computed or written")


def _open(url: str, mode: Literal["r", "a"]) -> Store | None:
    try:
        return open_store(url, mode)
    except StoreNotFound:
        return None


def _compute(
    client: Client,
    store: Store,
    known: Mapping[int, Source],
    origin: Origin,
    setup: Setup,
    matrix_rate: float,
    rate: float,
    strict: bool,
) -> dict[int, int]:
    """Computes what is missing; returns row -> good frames of the videos found damaged.

    GFLOP/s of one worker: ``matrix_rate`` of its machine, ``rate`` expected of its networks.
    """
    from jobs.drive import Drive
    from jobs.estimate import clip_cost, task_clips
    from jobs.plan import make_tasks

    cost = clip_cost(setup.specs)
    videos = [
        (v.name, origin.address(known[v.index].path) if v.index in known else "", v.frames)
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
        matrix_rate=matrix_rate,
    )
    drive = Drive(client, store, setup, progress, cost, strict)
    try:
        drive.run(tasks)
    finally:
        progress.end()
    return {row: frames for row, frames in drive.good_frames.items() if frames}
