"""What lies in a store's folder and is of no array: leftovers, and what others put there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from featurestore import disk, layout, schema
from featurestore.arrays import METADATA
from featurestore.disk import PARTIAL, reading
from featurestore.findings import REPAIR, Findings
from featurestore.place import Place, Spot
from featurestore.splits import shown


class Listing:
    """What lies in a store's folders: asked for one by one here, at once on an object store."""

    def __init__(self, root: Spot) -> None:
        self.root = root
        self.paths: list[str] = []  # of all objects
        if isinstance(root, Place):
            with reading(root):
                self.paths = sorted(root.sizes())
        self._names: dict[str, list[str]] = {}
        for path in self.paths:
            folder, _, name = path.rpartition("/")
            self._names.setdefault(folder, []).append(name)

    def names(self, folder: str) -> list[str]:
        """Names of the files in a folder."""
        if isinstance(self.root, Place):
            return self._names.get(folder, [])
        return disk.names(self.root / folder)


def look(listing: Listing, members: layout.Members, found: Findings, *, busy: bool) -> None:
    """Adds to `found` what is of no array of the store; leftovers only where no command is `busy`
    with them."""
    root = listing.root
    if isinstance(root, Place):
        leftovers, unknown = _there(members, listing.paths)
    else:
        leftovers, unknown = _here(root, members)
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


def _here(root: Path, members: layout.Members) -> tuple[list[str], list[str]]:
    """Leftovers of killed commands, and what others put there."""
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
    return leftovers, unknown


def _there(members: layout.Members, paths: Sequence[str]) -> tuple[list[str], list[str]]:
    """The same on an object store, from the paths of all objects."""
    leftovers: dict[str, None] = {}
    unknown: list[str] = []
    for path in paths:
        parts = path.split("/")
        deep = 3 if parts[0] == schema.RUNS else 1
        name = next((n for k in range(deep, 0, -1) if (n := "/".join(parts[:k])) in members), "")
        inner = parts[name.count("/") + 1 if name else 0 :]
        if inner == [METADATA]:
            continue
        if not name and (schema.is_array_name(parts[0]) or parts[0] == schema.RUNS):
            leftovers[parts[0]] = None
        elif not name:
            unknown.append(path)
        elif members[name].get("node_type") != "array":
            leftovers["/".join(parts[: name.count("/") + 2])] = None
        else:
            counts = _counts(members[name])
            numbers = [int(part) for part in inner[1:] if part.isdecimal()]
            if inner[0] != "c" or not len(inner) - 1 == len(numbers) == len(counts):
                unknown.append(path)
            elif any(n >= count for n, count in zip(numbers, counts, strict=True)):
                leftovers[path] = None
    return list(leftovers), unknown


def _beyond(root: Path, name: str, committed: Mapping[str, Any], unknown: list[str]) -> list[str]:
    """Chunks of an array that lie beyond its shape, and unfinished ones."""
    counts = _counts(committed)
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


def _counts(committed: Mapping[str, Any]) -> list[int]:
    """How many chunks an array has on each axis."""
    grid = committed["chunk_grid"]["configuration"]["chunk_shape"]
    return [-(-length // chunk) for length, chunk in zip(committed["shape"], grid, strict=True)]


def _any_file(path: Path) -> bool:
    """Whether something lies there, an empty folder aside: those of dropped chunks stay."""
    if path.is_symlink() or not path.is_dir():
        return True
    return any(_any_file(Path(entry.path)) for entry in disk.entries(path))
