"""The clips of a task, made ready in one thread while the networks work on those before.

Readers are kept a process: the next task of a block usually goes on where the last one ended.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from featurestore.clips import clip_frames
from featurestore.errors import DamagedVideo, UnreadableVideo
from featurestore.place import is_object_url, place_of
from jobs.plan import Segment, Task
from jobs.remote import stage, unstage
from jobs.video import FrameSource, open_source, patience

__all__ = ["Clip", "ClipReader", "Item", "clips_of"]

STALL_SECONDS = 120.0  # a decoder that delivers no frame for so long hangs
# Two tasks of a worker are under way, of two blocks: with one reader only, a file that cannot be
# sought in was decoded from its beginning for each (6,000 frames of AVI: 193,600 decoded).
KEPT_READERS = 2

Clip: TypeAlias = list[np.ndarray]
"""16 frames of (H, W, 3) uint8."""
Trouble: TypeAlias = DamagedVideo | UnreadableVideo
_readers: OrderedDict[tuple[Any, ...], ClipReader] = OrderedDict()


class ClipReader:
    """Clips of one video; one that overlaps the last one read does not make the decoder go back."""

    def __init__(self, path: str, frames: int, decoder: str) -> None:
        self._address = path
        self._staged = stage(path) if is_object_url(path) else None
        self._kept: dict[int, np.ndarray] = {}
        self.frames = frames
        try:
            with self._named():
                self.source: FrameSource = open_source(
                    self._staged or Path(path), frames=frames, decoder=decoder
                )
        except BaseException:
            self._unstage()
            raise

    def clip(self, start: int) -> Clip:
        """The clip whose first frame is ``start``; a short video's last frame is repeated."""
        wanted = clip_frames(start, self.frames)
        kept = {i: self._kept[i] for i in set(wanted.tolist()) & self._kept.keys()}
        first = start
        while first in kept:
            first += 1
        stop = int(wanted[-1]) + 1
        with self._named():
            for index, frame in enumerate(self.source.read(first, stop - first), first):
                kept[index] = frame
        self._kept = kept
        return [kept[int(i)] for i in wanted]

    def close(self) -> None:
        self.source.close()
        self._unstage()

    def _unstage(self) -> None:
        if self._staged is not None:
            unstage(self._staged)

    @contextmanager
    def _named(self) -> Iterator[None]:
        """What is wrong with a video is told of where it lies, not of where it was brought."""
        try:
            yield
        except DamagedVideo as error:
            raise DamagedVideo(self._told(error), error.frame) from error
        except UnreadableVideo as error:
            raise UnreadableVideo(self._told(error)) from error

    def _told(self, error: Trouble) -> str:
        staged = self._staged
        return str(error) if staged is None else str(error).replace(str(staged), self._address)


@dataclass
class _Now:
    """Where the decoding thread is: for telling one that hangs from one that is slow."""

    segment: int
    patience: float = STALL_SECONDS
    reader: ClipReader | None = None

    @property
    def progress(self) -> tuple[int, int]:
        return self.segment, self.reader.source.decoded if self.reader else -1


Item: TypeAlias = tuple[int, Any | Trouble]
_Queue: TypeAlias = "queue.Queue[tuple[int, Any | BaseException] | None]"


def clips_of(
    task: Task, decoder: str, *, ahead: int, prepare: Callable[[Clip], Any] | None = None
) -> Iterator[Item]:
    """Number of the segment and its next clip, for all segments in order.

    ``prepare`` is applied to each clip in the thread that decodes; what it returns is delivered.
    Instead of the clips that cannot be had of a segment comes one error; a decoder that delivers
    nothing for ``STALL_SECONDS`` is one, too (its thread is left behind: it cannot be stopped).
    Up to ``ahead`` clips are decoded beforehand.
    """
    first = 0
    while first < len(task.segments):
        ready: _Queue = queue.Queue(maxsize=ahead)
        stop, now = threading.Event(), _Now(first)
        thread = threading.Thread(
            target=_decode,
            args=(task, decoder, prepare, ready, stop, now),
            name="decode",
            daemon=True,
        )
        thread.start()
        try:
            stalled = yield from _deliver(ready, now)
        finally:
            stop.set()
            thread.join(timeout=1.0)
            if thread.is_alive():  # it still holds a reader: nobody else may use that one
                _readers.clear()
        if stalled is None:
            return
        yield (
            stalled,
            UnreadableVideo(
                f"{task.segments[stalled].path}: the decoder gave no frame for {now.patience:.0f} "
                "s; convert the file (ffmpeg -i FILE FILE.mp4) and run again"
            ),
        )
        first = stalled + 1


def _deliver(ready: _Queue, now: _Now) -> Generator[Item, None, int | None]:
    """What the thread decodes; returns the segment at which it hangs, or None at the end."""
    last, since = now.progress, time.monotonic()
    while True:
        try:
            item = ready.get(timeout=0.5)
        except queue.Empty:
            if now.progress != last:
                last, since = now.progress, time.monotonic()
            elif time.monotonic() - since > now.patience:
                return now.segment
            continue
        if item is None:
            return None
        segment, found = item
        if isinstance(found, BaseException) and not isinstance(found, Trouble):
            raise found
        yield segment, found
        since = time.monotonic()


def _decode(
    task: Task,
    decoder: str,
    prepare: Callable[[Clip], Any] | None,
    ready: _Queue,
    stop: threading.Event,
    now: _Now,
) -> None:
    def put(item: tuple[int, Any | BaseException] | None) -> bool:
        while not stop.is_set():
            try:
                ready.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    for number in range(now.segment, len(task.segments)):
        segment = task.segments[number]
        now.segment, now.reader, now.patience = number, None, _patience(segment)
        try:
            now.reader = reader = _reader_of(task.block, segment, decoder)
            now.patience = STALL_SECONDS
            for start in segment.starts:
                clip = reader.clip(start)
                if not put((number, prepare(clip) if prepare else clip)):
                    return
        except BaseException as error:  # noqa: BLE001 - handed to the main thread
            _drop(now.reader)
            if not put((number, error)) or not isinstance(error, DamagedVideo | UnreadableVideo):
                return
    put(None)


def _patience(segment: Segment) -> float:
    """Seconds to open it; from an object store a second more a frame, to bring it here."""
    return patience(Path(segment.path)) + segment.frames * is_object_url(segment.path)


def _reader_of(block: int, segment: Segment, decoder: str) -> ClipReader:
    # A file replaced under its name is another one, even for a worker that has the old one open.
    identity: tuple[object, ...]
    try:
        if is_object_url(segment.path):
            identity = place_of(segment.path).signature()
        else:
            stat = Path(segment.path).stat()
            identity = (stat.st_dev, stat.st_ino, stat.st_mtime_ns, stat.st_size)
    except OSError:
        identity = ()  # opening it says why
    key = (block, segment.path, identity, segment.frames, decoder)
    if key not in _readers:
        while len(_readers) >= KEPT_READERS:
            _readers.popitem(last=False)[1].close()
        _readers[key] = ClipReader(segment.path, segment.frames, decoder)
    _readers.move_to_end(key)
    return _readers[key]


def _drop(reader: ClipReader | None) -> None:
    for key, kept in list(_readers.items()):
        if kept is reader:
            del _readers[key]
            kept.close()
