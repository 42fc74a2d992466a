"""Runs: scores of one detector, kept in the store as the group `scores/<run>`.

A run is written beside its place under a name that readers skip, renamed when it is whole, and
listed by the commit that follows: killed at any moment, there is a whole run or none. On an object
store, which cannot rename, it is written where it belongs, and what no commit lists goes when the
store is next opened for writing. A run is of the clips and frames that there were when it was made;
of later ones it has no scores, though its arrays grow with the store (see run_lengths).
"""

from __future__ import annotations

import itertools
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy.typing as npt

from featurestore import arrays, disk, layout, run_lengths, schema
from featurestore.disk import PARTIAL, writing
from featurestore.errors import UsageError
from featurestore.location import spot
from featurestore.place import Place
from featurestore.run_lengths import COVERS, covered, fitted
from featurestore.store import Store, Url

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
    """A run as it was written: of the first clips, frames and videos of its store."""

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
    `replace` a run of this name is deleted first. Columns may be shorter than the store is by now:
    they are of its first clips, frames or videos.

    Raises UsageError for a name that is taken or none, or for columns of one dimension that have
    different lengths; StoreUnwritable.
    """
    check_name(name)
    root = spot(url)
    _check_lengths(name, columns)
    members = layout.members(layout.read(root))
    lengths = run_lengths.lengths(members)
    taken = f"{FOLDER}/{name}" in members
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
            if len(of.values) < lengths.get(of.dim, 0):
                arrays.put_document(new / column, fitted(arrays.document(new / column), lengths))
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
    return tuple(path.removeprefix(f"{FOLDER}/") for path in run_lengths.runs_of(members))


def run_attributes(url: Url, name: str) -> dict[str, Any]:
    """What made a run. Raises UsageError, naming those there are, if it is not there."""
    return dict(_there(url, name)[f"{FOLDER}/{name}"]["attributes"])


def read_run(url: Url, name: str) -> Run:
    """A run with all its columns, as it was written: of clips that came later there are no values.

    Raises UsageError, naming those there are, StoreUnreadable.
    """
    members, root, folder = _there(url, name), spot(url), f"{FOLDER}/{name}"
    paths = [path for path in members if path.startswith(f"{folder}/")]
    columns = {}
    for path, array in arrays.open_members(root, paths).items():
        (dim,) = members[path]["dimension_names"]
        values = arrays.read(array, root / path, slice(0, covered(members[path])))
        attributes = {key: of for key, of in array.attrs.asdict().items() if key != COVERS}
        columns[path.removeprefix(f"{folder}/")] = Column(dim, values, attributes)
    return Run(name, columns, dict(members[folder]["attributes"]))


def later_videos(store: Store) -> dict[str, list[str]]:
    """Of each run that lacks some: the videos that came into the store after it was made.

    Their names, in the order of the table; superseded rows are left out.
    """
    members = layout.members(layout.read(spot(store.url)))
    lengths = run_lengths.lengths(members)
    covers: dict[str, dict[str, int]] = {}
    for path, of in members.items():
        run, _, column = path.removeprefix(f"{FOLDER}/").partition("/")
        dims = of.get("dimension_names") or []
        if column and path.startswith(f"{FOLDER}/") and len(dims) == 1:
            covers.setdefault(run, {})[dims[0]] = covered(of)
    short = {
        run: of for run, of in covers.items() if any(n < lengths.get(d, n) for d, n in of.items())
    }
    if not short:
        return {}
    videos, live = store.videos(), store.live_videos()
    ends = itertools.accumulate((video.frames for video in videos), initial=0)
    starts = {
        "video": range(len(videos)),
        "clip": [video.clip_offset for video in videos],
        "frame": list(ends)[:-1],
    }
    found = {}
    for run, of in sorted(short.items()):
        dim = next(dim for dim in starts if dim in of)
        later = [
            video.name
            for video, counts, start in zip(videos, live, starts[dim], strict=True)
            if counts and start >= of[dim]
        ]
        if later:
            found[run] = later
    return found


def delete_run(url: Url, name: str) -> None:
    """Removes a run of a store that is open for writing. The caller holds the store's lock.

    Raises UsageError, naming those there are, if it is not there; StoreUnwritable.
    """
    _there(url, name)
    root = spot(url)
    folder = root / FOLDER / name
    document = layout.read(root)
    # The commit first, the files afterwards: a reader never finds a run in the list that is gone.
    for path in list(layout.members(document)):
        if path == f"{FOLDER}/{name}" or path.startswith(f"{FOLDER}/{name}/"):
            del document["consolidated_metadata"]["metadata"][path]
    arrays.put_document(root, document)
    with writing(folder):
        disk.remove(folder)


def _there(url: Url, name: str) -> layout.Members:
    """The members of the store. Raises UsageError, naming the runs there are, for no run."""
    members = layout.members(layout.read(spot(url)))
    names = [path.removeprefix(f"{FOLDER}/") for path in run_lengths.runs_of(members)]
    if name not in names:
        known = f"it has {', '.join(names)}" if names else "it has none: fs-submit score makes one"
        raise UsageError(f"{url}: has no run {name!r}; {known}")
    return members


def _check_lengths(name: str, columns: Mapping[str, Column]) -> None:
    lengths: dict[str, int] = {}
    for column, of in columns.items():
        length = lengths.setdefault(of.dim, len(of.values))
        if length != len(of.values):
            raise UsageError(
                f"run {name}: {column} has {len(of.values)} values, another array of a value a "
                f"{of.dim} {length}"
            )
