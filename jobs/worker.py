"""What runs on a worker: frames -> crops -> networks -> chunks, for one task.

One task at a time a process. The networks are built once a process and kept, and so is the last
video's reader, since the next task usually continues where this one ended.
"""

from __future__ import annotations

import queue
import threading
import time
import traceback
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featurestore.blocks import write_clips
from featurestore.clips import clip_frames
from featurestore.errors import DamagedVideo, FeatureStoreError, UnreadableVideo
from jobs.plan import Segment, Task
from jobs.specs import BackboneSpec
from jobs.video import FrameSource, open_source

if TYPE_CHECKING:
    from jobs.engines import Network

__all__ = ["TOPIC", "Failure", "Result", "Setup", "extract_clips"]

TOPIC = "featurestore-progress"
STALL_SECONDS = 120.0  # a decoder that delivers no frame for so long hangs
CLIPS_PER_BATCH = {"cpu": 1, "cuda": 4}  # 10 and 40 crops; the figure for CUDA is unmeasured


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


@dataclass(frozen=True)
class Failure:
    """Clips of ``video`` that end after frame ``frame`` cannot be had."""

    video: int
    frame: int
    damaged: bool
    reason: str


@dataclass(frozen=True)
class Result:
    """What became of a task: a few numbers, for the driver to mark and to show."""

    failures: tuple[Failure, ...]
    seconds: dict[str, float]  # decode, crops, networks, writing; waiting for frames is in decode
    worker: str  # its address
    built: int  # networks built in this process so far


_lock = threading.Lock()
_networks: dict[tuple[Any, ...], Network] = {}
_reader: OrderedDict[tuple[str, int, str], ClipReader] = OrderedDict()


class ClipReader:
    """Clips of one video as (16, H, W, 3) uint8; a clip that overlaps the last one read does not
    make the decoder go back."""

    def __init__(self, path: str, frames: int, decoder: str) -> None:
        self.source: FrameSource = open_source(Path(path), frames=frames, decoder=decoder)
        self.frames = frames
        self._kept: dict[int, np.ndarray] = {}

    def clip(self, start: int) -> np.ndarray:
        """The clip whose first frame is ``start``; a short video's last frame is repeated."""
        wanted = clip_frames(start, self.frames)
        kept = {i: self._kept[i] for i in set(wanted.tolist()) & self._kept.keys()}
        first = start
        while first in kept:
            first += 1
        stop = int(wanted[-1]) + 1
        for index, frame in enumerate(self.source.read(first, stop - first), first):
            kept[index] = frame
        self._kept = kept
        return np.stack([kept[int(i)] for i in wanted])

    def close(self) -> None:
        self.source.close()


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
    except (FeatureStoreError, OSError):
        raise
    except Exception as error:  # noqa: BLE001
        trouble = f"{type(error).__name__}: {error}\n{traceback.format_exc()[-2000:]}"
    # As text, and without the error it came from: one that the driver cannot unpickle would never
    # reach it, and it would wait for ever.
    paths = ", ".join(s.path for s in task.segments[:3])
    raise FeatureStoreError(f"a worker failed on {task.name} ({paths}): {trouble}")


def _extract(task: Task, setup: Setup) -> Result:
    networks = [_network(name, setup) for name in task.backbones]
    seconds = dict.fromkeys(("decode", "crops", "networks", "writing"), 0.0)
    failures: list[Failure] = []
    for segment in task.segments:
        failures += _extract_segment(segment, networks, setup, seconds)
    return Result(tuple(failures), seconds, _address(), len(_networks))


def _extract_segment(
    segment: Segment, networks: list[Network], setup: Setup, seconds: dict[str, float]
) -> list[Failure]:
    rows: dict[str, list[np.ndarray]] = {n.spec.name: [] for n in networks}
    failures: list[Failure] = []
    clips = _timed(_read_ahead(segment, setup.decoder), seconds, "decode")
    try:
        while batch := list(islice(clips, CLIPS_PER_BATCH.get(setup.device, 1))):
            for name, values in _features(batch, networks, setup.device, seconds).items():
                rows[name].append(values)
    except DamagedVideo as damage:
        failures.append(Failure(segment.video, damage.frame, True, str(damage)))
    except UnreadableVideo as error:
        failures.append(Failure(segment.video, 0, False, str(error)))
    began = time.perf_counter()
    for name, parts in rows.items():
        if parts:
            values = np.concatenate(parts)
            write_clips(
                setup.store, name, segment.first, values, fingerprint=setup.fingerprints[name]
            )
    seconds["writing"] += time.perf_counter() - began
    return failures


