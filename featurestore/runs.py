"""Runs: scores of one detector, kept in the store as the group `scores/<run>`.

A run is written beside its place under a name that readers skip, renamed when it is whole, and
listed by the commit that follows: killed at any moment, there is a whole run or none. On an object
store, which cannot rename, it is written where it belongs, and what no commit lists goes when the
store is next opened for writing. A run is of the clips and frames that there were when it was made;
later ones come after them.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy.typing as npt

from featurestore import arrays, disk, layout, schema
from featurestore.disk import PARTIAL, reading, writing
from featurestore.errors import StoreUnreadable, UsageError
from featurestore.location import spot
from featurestore.place import Place, Spot
from featurestore.store import Url

FOLDER: Final = schema.RUNS
DIMS: Final = ("clip", "frame", "video")

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")


@dataclass(frozen=True)
class Column:
    """One array of a run: a value a clip, a frame or a video of the store, in its order.

    `dim` is one of DIMS; `values` has one dimension; `attributes` is plain JSON.
    """

    dim: str
    values: npt.NDArray[Any]
    attributes: Mapping[str, Any]

    def __post_init__(self) -> None:
        if self.dim not in DIMS or self.values.ndim != 1:
            raise UsageError(
                f"A run has one value a {', '.join(DIMS)}; got shape {self.values.shape} over "
                f"{self.dim!r}"
            )


@dataclass(frozen=True)
class Run:
    """A run as it was written."""

    name: str
    columns: Mapping[str, Column]
    attributes: Mapping[str, Any]


def check_name(name: str) -> None:
    """Raises UsageError for what cannot be a run's name: it is a folder's name too."""
    if not _NAME.fullmatch(name) or name.endswith(PARTIAL):
        raise UsageError(
            f"{name!r} cannot be the name of a run: letters, digits and _ . + - are allowed, a "
            "letter or digit first"
        )


def write_run(
    url: Url,
    name: str,
    columns: Mapping[str, Column],
    attributes: Mapping[str, Any],
    *,
    replace: bool = False,
) -> None:
    """Adds a run to a store that is open for writing; readers see it whole or not at all.

    `attributes` (plain JSON) says what made it. The caller holds the store's lock. With
    `replace` a run of this name is deleted first.

    Raises UsageError for a name that is taken or none, or for columns of one dimension that have
    different lengths; StoreUnwritable.
    """
    check_name(name)
    root = spot(url)
    _check_lengths(name, columns)
    taken = name in run_names(url)
    if taken and not replace:
        raise UsageError(f"{url}: has a run {name!r} already; give another name, or --replace")
    there = isinstance(root, Place)
    new = root / FOLDER / (name if there else f"{name}.{uuid.uuid4().hex}{PARTIAL}")
    if there and taken:
        delete_run(url, name)
    try:
        with writing(new):
            if not (root / FOLDER / arrays.METADATA).exists():
                arrays.make_group(root / FOLDER, {})
            arrays.make_group(new, attributes)
        for column, of in columns.items():
            made = arrays.make_column(
                new, column, of.dim, of.values.dtype.name, len(of.values), of.attributes
            )
            if len(of.values):
                arrays.write(made, new / column, slice(None), of.values)
        # A reader who opens the group itself looks for this there.
        layout.commit(new)
        if not isinstance(new, Place) and not isinstance(root, Place):
            if taken:
                delete_run(url, name)
            with writing(new):
                # What a killed writer renamed but did not commit is whole, but was not asked for.
                disk.remove(root / FOLDER / name)
                new.rename(root / FOLDER / name)
    except BaseException:
        if not there:  # there, an object store that is away would be waited for once more
            disk.remove(new)
        raise
    layout.commit(root)


def run_names(url: Url) -> tuple[str, ...]:
    """Names of the runs that are finished, in alphabetical order.

    Raises StoreNotFound, NotAStore, StoreUnreadable.
    """
    members = layout.members(layout.read(spot(url)))
    return tuple(
        sorted(
            path.removeprefix(f"{FOLDER}/")
            for path, committed in members.items()
            if path.count("/") == 1
            and path.startswith(f"{FOLDER}/")
            and committed.get("node_type") == "group"
        )
    )


def run_attributes(url: Url, name: str) -> dict[str, Any]:
    """What made a run. Raises UsageError, naming those there are, if it is not there."""
    root = _there(url, name)
    with reading(root):
        try:
            found: dict[str, Any] = arrays.document(root)["attributes"]
        except (ValueError, KeyError) as error:
            raise StoreUnreadable(f"{root / arrays.METADATA}: is damaged: {error}.") from error
    return found


def read_run(url: Url, name: str) -> Run:
    """A run with all its columns. Raises UsageError, naming those there are, StoreUnreadable."""
    root = _there(url, name)
    attributes = run_attributes(url, name)
    columns = {}
    for column, array in arrays.open_all(root, writable=False).items():
        (dim,) = arrays.document(root / column)["dimension_names"]
        columns[column] = Column(dim, arrays.read(array, root / column), array.attrs.asdict())
    return Run(name, columns, attributes)


def delete_run(url: Url, name: str) -> None:
    """Removes a run of a store that is open for writing. The caller holds the store's lock.

    Raises UsageError, naming those there are, if it is not there; StoreUnwritable.
    """
    folder = _there(url, name)
    root = spot(url)
    document = layout.read(root)
    # The commit first, the files afterwards: a reader never finds a run in the list that is gone.
    for path in list(layout.members(document)):
        if path == f"{FOLDER}/{name}" or path.startswith(f"{FOLDER}/{name}/"):
            del document["consolidated_metadata"]["metadata"][path]
    arrays.put_document(root, document)
    with writing(folder):
        disk.remove(folder)


def _there(url: Url, name: str) -> Spot:
    names = run_names(url)
    if name not in names:
        known = f"it has {', '.join(names)}" if names else "it has none: fs-submit score makes one"
        raise UsageError(f"{url}: has no run {name!r}; {known}")
    return spot(url) / FOLDER / name


def _check_lengths(name: str, columns: Mapping[str, Column]) -> None:
    lengths: dict[str, int] = {}
    for column, of in columns.items():
        length = lengths.setdefault(of.dim, len(of.values))
        if length != len(of.values):
            raise UsageError(
                f"run {name}: {column} has {len(of.values)} values, another array of a value a "
                f"{of.dim} {length}"
            )
