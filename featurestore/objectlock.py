"""One writer a store on an object store: a lock that a crash does not leave for ever.

The lock is the object NAME.lock beside the store, made by a put that only one can win. It says who
holds it, and is renewed while it is held. Whoever finds one watches it: clocks of two machines are
never compared. Renewed meanwhile, it is held; unchanged for half as long again as it lasts, it has
run out. That one, and one whose process is gone from this very machine, is taken over by a put that
succeeds only if nobody else took it over (it is still the version that was read).
"""

from __future__ import annotations

import json
import math
import os
import shlex
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from featurestore.disk import writing
from featurestore.errors import StoreLocked
from featurestore.place import Place, hidden

EXPIRES_SECONDS: Final = 120.0
RENEW_SECONDS: Final = 30.0  # three renewals may fail before anybody takes the lock over
# Times as long as it lasts: what its holder had under way when it ran out has time to end.
_WATCHED: Final = 1.5
_LOOKS: Final = 18  # in that time: 10 seconds between two
_JUMP_SECONDS: Final = 5.0  # of this machine's clock that are no correction of it

_Found = tuple[dict[str, Any], dict[str, str] | None]  # what a lock says, and its version


@dataclass
class _Held:
    """A lock that this process holds: its object, who we are, how long it lasts unrenewed."""

    place: Place
    expires: float  # seconds
    owner: str = field(default_factory=lambda: uuid.uuid4().hex)
    tag: dict[str, str] | None = None
    renewed: float = 0.0
    ahead: float = 0.0  # the machine's clock, of the time that `renewed` is in
    puts: int = 0
    lost: bool = False
    _one_at_a_time: threading.Lock = field(default_factory=threading.Lock)

    def put(self, over: dict[str, str] | None) -> _Found | None:
        """Puts it in place of that version (None: of none); returns None, or what is there if that
        is another's. Raises OSError when the server does not answer."""
        begun, ahead = _now(), _clock_ahead()
        self.puts += 1
        tag = self.place.put(_holder(self), over)
        if tag is None:
            # A put that was tried again, its first answer lost, meets its own work.
            holder, tag = _read(self.place)
            if tag is None or holder.get("owner") != self.owner:
                return holder, tag
        self.tag, self.renewed, self.ahead = tag, begun, ahead
        return None

    def renew(self) -> None:
        """Raises OSError when the server does not answer."""
        with self._one_at_a_time:
            self.lost = self.put(self.tag) is not None

    @property
    def late(self) -> bool:
        return _now() - self.renewed > self.expires

    @property
    def jumped(self) -> bool:
        """The machine's clock was set, or the machine stood still and did not count that (one in a
        virtual machine cannot tell): nobody knows how long the lock was not renewed."""
        return abs(_clock_ahead() - self.ahead) > _JUMP_SECONDS

    def check(self, url: str) -> None:
        if (self.late or self.jumped) and not self.lost:
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


def _tell(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


@contextmanager
def locked_there(
    place: Place,
    *,
    expires: float = EXPIRES_SECONDS,
    renew: float = RENEW_SECONDS,
    say: Callable[[str], None] = _tell,
) -> Iterator[None]:
    """Holds the lock of a store on an object store for the length of the `with` block.

    A lock that is there is watched until it is renewed or has run out (3 minutes), and `say` told
    so; no watch is needed to know of a process on this machine.

    Raises StoreLocked, naming the holder, StoreUnwritable.
    """
    held = _Held(place.beside(".lock"), expires)
    with writing(held.place):
        _take(place, held, say)
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
    """Who is writing to the store now, for people; None if nobody is. Raises StoreUnwritable.

    At a glance, so by the clocks of both machines: a clock that is wrong makes this wrong, but
    nothing is taken over by it.
    """
    lock = place.beside(".lock")
    with writing(lock):
        holder, tag = _read(lock)
    over = time.time() >= _number(holder, "until", 0) and not _is_here(holder)
    return None if tag is None or over or _is_gone(holder) else _who(holder)


def _take(place: Place, held: _Held, say: Callable[[str], None]) -> None:
    found = held.put(None)
    if found is None:
        return
    holder, tag = found
    if tag is not None and _is_here(holder):
        raise _locked(place, holder)
    if tag is not None and not _is_gone(holder):
        tag = _watch(place, held, found, say)
    found = held.put(tag)
    if found is not None:
        raise StoreLocked(
            f"{place.url}: another command has just begun to write to it ({_who(found[0])})"
        )


def _watch(
    place: Place, held: _Held, found: _Found, say: Callable[[str], None]
) -> dict[str, str] | None:
    """Waits until the lock that was found has run out, or was given back (None); returns its
    version.

    Raises StoreLocked when it is renewed, or becomes another command's, meanwhile.
    """
    holder, tag = found
    seconds = _WATCHED * _number(holder, "expires", held.expires)
    began, said = _now(), -math.inf
    while (watched := _now() - began) < seconds:
        if watched - said >= RENEW_SECONDS:
            said = watched
            say(
                f"{place.url}: is locked ({_who(holder)}); watching whether that command still "
                f"renews its lock, {seconds - watched:.0f} s left"
            )
        time.sleep(min(seconds / _LOOKS, seconds - watched))
        now = _read(held.place)
        if now[1] is None:
            return None
        if now != found:
            raise _locked(place, now[0])
    say(f"{place.url}: the lock was not renewed for {seconds:.0f} s: it is taken over")
    return tag


def _locked(place: Place, holder: dict[str, Any]) -> StoreLocked:
    return StoreLocked(
        f"{place.url}: another command is writing to this store ({_who(holder)}). Wait until "
        "it ends, or end it; then run this again."
    )


def _renew(held: _Held, seconds: float, ended: threading.Event) -> None:
    while not held.lost and not ended.wait(seconds):
        # An error says nothing: the next renewal may do, and writing says what is wrong.
        with suppress(OSError):
            held.renew()


def _read(lock: Place) -> _Found:
    """What the lock says, and its version; None for that if there is none."""
    try:
        content, tag = lock.read_tagged()
    except FileNotFoundError:  # given back this moment
        return {}, None
    try:
        holder = json.loads(content)
    except ValueError:
        holder = None
    return holder if isinstance(holder, dict) else {}, tag


def _number(holder: dict[str, Any], name: str, default: float) -> float:
    found = holder.get(name)
    return float(found) if isinstance(found, int | float) and math.isfinite(found) else default


def _holder(held: _Held) -> bytes:
    return json.dumps(
        {
            "owner": held.owner,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "machine": _machine(),
            "started": _started(os.getpid()),
            "puts": held.puts,  # no two are alike, whatever the clock says
            "expires": held.expires,
            "renewed": _now(),  # for processes of the same machine
            "until": time.time() + held.expires,  # for people
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
    return _of_this_machine(holder) and not _runs(holder)


def _is_here(holder: dict[str, Any]) -> bool:
    """Whether it is a process of this machine that renewed it in time: that one holds it."""
    if not _of_this_machine(holder) or not _runs(holder):
        return False
    return _now() - _number(holder, "renewed", 0) <= _number(holder, "expires", 0)


def _of_this_machine(holder: dict[str, Any]) -> bool:
    machine = _machine()
    return bool(machine) and holder.get("machine") == machine


def _runs(holder: dict[str, Any]) -> bool:
    return _started(int(_number(holder, "pid", 0))) == holder.get("started")


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


def _clock_ahead() -> float:
    return time.time() - _now()
