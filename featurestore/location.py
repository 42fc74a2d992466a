"""Where a store lies: a local folder, as a path or a file:// URL, or a place on an object store."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from featurestore.errors import UsageError
from featurestore.place import Spot, is_object_url, place_of

_SCHEME = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*(://|::)")


def spot(url: str | os.PathLike[str]) -> Spot:
    """Where a store's URL leads, resolved. Raises UsageError for a kind of URL that is unknown."""
    return place_of(os.fspath(url)) if is_object_url(url) else local_path(url).resolve()


def absolute(url: str | os.PathLike[str]) -> str:
    """The URL of the same store for a process that works in another folder."""
    return str(spot(url))


def local_path(url: str | os.PathLike[str]) -> Path:
    """The local folder that a store's URL names. Raises UsageError for any other kind of URL."""
    text = os.fspath(url)
    if not text:
        raise UsageError("The store's place is empty; give a folder, for example ./features")
    if not _SCHEME.match(text):
        return Path(text).expanduser()
    parts = urlsplit(text)
    if parts.scheme.lower() != "file":
        raise UsageError(
            f"{text}: this command works on stores on a disk; give a local folder (or a file:// "
            "URL). fs-submit copy brings stores from an object store and back."
        )
    if parts.netloc not in ("", "localhost") or not parts.path:
        raise UsageError(f"{text}: a file:// URL has three slashes: file:///folder/name.zarr")
    return Path(unquote(parts.path))


def beside(url: str | os.PathLike[str], suffix: str) -> Path:
    """A file beside the store: `features/ped2.zarr` and ".lock" give `features/ped2.zarr.lock`.

    Files that zarr does not know would make readers warn if they lay inside. A store reached
    through a symbolic link has the same one as the store itself.
    """
    store = local_path(url).resolve()
    if not store.name:
        raise UsageError(f"{os.fspath(url)}: the root of the disk cannot be a store")
    return store.with_name(store.name + suffix)
