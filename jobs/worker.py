"""What runs on a worker: frames -> crops -> networks -> chunks, for one task.

One task at a time a process. The networks are built once a process and kept.
"""

from __future__ import annotations

import threading
import time
import traceback
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np

from featurestore.blocks import write_clips
from featurestore.errors import DamagedVideo, FeatureStoreError
from featurestore.place import Options as StorageOptions
from featurestore.place import answered, use
from jobs.plan import Task
from jobs.reading import Clip, clips_of
from jobs.specs import BackboneSpec

if TYPE_CHECKING:
    from jobs.crops import Cut
    from jobs.engines import Network, Pending

__all__ = ["Failure", "Result", "Setup", "build_networks", "extract_clips"]

CLIPS_PER_BATCH = {"cpu": 1, "cuda": 4}  # 10 and 40 crops; the figure for CUDA is unmeasured

HEARD_SECONDS = 1.0  # for a message to leave this process; it takes some milliseconds


@dataclass(frozen=True)
class Setup:
    """What all tasks of a run share. Small: it travels with each task."""

    store: str
    specs: dict[str, BackboneSpec]  # by the name of the array
    weights: str  # what --weights said
    digests: dict[str, str]  # array -> the digest that the driver found
    fingerprints: dict[str, str]  # array -> what its features are made with (Store.fingerprint)
    engine: str
    precision: str
    device: str
    decoder: str
    threads: int | None  # None: those that Dask gives the worker
    # Array -> packages that have a part in its numbers, as the driver found them (of a worker that
    # joins later nobody else asks)
    versions: dict[str, dict[str, str]] = field(default_factory=dict)
    storage: StorageOptions = field(default_factory=StorageOptions)
    # Where workers report to, one a run: others may be at work on the same scheduler.
    topic: str = field(default_factory=lambda: f"featurestore-{uuid.uuid4().hex}")


@dataclass(frozen=True)
class Failure:
    """Why a task has only the first ``written`` clips of what it was to read of ``video``.

    ``damaged_at``: the video's frames from there on are not good; None where it could not be read
    for another reason, which says nothing of its other clips.
    """

    video: int
    written: int
    damaged_at: int | None
    reason: str


@dataclass(frozen=True)
class Result:
    """What became of a task: a few numbers, for the driver to mark and to show."""

    failures: tuple[Failure, ...]
    clips: int  # that went through the networks
    seconds: dict[str, float]  # waited for decode and crops; spent in networks and writing
    worker: str  # its address
    built: int  # networks built in this process so far


T = TypeVar("T")
Row: TypeAlias = dict[str, np.ndarray]
"""A clip's features by backbone, (10, channels) float32 each."""

_lock = threading.Lock()
_networks: dict[tuple[Any, ...], Network] = {}
_cutting = ThreadPoolExecutor(1, thread_name_prefix="crops")


def extract_clips(task: Task, setup: Setup) -> Result:
    """Compute and write the features of ``task``; status is the driver's to write.

    Clips that cannot be read are returned as failures, and everything else of the task is written.

    Raises:
        FeatureStoreError: the networks cannot be built here, the store cannot be written to, or
            anything that is not the fault of a video.
    """
    try:
        with _lock:  # a worker started by hand may have several threads; a network wants them all
            return _extract(task, setup)
    except FeatureStoreError:
        raise
    except Exception as error:  # noqa: BLE001
        trouble = f"{type(error).__name__}: {error}\n{traceback.format_exc()[-2000:]}"
    # As text, and without the error it came from: one that the driver cannot unpickle would never
    # reach it, and it would wait for ever.
    paths = ", ".join(s.path for s in task.segments[:3])
    raise FeatureStoreError(f"a worker failed on {task.name} ({paths}): {trouble}")


def build_networks(setup: Setup) -> None:
    """Build the networks that all tasks need, so that what goes wrong there is no video's fault.

    Raises:
        FeatureStoreError: they cannot be built here.
    """
    with _lock:
        for name in setup.specs:
            _network(name, setup)


