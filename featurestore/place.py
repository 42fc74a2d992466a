"""Places on object stores (s3://, gs://, az://): what is there is read and put through obstore.

A `Place` is used as a path is (`root / "r3d" / "zarr.json"`), for the few things that an object
store can do: read an object, put one whole, list one folder, delete. What it refuses comes as
OSError, in words that hold no key. Keys and addresses come from the environment
(AWS_ACCESS_KEY_ID and so on) or from the options of the process (`use`), never from a URL.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from featurestore.errors import UsageError

if TYPE_CHECKING:
    from obstore.store import ObjectStore

SCHEMES: Final = ("s3://", "s3a://", "gs://", "az://", "abfs://", "abfss://")
AT_A_TIME: Final = 16  # requests: a chunk of some megabytes takes tens of milliseconds

_PREFIXES: Final = {"s3": "aws_", "gs": "google_", "az": "azure_", "abfs": "azure_"}
# Options of the connection, not of the kind of object store.
_CLIENT: Final = ("allow_http", "allow_invalid_certificates", "timeout", "connect_timeout",
                  "proxy_url", "user_agent")  # fmt: skip
# How long one request is tried again while the server is away: through a restart of it. Seconds.
_RETRY_SECONDS: Final = 120.0
_MAX_RETRIES: Final = 40
# Before a bucket has answered at all: a wrong endpoint or no keys are more likely then.
_FIRST_SECONDS: Final = 10.0
_TRIES: Final = 30  # of one change, when others change the same object at the same time

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Options:
    """Options of object stores. They may hold keys, so they never show themselves: Dask writes into
    its log what a task that failed was given."""

    values: Mapping[str, str] = field(default_factory=dict, repr=False)


_in_use = Options()
_answered: set[str] = set()  # buckets that this process has had an answer from


@dataclass(frozen=True)
class Place:
    """An object or a folder of them: `path` in the bucket `objects`. `url` is for people."""

    url: str
    objects: ObjectStore
    path: str

    def __truediv__(self, name: str) -> Place:
        return Place(f"{self.url}/{name}", self.objects, f"{self.path}/{name}".lstrip("/"))

    def __str__(self) -> str:
        return self.url

    @property
    def name(self) -> str:
        return self.path.rsplit("/", 1)[-1]

    def key(self, path: str) -> str:
        """The key of what lies at `path` in this folder."""
        return f"{self.path}/{path}".lstrip("/")

    def beside(self, suffix: str) -> Place:
        """The object `NAME.lock` beside the folder `NAME`."""
        return Place(self.url + suffix, self.objects, self.path + suffix)

    def resolve(self) -> Place:
        return self

    def read_bytes(self) -> bytes:
        """Raises FileNotFoundError, OSError."""
        return self.read_tagged()[0]

    def read_tagged(self) -> tuple[bytes, dict[str, str]]:
        """The object, and what stands for this version of it (see `put`)."""
        with _safely(self):
            found = self.objects.get(self.path)
            return bytes(found.bytes()), _tag(found.meta)

    def signature(self) -> tuple[object, ...]:
        """Changes whenever the object does. Raises FileNotFoundError, OSError."""
        with _safely(self):
            return tuple(_tag(self.objects.head(self.path)).items())

    def write_bytes(self, content: bytes) -> None:
        """Puts the object, whole or not at all."""
        with _safely(self):
            self.objects.put(self.path, content)

    def put(self, content: bytes, over: Mapping[str, str] | None) -> dict[str, str] | None:
        """Puts the object in place of the version `over` (None: of none); returns its own version,
        or None if another came first."""
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        mode: Any = "create" if over is None else dict(over)
        with _safely(self):
            try:
                return _tag(self.objects.put(self.path, content, mode=mode))
            except (AlreadyExistsError, PreconditionError):
                return None
            except FileNotFoundError as error:
                if over is None or _no_bucket(error):
                    raise
                return None

    def change(self, make: Callable[[bytes | None], bytes | None]) -> None:
        """Puts what `make` makes of the object that is there (None: none is); None: nothing to do.

        Of several who change it at the same time none undoes what another did.
        """
        for _ in range(_TRIES):
            try:
                old, tag = self.read_tagged()
                new = make(old)
            except FileNotFoundError:
                tag, new = None, make(None)
            if new is None or self.put(new, tag) is not None:
                return
        raise OSError(f"others changed it {_TRIES} times meanwhile")

    def exists(self) -> bool:
        """Whether there is an object, or a folder with something in it."""
        with _safely(self):
            try:
                self.objects.head(self.path)
            except FileNotFoundError:
                found = self.objects.list(f"{self.path}/", chunk_size=1)
                return bool(next(iter(found), ()))
        return True

    def names(self) -> list[str]:
        """Names of what lies in this folder, folders included; not of what lies in those."""
        with _safely(self):
            found = self.objects.list_with_delimiter(f"{self.path}/" if self.path else None)
            paths = [*found["common_prefixes"], *(one["path"] for one in found["objects"])]
        return [path.rstrip("/").rsplit("/", 1)[-1] for path in paths]

    def sizes(self) -> dict[str, int]:
        """All objects in this folder, at any depth: path in it -> bytes."""
        prefix = self.key("")
        with _safely(self):
            return {
                one["path"].removeprefix(prefix): one["size"]
                for page in self.objects.list(prefix)
                for one in page
            }

    def remove(self) -> None:
        """Deletes the object, or the folder with all in it; nothing if there is none."""
        delete(self, ["", *self.sizes()])


def delete(folder: Place, paths: Iterable[str]) -> None:
    """Deletes objects of a folder by their paths in it ("" is the object of its own name)."""
    keys = [folder.key(path) if path else folder.path for path in paths]
    with _safely(folder):
        try:
            folder.objects.delete(keys)
        except FileNotFoundError:  # not all kinds of object stores pass over what is not there
            for key in keys:
                try:
                    folder.objects.delete(key)
                except FileNotFoundError:
                    continue


def many(do: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Does it for all of them, some at a time; results in their order."""
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        yield from pool.map(do, items)