def _features(
    clips: list[np.ndarray], networks: list[Network], device: str, seconds: dict[str, float]
) -> dict[str, np.ndarray]:
    """``clips``, each (16, H, W, 3) uint8 -> backbone -> (clips, 10, channels) float32."""
    import torch

    from jobs.crops import geometry, resize, ten_crops

    frames = [torch.from_numpy(c).to(device) for c in clips]
    resized: dict[Any, list[torch.Tensor]] = {}
    out: dict[str, np.ndarray] = {}
    for network in networks:
        began = time.perf_counter()
        shape = geometry(network.spec.preprocessing)
        if shape not in resized:
            resized[shape] = [resize(f, shape) for f in frames]
        crops = torch.cat([ten_crops(r, network.spec.preprocessing.crop) for r in resized[shape]])
        cropped = time.perf_counter()
        values = network.features(crops)
        seconds["crops"] += cropped - began
        seconds["networks"] += time.perf_counter() - cropped
        if not np.isfinite(values).all():
            raise FeatureStoreError(
                f"{network.spec.name} gave features that are not finite in {setup_text(network)}; "
                "use --precision float32"
            )
        out[network.spec.name] = values.reshape(len(clips), 10, -1)
        report({"clips": len(clips), "backbone": network.spec.name, "of": len(networks)})
    return out


def setup_text(network: Network) -> str:
    """How a network runs here, for messages: ``openvino float32 on cpu``."""
    return f"{network.engine} {network.precision} on {network.device}"


def _read_ahead(segment: Segment, decoder: str) -> Iterator[np.ndarray]:
    """The segment's clips, decoded in one thread while the networks work on the clip before.

    Raises:
        DamagedVideo, UnreadableVideo: from the reader, or when it delivers nothing for
            ``STALL_SECONDS`` (its thread is then left behind: a decoder cannot be stopped).
    """
    ready: queue.Queue[np.ndarray | BaseException | None] = queue.Queue(maxsize=1)
    stop = threading.Event()
    readers: list[ClipReader] = []

    def put(item: np.ndarray | BaseException | None) -> bool:
        while not stop.is_set():
            try:
                ready.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def decode() -> None:
        try:
            readers.append(_open_reader(segment, decoder))
            for start in segment.starts:
                if not put(readers[0].clip(start)):
                    return
            put(None)
        except BaseException as error:  # noqa: BLE001 - handed to the main thread, which raises it
            _reader.clear()
            put(error)

    thread = threading.Thread(target=decode, name=f"decode {segment.name}", daemon=True)
    thread.start()
    last, since = -1, time.monotonic()
    try:
        while True:
            try:
                item = ready.get(timeout=0.5)
            except queue.Empty:
                decoded = readers[0].source.decoded if readers else 0
                if decoded != last:
                    last, since = decoded, time.monotonic()
                elif time.monotonic() - since > STALL_SECONDS:
                    raise UnreadableVideo(
                        f"{segment.path}: the decoder gave no frame for {STALL_SECONDS:.0f} s; "
                        "convert the file (ffmpeg -i FILE FILE.mp4) and run again"
                    ) from None
                continue
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            yield item
            since = time.monotonic()
    finally:
        stop.set()
        thread.join(timeout=1.0)
        if thread.is_alive():  # it still holds the reader: nobody else may use that one
            _reader.clear()


def _open_reader(segment: Segment, decoder: str) -> ClipReader:
    key = (segment.path, segment.frames, decoder)
    if key not in _reader:
        while _reader:
            _reader.popitem()[1].close()
        _reader[key] = ClipReader(segment.path, segment.frames, decoder)
    return _reader[key]


def _timed(
    items: Iterator[np.ndarray], seconds: dict[str, float], what: str
) -> Iterator[np.ndarray]:
    while True:
        began = time.perf_counter()
        try:
            item = next(items)
        except StopIteration:
            return
        finally:
            seconds[what] += time.perf_counter() - began
        yield item


def _network(name: str, setup: Setup) -> Network:
    """The network of ``name``, built once a process."""
    from jobs import engines
    from jobs.backbones import weights

    threads = setup.threads or _worker_threads()
    key = (name, setup.digests[name], setup.engine, setup.precision, setup.device, threads)
    if key not in _networks:
        began = time.perf_counter()
        report({"message": f"{name}: preparing the network (the first time only: converting it)"})
        spec = setup.specs[name]
        found = weights.resolve(spec, setup.weights)
        if found.digest != setup.digests[name]:
            raise FeatureStoreError(
                f"{name}: this worker's weights are {found.digest}, the driver's "
                f"{setup.digests[name]}; give all hosts the same --weights"
            )
        choice = engines.Choice(setup.engine, setup.precision, setup.device)
        engines.prepare(spec, found, choice)
        _networks[key] = engines.open_network(spec, found, choice, threads=threads)
        report({"message": f"{name}: network ready in {time.perf_counter() - began:.0f} s"})
    return _networks[key]


def report(message: dict[str, Any]) -> None:
    """Tell the driver, through Dask's event log; nothing when not on a worker."""
    import distributed

    try:
        worker = distributed.get_worker()
    except ValueError:
        return
    worker.log_event(TOPIC, {"worker": worker.address, **message})


def _address() -> str:
    import distributed

    try:
        return str(distributed.get_worker().address)
    except ValueError:
        return "here"


def _worker_threads() -> int:
    import distributed

    return int(distributed.get_worker().state.nthreads)
