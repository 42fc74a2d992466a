"""What a run changes in the store before and after its tasks: rows, labels, arrays."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from featurestore import schema
from featurestore.catalog import NewVideo
from featurestore.errors import ProvenanceMismatch, UsageError
from featurestore.schema import FAILED, MISSING
from featurestore.shorten import shorten
from featurestore.store import Store
from jobs import labelling
from jobs.intake import Intake
from jobs.options import Options
from jobs.specs import BackboneSpec
from jobs.summary import Say, missing
from jobs.video import Source

__all__ = [
    "add_arrays",
    "bring_up_to_date",
    "check_fused",
    "complete",
    "labels_of",
    "record",
    "record_labels",
    "refuse_imported",
    "shortened",
]


def bring_up_to_date(
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
    _search_damage_again(store, intake)
    videos = store.videos()  # once: on an object store it is some twenty requests
    damaged = sum(videos[row].state == "damaged" for row in intake.known)
    if options.strict and damaged:
        say(f"--strict: {damaged} videos were found damaged before; their good clips stay")


def _search_damage_again(store: Store, intake: Intake) -> None:
    """Of a run that was killed after it met damage, before the video got its true length: the clips
    that failed are read once more, which finds where it is."""
    videos = store.videos()
    damaged = [row for row in intake.known if videos[row].state == "damaged"]
    if damaged:
        clip_video, _ = store.clip_table()
        theirs = np.isin(clip_video, damaged)
        for name in store.backbones:
            store.mark(name, np.flatnonzero(theirs & (store.status(name) == FAILED)), MISSING)


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


def complete(
    store: Store,
    intake: Intake,
    parts: Sequence[str],
    fused: Sequence[str],
    *,
    retry_failed: bool = False,
) -> bool:
    wanted = {*parts, *(fused if store.fused != "none" else ())}
    if intake.new or not wanted <= {*store.backbones, *store.fused_arrays}:
        return False
    left = missing(store, intake.known, parts, retry_failed=retry_failed)
    return not any(mask.any() for mask in left.values())


def check_fused(store: Store, options: Options) -> None:
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


def refuse_imported(store: Store) -> None:
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


def labels_of(
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
    plan = labelling.prepare(
        wanted,
        store,
        asked_for | {row.name: labelling.Row.of(row) for row in rows},
        dataset=options.dataset,
        root=options.root,
        sources=every,
        labels_file=options.labels,
        new={row.name for row in rows},
    )
    if not options.origin:
        return plan

    def named(source: str) -> str:
        """Where it truly is, not the folder that looks like it."""
        return source.replace(str(options.root), options.origin)

    return replace(
        plan,
        truths=[replace(truth, source=named(truth.source)) for truth in plan.truths],
        splits=[replace(split, source=named(split.source)) for split in plan.splits],
    )


def record_labels(store: Store, plan: labelling.Plan, say: Say) -> None:
    for remark in labelling.record(store, plan):
        say(remark)


def record(store: Store, intake: Intake, rows: Sequence[NewVideo]) -> dict[int, Source]:
    """Add the new rows, which supersede those of their name; returns row -> source of all."""
    added = store.append(rows) if rows else range(0)
    return {**intake.known, **dict(zip(added, intake.new, strict=True))}


def add_arrays(
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


def shortened(
    store: Store, known: Mapping[int, Source], good_frames: Mapping[int, int]
) -> dict[int, Source]:
    """Damage that only reading found: the videos get their true length, and a last clip that ends
    with it. What was computed stays."""
    instead = shorten(store, good_frames)
    store.commit()
    kept = {row: source for row, source in known.items() if row not in good_frames}
    return {**kept, **{new: known[old] for new, old in instead.items()}}
