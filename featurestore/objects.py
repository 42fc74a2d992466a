"""Stores brought to an object store (s3://, gs://, az://) and back, complete or some arrays.

Fused arrays are copies there or left out, each chunk is put whole, the root's metadata goes last.
Each chunk's checksum is looked at on the way.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from featurestore import arrays, chunks, disk, fused, layout, run_lengths, schema
from featurestore.arrays import METADATA
from featurestore.copying import arrays_wanted
from featurestore.disk import PARTIAL, reading, writing
from featurestore.errors import UsageError
from featurestore.location import beside, local_path
from featurestore.lock import locked
from featurestore.place import Place, delete, many
from featurestore.schema import CHANNEL_CHUNK, FEATURES, FUSED, parts_of, status_of
from featurestore.store import Store, open_store

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Sent:
    """Objects (or files) of a store that were brought over, and those that were there already."""

    brought: int
    there: int


def upload(
    source: str | os.PathLike[str],
    place: Place,
    *,
    names: Sequence[str] = (),
    fused_as: Literal["copy", "none"] = "copy",
    progress: Progress = lambda done, of: None,
) -> Sent:
    """Brings a local store, or some of its arrays, to an object store, or completes it there.

    Stopped and called again, it goes on. Readers there see the state before until the end. The
    caller holds the lock there; the source's is held here. Raises UsageError, StoreLocked,
    StoreUnreadable (of the source), StoreUnwritable (of the object store).
    """
    root = local_path(source).resolve()
    with locked(source):
        store = open_store(source, "a")
        wanted = arrays_wanted(source, (*store.backbones, *store.fused_arrays), names)
        if fused_as == "none":
            wanted = tuple(name for name in wanted if name not in FUSED)
        document = _document(layout.read(root), store, wanted, fused_as)
        there = _there(place)
        first, last = _files(root, store, wanted, layout.members(document))
        done = brought = 0
        of = len(first) + len(last)

        def bring(item: tuple[str, Path]) -> bool:
            return _put(place, item[0], item[1], there)

        # Features, and only then what says that they are there.
        for part in (first, last):
            for new in many(bring, part.items()):
                done, brought = done + 1, brought + new
                progress(done, of)
        arrays.put_document(place, document)
        extra = [path for path in there if path not in {*first, *last, METADATA}]
        if extra:
            with writing(place):
                delete(place, extra)
    return Sent(brought, of - brought)


def download(
    place: Place,
    target: str | os.PathLike[str],
    *,
    names: Sequence[str] = (),
    fused_as: Literal["auto", "link", "copy", "none"] = "auto",
    progress: Progress = lambda done, of: None,
) -> Sent:
    """Brings a store, or some of its arrays, from an object store to a local folder.

    Files are gathered beside the target and renamed at the end; stopped and called again, it goes
    on. Raises UsageError when something is at the target, StoreUnreadable (of the object store),
    StoreLocked, StoreUnwritable.
    """
    root = local_path(target).resolve()
    gathered = beside(target, ".fetched" + PARTIAL)
    with locked(target):
        if root.exists():
            raise UsageError(f"{root}: is there already; give another place, or move it away")
        document = layout.read(place)
        with writing(gathered):
            gathered.mkdir(parents=True, exist_ok=True)
            disk.sweep(gathered)
            if fused_as == "auto":
                fused_as = "link" if fused.can_link(gathered) else "copy"
        document, wanted = _local_document(place, document, names, fused_as)
        members = layout.members(document)
        there = {
            path: size
            for path, size in _there(place).items()
            if path != METADATA and _of_member(path, members, wanted)
        }
        done = brought = 0

        def bring(path: str) -> bool:
            return _get(place, path, gathered / path, there[path])

        for new in many(bring, there):
            done, brought = done + 1, brought + new
            progress(done, len(there))
        runs = {name: run_lengths.own(members, name) for name in run_lengths.runs_of(members)}
        for name, committed in members.items():
            if name in FUSED or committed.get("node_type") == "group":
                arrays.put_document(gathered / name, runs.get(name, committed))
        arrays.put_document(gathered, document)
        if fused_as != "none":
            for name in FUSED:
                if name in members:
                    fused.settle(gathered, fused_as, name)
        with writing(root):
            gathered.rename(root)
    return Sent(brought, len(there) - brought)


def _document(
    document: Mapping[str, Any], store: Store, wanted: Sequence[str], fused_as: str
) -> dict[str, Any]:
    """The root's metadata of the copy: without the arrays that stay behind."""
    left = {*store.backbones, *store.fused_arrays} - set(wanted)
    return _without(document, left, fused_as)


