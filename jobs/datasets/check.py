"""``fs-submit datasets check``: is a download complete, and does its ground truth fit its videos?

Reads all there is to read except pictures, so that what is wrong shows before hours of work. Files
are counted by going through their packets, which is what a sound file decodes to; ``exact`` counts
as the extraction does, and finds damage. Where a count does not fit the ground truth, that video is
counted exactly in any case.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from featurestore import splits
from featurestore.errors import FeatureStoreError
from featurestore.labels import ABNORMAL, NORMAL, UNKNOWN, Truth
from featurestore.splits import TEST, TRAIN, Split
from jobs.datasets import DATASETS, GroundTruth, ground_truth, named_splits, official_split, scan
from jobs.progress import Progress
from jobs.video import Source, VideoInfo, probe, stat_source

__all__ = ["Report", "check", "text"]

READERS = 4  # threads: packets are read faster than a disk or a network delivers them
AHEAD = 64  # videos given to them at a time
SHOWN = 12  # problems and remarks on the screen; --json has all
QUIET_SECONDS = 1.0  # work that takes less shows no progress


@dataclass
class Half:
    """What was found of one half: videos by label, frames (as counted), and the anomalous ones."""

    videos: int = 0
    abnormal: int = 0
    normal: int = 0
    frames: int = 0
    labelled_frames: int = 0
    anomalous_frames: int = 0


@dataclass
class Report:
    """What a dataset's folder holds, and what is wrong with it.

    ``halves``: "train", "test" and "neither" (where no official split puts a video) -> what is
    there. ``counted``: how videos in files were counted, by "packets" or "decoding" (empty: there
    are none). ``splits``: name -> videos to train and to test. ``ground_truth`` says where that was
    found. ``remarks`` are worth knowing, ``problems`` are in the way.
    """

    dataset: str
    root: str
    halves: dict[str, Half] = field(default_factory=dict)
    ground_truth: str = ""
    counted: str = ""
    splits: dict[str, dict[str, int]] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Plain values, with the published counts beside those found."""
        counts = DATASETS[self.dataset].counts
        return {**asdict(self), "published": asdict(counts) if counts else None}


def check(dataset: str, root: Path, labels: Path | None = None, *, exact: bool = False) -> Report:
    """Look through a dataset's folder. What is wrong is in the report, nothing is raised.

    ``labels`` is where the ground truth lies, if not below ``root``. Shows progress on stderr when
    it takes more than a second.
    """
    report = Report(dataset, str(root))
    try:
        sources = scan(dataset, root)
    except FeatureStoreError as error:
        report.problems.append(str(error))
        return report
    if any(source.kind == "file" for source in sources):
        report.counted = "decoding" if exact else "packets"
    given: GroundTruth | None = None
    try:
        given = ground_truth(dataset, root, labels)
        report.ground_truth = given.where
        if given.orphans:
            report.problems.append(
                f"{len(given.orphans)} pieces of ground truth are of videos that are not there: "
                f"{splits.shown(given.orphans)}"
            )
    except FeatureStoreError as error:
        report.problems.append(str(error))
    infos, truths = _read(sources, given, report, exact)
    parts = _splits(report, sources, truths, root, told=given is None)
    _count(report, sources, infos, truths, parts)
    _compare(report, truths)
    return report


def _read(
    sources: Sequence[Source], given: GroundTruth | None, report: Report, exact: bool
) -> tuple[dict[str, VideoInfo], dict[str, Truth]]:
    """Every video's length, and its ground truth."""
    infos: dict[str, VideoInfo] = {}
    truths: dict[str, Truth] = {}
    for source, found in _probed(sources, exact):
        if isinstance(found, FeatureStoreError):
            report.problems.append(str(found))
            continue
        infos[source.name] = found
        if found.damaged_at is not None:
            report.problems.append(f"{source.path}: {found.reason}")
        elif found.reason:
            report.remarks.append(f"{source.path}: {found.reason}")
        if given is None:
            continue
        try:
            info, known = _truth(source, found, given, exact)
        except FeatureStoreError as error:
            report.problems.append(str(error))
            continue
        infos[source.name], truths[source.name] = info, known
        if info.frames != found.frames:
            report.remarks.append(
                f"{source.path}: {info.frames} frames, though its packets look like {found.frames}"
            )
    by_remark: dict[str, list[str]] = {}
    for video, known in truths.items():
        by_remark.setdefault(known.remark, []).append(video)
    for remark, videos in by_remark.items():
        if remark:
            report.remarks.append(f"{splits.shown(videos)}: {remark}")
    return infos, truths


