"""Is a store whole? Every chunk against its checksum, and everything that has to agree.

`verify` only looks, and changes nothing; `mend` acts on what it found. A store of which a command
is writing can be looked at too: what that command has in hand counts as no problem.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from featurestore import arrays, disk, fused, layout, lock, schema
from featurestore.arrays import METADATA
from featurestore.disk import PARTIAL
from featurestore.errors import StoreUnreadable
from featurestore.findings import REPAIR, Findings
from featurestore.location import local_path
from featurestore.schema import DONE, FUSED, status_of
from featurestore.splits import shown
from featurestore.store import Store, Url, open_store
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
    root = local_path(url).resolve()
    found = Findings(os.fspath(url))
    writer = None if alone else lock.writer(url)
    if writer:
        found.notes.append(
            f"another command is writing to this store ({writer}); what it has in hand is left out"
        )
    document = layout.read(root)
    members = layout.members(document)
    _look_for_strangers(root, members, found, busy=writer is not None)
    _compare_metadata(root, members, found, busy=writer is not None)
    store = open_store(url)
    tables = check_tables(root, store, members, found)
    if tables is not None:
        _read_features(root, store, tables, found, progress, busy=writer is not None)
    if store.fused != "none":
        _look_at_fused(root, store, found)
    return found


# What lies there


def _look_for_strangers(
    root: Path, members: layout.Members, found: Findings, *, busy: bool
) -> None:
    """Files that are of no array: leftovers of killed commands, and what others put there."""
    leftovers: list[str] = []
    unknown: list[str] = []
    for folder in ("", *members):
        depth = folder.count("/") + 1 if folder else 0
        committed = members.get(folder)
        inner = {path.split("/")[depth] for path in members if path.startswith(f"{folder}/")}
        if not folder:
            inner = {path.split("/")[0] for path in members}
        if committed and committed.get("node_type") == "array":
            leftovers += _beyond(root, folder, committed, unknown)
            inner = {"c"}
        for name in disk.names(root / folder):
            if name in inner or name == METADATA:
                continue
            uncommitted = name.endswith(PARTIAL) or (not folder and schema.is_array_name(name))
            (leftovers if uncommitted else unknown).append(f"{folder}/{name}".lstrip("/"))
    beside = [n for n in disk.names(root.parent) if n.startswith(f"{root.name}.")]
    leftovers += [f"../{name}" for name in beside if name.endswith(PARTIAL)]
    if leftovers and not busy:
        found.add(
            shown(leftovers),
            f"left over by a command that was killed ({len(leftovers)})",
            f"The next command that writes removes those inside the store; {REPAIR} removes all",
        )
    if unknown:
        found.add(
            shown(unknown),
            f"no part of a store, and readers may warn of it ({len(unknown)})",
            "Move them out of the store's folder",
            mendable=False,
        )


def _beyond(root: Path, name: str, committed: Mapping[str, Any], unknown: list[str]) -> list[str]:
    """Chunks of an array that lie beyond its shape, and unfinished ones."""
    grid = committed["chunk_grid"]["configuration"]["chunk_shape"]
    counts = [-(-length // chunk) for length, chunk in zip(committed["shape"], grid, strict=True)]
    left: list[str] = []

    def walk(folder: str, counts: Sequence[int]) -> None:
        for entry in disk.entries(root / folder):
            path = f"{folder}/{entry.name}"
            if entry.name.endswith(PARTIAL):
                left.append(path)
            elif not entry.name.isdecimal():
                unknown.append(path)
            elif int(entry.name) >= counts[0]:
                left.extend([path] if _any_file(root / path) else [])
            elif len(counts) > 1:
                walk(path, counts[1:])

    walk(f"{name}/c", counts)
    return left


def _any_file(path: Path) -> bool:
    """Whether something lies there, an empty folder aside: those of dropped chunks stay."""
    if path.is_symlink() or not path.is_dir():
        return True
    return any(_any_file(Path(entry.path)) for entry in disk.entries(path))


def _compare_metadata(root: Path, members: layout.Members, found: Findings, *, busy: bool) -> None:
    changed = []
    for name, committed in members.items():
        try:
            there = arrays.document(root / name)
        except FileNotFoundError:
            lost = name not in FUSED
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
                "Put it back from a copy, or delete the store and extract again",
                mendable=False,
            )
            continue
        if committed.get("node_type") == "array" and there != committed:
            changed.append(name)
    if changed and not busy:
        found.add(
            shown(changed),
            "changed by a command that was killed before its commit",
            f"The next command that writes undoes it, or {REPAIR}",
        )


# What the chunks hold


def _read_features(
    root: Path,
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
        look = _Look(root, store, tables, found, name)
        for block in range(blocks):
            first = block * store.block
            look.at(range(first, min(first + store.block, store.clips)))
            progress(number * blocks + block + 1, of)
        look.tell(busy=busy)


class _Look:
    """What is wrong with the blocks of one backbone."""

    def __init__(
        self,
        root: Path,
        store: Store,
        tables: Mapping[str, npt.NDArray[Any]],
        found: Findings,
        name: str,
    ) -> None:
        self._root, self._store, self._found, self._name = root, store, found, name
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
        if self._unmarked and not busy:
            self._found.add(
                self._name,
                f"{self._shown(self._unmarked)} with values that were never marked done",
                f"The next command that writes blanks them, or {REPAIR}",
            )
        again = "fs-submit import" if self._name.startswith("imported_") else "fs-submit extract"
        way_out = f"{REPAIR}, then {again} again"
        for what, clips in self._wrong.items():
            self._found.add(self._name, f"{self._shown(clips)} {what}", way_out)
        for path in self._damaged:
            self._found.chunks.append(path)
            self._found.add(path, "is damaged: its checksum does not fit", way_out)

    def _chunks(self, clips: range) -> list[str]:
        folder = f"{self._name}/c/{clips.start // self._store.block}/0"
        numbers = [int(name) for name in disk.names(self._root / folder) if name.isdecimal()]
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


def _look_at_fused(root: Path, store: Store, found: Findings) -> None:
    for name in store.fused_arrays:
        if not (root / name / METADATA).exists():
            continue  # told already; what puts it back makes its chunks too
        wrong: dict[str, list[str]] = {}
        for path, what in fused.differences(root, name):
            wrong.setdefault(what, []).append(path)
            if what != fused.LACKS:
                found.strays.append(path)
        for what, paths in wrong.items():
            found.add(shown(paths), f"{len(paths)} chunks of {name} {what}", REPAIR)


def summary(found: Findings) -> str:
    """One line: `features/x.zarr: 120 chunks read, no problem`."""
    problems = f"{len(found.problems)} problems" if found.problems else "no problem"
    return f"{found.url}: {found.checked} chunks of features read, {problems}"
