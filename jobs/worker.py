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
from typing import TYPE_CHECKING, Any, TypeVar

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
    from jobs.engines import Network

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
    seconds = dict.fromkeys(("decode", "crops", "networks", "writing"), 0.0)
    found: list[list[dict[str, np.ndarray]]] = [[] for _ in task.segments]  # features, by clip
    failures: list[Failure] = []
    at_once = CLIPS_PER_BATCH.get(setup.device, 1)
    cut = partial(_cut, networks, setup.device)
    # One at a time, the next clip's crops are cut while the networks are at work.
    beside = (lambda clip: cut([clip])) if at_once == 1 else None
    clips = clips_of(task, setup.decoder, ahead=at_once, prepare=beside)

    def take(
        network: Network, features: Callable[[], np.ndarray], rows: list[dict[str, np.ndarray]]
    ) -> None:
        name = network.spec.name
        values = _checked(network, _timed(features, seconds, "networks"))
        for row, its in zip(rows, values.reshape(len(rows), 10, -1), strict=True):
            row[name] = its
        report(setup.topic, {"clips": len(rows), "backbone": name, "of": len(networks)})

    under_way: deque[tuple[Network, Callable[[], np.ndarray], list[dict[str, np.ndarray]]]]
    under_way = deque()
    while items := _timed(lambda: list(islice(clips, at_once)), seconds, "decode"):
        batch = [(number, clip) for number, clip in items if not isinstance(clip, Exception)]
        if batch:
            given = batch[0][1] if beside else cut([clip for _, clip in batch])
            rows: list[dict[str, np.ndarray]] = [{} for _ in batch]
            for row, (number, _) in zip(rows, batch, strict=True):
                found[number].append(row)
            for network in networks:
                crops = _timed(partial(given.of, network.spec.preprocessing), seconds, "crops")
                features = _timed(partial(network.start, crops), seconds, "networks")
                under_way.append((network, features, rows))
                if len(under_way) > 1:  # its last crops and the first of the next run together
                    take(*under_way.popleft())
        for number, trouble in items:
            if isinstance(trouble, Exception):
                damaged_at = trouble.frame if isinstance(trouble, DamagedVideo) else None
                video, written = task.segments[number].video, len(found[number])
                failures.append(Failure(video, written, damaged_at, str(trouble)))
    for started in under_way:
        take(*started)
    began = time.perf_counter()
    for first, run in _runs(task, found):
        for name in task.backbones:
            write_clips(
                setup.store, name, first, np.stack([row[name] for row in run]),
                fingerprint=setup.fingerprints[name],
            )  # fmt: skip
    seconds["writing"] += time.perf_counter() - began
    computed = sum(map(len, found))
    return Result(tuple(failures), computed, seconds, _address(), len(_networks))


def _runs(
    task: Task, found: list[list[dict[str, np.ndarray]]]
) -> Iterator[tuple[int, list[dict[str, np.ndarray]]]]:
    """First clip and features of what was computed, consecutive clips together: a chunk is written
    once, however many videos share it."""
    first: int = task.first
    run: list[dict[str, np.ndarray]] = []
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


def _checked(network: Network, values: np.ndarray) -> np.ndarray:
    """``values``, unless one of them is not finite."""
    if not np.isfinite(values).all():
        raise FeatureStoreError(
            f"{network.spec.name} gave features that are not finite in {setup_text(network)}; "
            "use --precision float32"
        )
    return values


def setup_text(network: Network) -> str:
    """How a network runs here, for messages: ``openvino float32 on cpu``."""
    return f"{network.engine} {network.precision} on {network.device}"


def _timed(work: Callable[[], T], seconds: dict[str, float], what: str) -> T:
    began = time.perf_counter()
    try:
        return work()
    finally:
        seconds[what] += time.perf_counter() - began


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
