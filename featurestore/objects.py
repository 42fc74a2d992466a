"""Stores on object stores (s3://, gs://, az://): copied there and back, through obstore.

An object store has no links, no renames and no locks of its own. So fused arrays are copies there
or left out, each chunk is put whole, the root's metadata goes last, and the lock is an object that
only one can create (see objectlock). Each chunk's checksum is looked at on the way.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from featurestore import arrays, disk, fused, layout, schema
from featurestore.arrays import METADATA
from featurestore.copying import arrays_wanted
from featurestore.disk import PARTIAL, reading, writing
from featurestore.errors import FeatureStoreError, StoreUnreadable, StoreUnwritable, UsageError
from featurestore.location import beside, local_path
from featurestore.lock import locked
from featurestore.schema import CHANNEL_CHUNK, FEATURES, FUSED, parts_of, status_of
from featurestore.store import Store, open_store

if TYPE_CHECKING:
    from obstore.store import ObjectStore

Progress = Callable[[int, int], None]

SCHEMES: Final = ("s3://", "s3a://", "gs://", "az://", "abfs://", "abfss://")
_PREFIXES: Final = {"s3": "aws_", "gs": "google_", "az": "azure_", "abfs": "azure_"}
# Options of the connection, not of the kind of object store.
_CLIENT: Final = ("allow_http", "allow_invalid_certificates", "timeout", "connect_timeout",
                  "proxy_url", "user_agent")  # fmt: skip
_AT_A_TIME: Final = 16  # requests: a chunk of some megabytes takes tens of milliseconds


@dataclass(frozen=True)
class Place:
    """A store's place on an object store: `objects` is what holds it, `name` its folder there."""

    url: str
    objects: ObjectStore
    name: str

    def key(self, path: str) -> str:
        return f"{self.name}/{path}"


@dataclass(frozen=True)
class Sent:
    """Objects (or files) of a store that were brought over, and those that were there already."""

    brought: int
    there: int


def is_object_url(url: str | os.PathLike[str]) -> bool:
    return os.fspath(url).lower().startswith(SCHEMES)


def place_of(url: str, options: Mapping[str, str]) -> Place:
    """Where a URL leads. `options` are obstore's, `endpoint` say; others come from the environment
    (AWS_ACCESS_KEY_ID and so on).

    Raises UsageError when it names no folder, or an option is unknown.
    """
    try:
        from obstore.exceptions import BaseError
        from obstore.store import from_url
    except ImportError as error:
        raise UsageError(
            f"{url}: object stores need one more package: pip install '.[objects]'"
        ) from error
    parent, _, name = url.rstrip("/").rpartition("/")
    if not name or parent.endswith("/") or parent.endswith(":"):
        raise UsageError(f"{url}: give bucket and name, as in s3://bucket/features/ped2.zarr")
    prefix = next(p for scheme, p in _PREFIXES.items() if url.lower().startswith(scheme))
    client = {key: value for key, value in options.items() if key in _CLIENT}
    config = {
        # With its prefix, or an unknown one ends the process (obstore 0.12).
        prefix + key.removeprefix(prefix): value
        for key, value in options.items()
        if key not in _CLIENT
    }
    if config.get(f"{prefix}endpoint", "").startswith("http://"):
        client.setdefault("allow_http", "true")  # it was asked for
    try:
        objects = from_url(parent, config=config, client_options=client)  # type: ignore[call-overload]
        return Place(url, objects, name)
    except (BaseError, ValueError) as error:
        raise UsageError(f"{url}: cannot be used: {_first_line(error)}") from error


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

        with ThreadPoolExecutor(_AT_A_TIME) as pool:
            # Features, and only then what says that they are there.
            for part in (first, last):
                for new in pool.map(bring, part.items()):
                    done, brought = done + 1, brought + new
                    progress(done, of)
        with talking(place, StoreUnwritable):
            place.objects.put(place.key(METADATA), json.dumps(document, indent=2).encode())
            extra = [path for path in there if path not in {*first, *last, METADATA}]
            if extra:
                place.objects.delete([place.key(path) for path in extra])
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
        with talking(place, StoreUnreadable):
            document = json.loads(bytes(place.objects.get(place.key(METADATA)).bytes()))
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

        with ThreadPoolExecutor(_AT_A_TIME) as pool:
            for new in pool.map(bring, there):
                done, brought = done + 1, brought + new
                progress(done, len(there))
        for name, committed in members.items():
            if name in FUSED or committed.get("node_type") == "group":
                arrays.put_document(gathered / name, committed)
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
    with talking(place, StoreUnreadable):
        prefix = place.key("")
        return {
            one["path"].removeprefix(prefix): one["size"]
            for page in place.objects.list(prefix)
            for one in page
        }


def _put(place: Place, path: str, file: Path, there: Mapping[str, int]) -> bool:
    """Puts one file there, unless it is there; whether it was not."""
    with reading(file):
        content = file.read_bytes()
    if not path.endswith(METADATA):
        _check(content, str(file))
    with talking(place, StoreUnwritable):
        if there.get(path) == len(content):
            # The checksum at a chunk's end tells its content: four bytes are read, not megabytes.
            length = min(4, len(content))
            end = place.objects.get_range(
                place.key(path), start=len(content) - length, length=length
            )
            if not path.endswith(METADATA) and bytes(end) == content[-length:]:
                return False
        place.objects.put(place.key(path), content)
    return True


def _get(place: Place, path: str, file: Path, size: int) -> bool:
    if file.exists() and file.stat().st_size == size and not path.endswith(METADATA):
        with talking(place, StoreUnreadable):
            end = bytes(place.objects.get_range(place.key(path), start=size - 4, length=4))
        if file.read_bytes()[-4:] == end:
            return False
    with talking(place, StoreUnreadable):
        content = bytes(place.objects.get(place.key(path)).bytes())
    if not path.endswith(METADATA):
        _check(content, f"{place.url}/{path}")
    with writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        disk.replace(file, lambda partial: partial.write_bytes(content))
    return True


def _check(content: bytes, where: str) -> None:
    """The last codec of every array is a CRC-32C, little-endian, at the chunk's end."""
    import google_crc32c

    if google_crc32c.value(content[:-4]) != int.from_bytes(content[-4:], "little"):
        raise StoreUnreadable(
            f"{where}: is damaged: its checksum does not fit. fs-submit verify tells what to do."
        )


@contextmanager
def talking(place: Place, kind: type[FeatureStoreError]) -> Iterator[None]:
    """Turns what the object store refuses into one error, without its address's secrets."""
    from obstore.exceptions import BaseError, NotFoundError

    try:
        yield
    except (FileNotFoundError, NotFoundError) as error:
        raise kind(
            f"{place.url}: there is no store (or what was there a moment ago is gone)."
        ) from error
    except (BaseError, OSError) as error:
        if "NoSuchBucket" in str(error):
            raise kind(
                f"{place.url}: there is no such bucket; make it, or correct the name."
            ) from error
        raise kind(
            f"{place.url}: the object store did not do it: {_first_line(error)}. Run the command "
            "again when that is put right; what was finished before is safe."
        ) from error


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
