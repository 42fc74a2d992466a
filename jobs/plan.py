"""What is missing -> tasks: runs of clips, each inside one block, and the order they run in.

Pure logic: no Dask, no torch, no files. A task is a small dict-able thing that travels to a
worker; :class:`TaskQueue` hands tasks out so that a block has one writer at a time, and knows
what to do when a task kills its worker.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice

import numpy as np

__all__ = ["Segment", "Task", "TaskQueue", "make_tasks"]

MAX_DEATHS = 3  # of workers, until the video they worked on is given up
MAX_QUARANTINED = 10  # workers lost with its tasks in quarantine, begun or not: it ends some time


@dataclass(frozen=True)
class Segment:
    """Consecutive clips of one video.

    ``video`` is the row of the video table, ``first`` the store's index of the first clip,
    ``starts`` the first frame of each clip, ``frames`` the length of the video in frames.
    """

    video: int
    name: str
    path: str
    frames: int
    first: int
    starts: tuple[int, ...]


@dataclass(frozen=True)
class Task:
    """One unit of work: the clips ``first .. first + clips`` of one block, for some backbones."""

    block: int
    backbones: tuple[str, ...]
    segments: tuple[Segment, ...]
    quarantined: bool = False  # its worker died before: one video, and it says when it begins

    @property
    def first(self) -> int:
        return self.segments[0].first

    @property
    def clips(self) -> int:
        return sum(len(s.starts) for s in self.segments)

    @property
    def name(self) -> str:
        return f"clips {self.first}-{self.first + self.clips - 1}"


def make_tasks(
    missing: dict[str, np.ndarray],
    clip_video: np.ndarray,
    clip_start: np.ndarray,
    videos: Sequence[tuple[str, str, int]],
    *,
    block: int,
    clips_per_task: int,
) -> list[Task]:
    """Cut what is missing into tasks, in the order of the store.

    Args:
        missing: backbone -> bool (clips,): what is to be computed.
        clip_video, clip_start: int (clips,): each clip's video row and first frame.
        videos: row -> (name, absolute path, frames).
        block: clips of one row of chunks; no task crosses its border.
        clips_per_task: the most clips in one task.
    """
    names = list(missing)
    if not names:
        return []
    wanted = np.stack([missing[n] for n in names])
    todo = np.flatnonzero(wanted.any(axis=0))
    tasks: list[Task] = []
    run: list[int] = []

    def close() -> None:
        if run:
            backbones = tuple(n for n, row in zip(names, wanted, strict=True) if row[run[0]])
            tasks.append(
                Task(run[0] // block, backbones, _segments(run, clip_video, clip_start, videos))
            )
            run.clear()

    for clip in todo.tolist():
        if run and (
            clip != run[-1] + 1
            or clip // block != run[0] // block
            or len(run) >= clips_per_task
            or (wanted[:, clip] != wanted[:, run[0]]).any()
        ):
            close()
        run.append(clip)
    close()
    return tasks


def _segments(
    clips: Iterable[int],
    clip_video: np.ndarray,
    clip_start: np.ndarray,
    videos: Sequence[tuple[str, str, int]],
) -> tuple[Segment, ...]:
    segments: list[Segment] = []
    for clip in clips:
        row, start = int(clip_video[clip]), int(clip_start[clip])
        if segments and segments[-1].video == row:
            segments[-1] = replace(segments[-1], starts=(*segments[-1].starts, start))
        else:
            name, path, frames = videos[row]
            segments.append(Segment(row, name, path, frames, clip, (start,)))
    return tuple(segments)


@dataclass
class TaskQueue:
    """Hands out tasks: one writer a block, and at most one quarantined task anywhere.

    A worker's death does not say which of its tasks was at fault, so each is cut into its videos,
    which then run in quarantine, one in the whole cluster at a time, and tell when they begin. The
    death that brought a video there counts once, however many there were, and each after which it
    had begun. With ``MAX_DEATHS`` it is given up; those that only waited beside it pass.
    (``MAX_QUARANTINED`` are enough even if none was heard to begin.)
    """

    tasks: Iterable[Task]
    _blocks: dict[int, deque[Task]] = field(default_factory=dict, init=False)
    _busy: set[int] = field(default_factory=set, init=False)
    _deaths: dict[int, int] = field(default_factory=dict, init=False)
    _in_quarantine: Counter[int] = field(default_factory=Counter, init=False)
    _given_up: set[int] = field(default_factory=set, init=False)
    _quarantine_busy: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        for task in self.tasks:
            self._blocks.setdefault(task.block, deque()).append(task)

    def __len__(self) -> int:
        """Tasks not handed out yet."""
        return sum(len(q) for q in self._blocks.values())

    def next(self, prefer: int | None = None) -> Task | None:
        """A task that may start now, of block ``prefer`` if it has one (its reader is warm)."""
        first = [prefer] if prefer in self._blocks else []
        for block in chain(first, self._blocks):
            if block in self._busy:
                continue
            queue = self._blocks[block]
            if queue[0].quarantined and self._quarantine_busy:
                continue
            task = queue.popleft()
            if not queue:
                del self._blocks[block]
            self._busy.add(block)
            self._quarantine_busy = self._quarantine_busy or task.quarantined
            return task
        return None

    def upcoming(self, count: int) -> list[int]:
        """So many blocks that are next, about."""
        return list(islice(self._blocks, count))

    def finished(self, task: Task) -> None:
        """``task`` came back, with whatever result."""
        self._busy.discard(task.block)
        if task.quarantined:
            self._quarantine_busy = False

    def returned(self, task: Task) -> None:
        """``task`` was never begun: it is the next of its block."""
        self.finished(task)
        self._blocks.setdefault(task.block, deque()).appendleft(task)

    def died(self, task: Task, begun: int = 0) -> list[Segment]:
        """``task`` was on a worker that died; returns the segments given up.

        ``begun``: how often it had begun there, if in quarantine; 0 where it was still waiting.
        """
        self.finished(task)
        given_up: list[Segment] = []
        again: list[Task] = []
        for segment in task.segments:
            known = segment.video in self._given_up  # from another of its tasks
            count = self._deaths.setdefault(segment.video, 1)
            if task.quarantined:
                count = self._deaths[segment.video] = count + begun
                self._in_quarantine[segment.video] += 1
            if (
                known
                or count >= MAX_DEATHS
                or self._in_quarantine[segment.video] >= MAX_QUARANTINED
            ):
                self._given_up.add(segment.video)
                given_up.append(segment)
            else:
                again.append(Task(task.block, task.backbones, (segment,), quarantined=True))
        if again:
            self._blocks.setdefault(task.block, deque()).extendleft(reversed(again))
        return given_up

    def drop(self, video: int) -> list[Segment]:
        """Take every waiting segment of ``video`` out (it is given up); returns them."""
        dropped: list[Segment] = []
        for block, queue in list(self._blocks.items()):
            kept: deque[Task] = deque()
            for task in queue:
                out = [s for s in task.segments if s.video == video]
                dropped += out
                left = tuple(s for s in task.segments if s.video != video)
                if left:
                    kept.append(replace(task, segments=left) if out else task)
            if kept:
                self._blocks[block] = kept
            else:
                del self._blocks[block]
        return dropped
