"""What a running extraction shows: one live line on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from shutil import get_terminal_size
from typing import TextIO

__all__ = ["Counted", "Download", "Progress", "duration", "size"]

QUIET_SECONDS = 15.0  # between two lines when not on a terminal


def duration(seconds: float) -> str:
    """``95`` -> ``1 min 35 s``."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours} h {minutes:02d} min" if hours < 72 else f"{hours / 24:.1f} days"


def size(count: float) -> str:
    """Bytes -> ``1.5 MB`` (decimal units)."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


class Progress:
    """Counts of an extraction, and how they are shown.

    ``cost`` is any additive measure of work (GFLOP): time left is the cost that is missing over
    the rate so far, since clips that lack one backbone cost less than those that lack five.

    ``matrix_rate``: of the machine that a worker has for itself, in units of ``cost`` a second; 0:
    nothing is said of it.
    """

    def __init__(
        self,
        clips: int,
        cost: float,
        *,
        noun: str = "clips",
        matrix_rate: float = 0.0,
        stream: TextIO | None = None,
    ) -> None:
        self.clips, self.cost, self.noun = clips, cost, noun
        self.clips_done = 0
        self.matrix_rate = matrix_rate
        self.seconds: dict[str, float] = {}
        self._computed = 0.0
        self._cost_done = 0.0
        self._began = time.monotonic()
        self._shown, self._last = 0.0, ""
        self._stream = stream or sys.stdout
        self._live = self._stream.isatty()

    def at(self, clips: int, cost: float) -> None:
        """So far ``clips`` clips, of ``cost`` together, are through the networks."""
        self.clips_done, self._cost_done = min(clips, self.clips), min(cost, self.cost)

    def spent(self, seconds: Mapping[str, float], cost: float = 0.0) -> None:
        """Seconds a worker spent in decode, crops, networks and writing, on work of ``cost``."""
        self._computed += cost
        for name, value in seconds.items():
            self.seconds[name] = self.seconds.get(name, 0.0) + value

    def ready(self) -> None:
        """The networks are built: the clock for clips/s starts, unless it runs already."""
        if not self._cost_done:
            self._began = time.monotonic()

    def text(self) -> str:
        """``12 of 40 clips, 0.13 clips/s, 3 min 20 s left (decode 1%, networks 97%, ...)``."""
        elapsed = max(1e-9, time.monotonic() - self._began)
        parts = [f"{self.clips_done} of {self.clips} {self.noun}"]
        if self._cost_done:
            if self.clips_done:
                parts.append(f"{self.clips_done / elapsed:.3g} {self.noun.split()[0]}/s")
            left = (self.cost - self._cost_done) * elapsed / self._cost_done
            parts.append(f"{duration(left)} left")
        return ", ".join(parts) + self._shares()

    def fraction(self) -> float:
        """Share of the matrix rate that the networks reach; 0 where nothing is known of it."""
        possible = self.seconds.get("networks", 0.0) * self.matrix_rate
        return self._computed / possible if possible else 0.0

    def _shares(self) -> str:
        total = sum(self.seconds.values())
        if not total:
            return ""
        shares = {name: f"{name} {value / total:.0%}" for name, value in self.seconds.items()}
        if reached := self.fraction():
            shares["networks"] += f" at {reached:.2f} of the matrix rate"
        return " (" + ", ".join(shares.values()) + ")"

    def show(self, *, now: bool = False) -> None:
        """Show the state, at most every half second live and every 15 s otherwise."""
        since = time.monotonic() - self._shown
        if not now and since < (0.5 if self._live else QUIET_SECONDS):
            return
        self._shown = time.monotonic()
        if self._live:
            # Cut to the width: of a line that wraps, only the last row would be written over
            width = max(20, get_terminal_size().columns - 1)
            self._stream.write(f"\r\x1b[K{self.text()[:width]}")
        else:
            self._last = self.text()
            self._stream.write(self._last + "\n")
        self._stream.flush()

    def show_after(self, seconds: float) -> None:
        """``show``, of work that may be over before it is worth a line."""
        if time.monotonic() - self._began > seconds:
            self.show()

    def say(self, message: str) -> None:
        """A line of its own; the live line goes on beneath it."""
        clear = "\r\x1b[K" if self._live else ""
        self._stream.write(f"{clear}{message}\n")
        self._stream.flush()

    def end(self) -> None:
        """The last state, on a line that stays."""
        if self._live:
            self._stream.write(f"\r\x1b[K{self.text()}\n")
            self._stream.flush()
        elif self.text() != self._last:
            self.show(now=True)


class Counted:
    """Shows how many videos are done; called with (done, of how many). Quick work shows nothing."""

    def __init__(self, verb: str, stream: TextIO | None = None, *, noun: str = "videos") -> None:
        self._noun, self._stream = f"{noun} {verb}", stream
        self._began = time.monotonic()
        self._progress: Progress | None = None

    def __call__(self, done: int, of: int) -> None:
        if self._progress is None:
            self._progress = Progress(of, of, noun=self._noun, stream=self._stream)
        self._progress.at(done, done)
        if time.monotonic() - self._began > 1:
            self._progress.show()
            if done == of:
                self._progress.end()


class Download:
    """Shows a download; called with (file name, bytes so far, bytes in all or None)."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._live = self._stream.isatty()
        self._shown = 0.0

    def __call__(self, name: str, done: int, total: int | None) -> None:
        complete = done == total
        since = time.monotonic() - self._shown
        if not complete and since < (0.5 if self._live else QUIET_SECONDS):
            return
        self._shown = time.monotonic()
        of = f" of {size(total)}" if total else ""
        start = "\r\x1b[K" if self._live else ""
        end = "\n" if complete or not self._live else ""
        self._stream.write(f"{start}{name}: {size(done)}{of} fetched{end}")
        self._stream.flush()