def _extract(task: Task, setup: Setup) -> Result:
    tell_begun(task, setup)
    use(setup.storage)
    answered(setup.store)  # the driver
    networks = [_network(name, setup) for name in task.backbones]
    spent = Spent()
    found: list[list[Row]] = [[] for _ in task.segments]
    failures: list[Failure] = []
    at_once = CLIPS_PER_BATCH.get(setup.device, 1)
    cut = partial(_cut, networks, setup.device)
    # One at a time, the next clip's crops are cut while the networks are at work.
    beside = (lambda clip: cut([clip])) if at_once == 1 else None
    clips = clips_of(task, setup.decoder, ahead=at_once, prepare=beside)
    computing = Computing(networks, setup.topic, spent)
    while items := spent.on("decode", lambda: list(islice(clips, at_once))):
        batch = [(number, clip) for number, clip in items if not isinstance(clip, Exception)]
        if batch:
            given = batch[0][1] if beside else cut([clip for _, clip in batch])
            for (number, _), row in zip(batch, computing.begin(given), strict=True):
                found[number].append(row)
        for number, trouble in items:
            if isinstance(trouble, Exception):
                damaged_at = trouble.frame if isinstance(trouble, DamagedVideo) else None
                video, written = task.segments[number].video, len(found[number])
                failures.append(Failure(video, written, damaged_at, str(trouble)))
    computing.end()
    for first, run in _runs(task, found):
        for name in task.backbones:
            values = np.stack([row[name] for row in run])
            write = partial(
                write_clips, setup.store, name, first, values,
                fingerprint=setup.fingerprints[name],
            )  # fmt: skip
            spent.on("writing", write)
    computed = sum(map(len, found))
    return Result(tuple(failures), computed, spent.seconds, _address(), len(_networks))


