"""Is a store whole? Every chunk against its checksum, and everything that has to agree.

`verify` only looks, and changes nothing; `mend` acts on what it found. A store of which a command
is writing can be looked at too: what that command has in hand counts as no problem.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from featurestore import arrays, chunks, fused, layout, lock, run_lengths, schema, strangers
from featurestore.arrays import METADATA
from featurestore.errors import StoreUnreadable
from featurestore.findings import REPAIR, Findings
from featurestore.location import spot
from featurestore.place import Place, Spot
from featurestore.schema import DONE, FUSED, status_of
from featurestore.splits import shown
from featurestore.store import Store, Url, open_store
from featurestore.strangers import Listing
from featurestore.tables import check_tables

Progress = Callable[[int, int], None]


def verify(
    url: Url, *, alone: bool = False, progress: Progress = lambda done, of: None
) -> Findings:
    """Reads all of a store and says what is wrong with it.

    With `alone` the caller holds the store's lock, so that nobody has anything in hand. `progress`
    is called with blocks read and blocks in all. Raises StoreNotFound, NotAStore and
    StoreUnreadable when so much is gone that it cannot be opened.
    """
    root = spot(url)
    found = Findings(os.fspath(url))
    writer = None if alone else lock.writer(url)
    if writer:
        found.notes.append(
            f"another command is writing to this store ({writer}); what it has in hand is left out"
        )
    document = layout.read(root)
    members = layout.members(document)
    _note_short_runs(members, found)
    listing = Listing(root)
    strangers.look(listing, members, found, busy=writer is not None)
    _compare_metadata(root, members, found, busy=writer is not None)
    store = open_store(url)
    tables = check_tables(root, store, members, found)
    if tables is not None:
        _read_features(listing, store, tables, found, progress, busy=writer is not None)
    if store.fused != "none":
        _look_at_fused(root, store, found)
    return found


# What the arrays say


def _note_short_runs(members: layout.Members, found: Findings) -> None:
    short = run_lengths.misfits(members, run_lengths.lengths(members))
    if short:
        found.notes.append(
            f"{shown(dict.fromkeys(path.split('/')[1] for path in short))}: shorter than the "
            "store, which grew under an older version, so that xarray refuses to open both "
            "together (open_datatree); the next command that writes makes runs as long"
        )


def _compare_metadata(root: Spot, members: layout.Members, found: Findings, *, busy: bool) -> None:
    changed = []
    runs = {run: run_lengths.own(members, run) for run in run_lengths.runs_of(members)}
    for name, committed in members.items():
        try:
            there = arrays.document(root / name)
        except FileNotFoundError:
            lost = name not in FUSED and name not in runs
            found.add(
                f"{name}/{METADATA}",
                "is gone, but the store counts on it",
                "Put it back from a copy, or delete the store and extract again"
                if lost
                else REPAIR,
                mendable=not lost,
            )
            continue
        except (OSError, ValueError) as error:
            found.add(
                f"{name}/{METADATA}",
                f"is damaged: {error}",
                REPAIR
                if name in runs
                else "Put it back from a copy, or delete the store and extract again",
                mendable=name in runs,
            )
            continue
        wanted = committed if committed.get("node_type") == "array" else runs.get(name, there)
        if there != wanted:
            changed.append(name)
    if changed and not busy:
        found.add(
            shown(changed),
            "changed by a command that was killed before its commit",
            f"The next command that writes undoes it, or {REPAIR}",
        )


# What the chunks hold


def _read_features(
    listing: Listing,
    store: Store,
    tables: Mapping[str, npt.NDArray[Any]],
    found: Findings,
    progress: Progress,
    *,
    busy: bool,
) -> None:
    blocks = -(-store.clips // store.block)
    of = blocks * len(store.backbones)
    for number, name in enumerate(store.backbones):
        look = _Look(listing, store, tables, found, name)
        for block in range(blocks):
            first = block * store.block
            look.at(range(first, min(first + store.block, store.clips)))
            progress(number * blocks + block + 1, of)
        look.tell(busy=busy)


class _Look:
    """What is wrong with the blocks of one backbone."""

    def __init__(
        self,
        listing: Listing,
        store: Store,
        tables: Mapping[str, npt.NDArray[Any]],
        found: Findings,
        name: str,
    ) -> None:
        self._listing, self._store, self._found, self._name = listing, store, found, name
        self._tables = tables
        # None: it is damaged, so that nobody knows which clips are done.
        self._status = tables.get(status_of(name))
        self._wrong: dict[str, list[int]] = {}  # what -> clips
        self._unmarked: list[int] = []
        self._damaged: list[str] = []

    def at(self, clips: range) -> None:
        """Reads one block."""
        none = np.zeros(len(clips), bool)
        done = none if self._status is None else self._status[clips.start : clips.stop] == DONE
        there = self._chunks(clips)
        self._found.checked += len(there)
        if not there:
            self._note("marked done but not there", clips, done)
            return
        try:
            values = self._store.features(self._name, clips)
        except StoreUnreadable:
            self._damaged += [path for path in there if not self._whole(path, clips)]
            self._again(range(clips.start, clips.stop))
            return
        finite = np.isfinite(values).all(axis=(1, 2))
        self._note("marked done but NaN or infinite", clips, done & ~finite)
        self._note("marked done but constant", clips, done & _constant(values))
        if self._status is not None:
            written = ~np.isnan(values).all(axis=(1, 2))
            self._unmarked += _numbers(clips, ~done & written)

    def tell(self, *, busy: bool) -> None:
        """The problems of all blocks read."""
        what = "with values that were never marked done"
        if self._unmarked and not busy:
            way_out = f"The next command that writes blanks them, or {REPAIR}"
            if isinstance(self._listing.root, Place):
                # That command looks at what was in hand (see inhand), and not for all of these.
                self._found.unmarked[self._name] = self._unmarked
                way_out = f"{REPAIR}, or the extract that computes them again"
            self._found.add(self._name, f"{self._shown(self._unmarked)} {what}", way_out)
        again = "fs-submit import" if self._name.startswith("imported_") else "fs-submit extract"
        way_out = f"{REPAIR}, then {again} again"
        for wrong, clips in self._wrong.items():
            self._found.add(self._name, f"{self._shown(clips)} {wrong}", way_out)
        for path in self._damaged:
            self._found.chunks.append(path)
            self._found.add(path, "is damaged: its checksum does not fit", way_out)

    def _chunks(self, clips: range) -> list[str]:
        folder = f"{self._name}/c/{clips.start // self._store.block}/0"
        numbers = [int(name) for name in self._listing.names(folder) if name.isdecimal()]
        return [f"{folder}/{number}" for number in sorted(numbers)]

    def _whole(self, path: str, clips: range) -> bool:
        width = schema.CHANNEL_CHUNK
        first = int(path.rsplit("/", 1)[1]) * width
        try:
            self._store.features(self._name, clips, slice(first, first + width))
        except StoreUnreadable:
            return False
        return True

    def _note(self, what: str, clips: range, mask: npt.NDArray[np.bool_]) -> None:
        if mask.any():
            numbers = _numbers(clips, mask)
            self._wrong.setdefault(what, []).extend(numbers)
            self._again(numbers)

    def _again(self, clips: Iterable[int]) -> None:
        self._found.clips.setdefault(self._name, set()).update(clips)

    def _shown(self, clips: list[int]) -> str:
        rows = np.unique(self._tables["clip_video"][clips])
        return f"{len(clips)} clips (of {shown(self._tables['video'][rows].tolist())})"


def _numbers(clips: range, mask: npt.NDArray[np.bool_]) -> list[int]:
    numbers: list[int] = (clips.start + np.flatnonzero(mask)).tolist()
    return numbers


def _constant(values: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """Clips whose ten vectors have one value only: no network says that of a picture."""
    if values.shape[1] * values.shape[2] < 2:
        return np.zeros(len(values), bool)
    constant: npt.NDArray[np.bool_] = (values == values[:, :1, :1]).all(axis=(1, 2))
    return constant


def _look_at_fused(root: Spot, store: Store, found: Findings) -> None:
    for name in store.fused_arrays:
        if not (root / name / METADATA).exists():
            continue  # told already; what puts it back makes its chunks too
        wrong: dict[str, list[str]] = {}
        there = isinstance(root, Place)
        for path, what in (
            chunks.differences(root, name, store.clips, store.block)
            if isinstance(root, Place)
            else fused.differences(root, name)
        ):
            wrong.setdefault(what, []).append(path)
            if there or what != fused.LACKS:
                found.strays.append(path)
        for what, paths in wrong.items():
            found.add(shown(paths), f"{len(paths)} chunks of {name} {what}", REPAIR)


def summary(found: Findings) -> str:
    """One line: `features/x.zarr: 120 chunks read, no problem`."""
    problems = f"{len(found.problems)} problems" if found.problems else "no problem"
    return f"{found.url}: {found.checked} chunks of features read, {problems}"
