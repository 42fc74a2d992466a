"""One writer a store on an object store: a lock that a crash does not leave for ever.

The lock is the object NAME.lock beside the store, made by a put that only one can win. It says who
holds it and until when, and is renewed while it is held. One that has run out, or whose process is
gone from this very machine, is taken over by a put that succeeds only if nobody else took it over
(it is still the version that was read).
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
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from featurestore.disk import writing
from featurestore.errors import StoreLocked
from featurestore.place import Place, hidden

EXPIRES_SECONDS: Final = 120.0
RENEW_SECONDS: Final = 30.0  # three renewals may fail before anybody takes the lock over


@dataclass
class _Held:
    """A lock that this process holds: its object, who we are, how long it lasts unrenewed."""

    place: Place
    expires: float  # seconds
    owner: str = field(default_factory=lambda: uuid.uuid4().hex)
    tag: dict[str, str] | None = None
    renewed: float = field(default_factory=lambda: _now())
    lost: bool = False
    _one_at_a_time: threading.Lock = field(default_factory=threading.Lock)

    def renew(self) -> None:
        """Raises OSError when the server does not answer."""
        with self._one_at_a_time:
            begun = _now()
            tag = self.place.put(_holder(self), self.tag)
            if tag is None:
                # A put that was tried again, its first answer lost, meets its own work.
                holder, tag = _read(self.place)
                self.lost = holder.get("owner") != self.owner
            self.tag, self.renewed = tag, begun

    @property
    def late(self) -> bool:
        return _now() - self.renewed > self.expires

    def check(self, url: str) -> None:
        if self.late and not self.lost:
            # After a sleep of this machine, say: if nobody has taken it, it is still ours.
            with suppress(OSError):
                self.renew()
        if self.lost or self.late:
            raise StoreLocked(
                f"{url}: this command could not renew its lock in time, so that another may have "
                "taken it over (was this machine, or the server, away?). What was finished is "
                "safe; run it again when that one has ended."
            )


_held: dict[str, _Held] = {}  # by the URL of the store


@contextmanager
def locked_there(
    place: Place, *, expires: float = EXPIRES_SECONDS, renew: float = RENEW_SECONDS
) -> Iterator[None]:
    """Holds the lock of a store on an object store for the length of the `with` block.

    Raises StoreLocked, naming the holder, StoreUnwritable.
    """
    held = _Held(place.beside(".lock"), expires)
    with writing(held.place):
        _take(place, held)
    ended = threading.Event()
    thread = threading.Thread(target=_renew, args=(held, renew, ended), daemon=True)
    thread.start()
    _held[place.url] = held
    try:
        yield
        held.check(place.url)
    finally:
        _held.pop(place.url, None)
        ended.set()
        thread.join()
        # Where the server is away the lock runs out by itself.
        with suppress(OSError):
            if not held.lost and _read(held.place)[0].get("owner") == held.owner:
                held.place.remove()


def check(place: Place) -> None:
    """Before anything is written that only the holder may: raises StoreLocked if the lock of this
    store, which this process held, may have gone to another."""
    if place.url in _held:
        _held[place.url].check(place.url)


def writer_there(place: Place) -> str | None:
    """Who is writing to the store now, for people; None if nobody is. Raises StoreUnwritable."""
    lock = place.beside(".lock")
    with writing(lock):
        holder, tag = _read(lock)
    over = time.time() >= float(holder.get("until", 0)) or _is_gone(holder)
    return None if tag is None or over else _who(holder)


def _take(place: Place, held: _Held) -> None:
    held.tag = held.place.put(_holder(held), None)
    if held.tag is not None:
        return
    holder, tag = _read(held.place)
    if tag is not None and holder.get("owner") == held.owner:
        held.tag = tag  # a put that was tried again, its first answer lost, met its own work
        return
    # Clocks of hosts differ: half as long again before anybody takes over.
    over = time.time() >= float(holder.get("until", 0)) + held.expires / 2
    if tag is not None and not over and not _is_gone(holder):
        raise StoreLocked(
            f"{place.url}: another command is writing to this store ({_who(holder)}). Wait until "
            f"it ends, or, if it was killed, {held.expires * 1.5:.0f} seconds; then run this again."
        )
    held.tag = held.place.put(_holder(held), tag)
    if held.tag is None:
        raise StoreLocked(f"{place.url}: another command has just begun to write to it")


def _renew(held: _Held, seconds: float, ended: threading.Event) -> None:
    while not held.lost and not ended.wait(seconds):
        # An error says nothing: the next renewal may do, and writing says what is wrong.
        with suppress(OSError):
            held.renew()


def _read(lock: Place) -> tuple[dict[str, Any], dict[str, str] | None]:
    """What the lock says, and its version; None for that if there is none."""
    try:
        content, tag = lock.read_tagged()
    except FileNotFoundError:  # given back this moment
        return {}, None
    try:
        holder: dict[str, Any] = json.loads(content)
    except ValueError:
        holder = {}
    return holder, tag


def _holder(held: _Held) -> bytes:
    return json.dumps(
        {
            "owner": held.owner,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "machine": _machine(),
            "started": _started(os.getpid()),
            "until": time.time() + held.expires,
            "command": shlex.join(hidden(sys.argv)),
        }
    ).encode()


def _who(holder: dict[str, Any]) -> str:
    try:
        return f"process {holder['pid']} on {holder['host']}: {holder['command']}"
    except KeyError:
        return "a process that does not say who it is"


def _is_gone(holder: dict[str, Any]) -> bool:
    """Whether it was a process of this machine that has ended: nobody has to wait for that one."""
    machine = _machine()
    if not machine or holder.get("machine") != machine:
        return False
    return _started(int(holder.get("pid", 0))) != holder.get("started")


def _machine() -> str:
    """This machine since it was started, and its table of processes (a container has its own)."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _started(pid: int) -> str | None:
    """When a process of this machine began, in ticks since boot; None if there is none."""
    try:
        # After the name, which may hold anything: field 22 of proc(5), the 20th from there.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]


def _now() -> float:
    """Seconds, those that the machine slept included, and no jumps when its clock is set."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
