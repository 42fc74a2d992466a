"""Touching the disk: errors that say what to do, replacing files at once, sweeping leftovers.

A store may also lie on an object store: of what is done there, too, the errors come from here.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from featurestore.errors import FeatureStoreError, StoreUnreadable, StoreUnwritable
from featurestore.place import Place, Spot, errors, told

# The ending of zarr's own temporary files. Ours have it too: one sweep finds both.
PARTIAL = ".partial"

# Of Linux: linux/fcntl.h, linux/fs.h.
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2

_WAYS_OUT = {
    errno.ENOSPC: "Free some space and run the command again.",
    errno.EDQUOT: "Free some of your quota and run the command again.",
    errno.EFBIG: "Raise the limit on the size of files (ulimit -f) and run the command again.",
    errno.EROFS: "The disk is read-only: give another store.",
    errno.EACCES: "Ask for permission to write there, or give another store.",
    errno.EPERM: "Ask for permission to write there, or give another store.",
}


@contextmanager
def writing(path: Spot) -> Iterator[None]:
    """Turns what the disk (or object store) refuses into StoreUnwritable, with `path` and the way
    out."""
    try:
        yield
    except FeatureStoreError:
        raise
    except errors() as error:
        if isinstance(path, Place):
            # Alone: the error it comes from may hold a key, and could not travel to the driver.
            raise StoreUnwritable(
                f"{path}: cannot be written: {told(error)}. Run the command again when that is put "
                "right. What was finished before is safe."
            ) from None
        number, reason = getattr(error, "errno", 0), getattr(error, "strerror", None)
        way_out = _WAYS_OUT.get(number or 0, "Run the command again when that is put right.")
        raise StoreUnwritable(
            f"{path}: cannot be written: {reason or error}. {way_out} "
            "What was finished before is safe."
        ) from error


@contextmanager
def reading(path: Spot) -> Iterator[None]:
    """Turns what the disk (or object store) refuses into StoreUnreadable, with `path`."""
    try:
        yield
    except FeatureStoreError:
        raise
    except errors() as error:
        if isinstance(path, Place):
            raise StoreUnreadable(
                f"{path}: cannot be read: {told(error)}. Run the command again when that is put "
                "right. What was finished before is safe."
            ) from None
        reason = getattr(error, "strerror", None)
        raise StoreUnreadable(f"{path}: cannot be read: {reason or error}.") from error


def replace(path: Path, make: Callable[[Path], object]) -> None:
    """Has `make` write a file at a temporary path, then puts it at `path` in one step."""
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}{PARTIAL}")
    try:
        make(partial)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def remove(path: Spot) -> None:
    """Removes a file, a link (never what it points to) or a folder with all in it."""
    if isinstance(path, Place):
        path.remove()
    elif path.is_dir() and not path.is_symlink():
        # A name of its own first: nobody sees, or later finds, half a folder under the old one.
        doomed = path
        if path.suffix != PARTIAL:
            doomed = path.with_name(f"{path.name}.{uuid.uuid4().hex}{PARTIAL}")
            path.rename(doomed)
        shutil.rmtree(doomed)
    else:
        path.unlink(missing_ok=True)


def exchange(one: Path, other: Path) -> bool:
    """Two folders of one disk change their names in one step; False where that cannot be done."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:  # a C library that has no such call
        return False
    names = (os.fsencode(one), os.fsencode(other))
    if renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
        return True
    error = ctypes.get_errno()
    if error in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):  # network disks, old kernels
        return False
    raise OSError(error, os.strerror(error), os.fspath(one))


def sweep(folder: str | Path) -> None:
    """Removes what killed writers left unfinished, at any depth of `folder`."""
    for entry in entries(folder):
        if entry.name.endswith(PARTIAL):
            remove(Path(entry.path))
        elif entry.is_dir(follow_symlinks=False):
            sweep(entry.path)


def stored_bytes(folder: str | Path) -> int:
    """Bytes of the files in `folder`, at any depth; what links point to counts where it lies."""
    total = 0
    for entry in entries(folder):
        if entry.is_dir(follow_symlinks=False):
            total += stored_bytes(entry.path)
        elif entry.is_file(follow_symlinks=False):
            total += entry.stat(follow_symlinks=False).st_size
    return total


def names(folder: Spot) -> list[str]:
    """Names of what lies in `folder`; none if there is no such folder."""
    if isinstance(folder, Place):
        return folder.names()
    return [entry.name for entry in entries(folder)]


def entries(folder: str | Path) -> list[os.DirEntry[str]]:
    """What lies in `folder`, as one listing of it tells; nothing if there is no such folder."""
    try:
        with os.scandir(folder) as found:
            return list(found)
    except FileNotFoundError:
        return []