class Spent:
    """Seconds of a task by what they went to; they add up to the time it took, bar trifles."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(("decode", "crops", "networks", "writing"), 0.0)
        self._waits: list[tuple[str, float, float]] = []  # since networks_worked

    def on(self, what: str, work: Callable[[], T]) -> T:
        """Do ``work``, and count the time."""
        began = time.perf_counter()
        try:
            return work()
        finally:
            ended = time.perf_counter()
            self.seconds[what] += ended - began
            self._waits.append((what, began, ended))

    def networks_worked(self, began: float, ended: float) -> None:
        """Networks were at work between these moments: what was waited for meanwhile counts as
        theirs, since it did not hold the task up."""
        for what, since, until in self._waits:
            meanwhile = max(0.0, min(until, ended) - max(since, began))
            self.seconds[what] -= meanwhile
            self.seconds["networks"] += meanwhile
        self._waits.clear()


class Computing:
    """Networks at work on one clip after the other: as one computes its last crops, the next one
    has begun."""

    def __init__(self, networks: Sequence[Network], topic: str, spent: Spent) -> None:
        self._networks = networks
        self._topic = topic
        self._spent = spent
        self._begun: deque[tuple[Network, Pending, list[Row], float]] = deque()

    def begin(self, cut: Cut) -> list[Row]:
        """A row for each clip of ``cut``, empty at first; all are filled when ``end`` returns.

        Raises:
            FeatureStoreError: features that are not finite, be it of clips begun before.
        """
        rows: list[Row] = [{} for _ in range(cut.clips)]
        for network in self._networks:
            crops = self._spent.on("crops", partial(cut.of, network.spec.preprocessing))
            pending = self._spent.on("networks", partial(network.start, crops))
            self._begun.append((network, pending, rows, time.perf_counter()))
            if len(self._begun) > 1:
                self._take(*self._begun.popleft())
        return rows

    def end(self) -> None:
        """Wait for what was begun; raises what ``begin`` does."""
        while self._begun:
            self._take(*self._begun.popleft())

    def _take(self, network: Network, pending: Pending, rows: list[Row], began: float) -> None:
        name = network.spec.name
        values, ended = self._spent.on("networks", pending)
        self._spent.networks_worked(began, ended)
        check_finite(values, network)
        for row, its in zip(rows, values.reshape(len(rows), 10, -1), strict=True):
            row[name] = its
        news = {"clips": len(rows), "backbone": name, "of": len(self._networks)}
        report(self._topic, news)


def check_finite(values: np.ndarray, network: Network) -> None:
    """Raise FeatureStoreError unless all ``values`` of ``network`` are finite."""
    if not np.isfinite(values).all():
        raise FeatureStoreError(
            f"{network.spec.name} gave features that are not finite in {setup_text(network)}; "
            "use --precision float32"
        )


def _runs(task: Task, found: list[list[Row]]) -> Iterator[tuple[int, list[Row]]]:
    """First clip and features of what was computed, consecutive clips together: a chunk is written
    once, however many videos share it."""
    first: int = task.first
    run: list[Row] = []
    for segment, rows in zip(task.segments, found, strict=True):
        if run and segment.first != first + len(run):
            yield first, run
            run = []
        if not run:
            first = segment.first
        run = [*run, *rows]
    if run:
        yield first, run


def _cut(networks: Sequence[Network], device: str, clips: Sequence[Clip]) -> Cut:
    """``clips`` as all of ``networks`` take them."""
    import torch

    from jobs.crops import cut

    presets = [network.spec.preprocessing for network in networks]
    frames = [[torch.from_numpy(frame).to(device) for frame in clip] for clip in clips]
    return cut(frames, presets, _cutting)


def setup_text(network: Network) -> str:
    """How a network runs here, for messages: ``openvino float32 on cpu``."""
    return f"{network.engine} {network.precision} on {network.device}"


def _network(name: str, setup: Setup) -> Network:
    """The network of ``name``, built once a process."""
    from jobs import engines, weights

    threads = setup.threads or _worker_threads()
    key = (name, setup.digests[name], setup.engine, setup.precision, setup.device, threads)
    if key not in _networks:
        began = time.perf_counter()
        report(
            setup.topic,
            {"message": f"{name}: preparing the network (the first time only: converting it)"},
        )
        spec = setup.specs[name]
        found = weights.resolve(spec, setup.weights)
        if found.digest != setup.digests[name]:
            raise FeatureStoreError(
                f"{name}: this worker's weights are {found.digest}, the driver's "
                f"{setup.digests[name]}; give all hosts the same --weights"
            )
        choice = engines.Choice(setup.engine, setup.precision, setup.device)
        there = engines.versions(spec, choice)
        if there != setup.versions.get(name, there):
            raise FeatureStoreError(
                f"{name}: worker {_address()} has {there}, those that began have "
                f"{setup.versions[name]}; install the same on all hosts"
            )
        engines.prepare(spec, found, choice)
        _networks[key] = engines.open_network(spec, found, choice, threads=threads)
        report(
            setup.topic,
            {"message": f"{name}: network ready in {time.perf_counter() - began:.0f} s"},
        )
    return _networks[key]


def tell_begun(task: Task, setup: Setup) -> None:
    """If a quarantined task kills the worker too, the driver must have heard that it had begun."""
    if task.quarantined:
        report(setup.topic, {"begun": task.name})
        time.sleep(HEARD_SECONDS)


def report(topic: str, message: dict[str, Any]) -> None:
    """Tell the driver, through Dask's event log; nothing when not on a worker."""
    import distributed

    try:
        worker = distributed.get_worker()
    except ValueError:
        return
    worker.log_event(topic, {"worker": worker.address, **message})


def _address() -> str:
    import distributed

    try:
        return str(distributed.get_worker().address)
    except ValueError:
        return "here"


def _worker_threads() -> int:
    import distributed

    return int(distributed.get_worker().state.nthreads)