def is_object_url(url: str | os.PathLike[str]) -> bool:
    return os.fspath(url).lower().startswith(SCHEMES)


def use(options: Options | Mapping[str, str]) -> None:
    """The options of all object stores that this process opens from now on: obstore's, such as
    endpoint, region, access_key_id; max_retries, retry_timeout (seconds)."""
    global _in_use
    _in_use = options if isinstance(options, Options) else Options(dict(options))


def in_use() -> Options:
    """What `use` was told, for workers."""
    return _in_use


def place_of(url: str, options: Mapping[str, str] | None = None, *, folder: bool = False) -> Place:
    """Where a URL leads. `options`: those of `use` unless given. Nothing is asked of the server.

    Until the bucket has answered this process, requests are tried again for some seconds only.
    Raises UsageError when it names no place in a bucket (a `folder` may be the bucket itself), or
    an option is unknown.
    """
    scheme, _, rest = url.rstrip("/").partition("://")
    bucket, _, path = rest.partition("/")
    if "?" in url or ":" in bucket:
        raise UsageError(
            f"{scheme}://...: keys do not belong in a URL, where others see them; put them into "
            "the environment (AWS_ACCESS_KEY_ID and so on)"
        )
    parts = path.split("/") if path else []
    if not bucket or (not path and not folder) or {"", ".", ".."} & set(parts):
        raise UsageError(f"{url}: give bucket and name, as in s3://bucket/features/ped2.zarr")
    given = _in_use.values if options is None else options
    prefix = next(p for known, p in _PREFIXES.items() if scheme.lower().startswith(known))
    settings = tuple(sorted((str(k), str(v)) for k, v in given.items()))
    # Keys that change in the environment make another client.
    around = tuple(sorted(item for item in os.environ.items() if item[0].startswith(
        prefix.upper()
    )))  # fmt: skip
    home = f"{scheme}://{bucket}"
    try:
        client = _client(home, prefix, settings, around, first=home not in _answered)
    except UsageError as error:
        raise UsageError(f"{url}: {error}") from error.__cause__
    return Place(url.rstrip("/"), client, path)


def answered(url: str) -> None:
    """Its bucket has answered, this process or the one that sent it here."""
    _answered.add("/".join(url.split("/")[:3]))