def _truth(
    source: Source, found: VideoInfo, given: GroundTruth, exact: bool
) -> tuple[VideoInfo, Truth]:
    """The truth of a video, which is counted again if it does not fit."""
    try:
        return found, given.read(source.name, found.frames, found.damaged_at is not None)
    except FeatureStoreError:
        if exact:
            raise
        again = probe(source.path)
        if again.frames == found.frames and again.damaged_at is None:
            raise
        return again, given.read(source.name, again.frames, again.damaged_at is not None)


def _probed(
    sources: Sequence[Source], exact: bool
) -> Iterator[tuple[Source, VideoInfo | FeatureStoreError]]:
    """Each source with what it holds, or why it cannot be read; shows progress, by bytes."""
    sizes = [_size(source) for source in sources]
    progress = Progress(len(sources), sum(sizes), noun="videos read", stream=sys.stderr)
    began, shown, done = time.monotonic(), False, 0
    pool = ThreadPoolExecutor(READERS)
    try:
        for start in range(0, len(sources), AHEAD):
            some = sources[start : start + AHEAD]
            results = pool.map(partial(_probe, exact=exact), some)
            for number, (source, found) in enumerate(zip(some, results, strict=True), start):
                yield source, found
                done += sizes[number]
                progress.at(number + 1, done)
                if shown or time.monotonic() - began > QUIET_SECONDS:
                    progress.show()
                    shown = True
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C waits for the videos begun, not for all
    if shown:
        progress.end()


def _probe(source: Source, exact: bool) -> VideoInfo | FeatureStoreError:
    try:
        return probe(source.path, exact=exact)
    except FeatureStoreError as error:
        return error


def _size(source: Source) -> int:
    try:
        return stat_source(source.path)[0] if source.kind == "file" else 1
    except FeatureStoreError:
        return 0  # `_probe` says why


def _splits(
    report: Report,
    sources: Sequence[Source],
    truths: Mapping[str, Truth],
    root: Path,
    *,
    told: bool,
) -> Mapping[str, int]:
    """Check all splits by name; returns the official one's halves, as far as they are known.

    ``told``: that there is no ground truth is among the problems already.
    """
    labels = {name: known.label for name, known in truths.items()}
    names = {source.name for source in sources}
    official: Split | None = None
    try:
        official = official_split(report.dataset, sources, truths, root)
    except FeatureStoreError as error:
        if report.dataset == "folder":
            report.remarks.append(str(error))
        elif not told:
            report.problems.append(str(error))
    for split in [*([official] if official else []), *named_splits(report.dataset).values()]:
        report.splits[split.name] = {
            "train": len(split.videos(TRAIN)), "test": len(split.videos(TEST))
        }  # fmt: skip
        try:
            splits.check(split, names, labels)
        except FeatureStoreError as error:
            report.problems.append(str(error))
    return official.parts if official else {}


def _count(
    report: Report,
    sources: Sequence[Source],
    infos: Mapping[str, VideoInfo],
    truths: Mapping[str, Truth],
    parts: Mapping[str, int],
) -> None:
    for source in sources:
        part = splits.PART_NAMES.get(parts.get(source.name, splits.UNUSED), "neither")
        half = report.halves.setdefault(part, Half())
        half.videos += 1
        if source.name in infos:
            half.frames += infos[source.name].frames
        known = truths.get(source.name)
        if known is None:
            continue
        half.abnormal += known.label == ABNORMAL
        half.normal += known.label == NORMAL
        if known.frames is not None:
            half.labelled_frames += int((known.frames != UNKNOWN).sum())
            half.anomalous_frames += int(np.count_nonzero(known.frames == ABNORMAL))