def _without(document: Mapping[str, Any], left: set[str], fused_as: str) -> dict[str, Any]:
    left = left | {status_of(name) for name in left}
    made: dict[str, Any] = json.loads(json.dumps(document))
    made["attributes"]["fused"] = fused_as
    members = made["consolidated_metadata"]["metadata"]
    made["consolidated_metadata"]["metadata"] = {
        name: one for name, one in members.items() if name not in left
    }
    return made


def _local_document(
    place: Place, document: dict[str, Any], names: Sequence[str], fused_as: str
) -> tuple[dict[str, Any], tuple[str, ...]]:
    members = layout.members(document)
    known = [name for name in members if schema.is_features_name(name)]
    wanted = arrays_wanted(place.url, known, names)
    if fused_as == "none":
        wanted = tuple(name for name in wanted if name not in FUSED)
    return _without(document, set(known) - set(wanted), fused_as), wanted


def _of_member(path: str, members: layout.Members, wanted: Sequence[str]) -> bool:
    """Whether a file is of an array that comes along; fused ones are made of their parts here."""
    name = path.split("/")[0]
    if name in FUSED:
        return False
    return name in members and (not schema.is_features_name(name) or name in wanted)


def _files(
    root: Path, store: Store, wanted: Sequence[str], members: layout.Members
) -> tuple[dict[str, Path], dict[str, Path]]:
    """Object -> file that it comes from: those of features, then all others but the root's."""
    first: dict[str, Path] = {}
    last: dict[str, Path] = {}
    sources = [
        (name, part, sum(FEATURES[p].channels // CHANNEL_CHUNK for p in parts_of(name)[:number]))
        for name in wanted
        for number, part in enumerate(parts_of(name))
    ]
    for name, part, offset in sources:
        for block in range(-(-store.clips // store.block)):
            folder = root / part / "c" / str(block) / "0"
            for number in disk.names(folder):
                first[f"{name}/c/{block}/0/{int(number) + offset}"] = folder / number
    for name in members:
        last[f"{name}/{METADATA}"] = root / name / METADATA
        if not schema.is_features_name(name):
            for path in sorted((root / name / "c").rglob("*")):
                if path.is_file():
                    last[path.relative_to(root).as_posix()] = path
    return first, last


def _there(place: Place) -> dict[str, int]:
    """What lies there: path inside the store -> bytes."""
    with reading(place):
        return place.sizes()


def _put(place: Place, path: str, file: Path, there: Mapping[str, int]) -> bool:
    """Puts one file there, unless it is there; whether it was not."""
    with reading(file):
        content = file.read_bytes()
    if not path.endswith(METADATA):
        chunks.check(content, str(file))
    with writing(place / path):
        if there.get(path) == len(content):
            # The checksum at a chunk's end tells its content: four bytes are read, not megabytes.
            end = _end(place / path, len(content))
            if not path.endswith(METADATA) and end == content[-chunks.CHECKSUM :]:
                return False
        (place / path).write_bytes(content)
    return True


def _get(place: Place, path: str, file: Path, size: int) -> bool:
    if file.exists() and file.stat().st_size == size and not path.endswith(METADATA):
        with reading(place / path):
            end = _end(place / path, size)
        if file.read_bytes()[-chunks.CHECKSUM :] == end:
            return False
    with reading(place / path):
        content = (place / path).read_bytes()
    if not path.endswith(METADATA):
        chunks.check(content, f"{place}/{path}")
    with writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        disk.replace(file, lambda partial: partial.write_bytes(content))
    return True


def _end(where: Place, size: int) -> bytes:
    length = min(chunks.CHECKSUM, size)
    return bytes(where.objects.get_range(where.path, start=size - length, length=length))
