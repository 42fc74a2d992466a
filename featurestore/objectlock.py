"""One writer a store on an object store: a lock that a crash does not leave for ever.

The lock is the object NAME.lock beside the store, made by a put that only one can win. It says who
holds it and until when, and is renewed while it is held. One that has run out is taken over by a
put that succeeds only if nobody else took it over (its ETag is still the one that was read).
"""

from __future__ import annotations

import json
import os
import shlex
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from featurestore.errors import StoreLocked, StoreUnwritable
from featurestore.objects import Place, talking

EXPIRES_SECONDS: Final = 120.0
RENEW_SECONDS: Final = 30.0  # three renewals may fail before anybody takes the lock over


@contextmanager
def locked_there(
    place: Place, *, expires: float = EXPIRES_SECONDS, renew: float = RENEW_SECONDS
) -> Iterator[None]:
    """Holds the lock of a store on an object store for the length of the `with` block.

    Raises StoreLocked, naming the holder, StoreUnwritable.
    """
    key = f"{place.name}.lock"
    owner = uuid.uuid4().hex
    with talking(place, StoreUnwritable):
        tag = [_take(place, key, owner, expires)]
    ended, lost = threading.Event(), threading.Event()
    thread = threading.Thread(
        target=_renew, args=(place, key, owner, expires, renew, tag, ended, lost), daemon=True
    )
    thread.start()
    try:
        yield
        if lost.is_set():
            raise StoreLocked(
                f"{place.url}: this command could not renew its lock in time, and another took it "
                "over (was it, or the server, away?). Run it again when that one has ended."
            )
    finally:
        ended.set()
        thread.join()
        with talking(place, StoreUnwritable):
            if _read(place, key)[0].get("owner") == owner:
                place.objects.delete(key)


def _take(place: Place, key: str, owner: str, expires: float) -> str | None:
    from obstore.exceptions import AlreadyExistsError, PreconditionError

    try:
        return place.objects.put(key, _holder(owner, expires), mode="create")["e_tag"]
    except AlreadyExistsError:
        holder, tag = _read(place, key)
    # Clocks of hosts differ: half as long again before anybody takes over.
    if time.time() < float(holder.get("until", 0)) + expires / 2:
        raise StoreLocked(
            f"{place.url}: another command is writing to this store ({_who(holder)}). Wait until "
            f"it ends, or, if it was killed, {expires * 1.5:.0f} seconds; then run this again."
        )
    try:
        return place.objects.put(key, _holder(owner, expires), mode={"e_tag": tag})["e_tag"]
    except PreconditionError:
        raise StoreLocked(f"{place.url}: another command has just begun to write to it") from None


def _renew(
    place: Place,
    key: str,
    owner: str,
    expires: float,
    renew: float,
    tag: list[str | None],
    ended: threading.Event,
    lost: threading.Event,
) -> None:
    from obstore.exceptions import BaseError, PreconditionError

    while not ended.wait(renew):
        try:
            put = place.objects.put(key, _holder(owner, expires), mode={"e_tag": tag[0]})
            tag[0] = put["e_tag"]
        except PreconditionError:
            lost.set()
            return
        except (BaseError, OSError):
            continue  # the next renewal; writing itself says what is wrong with the server


def _read(place: Place, key: str) -> tuple[dict[str, Any], str | None]:
    try:
        found = place.objects.get(key)
    except FileNotFoundError:  # given back this moment
        return {}, None
    try:
        holder: dict[str, Any] = json.loads(bytes(found.bytes()))
    except ValueError:
        holder = {}
    return holder, found.meta["e_tag"]


def _holder(owner: str, expires: float) -> bytes:
    return json.dumps(
        {
            "owner": owner,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "until": time.time() + expires,
            "command": shlex.join(sys.argv),
        }
    ).encode()


def _who(holder: dict[str, Any]) -> str:
    try:
        return f"process {holder['pid']} on {holder['host']}: {holder['command']}"
    except KeyError:
        return "a process that does not say who it is"