@lru_cache(maxsize=32)
def _client(
    bucket: str,
    prefix: str,
    settings: tuple[tuple[str, str], ...],
    around: object,
    *,
    first: bool,
) -> ObjectStore:
    """One client a bucket, which keeps its connections."""
    try:
        from obstore.exceptions import BaseError
        from obstore.store import from_url
    except ImportError as error:
        raise UsageError("object stores need one more package: pip install '.[objects]'") from error
    options = dict(settings)
    try:
        tries = int(options.pop("max_retries", _MAX_RETRIES))
        seconds = float(options.pop("retry_timeout", _RETRY_SECONDS))
        seconds = min(seconds, _FIRST_SECONDS) if first else seconds
    except ValueError:
        raise UsageError("max_retries and retry_timeout (seconds) must be numbers") from None
    client = {key: value for key, value in options.items() if key in _CLIENT}
    config = {
        # With its prefix, or an unknown one ends the process (obstore 0.12).
        prefix + key.removeprefix(prefix): value
        for key, value in options.items()
        if key not in _CLIENT
    }
    endpoint = config.get(f"{prefix}endpoint", os.environ.get(f"{prefix.upper()}ENDPOINT", ""))
    if not endpoint and prefix == "aws_":
        endpoint = os.environ.get("AWS_ENDPOINT_URL", "")
    if endpoint.startswith("http://"):
        client.setdefault("allow_http", "true")  # it was asked for
    retry: Any = {"max_retries": tries, "retry_timeout": timedelta(seconds=seconds),
                  "backoff": {"init_backoff": timedelta(milliseconds=100),
                              "max_backoff": timedelta(seconds=5), "base": 2}}  # fmt: skip
    try:
        made: ObjectStore = from_url(  # type: ignore[call-overload]
            bucket, config=config, client_options=client, retry_config=retry
        )
    except (BaseError, ValueError) as error:
        raise UsageError(f"cannot be used: {told(error)}") from None
    return made


def errors() -> tuple[type[Exception], ...]:
    """What a disk raises, and obstore too once somebody has used it."""
    module = sys.modules.get("obstore.exceptions")
    return (OSError, module.BaseError) if module else (OSError,)


def told(error: BaseException) -> str:
    """An error of an object store in one line without keys."""
    text = str(error).strip()
    for mark, meaning in _MEANINGS.items():
        if mark in text:
            return meaning
    line = text.splitlines()[0] if text else type(error).__name__
    line = re.sub(r"\?[^\s\"')]*", "", line)  # what a signed URL ends with
    for name, value in (*_in_use.values.items(), *os.environ.items()):
        if re.search("key|secret|token|password|sas", name, re.IGNORECASE) and len(value) > 7:
            line = line.replace(value, "...")
    return line[:300]


# Of what a server answers, by a word in it.
_REFUSED: Final = "the server refuses these keys (AWS_ACCESS_KEY_ID and so on)"
_MEANINGS: Final = {
    "NoSuchBucket": "there is no such bucket; make it, or correct the name",
    "ContainerNotFound": "there is no such container; make it, or correct the name",
    "The specified bucket does not exist": "there is no such bucket; make it, or correct its name",
    "InvalidAccessKeyId": _REFUSED,
    "SignatureDoesNotMatch": _REFUSED,
    "InvalidClientTokenId": _REFUSED,
    "AuthenticationFailed": _REFUSED,
    "AccessDenied": "the server does not allow it with these keys (AccessDenied)",
    "169.254.169.254": "no keys were found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
    "give --storage-options skip_signature=true where none are needed",
}


def _no_bucket(error: FileNotFoundError) -> bool:
    return "NoSuchBucket" in str(error) or "ContainerNotFound" in str(error)


@contextmanager
def _safely(place: Place) -> Iterator[None]:
    """Turns what the object store refuses into OSError, without its address's secrets."""
    try:
        yield
        answered(place.url)
    except FileNotFoundError as error:
        if _no_bucket(error):
            raise OSError(told(error)) from None
        answered(place.url)
        raise FileNotFoundError(2, "there is no such object", place.url) from None
    except errors() as error:
        raise OSError(told(error)) from None


def hidden(words: Iterable[str]) -> list[str]:
    """The words of a command as others may see them: without what --storage-options holds."""
    shown: list[str] = []
    for word in words:
        name, equals, _ = word.partition("=")
        if shown and shown[-1] == "--storage-options":
            shown.append("...")
        elif equals and name == "--storage-options":
            shown.append(f"{name}=...")
        else:
            shown.append(word)
    return shown


def _tag(of: Mapping[str, Any]) -> dict[str, str]:
    """Names a version of an object: by its ETag, on Google's by its generation too."""
    return {name: of[name] for name in ("e_tag", "version") if of.get(name) is not None}


Spot = Path | Place
