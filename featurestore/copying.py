"""A store written anew: into another place, complete or some backbones; or without superseded rows.

A copy is made as any store is, by appending videos, writing clips and marking them, so it can be
stopped and run again, and what is there is not copied twice. It reads the last commit of its
source, which may be in use.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from featurestore import arrays, disk, layout
from featurestore.blocks import all_locked, runs, write_clips
from featurestore.catalog import CHANGEABLE, NewVideo, Video
from featurestore.disk import writing
from featurestore.errors import StoreNotFound, UsageError
from featurestore.location import beside, local_path
from featurestore.lock import locked
from featurestore.provenance import GENERATION, generation
from featurestore.runs import Column, Run, read_run, run_names, write_run
from featurestore.schema import DONE, FAILED, FUSED, parts_of
from featurestore.store import Store, Url, create, open_store

Progress = Callable[[int, int], None]

_MARK_AFTER: Final = 32  # blocks: what a kill makes the next run copy again


@dataclass(frozen=True)
class Copied:
    """What `copy` did: clips of backbones copied, and those that the copy had already."""

    arrays: tuple[str, ...]
    clips: int
    there: int


@dataclass(frozen=True)
class Compacted:
    """What `compact` dropped, and bytes on disk before and after."""

    videos: int
    clips: int
    before: int
    after: int


def copy(
    source: Url,
    target: Url,
    *,
    names: Sequence[str] = (),
    fused: Literal["auto", "link", "copy", "none"] = "auto",
    progress: Progress = lambda done, of: None,
) -> Copied:
    """Brings a store to another place, or completes a copy that is there.

    `names`: which arrays (a fused one brings its parts); all if none. Tables, labels, splits and
    runs come along. `fused` says how a new copy keeps fused arrays (see store.create).

    Raises UsageError when the target has other videos, or an array is not there;
    ProvenanceMismatch when it has features made in another way; StoreLocked, StoreUnreadable,
    StoreUnwritable.
    """
    there = open_store(source)
    wanted = arrays_wanted(source, (*there.backbones, *there.fused_arrays), names)
    if local_path(source).resolve() == local_path(target).resolve():
        raise UsageError(f"{os.fspath(target)}: is the store itself; give another place")
    with locked(target):
        try:
            copied = open_store(target, "a")
        except StoreNotFound:
            copied = create(
                target,
                dataset=there.dataset,
                block=there.block,
                fused=fused,
                segments=there.segments,
            )
        return _fill(there, copied, np.arange(len(there.videos())), wanted, progress)


def compact(url: Url, *, progress: Progress = lambda done, of: None) -> Compacted:
    """Drops superseded videos: their rows, clips, features, frames, places in splits and runs.

    The new store is built beside the old one, from it, and put in its place in one step where the
    disk can exchange two folders (else in two; killed between them, the next call ends it). Killed
    before, the old store is as it was. Readers that have the store open must open it again: its
    clips have other numbers. Needs room for a second store meanwhile.

    Raises StoreNotFound, StoreLocked, StoreUnreadable, StoreUnwritable.
    """
    root = local_path(url).resolve()
    workshop = beside(url, layout.COMPACTING)
    with locked(url):
        with writing(root):
            _put_back(root)
            disk.remove(workshop)
        store = open_store(url, "a")
        live = store.live_videos()
        before = disk.stored_bytes(root)
        dropped = int((~live).sum()), int((~store.live()).sum())
        if not dropped[0]:
            return Compacted(0, 0, before, before)
        # In a folder of its own: it has its name already, and its locks go with the folder.
        new = workshop / root.name
        with writing(workshop):
            workshop.mkdir()
        made = create(
            new, dataset=store.dataset, block=store.block, fused=store.fused,
            segments=store.segments,
        )  # fmt: skip
        wanted = (*store.backbones, *store.fused_arrays)
        _fill(store, made, np.flatnonzero(live), wanted, progress)
        attributes = dict(arrays.document(root)["attributes"])
        attributes[GENERATION] = generation(attributes) + 1
        arrays.describe(new, ".", attributes)
        after = disk.stored_bytes(new)
        with all_locked(url), writing(root):
            if not disk.exchange(new, root):
                root.rename(layout.halfway(root))
                new.rename(root)
        with writing(workshop):
            disk.remove(workshop)
    return Compacted(*dropped, before, after)


def _put_back(root: Path) -> None:
    """Undoes the first step of an exchange of which the second was not taken."""
    if not root.exists() and layout.halfway(root).exists():
        layout.halfway(root).rename(root)


def arrays_wanted(url: Url, known: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    """Of the feature arrays of a store those asked for (all if none), and what they are made of.

    Raises UsageError for one that the store does not have.
    """
    if unknown := [name for name in names if name not in known]:
        raise UsageError(
            f"{os.fspath(url)}: has no features {', '.join(unknown)}; it has {', '.join(known)}"
        )
    parts = {part for name in names or known for part in parts_of(name)}
    return tuple(name for name in known if name in parts or name in (names or known))


def _fill(
    source: Store,
    target: Store,
    rows: npt.NDArray[np.integer[Any]],
    names: Collection[str],
    progress: Progress,
) -> Copied:
    """Makes `target` what `source` is in these rows of its table (increasing) and these arrays."""
    _take_videos(source, target, rows)
    for name in names:
        if name in FUSED:
            if target.fused != "none" and name not in target.fused_arrays:
                target.add_fused(name)
        elif name in target.backbones:
            target.check_provenance(name, source.provenance(name))
        else:
            shape = source.shape(name)
            crops = shape[1] if source.crops_unknown(name) else None
            target.add_features(name, shape[2], source.provenance(name), crops=crops)
    target.take_labels(source, rows)
    target.commit()
    clips = _clips_of(source, rows)
    copied = there = done = 0
    todo: dict[str, list[range]] = {}
    for name in names:
        if name in FUSED:
            continue
        status, had = source.status(name)[clips], target.status(name)[: len(clips)]
        wanted = (status == DONE) & (had != DONE)
        todo[name] = runs(wanted, target.block)
        copied += int(wanted.sum())
        there += int(((status == DONE) & (had == DONE)).sum())
        target.mark(name, np.flatnonzero((status == FAILED) & (had != FAILED)), FAILED)
    of = sum(map(len, todo.values()))
    for name, pieces in todo.items():
        for first in range(0, len(pieces), _MARK_AFTER):
            batch = pieces[first : first + _MARK_AFTER]
            for run in batch:
                values = _features(source, name, clips[run.start : run.stop])
                write_clips(target.url, name, run.start, values)
                done += 1
                progress(done, of)
            target.mark(name, np.concatenate([np.array(run) for run in batch]), DONE)
    _take_runs(source, target, rows, clips)
    return Copied(tuple(names), copied, there)


def _take_videos(source: Store, target: Store, rows: npt.NDArray[np.integer[Any]]) -> None:
    """Appends the rows that the target lacks; those it has must be the source's first ones."""
    wanted = [source.videos()[row] for row in rows]
    have = target.videos()
    same = [_identity(one) == _identity(other) for one, other in zip(have, wanted, strict=False)]
    if len(have) > len(wanted) or not all(same) or target.segments != source.segments:
        odd = have[same.index(False)].name if not all(same) else f"{len(have)} videos"
        raise UsageError(
            f"{target.url}: is no copy of {source.url}, or of an older state of it that was "
            f"compacted since ({odd}); give another place"
        )
    changes = {
        there.index: {c: getattr(one, c) for c in CHANGEABLE}
        for there, one in zip(have, wanted, strict=False)
        if any(not _equal(getattr(there, c), getattr(one, c)) for c in CHANGEABLE)
    }
    if changes:
        target.update_videos(changes)
    columns = [field.name for field in fields(NewVideo)]
    new = [NewVideo(**{c: getattr(one, c) for c in columns}) for one in wanted[len(have) :]]
    # One name a call: of several rows of one name the older ones come first, and are superseded.
    while new:
        names: set[str] = set()
        count = 0
        while count < len(new) and new[count].name not in names:
            names.add(new[count].name)
            count += 1
        target.append(new[:count])
        new = new[count:]


