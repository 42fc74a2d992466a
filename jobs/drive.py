"""The driver's loop: hands tasks to the workers, marks what came back, goes on when workers die."""

from __future__ import annotations

import queue
import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from concurrent.futures import Future as Fetched
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from distributed import Client, Future, KilledWorker

from featurestore import inhand
from featurestore.clips import CLIP_FRAMES
from featurestore.errors import FeatureStoreError
from featurestore.schema import DONE, FAILED, MISSING
from featurestore.store import Store
from jobs.cluster import worker_addresses
from jobs.plan import MAX_DEATHS, Segment, Task, TaskQueue
from jobs.progress import Progress
from jobs.worker import Failure, Result, Setup, build_networks, extract_clips

__all__ = ["Drive"]

TASKS_PER_WORKER = 2  # one running, one waiting, so that no worker waits for the driver
BLOCKS_AHEAD = 16  # at least, named to the next command before they are handed out
POLL_SECONDS = 0.2  # often enough, and it takes no core from the networks
FETCHED_AT_ONCE = 64  # results
RESULT_SECONDS = 5.0  # to bring a few numbers from a worker
LONELY_SECONDS = 30.0  # without any worker for so long: say so


@dataclass(frozen=True)
class Given:
    """A task given to Dask, and the address of the worker it would best run on ("": any)."""

    task: Task
    near: str


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
    good_frames: dict[int, int] = field(default_factory=dict)  # damaged video's row -> frames

    _events: queue.SimpleQueue[dict[str, Any]] = field(default_factory=queue.SimpleQueue)
    _live: dict[str, list[float]] = field(default_factory=lambda: defaultdict(lambda: [0, 0.0]))
    _tried: Counter[str] = field(default_factory=Counter)  # quarantined task -> how often begun
    # (backbone, status) -> clips to be marked so
    _marks: dict[tuple[str, int], list[npt.NDArray[np.int64]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    # Blocks handed out and not all marked; of these, those marked at the next writing; those named
    # to the command after a kill.
    _begun: set[int] = field(default_factory=set)
    _marked: set[int] = field(default_factory=set)
    _named: set[int] = field(default_factory=set)
    _fetching: dict[Future[Result], Fetched[Result]] = field(default_factory=dict)
    _pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(FETCHED_AT_ONCE))
    _clips: int = 0
    _cost: float = 0.0
    _asked: float = -1e9
    _alone_since: float = field(default_factory=time.monotonic)
    _workers: frozenset[str] = frozenset()  # addresses

    def run(self, tasks: list[Task]) -> None:
        """Run all of ``tasks``; returns when none is left.

        Raises:
            Whatever a worker raised that is not the fault of a video (disk full, say): what was
            finished is marked, the rest is left for the next run.
        """
        waiting = TaskQueue(tasks)
        running: dict[Future[Result], Given] = {}
        self.client.subscribe_topic(self.setup.topic, lambda event: self._events.put(event[1]))
        try:
            if tasks:
                self._look(waiting, running)
                self._build()
            while running or len(waiting):
                self._look(waiting, running)
                while len(running) < TASKS_PER_WORKER * max(1, len(self._workers)):
                    if not self._submit(waiting, running):
                        break
                done = self._fetched(running)
                for future in done:
                    self._collect(future, waiting, running)
                self._write_marks()
                self._show()
                if not done:
                    time.sleep(POLL_SECONDS)
        finally:
            try:
                self._write_marks()
            finally:
                self._pool.shutdown(wait=False, cancel_futures=True)
                self.client.cancel(list(running), force=True)
                self.client.unsubscribe_topic(self.setup.topic)
        if self._named:
            inhand.given_back(self.store.url)
        self._live.clear()
        self._show()

    def _build(self) -> None:
        """Have every worker build its networks, before a death could be any video's fault."""
        building: dict[Future[None], str] = {}
        asked: set[str] = set()
        built = deaths = 0
        while building or not built:
            self._look(TaskQueue([]), {})
            for address in self._workers - asked:
                asked.add(address)
                future = self.client.submit(
                    build_networks, self.setup, key=f"build-{address}-{time.monotonic_ns()}",
                    pure=False, workers=[address],
                )  # fmt: skip
                building[future] = address
            for future, address in list(building.items()):
                gone = address not in self._workers and not future.done()
                if gone or future.done():
                    del building[future]
                    if gone or self._died(future):
                        deaths += 1
                        # One that only lost touch for a moment comes back under its address
                        asked.discard(address)
                        self.progress.say("a worker died while preparing the networks")
                    else:
                        built += 1
            if deaths >= MAX_DEATHS:
                raise FeatureStoreError(
                    f"workers died {deaths} times preparing {', '.join(self.setup.specs)}: most "
                    "likely memory ran out (converting swin takes 2.4 GB). Use fewer --workers, "
                    "fewer --backbones, or --engine torch. What was finished before is safe."
                )
            self._show()
            if building or not built:
                time.sleep(POLL_SECONDS)

    @staticmethod
    def _died(future: Future[None]) -> bool:
        """Whether the worker of a future that is done died of it. Raises what it raised."""
        try:
            future.result(timeout=RESULT_SECONDS)
        except KilledWorker:
            return True
        except TimeoutError:
            if future.status == "error":
                raise
            return True  # it died with the result
        return False

    def _look(self, waiting: TaskQueue, running: dict[Future[Result], Given]) -> None:
        """Once a second: which workers there are, and whether those that left hold a task up."""
        now = time.monotonic()
        if now - self._asked < 1:
            return
        self._asked = now
        self._workers = worker_addresses(self.client)
        for gone in set(self._live) - self._workers:
            del self._live[gone]  # what it had begun, another worker does from the beginning
        if self._workers:
            self._alone_since = now
        elif now - self._alone_since > LONELY_SECONDS:
            self._alone_since = now
            self.progress.say("no worker is connected; waiting for one")
        # Dask forgets that `near` was only a wish when, for a moment, there was no worker at all:
        # such a task then waits for ever for one that is gone (distributed 2026.8, valid_workers in
        # bulk_schedule_unrunnable_after_adding_worker).
        stranded = [f for f, given in running.items() if given.near not in {"", *self._workers}]
        if stranded:
            held = {key for keys in self.client.processing().values() for key in keys}
            for future in stranded:
                if future.key not in held and not future.done():
                    self.client.cancel(future, force=True)
                    waiting.returned(running.pop(future).task)

    def _submit(
        self,
        waiting: TaskQueue,
        running: dict[Future[Result], Given],
        prefer: int | None = None,
        near: str = "",
    ) -> bool:
        task = waiting.next(prefer)
        if task is None:
            return False
        self._in_hand(task.block, waiting)
        # The next clips of a video go where its reader stands, if that worker is there.
        wish = {"workers": [near], "allow_other_workers": True} if near else {}
        future = self.client.submit(
            extract_clips, task, self.setup, key=f"extract-{task.name}-{time.monotonic_ns()}",
            pure=False, **wish,
        )  # fmt: skip
        running[future] = Given(task, near)
        return True

    def _in_hand(self, block: int, waiting: TaskQueue) -> None:
        """Before a block is handed out: for the command after a kill (see featurestore.inhand).

        The next ones are named with it, as many as there are in hand: few requests.
        """
        self._marked.discard(block)
        self._begun.add(block)
        if block not in self._named:
            ahead = waiting.upcoming(max(BLOCKS_AHEAD, len(self._begun)))
            self._named = {*self._begun, *ahead}
            inhand.put(self.store.url, self._named)

    def _fetched(self, running: Mapping[Future[Result], Given]) -> list[Future[Result]]:
        """Tasks that are done, whose results are here, or were waited for in vain.

        They are brought side by side, or a worker that does not answer (stopped, cut off) would
        hold up all others for ``RESULT_SECONDS`` with each of its results.
        """
        for gone in self._fetching.keys() - running.keys():
            del self._fetching[gone]
        for future in running:
            if future not in self._fetching and future.done():
                self._fetching[future] = self._pool.submit(future.result, timeout=RESULT_SECONDS)
        wait(self._fetching.values(), timeout=POLL_SECONDS)
        return [future for future, result in self._fetching.items() if result.done()]

    def _collect(
        self, future: Future[Result], waiting: TaskQueue, running: dict[Future[Result], Given]
    ) -> None:
        task = running[future].task
        try:
            result = self._fetching.pop(future).result()
        except TimeoutError:
            if future.status == "error":  # the worker's own
                raise
            return  # the worker died with the result: Dask runs the task again
        except KilledWorker:
            del running[future]
            self._live.clear()
            self._hear()
            given_up = waiting.died(task, self._tried.pop(task.name, 0))
            self.progress.say(
                f"a worker died while working on {task.name} "
                f"({', '.join(s.name for s in task.segments[:3])}); "
                + ("given up" if given_up else "trying again")
            )
            for segment in given_up:
                self._give_up(segment, waiting)
            return
        del running[future]
        self._tried.pop(task.name, None)
        waiting.finished(task)
        self._mark(task, {f.video: f for f in result.failures})
        self._live.pop(result.worker, None)
        self._count(task.clips, task.clips * sum(self.cost[b] for b in task.backbones))
        a_clip = sum(self.cost[b] for b in task.backbones)
        self.progress.spent(result.seconds, result.clips * a_clip)
        if len(running) < TASKS_PER_WORKER * max(1, len(self._workers)):
            self._submit(waiting, running, prefer=task.block, near=result.worker)

    def _mark(self, task: Task, failures: Mapping[int, Failure]) -> None:
        """Mark the clips of a task: done if they were written and end before any damage."""
        for failure in failures.values():
            self._fail(failure)
        done, failed = [], []
        for segment in task.segments:
            clips = np.arange(segment.first, segment.first + len(segment.starts))
            ends = np.minimum(np.array(segment.starts) + CLIP_FRAMES, segment.frames)
            good = ends <= self.good_frames.get(segment.video, segment.frames)
            if segment.video in failures:
                good[failures[segment.video].written :] = False
            done.append(clips[good])
            failed.append(clips[~good])
        for backbone in task.backbones:
            self._marks[backbone, DONE] += done
            self._marks[backbone, FAILED] += failed
        self._marked.add(task.block)

    def _write_marks(self) -> None:
        """Mark what came back since the last time. One write takes 5 ms, however many clips it is
        of: a write for each task and backbone would end at 2,400 blocks a minute."""
        marks, self._marks = self._marks, defaultdict(list)
        for (backbone, value), clips in marks.items():
            self.store.mark(backbone, np.concatenate(clips), value)
        self._begun -= self._marked
        self._marked.clear()

    def _fail(self, failure: Failure) -> None:
        """Note why a video lacks clips; after damage none can be trusted, whoever computed it."""
        self._write_marks()  # or those would count for more than what is found here
        row = self.store.videos()[failure.video]
        state = "failed"
        if failure.damaged_at is not None:
            good = 0 if self.strict else failure.damaged_at
            state = "damaged" if good else "failed"
            good = min(good, self.good_frames.get(row.index, row.frames))
            self.good_frames[row.index] = good
            _, starts = self.store.clip_table()
            clips = np.array(row.clips)
            lost = clips[np.minimum(starts[clips] + CLIP_FRAMES, row.frames) > good]
            for backbone in self.setup.specs:
                self.store.mark(backbone, lost, FAILED)
        elif row.index in self.good_frames:
            return  # the damage is the better reason
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
        self._fail(Failure(segment.video, 0, None, reason))
        of_video = np.array(self.store.videos()[segment.video].clips)
        for backbone in self.setup.specs:  # what was finished before stays
            missing = self.store.status(backbone)[of_video] == MISSING
            self.store.mark(backbone, of_video[missing], FAILED)

    def _count(self, clips: int, cost: float) -> None:
        self._clips += clips
        self._cost += cost

    def _hear(self) -> None:
        """What workers have said meanwhile."""
        while not self._events.empty():
            event = self._events.get()
            if "message" in event:
                self.progress.say(event["message"])
                self.progress.ready()
            elif "begun" in event:
                self._tried[event["begun"]] += 1
            else:
                live = self._live[event["worker"]]
                live[0] += event["clips"] / event["of"]
                live[1] += event["clips"] * self.cost[event["backbone"]]

    def _show(self) -> None:
        self._hear()
        clips = self._clips + int(sum(v[0] for v in self._live.values()) + 1e-6)
        cost = self._cost + sum(v[1] for v in self._live.values())
        self.progress.at(clips, cost)
        self.progress.show()
