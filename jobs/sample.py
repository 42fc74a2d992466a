"""Writes a small surveillance sample: encoded videos with pixel ground truth, intervals, labels.

It exists so that everything can be tried without a dataset: `make demo` extracts it, and tests use
it as a real, tiny dataset. See `jobs.scene` for what is to be seen.
"""

import csv
import hashlib
import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
import numpy as np
from numpy.typing import NDArray

from featurestore.errors import UsageError
from jobs import scene

MANIFEST = "sample.json"

README = """\
A small surveillance sample, drawn by a program (seed {seed}): a fixed camera over a walkway.
People walk; in the videos named abnormal_* one thing moves as nobody should.

videos/<video>.mp4   {frames} frames each, {width}x{height}, {fps:g} frames a second
masks/<video>.npy    bool (frames, height, width): the visible pixels of that thing
intervals.csv        video,start,end: anomalous frames, 0-based, `end` is the first normal one again
labels.csv           video,split,label: train or test; normal or abnormal
sample.json          what it was made from, and the digest of every file

Drawn from scratch and free of rights (CC0). The folder is rewritten when a file of it is changed.
"""


@dataclass(frozen=True)
class Recipe:
    """What decides the content: equal recipes give equal frames and masks."""

    videos: int = 8
    frames: int = 16
    width: int = 320
    height: int = 240
    seed: int = 0
    version: int = 1  # of the drawing: raised when the same seed gives other pixels

    def __post_init__(self) -> None:
        if self.videos < 2:
            raise UsageError(f"a sample has at least 2 videos, one a class, not {self.videos}")
        if self.frames < 8:
            raise UsageError(
                f"a video of the sample has at least 8 frames, so that something can happen in it, "
                f"not {self.frames}"
            )
        if min(self.width, self.height) < 64 or self.width % 2 or self.height % 2:
            raise UsageError(
                f"the sample's width and height are even (H.264 halves them for colour) and at "
                f"least 64, not {self.width}x{self.height}"
            )


@dataclass(frozen=True)
class Video:
    """One video to write. `anomaly` is None in a normal one."""

    name: str
    number: int
    split: str
    anomaly: scene.Anomaly | None

    @property
    def label(self) -> str:
        return "abnormal" if self.anomaly else "normal"


def plan(recipe: Recipe) -> list[Video]:
    """The videos of a sample: half of them abnormal, half of each class to train."""
    abnormal = recipe.videos // 2
    counts = {"normal": recipe.videos - abnormal, "abnormal": abnormal}
    videos: list[Video] = []
    for label, count in counts.items():
        for i in range(count):
            kind = scene.ANOMALIES[i % len(scene.ANOMALIES)] if label == "abnormal" else None
            split = "train" if i < count / 2 else "test"
            videos.append(Video(f"{label}_{i + 1:02d}", len(videos) + 1, split, kind))
    return videos


def write(directory: str | Path, recipe: Recipe | None = None) -> Path:
    """Writes the sample, unless it is there and complete; returns the folder of its videos.

    The folder appears whole or not at all: it is made beside its place and then renamed.

    Raises:
        UsageError: `directory` holds something that is not a sample of ours.
    """
    directory, recipe = Path(directory), recipe or Recipe()
    if is_complete(directory, recipe):
        return directory / "videos"
    _refuse_foreign(directory)
    directory.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    try:
        made.chmod(0o755)  # mkdtemp makes it private
        _fill(made, recipe)
        _swap(made, directory)
    finally:
        shutil.rmtree(made, ignore_errors=True)  # the new one if that failed, else the old one
    return directory / "videos"


def is_complete(directory: Path, recipe: Recipe) -> bool:
    """Whether `directory` holds exactly this sample: the same recipe, every file unchanged."""
    try:
        manifest = json.loads((directory / MANIFEST).read_text())
        return manifest["recipe"] == asdict(recipe) and all(
            _digest(directory / name) == digest for name, digest in manifest["sha256"].items()
        )
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
        return False


def _refuse_foreign(directory: Path) -> None:
    if not directory.exists() or (directory / MANIFEST).is_file():
        return
    if not directory.is_dir() or any(directory.iterdir()):
        raise UsageError(
            f"{directory} is there and is not a sample written by this program, so it is left "
            f"alone: move it away, or write the sample to another folder"
        )


def _fill(directory: Path, recipe: Recipe) -> None:
    (directory / "videos").mkdir()
    (directory / "masks").mkdir()
    videos, intervals = plan(recipe), []
    for video in videos:
        drawn = list(
            scene.render(
                recipe.width,
                recipe.height,
                recipe.frames,
                seed=recipe.seed,
                video=video.number,
                anomaly=video.anomaly,
            )
        )
        masks = np.stack([mask for _, mask in drawn])
        encode(directory / "videos" / f"{video.name}.mp4", [frame for frame, _ in drawn])
        np.save(directory / "masks" / f"{video.name}.npy", masks)
        intervals += [
            (video.name, start, end) for start, end in _runs([bool(mask.any()) for mask in masks])
        ]
    _write_csv(directory / "intervals.csv", ("video", "start", "end"), intervals)
    rows = [(video.name, video.split, video.label) for video in videos]
    _write_csv(directory / "labels.csv", ("video", "split", "label"), rows)
    text = README.format(**asdict(recipe), fps=scene.FPS)
    (directory / "README.txt").write_text(text)
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    digests = {path.relative_to(directory).as_posix(): _digest(path) for path in files}
    manifest = {"recipe": asdict(recipe), "sha256": digests}
    (directory / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")


def encode(path: Path, frames: list[NDArray[np.uint8]]) -> None:
    """Writes (height, width, 3) RGB frames as MP4: H.264, or MPEG-4 where PyAV has no libx264."""
    codec: Literal["libx264", "mpeg4"] = "libx264" if "libx264" in av.codecs_available else "mpeg4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(scene.FPS))
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        if codec == "libx264":
            # The same bytes every time: they depend on the number of threads, and x264's
            # macroblock tree gave 8 different files in 10 writes unless told cpu-independent.
            stream.options = {"crf": "20", "threads": "1", "x264-params": "cpu-independent=1"}
        else:
            stream.bit_rate = 1_500_000
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def _swap(made: Path, directory: Path) -> None:
    """Puts `made` in place of `directory`; what was there ends in `made`'s place, to be removed."""
    if not directory.exists():
        made.rename(directory)
        return
    old = made.with_name(f"{made.name}.old")
    directory.rename(old)
    made.rename(directory)
    old.rename(made)


def _runs(flags: list[bool]) -> list[tuple[int, int]]:
    """Start and end (exclusive) of every run of True."""
    edges = np.flatnonzero(np.diff(np.array(flags, np.int8), prepend=0, append=0))
    return [(int(start), int(end)) for start, end in edges.reshape(-1, 2)]


def _write_csv(path: Path, header: tuple[str, ...], rows: Sequence[tuple[object, ...]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