def _identity(video: Video) -> tuple[object, ...]:
    return video.name, video.frames, video.clip_offset, video.clip_count, video.sha256


def _equal(one: object, other: object) -> bool:
    return one == other or (one != one and other != other)  # NaN: not known


def _clips_of(source: Store, rows: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.int64]:
    """Clips of these rows, in the order of the rows: int64 (clips,)."""
    clip_video, _ = source.clip_table()
    return np.flatnonzero(np.isin(clip_video, rows))


def _features(source: Store, name: str, clips: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Features of increasing clips, which need not be consecutive."""
    cuts = np.flatnonzero(np.diff(clips) != 1) + 1
    pieces = [range(int(run[0]), int(run[-1]) + 1) for run in np.split(clips, cuts)]
    return np.concatenate([source.features(name, piece) for piece in pieces])


def _take_runs(
    source: Store,
    target: Store,
    rows: npt.NDArray[np.integer[Any]],
    clips: npt.NDArray[np.int64],
) -> None:
    """Copies the runs that the target lacks, or has otherwise, of these videos and clips."""
    offsets, _ = source.frame_table()
    counts = np.array([source.videos()[row].frames for row in rows], np.int64)
    frames = _ranges(offsets[rows], counts)
    index = {"clip": clips, "frame": frames, "video": np.asarray(rows, np.int64)}
    there = run_names(target.url)
    for name in run_names(source.url):
        run = read_run(source.url, name)
        # A run is of the clips there were when it was made: the first ones.
        columns = {
            column: Column(of.dim, _some(of.values, index[of.dim]), of.attributes)
            for column, of in run.columns.items()
        }
        if name in there and _same(read_run(target.url, name), columns, run.attributes):
            continue
        write_run(target.url, name, columns, run.attributes, replace=True)


def _ranges(starts: npt.NDArray[np.int64], counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """All numbers of ranges that begin at `starts` and have so many."""
    ends = np.cumsum(counts)
    within = np.arange(int(counts.sum())) - np.repeat(ends - counts, counts)
    return np.repeat(starts, counts) + within


def _some(values: npt.NDArray[Any], index: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    return values[index[index < len(values)]]


def _same(there: Run, columns: dict[str, Column], attributes: Any) -> bool:
    return there.attributes == attributes and all(
        name in there.columns and len(there.columns[name].values) == len(of.values)
        for name, of in columns.items()
    )