def _compare(report: Report, truths: Mapping[str, Truth]) -> None:
    """What differs from the published counts."""
    known = DATASETS[report.dataset]
    published = known.counts
    if not report.ground_truth and truths and published is not None:
        report.problems.append(f"no ground truth found; expected is {known.truth}")
    if published is None:
        return
    train, test = report.halves.get("train", Half()), report.halves.get("test", Half())
    pairs = [
        ("training videos", train.videos, published.training),
        ("testing videos", test.videos, published.testing),
        ("training frames", train.frames, published.training_frames),
        ("testing frames", test.frames, published.testing_frames),
    ]
    report.problems += [
        f"{found:,} {what}, {wanted:,} are published"
        for what, found, wanted in pairs
        if wanted is not None and found != wanted
    ]
    anomalous, wanted = test.anomalous_frames, published.anomalous_frames
    if not report.ground_truth or wanted is None or anomalous == wanted:
        return
    message = f"{anomalous:,} anomalous testing frames, the official ground truth has {wanted:,}"
    for count, what in known.others.items():
        named = "this is the count of" if count == anomalous else f"another, with {count:,}, is"
        message += f"; {named} {what}"
    report.problems.append(message)


def text(report: Report) -> str:
    """The report on one screen."""
    known = DATASETS[report.dataset]
    lines = [f"{known.title} in {report.root}"]
    for part, name in (("train", "training"), ("test", "testing"), ("neither", "videos")):
        half = report.halves.get(part)
        if half is not None:
            lines.append(f"  {name:<13} {_half(half)}")
    if report.halves:
        lines.append(f"  ground truth  {report.ground_truth or 'none found'}")
    if report.halves and known.counts is not None:
        lines.append(f"  published     {_published(report.dataset)}")
    lines += [
        f"  split         {name}: {parts['train']} to train, {parts['test']} to test"
        for name, parts in report.splits.items()
    ]
    lines += _listed("remark", report.remarks)
    if report.counted == "packets":
        lines.append("  (files are counted by their packets; --exact decodes them)")
    if report.problems:
        lines += ["", *_listed("PROBLEM", report.problems)]
    else:
        lines += ["", "all well"]
    return "\n".join(lines)


def _half(half: Half) -> str:
    unknown = half.videos - half.abnormal - half.normal
    labels = [(half.abnormal, "abnormal"), (half.normal, "normal"), (unknown, "label unknown")]
    shown = ", ".join(f"{count} {name}" for count, name in labels if count)
    anomalous = (
        f"{half.anomalous_frames:,} of {half.labelled_frames:,} anomalous"
        if half.labelled_frames
        else "no frame labels"
    )
    return f"{half.videos} videos ({shown}), {half.frames:,} frames ({anomalous})"


def _published(dataset: str) -> str:
    counts = DATASETS[dataset].counts
    assert counts is not None
    frames = [
        (counts.training_frames, "training frames"),
        (counts.testing_frames, "testing frames"),
        (counts.anomalous_frames, "of them anomalous"),
    ]
    shown = [f"{count:,} {what}" for count, what in frames if count is not None]
    return ", ".join([f"{counts.training} + {counts.testing} videos", *shown])


def _listed(word: str, messages: Sequence[str]) -> list[str]:
    more = [f"  {word:<13} and {len(messages) - SHOWN} more: --json lists all"]
    lines = [
        f"  {word:<13} {line}" if first else f"  {'':<13} {line}"
        for message in messages[:SHOWN]
        for first, line in ((i == 0, part) for i, part in enumerate(message.splitlines()))
    ]
    return lines + (more if len(messages) > SHOWN else [])
