"""Runs are as long as their store, also those that were made before it grew.

xarray opens a store and its runs together (`open_datatree`) only where their dimensions have one
length. So when clips, frames or videos come in, the arrays of all runs grow with the store's: in
their metadata alone. They read as their fill value there, NaN in scores, and the attribute `covers`
says of how many clips, frames or videos, the first ones, their values are.

Each run has a list of its arrays, for those who open its own folder; the arrays and this list
change first, then the commit shows all to those who open the store. Killed in between, the run's
folder is longer than the store, by clips without a score, and the next writer takes that back. On
an object store no writer looks through the runs; there a marker says that a growth is not at its
end.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from featurestore import arrays, disk, layout
from featurestore.disk import PARTIAL, reading, writing
from featurestore.layout import Members
from featurestore.place import Place, Spot, many
from featurestore.schema import RUNS

COVERS: Final = "covers"  # the attribute
MARKER: Final = f"growing{PARTIAL}"  # no run can have this name
TABLES: Final = {"clip": "clip_video", "frame": "frame_label", "video": "video"}

Document = Mapping[str, Any]


def lengths(members: Members) -> dict[str, int]:
    """Clips, frames and videos of a store; no frames where it has no table of them."""
    return {dim: members[of]["shape"][0] for dim, of in TABLES.items() if of in members}


def covered(document: Document) -> int:
    """How many values an array of a run has that are the run's own: the first ones.

    Where the store did not grow, or grew under software that left the runs alone, it is all.
    """
    found: int = document["attributes"].get(COVERS, document["shape"][0])
    return found


def fitted(document: Document, wanted: Mapping[str, int]) -> Document:
    """What the metadata of an array of a run must be in a store of such lengths."""
    dims, shape = document.get("dimension_names") or [], document["shape"]
    if len(dims) != 1 or wanted.get(dims[0], shape[0]) == shape[0]:
        return document
    values, length = covered(document), wanted[dims[0]]
    if values > length:
        return document
    attributes = {**document["attributes"], COVERS: values}
    return {**document, "shape": [length], "attributes": attributes}


def misfits(members: Members, wanted: Mapping[str, int]) -> dict[str, Document]:
    """The arrays of runs that have other lengths, by path, and what their metadata must be."""
    found = {
        path: fitted(document, wanted)
        for path, document in members.items()
        if path.startswith(f"{RUNS}/") and document.get("node_type") == "array"
    }
    return {path: document for path, document in found.items() if document is not members[path]}


def commit(root: Spot, wanted: Mapping[str, int]) -> None:
    """Commits a store of such lengths (see layout.commit), and all its runs as long as it."""
    members = layout.members(layout.read(root))
    changed = misfits(members, wanted)
    if not changed:
        layout.commit(root)
        return
    if isinstance(root, Place):
        with writing(root):
            (root / RUNS / MARKER).write_bytes(b"growing")
    _put(root, changed)
    # Before the commit: zarr 3.1.6 takes what it tells of a group in a group from that one's list.
    _list_arrays(root, {**members, **changed}, {path.rpartition("/")[0] for path in changed})
    layout.commit(root)
    _end(root)


def settle(root: Spot, members: Members) -> None:
    """Brings all runs' lists of their arrays to what was committed; the arrays are so already."""
    _list_arrays(root, members, runs_of(members))
    _end(root)


def _end(root: Spot) -> None:
    if isinstance(root, Place):
        with writing(root):
            disk.remove(root / RUNS / MARKER)


def _list_arrays(root: Spot, members: Members, runs: Iterable[str]) -> None:
    wanted = {run: own(members, run) for run in runs}
    with reading(root):
        there = dict(zip(wanted, _found(root, wanted), strict=True))
    _put(root, {run: document for run, document in wanted.items() if document != there[run]})


def runs_of(members: Members) -> list[str]:
    """Paths of the runs, `scores/NAME`."""
    return sorted(
        path
        for path, document in members.items()
        if path.startswith(f"{RUNS}/") and document.get("node_type") == "group"
    )


def own(members: Members, run: str) -> Document:
    """What the own metadata of a run, `scores/NAME`, must be: its arrays are listed in it."""
    inside = {
        path.removeprefix(f"{run}/"): document
        for path, document in members.items()
        if path.startswith(f"{run}/")
    }
    committed = members[run]
    return {
        **committed,
        "consolidated_metadata": {**committed["consolidated_metadata"], "metadata": inside},
    }


def _found(root: Spot, paths: Iterable[str]) -> Iterator[Document | None]:
    """The metadata that is there; None where it is gone or damaged."""

    def find(path: str) -> Document | None:
        try:
            return arrays.document(root / path)
        except (FileNotFoundError, ValueError):
            return None

    return many(find, paths) if isinstance(root, Place) else map(find, paths)


def _put(root: Spot, documents: Mapping[str, Document]) -> None:
    def put(path: str) -> None:
        arrays.put_document(root / path, documents[path])

    if isinstance(root, Place):
        list(many(put, documents))
        return
    for path in documents:
        put(path)
