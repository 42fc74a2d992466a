"""``fs-submit bench``: what this machine reaches, each network and all, in about a minute.

The parts of an extraction are timed one after another, by the code that extraction runs: frames of
a real video, crops, networks, writing into a store that is thrown away. On a processor a network
runs two crops: ten take five times as long there. On CUDA it runs the crops of four clips.
"""

from __future__ import annotations

import gc
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featurestore.blocks import write_clips
from featurestore.catalog import NewVideo
from featurestore.clips import CLIP_FRAMES, clip_starts
from featurestore.errors import DamagedVideo, UnreadableVideo
from featurestore.store import create
from jobs import datasets, sample
from jobs.estimate import CROPS, clip_cost
from jobs.matrix import matrix_rate
from jobs.reading import Clip, ClipReader
from jobs.specs import BackboneSpec
from jobs.summary import Say, about_clips
from jobs.video import Source, probe
from jobs.worker import CLIPS_PER_BATCH

if TYPE_CHECKING:
    from jobs.engines import Choice, Network

__all__ = ["Bench", "Parts", "bench"]

ENOUGH_SECONDS, ENOUGH_ROUNDS = 1.0, 5  # of one measurement, after a round that is not counted
CLIPS_READ = 4
SAMPLE = sample.Recipe(videos=2, frames=CLIP_FRAMES * 2, width=640, height=360)


@dataclass(frozen=True)
class Parts:
    """Seconds of one worker for one ten-crop clip; ``gflop`` of its networks."""

    decode: float
    crops: float
    networks: float
    writing: float
    gflop: float

    def together(self, threads: int, device: str) -> float:
        """Seconds of a clip, end to end. On a processor decoding and cutting run beside the
        networks and take one of their ``threads``; on CUDA the card cuts, and decoding takes
        nothing unless it is what the card waits for."""
        rest = self.networks + self.writing
        if device == "cuda":
            return max(self.decode, self.crops + rest)
        return rest + (self.decode + self.crops) / threads


@dataclass(frozen=True)
class Bench:
    """What was measured. Rates and seconds are those of one worker, but for ``clips_per_second``.

    Attributes:
        backbones: by name of the array.
        matrix: GFLOP/s of a matrix product, in the precision of ``choice``.
        frames: which frames were decoded and cropped.
        clips: of the user's dataset, about; None where none was named.
    """

    choice: Choice
    default: Choice
    workers: int
    threads: int
    matrix: float
    frames: str
    weights: str
    backbones: Mapping[str, Parts]
    whole: Parts
    clips: int | None

    def clips_per_second(self, parts: Parts) -> float:
        """Of all workers, as if they did not slow each other."""
        return self.workers / parts.together(self.threads, self.choice.device)

    def fraction(self, parts: Parts) -> float:
        """Share of the matrix rate that the networks reach."""
        return parts.gflop / parts.networks / self.matrix

    def seconds_left(self) -> float | None:
        """About how long all of the dataset takes with these backbones."""
        return None if self.clips is None else self.clips / self.clips_per_second(self.whole)


def bench(
    specs: Mapping[str, BackboneSpec],
    *,
    engine: str = "auto",
    precision: str = "auto",
    device: str = "auto",
    weights: str = "random",
    dataset: str | None = None,
    root: Path | None = None,
    say: Say = print,
) -> Bench:
    """Measure; writes nothing but converted networks, into the cache.

    Raises:
        FeatureStoreError: no such engine here, no such dataset, weights that cannot be had.
    """
    from jobs import backbones, engines
    from jobs.cluster import local_shape

    choice = engines.choose(engine, precision, device)
    sources = datasets.scan(dataset, root or Path("data") / dataset) if dataset else []
    found = backbones.resolve_all(specs.values(), weights)
    workers, threads = local_shape(None, choice.device)
    matrix = matrix_rate(choice.device, choice.precision, threads)
    say(f"matrix product in {choice.precision}: {matrix:.0f} GFLOP/s")
    clips, what, decode = _clips(sources, say)
    resized: dict[Any, float] = {}
    measured: dict[str, Parts] = {}
    for number, (name, spec) in enumerate(specs.items(), 1):
        say(f"{name} ({number} of {len(specs)}): preparing it; the first time takes longest")
        engines.prepare(spec, found[name], choice)
        network = engines.open_network(spec, found[name], choice, threads=threads)
        resize, cut, crops = _crops(network, clips, resized)
        networks = _seconds(partial(network.features, crops)) * CROPS / len(crops)
        parts = Parts(decode, resize + cut, networks, _writing(spec), clip_cost(specs)[name])
        measured[name] = parts
        say(f"{name}: {networks:.3g} s a clip")
        del network
        gc.collect()
    whole = Parts(
        decode=decode,
        # Networks of one geometry share the resized frames
        crops=sum(p.crops for p in measured.values()) - _shared(specs, resized),
        networks=sum(p.networks for p in measured.values()),
        writing=sum(p.writing for p in measured.values()),
        gflop=sum(p.gflop for p in measured.values()),
    )
    return Bench(
        choice, engines.choose(), workers, threads, matrix, what, weights, measured, whole,
        sum(about_clips(sources).values()) if sources else None,
    )  # fmt: skip


