"""What the driver does when Dask loses a task: a cluster that misbehaves on demand."""

from __future__ import annotations

import io
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from featurestore.schema import DONE
from jobs import drive as drive_module
from jobs.drive import Drive, Given
from jobs.plan import Segment, Task, TaskQueue
from jobs.progress import Progress
from tests.benchmarks.driver import Answer, NoCluster
from tests.jobs.simulated import SPEC, setup_of, store_of, tasks_of

HERE, GONE = "tcp://127.0.0.1:1", "tcp://127.0.0.1:2"
TASK = Task(0, ("r3d",), (Segment(0, "a", "a.mp4", 16, 0, (0,)),))


@dataclass(eq=False)
class LostFuture:
    """Done when it was asked, but its result died with its worker."""

    key: str = "extract-1"
    status: str = "pending"

    def done(self) -> bool:
        return self.status != "pending"

    def result(self, timeout: float) -> Any:
        raise TimeoutError(self.key)


@dataclass
class Cluster:
    """One worker, at ``HERE``, that works on ``held``."""

    held: tuple[str, ...] = ()
    cancelled: list[Any] = field(default_factory=list)

    @property
    def scheduler(self) -> Cluster:
        return self

    def sync(self, asked: Any, n_workers: int) -> Any:
        return asked(n_workers)

    def identity(self, n_workers: int) -> dict[str, Any]:
        assert n_workers == -1
        return {"workers": {HERE: {}}}

    def processing(self) -> dict[str, tuple[str, ...]]:
        return {HERE: self.held}

    def cancel(self, future: Any, force: bool) -> None:
        self.cancelled.append(future)


def drive(cluster: Cluster) -> Drive:
    return Drive(cluster, None, None, None, {"r3d": 1.0})  # type: ignore[arg-type]


def given_out() -> TaskQueue:
    """A queue whose only task has been handed out."""
    waiting = TaskQueue([TASK])
    assert waiting.next() == TASK
    return waiting


@pytest.mark.parametrize(
    ("near", "held", "again"),
    [(GONE, (), True), (GONE, ("extract-1",), False), (HERE, (), False), ("", (), False)],
    ids=[
        "near a worker that is gone",
        "but another one has it",
        "near one that is here",
        "anywhere",
    ],
)
def test_a_task_that_waits_for_a_dead_worker_is_given_out_again(
    near: str, held: tuple[str, ...], again: bool
) -> None:
    cluster, waiting, future = Cluster(held), given_out(), LostFuture()
    running: dict[Any, Given] = {future: Given(TASK, near)}
    drive(cluster)._look(waiting, running)
    assert cluster.cancelled == ([future] if again else [])
    assert bool(running) != again
    assert waiting.next() == (TASK if again else None)


def collect(running: dict[Any, Given], waiting: TaskQueue) -> None:
    run = drive(Cluster())
    for future in run._fetched(running):
        run._collect(future, waiting, running)


@dataclass(eq=False)
class Silent(Answer):
    """Done, on a worker that does not hand its result over before `speaks`."""

    speaks: float = 0.0

    def result(self, timeout: float) -> Any:
        time.sleep(min(timeout, max(0.0, self.speaks - time.monotonic())))
        if time.monotonic() < self.speaks:
            raise TimeoutError(self.key)
        return self.value


@dataclass
class OneSilent(NoCluster):
    """Of its workers the first is silent for a while."""

    speaks: float = 0.0

    def submit(self, work: Any, *given: Any, key: str, **wish: Any) -> Answer:
        answer = super().submit(work, *given, key=key, **wish)
        if answer.value is None or answer.value.worker != "worker-0":
            return answer
        return Silent(key, answer.at, answer.value, speaks=self.speaks)


def test_a_worker_that_does_not_answer_holds_up_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its results wait side by side: not one after the other, and not before those of others."""
    monkeypatch.setattr(drive_module, "RESULT_SECONDS", 1.0)
    monkeypatch.setattr(drive_module, "TASKS_PER_WORKER", 32)
    store = store_of(tmp_path / "x.zarr", [("v", 240)], 4)
    began = time.monotonic()
    cluster: Any = OneSilent(2, 1000, speaks=began + 4)
    progress = Progress(240, 240.0, stream=io.StringIO())
    run = Drive(cluster, store, setup_of(store), progress, {SPEC.name: 1.0})
    early: list[int] = []
    watch = threading.Timer(2.5, lambda: early.append(run._clips))
    watch.start()
    run.run(tasks_of(store, 4))
    took = time.monotonic() - began
    watch.join()
    assert (store.status(SPEC.name) == DONE).all()
    assert early[0] >= 100  # half of all are the other's
    assert took < 15  # thirty results, a second each


def test_a_result_that_died_with_its_worker_does_not_hold_the_driver_up() -> None:
    future, waiting = LostFuture(status="lost"), given_out()
    running: dict[Any, Given] = {future: Given(TASK, HERE)}
    collect(running, waiting)
    assert future in running  # Dask computes it again
    assert waiting.next() is None


def test_a_timeout_on_the_worker_is_an_error() -> None:
    future = LostFuture(status="error")
    with pytest.raises(TimeoutError):
        collect({future: Given(TASK, "")}, given_out())


def test_what_a_worker_that_left_had_begun_is_not_counted() -> None:
    run = drive(Cluster())
    run._live[GONE][0] += 0.5
    run._live[HERE][0] += 0.25
    run._look(given_out(), {})
    assert dict(run._live) == {HERE: [0.25, 0]}


@dataclass(eq=False)
class Built:
    """The future of a worker that has its networks."""

    def done(self) -> bool:
        return True

    def result(self, timeout: float) -> None:
        return None


def test_a_worker_that_was_out_of_sight_while_it_built_is_asked_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It was counted as dead, and as asked: the driver waited for ever."""
    seen = [{HERE}, set(), {HERE}]
    futures = [LostFuture(), Built()]
    asked = []

    class Client:
        def submit(self, *_: Any, workers: list[str], **__: Any) -> Any:
            asked.extend(workers)
            return futures.pop(0)

    driver = drive(Client())  # type: ignore[arg-type]
    monkeypatch.setattr(driver, "_show", lambda: None)
    monkeypatch.setattr(driver, "progress", SimpleNamespace(say=print))
    monkeypatch.setattr(driver, "_look", lambda *_: setattr(driver, "_workers", seen.pop(0)))
    driver._build()
    assert asked == [HERE, HERE]
    assert "a worker died while preparing the networks" in capsys.readouterr().out
