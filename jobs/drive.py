"""The driver's loop: hands tasks to the workers, marks what came back, goes on when workers die."""

from __future__ import annotations

import queue
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from distributed import Client, Future, KilledWorker

from featurestore.clips import CLIP_FRAMES
from featurestore.schema import DONE, FAILED
from featurestore.store import Store
from jobs.plan import Segment, Task, TaskQueue
from jobs.progress import Progress
from jobs.worker import TOPIC, Failure, Result, Setup, extract_clips

__all__ = ["Drive"]

TASKS_PER_WORKER = 2  # one running, one waiting, so that no worker waits for the driver
POLL_SECONDS = 0.2  # often enough, and it takes no core from the networks
LOOK_SECONDS, LOST_SECONDS = 5.0, 30.0
LONELY_SECONDS = 30.0  # without any worker for so long: say so


@dataclass
class Drive:
    """One run over ``tasks``. Only this marks status: it is the process that holds the lock."""

    client: Client
    store: Store
    setup: Setup
    progress: Progress
    cost: Mapping[str, float]  # backbone -> cost of a clip
    strict: bool = False
    failed: dict[int, str] = field(default_factory=dict)  # video row -> reason

    _events: queue.SimpleQueue[dict[str, Any]] = field(default_factory=queue.SimpleQueue)
    _live: dict[str, list[float]] = field(default_factory=lambda: defaultdict(lambda: [0, 0.0]))
    _cut: dict[int, int] = field(default_factory=dict)  # video row -> first frame not to trust
    _clips: int = 0
    _cost: float = 0.0
    _asked: float = -1e9
    _looked: float = -1e9
    _held_at: float = field(default_factory=time.monotonic)
    _alone_since: float = field(default_factory=time.monotonic)
    _count_of_workers: int = 0

    def run(self, tasks: list[Task]) -> None:
        """Run all of ``tasks``; returns when none is left.

        Raises:
            Whatever a worker raised that is not the fault of a video (disk full, say): what was
            finished is marked, the rest is left for the next run.
        """
        waiting = TaskQueue(tasks)
        running: dict[Future[Result], Task] = {}
        self.client.subscribe_topic(TOPIC, lambda event: self._events.put(event[1]))
        try:
            while running or len(waiting):
                workers = self._workers()
                while len(running) < TASKS_PER_WORKER * max(1, workers):
                    if not self._submit(waiting, running):
                        break
                done = [f for f in running if f.done()]
                for future in done:
                    self._collect(future, running.pop(future), waiting, running)
                if not done and self._lost(running):
                    for future, task in running.items():
                        self.client.cancel(future, force=True)
                        waiting.died(task, deaths=0)
                    running.clear()
                self._show()
                if not done:
                    time.sleep(POLL_SECONDS)
        finally:
            self.client.cancel(list(running), force=True)
            self.client.unsubscribe_topic(TOPIC)
        self._live.clear()
        self._show()

    def _lost(self, running: dict[Future[Result], Task]) -> bool:
        """Whether no worker has had any of our tasks for ``LOST_SECONDS``.

        Before errors travelled as text (worker.extract_clips), tasks that had failed stayed pending
        here for ever; a run that hung once since may have had that or another cause.
        """
        now = time.monotonic()
        if now - self._looked > LOOK_SECONDS:
            self._looked = now
            held = {key for keys in self.client.processing().values() for key in keys}
            if not running or not self._count_of_workers or held & {f.key for f in running}:
                self._held_at = now
        if now - self._held_at < LOST_SECONDS:
            return False
        self._held_at = now
        self.progress.say("no worker has any of the tasks given out; giving them out again")
        return True

    def _workers(self) -> int:
        """How many there are, asked for once a second; says so when there are none for long."""
        now = time.monotonic()
        if now - self._asked > 1:
            self._asked = now
            self._count_of_workers = len(self.client.scheduler_info(n_workers=-1)["workers"])
            if self._count_of_workers:
                self._alone_since = now
            elif now - self._alone_since > LONELY_SECONDS:
                self._alone_since = now
                self.progress.say("no worker is connected; waiting for one")
        return self._count_of_workers

    def _submit(
        self,
        waiting: TaskQueue,
        running: dict[Future[Result], Task],
        prefer: int | None = None,
        worker: str | None = None,
    ) -> bool:
        task = waiting.next(prefer)
        if task is None:
            return False
        # The next clips of a video go where its reader stands, if that worker is there.
        near = {"workers": [worker], "allow_other_workers": True} if worker else {}
        future = self.client.submit(
            extract_clips, task, self.setup, key=f"extract-{task.name}-{time.monotonic_ns()}",
            pure=False, **near,
        )  # fmt: skip
        running[future] = task
        return True

    def _collect(
        self,
        future: Future[Result],
        task: Task,
        waiting: TaskQueue,
        running: dict[Future[Result], Task],
    ) -> None:
        try:
            result = future.result()
        except KilledWorker as death:
            self._live.clear()
            given_up = waiting.died(task, deaths=1 + death.allowed_failures)
            self.progress.say(
                f"a worker died while working on {task.name} "
                f"({', '.join(s.name for s in task.segments[:3])}); "
                + ("given up" if given_up else "trying again")
            )
            for segment in given_up:
                self._give_up(segment, waiting)
            return
        waiting.finished(task)
        bad = {f.video: f for f in result.failures}
        for segment in task.segments:
            self._mark(task, segment, bad.get(segment.video))
        self._live.pop(result.worker, None)
        self._count(task.clips, task.clips * sum(self.cost[b] for b in task.backbones))
        self.progress.spent(result.seconds)
        self._submit(waiting, running, prefer=task.block, worker=result.worker)

    def _mark(self, task: Task, segment: Segment, failure: Failure | None) -> None:
        """Mark the clips of one segment: done, but failed from the damage of their video on."""
        if failure is not None:
            self._fail(failure)
        clips = np.arange(segment.first, segment.first + len(segment.starts))
        ends = np.minimum(np.array(segment.starts) + CLIP_FRAMES, segment.frames)
        good = ends <= self._cut.get(segment.video, segment.frames)
        for backbone in task.backbones:
            self.store.mark(backbone, clips[good], DONE)
            self.store.mark(backbone, clips[~good], FAILED)

    def _fail(self, failure: Failure) -> None:
        """Nothing after the damage can be trusted, whichever task computed it."""
        row = self.store.videos()[failure.video]
        cut = 0 if self.strict or not failure.damaged else failure.frame
        self._cut[row.index] = cut = min(cut, self._cut.get(row.index, row.frames))
        _, starts = self.store.clip_table()
        clips = np.arange(row.clip_offset, row.clip_offset + row.clip_count)
        lost = clips[np.minimum(starts[clips] + CLIP_FRAMES, row.frames) > cut]
        for backbone in self.setup.specs:
            self.store.mark(backbone, lost, FAILED)
        state = "failed" if len(lost) == len(clips) else "damaged"
        self.store.update_videos({row.index: {"state": state, "reason": failure.reason}})
        if row.index not in self.failed:
            self.progress.say(f"{row.name}: {state}: {failure.reason}")
        self.failed[row.index] = failure.reason

    def _give_up(self, segment: Segment, waiting: TaskQueue) -> None:
        reason = (
            "workers died repeatedly while reading it or computing its features "
            "(the decoder crashed, or memory ran out); convert the file, or use fewer --workers"
        )
        dropped = waiting.drop(segment.video)
        clips = len(segment.starts) + sum(len(s.starts) for s in dropped)
        self._count(clips, clips * sum(self.cost[b] for b in self.setup.specs))
        self._fail(Failure(segment.video, 0, False, reason))

    def _count(self, clips: int, cost: float) -> None:
        self._clips += clips
        self._cost += cost

    def _show(self) -> None:
        while not self._events.empty():
            event = self._events.get()
            if "message" in event:
                self.progress.say(event["message"])
                self.progress.ready()
            else:
                live = self._live[event["worker"]]
                live[0] += event["clips"] / event["of"]
                live[1] += event["clips"] * self.cost[event["backbone"]]
        clips = self._clips + int(sum(v[0] for v in self._live.values()) + 1e-6)
        cost = self._cost + sum(v[1] for v in self._live.values())
        self.progress.at(clips, cost)
        self.progress.show()