def _clips(sources: Sequence[Source], say: Say) -> tuple[list[Clip], str, float]:
    """Some clips; what they are of; seconds to decode one.

    Of the first video of ``sources`` that can be read, or of a sample that is drawn.

    Raises:
        UnreadableVideo: none of the sources can be read.
    """
    for source in sources:
        try:
            return _read(source.path, source.name)
        except (UnreadableVideo, DamagedVideo) as error:
            say(str(error))
    if sources:
        raise UnreadableVideo(f"{sources[0].path}: neither it nor any other video can be read")
    with tempfile.TemporaryDirectory() as made:
        videos = sample.write(Path(made) / "sample", SAMPLE)
        return _read(sorted(videos.iterdir())[0], "a drawn sample")


def _read(path: Path, name: str) -> tuple[list[Clip], str, float]:
    info = probe(path, exact=False)
    reader = ClipReader(str(path), info.frames, "pyav")
    try:
        began = time.perf_counter()
        starts = clip_starts(info.frames)[:CLIPS_READ]
        clips = [reader.clip(int(start)) for start in starts]
        seconds = (time.perf_counter() - began) / len(clips)
    finally:
        reader.close()
    return clips, f"{name} ({info.width}x{info.height})", seconds


def _crops(
    network: Network, clips: Sequence[Clip], resized: dict[Any, float]
) -> tuple[float, float, Any]:
    """Seconds a clip to resize and to cut, and the crops that the network is timed with."""
    import torch

    from jobs.crops import geometry, resize, ten_crops

    batch = CLIPS_PER_BATCH[network.device]
    frames = [
        [torch.from_numpy(frame).to(network.device) for frame in clips[i % len(clips)]]
        for i in range(batch)
    ]
    shape, size = geometry(network.spec.preprocessing), network.spec.preprocessing.crop
    synchronise = torch.cuda.synchronize if network.device == "cuda" else lambda: None

    def resized_frames() -> list[Any]:
        small = [resize(f, shape) for f in frames]
        synchronise()
        return small

    small = resized_frames()

    def cut() -> Any:
        crops = [crop for s in small for crop in ten_crops(s, size)]
        synchronise()
        return crops

    if shape not in resized:
        resized[shape] = _seconds(resized_frames) / batch
    crops = cut()
    return resized[shape], _seconds(cut) / batch, crops if network.device == "cuda" else crops[:2]


def _shared(specs: Mapping[str, BackboneSpec], resized: Mapping[Any, float]) -> float:
    """Seconds that networks save by resizing once for all of one geometry."""
    shapes = [spec.preprocessing.geometry for spec in specs.values()]
    return sum((shapes.count(shape) - 1) * seconds for shape, seconds in resized.items())


def _writing(spec: BackboneSpec) -> float:
    """Seconds to write the features of a clip, as one of a block."""
    with _scratch_store(spec) as (url, clips):
        values = np.ones((clips, CROPS, spec.channels), np.float32)
        return _seconds(lambda: write_clips(url, spec.name, 0, values)) / clips


@contextmanager
def _scratch_store(spec: BackboneSpec, clips: int = 32) -> Iterator[tuple[str, int]]:
    with tempfile.TemporaryDirectory() as made:
        url = str(Path(made) / "scratch.zarr")
        store = create(url, dataset="scratch", block=clips)
        store.append([NewVideo("scratch", "scratch", clips * CLIP_FRAMES)])
        store.add_features(spec.name, spec.channels, attributes={})
        store.commit()
        yield url, clips


def _seconds(work: Callable[[], object]) -> float:
    """Median of some rounds, at least one, after a round that is not counted."""
    work()
    taken: list[float] = []
    while not taken or (sum(taken) < ENOUGH_SECONDS and len(taken) < ENOUGH_ROUNDS):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)
