"""One writer a store: a lock that dies with the process that holds it.

`flock` on a file beside the store. The file may stay behind; it locks nothing by itself, it only
says who holds the lock while someone does.
"""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from featurestore import objectlock
from featurestore.disk import writing
from featurestore.errors import StoreLocked
from featurestore.location import beside
from featurestore.place import hidden, is_object_url, place_of

_held: set[int] = set()


def _drop_in_child() -> None:
    # A forked child shares the lock and would hold it on after its parent's death. Closing the
    # child's descriptor leaves the parent's lock alone.
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_drop_in_child)


@contextmanager
def locked(url: str | os.PathLike[str]) -> Iterator[None]:
    """Holds the store's lock for the length of the `with` block; the store need not exist yet.

    Raises StoreLocked, naming the holder, when another process (or this one) already holds it,
    StoreUnwritable when the lock's file cannot be made. On an object store: see objectlock.
    """
    if is_object_url(url):
        with objectlock.locked_there(place_of(os.fspath(url))):
            yield
        return
    path = beside(url, ".lock")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    _held.add(descriptor)
    try:
        with writing(path):
            try:
                _take(descriptor)
            except BlockingIOError:
                raise StoreLocked(
                    f"{os.fspath(url)}: another command is writing to this store "
                    f"({_holder_of(path)}). Wait until it ends, or end it; then run this again."
                ) from None
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, _holder(), 0)
        try:
            yield
        finally:
            if descriptor in _held:
                os.ftruncate(descriptor, 0)
    finally:
        if descriptor in _held:  # else this is a forked child, in which it means another file
            _held.remove(descriptor)
            os.close(descriptor)


def writer(url: str | os.PathLike[str]) -> str | None:
    """Who is writing to the store now, for people; None if nobody is.

    Raises StoreUnwritable when the lock's file is there and cannot be looked at.
    """
    if is_object_url(url):
        return objectlock.writer_there(place_of(os.fspath(url)))
    path = beside(url, ".lock")
    with writing(path):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _holder_of(path)
        finally:
            os.close(descriptor)
    return None


def _take(descriptor: int) -> None:
    """Takes the lock. A moment's patience: `writer` holds it while it looks.

    Raises BlockingIOError when another process has it.
    """
    for last in (False, False, True):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if last:
                raise
            time.sleep(0.02)


def _holder() -> bytes:
    holder = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": shlex.join(hidden(sys.argv)),
    }
    return json.dumps(holder).encode()


def _holder_of(path: Path) -> str:
    try:
        holder = json.loads(path.read_text())
        return (
            f"process {holder['pid']} on {holder['host']}, since {holder['since']}: "
            f"{holder['command']}"
        )
    except (OSError, ValueError, KeyError):
        # It has the lock and is about to write its name, or has just taken it out.
        return "a process that has not said yet who it is"
