"""Features that other people's code made, into a store: `import_features`. Out: see export.

What is known is kept (labels, splits, spans, how they were made), what is not known stays
unknown. All that can be wrong is found before anything is written; features go in video by video,
and the same command again goes on where a kill ended it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from featurestore import align, inhand, schema, splits
from featurestore.blocks import runs, write_clips
from featurestore.catalog import NewVideo, Video
from featurestore.clips import CLIP_FRAMES, clip_count
from featurestore.errors import FeatureFileError, StoreNotFound
from featurestore.feature_files import (
    Entry,
    FeatureFile,
    Order,
    entries,
    feature_files,
    read_labels,
    with_frames,
)
from featurestore.labels import ABNORMAL, NORMAL, UNKNOWN, Truth
from featurestore.lock import locked
from featurestore.schema import DONE, FAILED, MISSING
from featurestore.splits import TEST, TRAIN, Split, shown
from featurestore.store import Store, create, open_store


@dataclass(frozen=True)
class Given:
    """Features in files, and what is known of them.

    `lists`, `suffix`: see feature_files.entries. `gt`: .npy of the labels of all frames of the
    test videos, one video after the other in the order of the lists, under whichever convention
    its length tells. `frames`: a table `video,frames`. `segments`: the files hold so many spans
    of each video, averaged. `abnormal_first`: so many videos at the beginning of the training
    list are abnormal, the others normal (RTFM's code has that number written in). `made_by`: what
    made the features, for people. `our_crops`: the ten crops are those of schema.CROPS; else their
    positions are not known.
    """

    folder: Path
    lists: Sequence[str] = ()
    gt: Path | None = None
    frames: Path | None = None
    suffix: str = ""
    order: Order | None = None
    segments: int | None = None
    abnormal_first: int | None = None
    split_name: str | None = None
    made_by: str = ""
    our_crops: bool = False


def import_features(
    given: Given,
    url: str | os.PathLike[str],
    *,
    dataset: str,
    array: str = "imported_rtfm",
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> list[str]:
    """Imports features into a store, which is made if there is none; returns lines for people.

    `array` is imported_NAME. `progress` is told how many videos are done, of how many. A video
    that the store has must have as many clips there. Clips that hold NaN or infinity are marked
    failed.

    Raises FeatureFileError, SplitError, LabelError, UsageError, ProvenanceMismatch, StoreLocked,
    StoreUnwritable.
    """
    found = entries(given.folder, given.lists, given.suffix)
    if given.frames:
        found = with_frames(found, given.frames)
    found = _with_labels(found, given)
    files = feature_files([entry.path for entry in found], given.order)
    with locked(url):
        store = _open(url)
        there = {v.name: v for v in store.videos() if v.state != "superseded"} if store else {}
        _check_store(store, given, array)
        rows = [_row(e, f, there.get(e.video), given) for e, f in zip(found, files, strict=True)]
        truths, remarks = _truths(found, rows, given)
        split = _split(found, given)
        _check_split(split, truths, store, there)
        if store is None:
            count = sum(file.clips for file in files)
            store = create(
                url, dataset=dataset, block=schema.block_clips(count), segments=given.segments
            )
        made = {"imported": "rtfm .npy files", "made_by": given.made_by or "not known"}
        if array in store.backbones:
            store.check_provenance(array, made)
        else:
            ours = given.our_crops and files[0].crops == len(schema.CROPS)
            crops = None if ours else files[0].crops
            store.add_features(array, files[0].channels, made, crops=crops)
        store.append([row for row in rows if isinstance(row, NewVideo)])
        remarks += store.set_truth(truths)
        if split is not None:
            remarks += store.set_split(split)
        store.commit()
        remarks += _write(store, array, found, files, progress)
        done = int(store.done(array).sum())
    new = sum(isinstance(row, NewVideo) for row in rows)
    first = files[0]
    said = f"{len(files)} files of ({first.order}), {first.crops} crops, {first.channels} channels"
    return [*remarks, f"{said}; {new} new videos", f"{os.fspath(url)}: {done} clips with {array}"]


def _open(url: str | os.PathLike[str]) -> Store | None:
    try:
        return open_store(url, "a")
    except StoreNotFound:
        return None


def _check_store(store: Store | None, given: Given, array: str) -> None:
    if not array.startswith("imported_") or not schema.is_features_name(array):
        raise FeatureFileError(
            f"--array {array!r}: imported features are called imported_NAME, so that nobody takes "
            "them for ours"
        )
    if store is not None and store.segments != given.segments:
        has = f"{store.segments} segments a video" if store.segments else "clips of 16 frames"
        raise FeatureFileError(f"{store.url}: holds {has}; give another --name, or --segments")


def _with_labels(found: list[Entry], given: Given) -> list[Entry]:
    """`abnormal_first`: labels by the place in the training list."""
    if given.abnormal_first is None:
        return found
    training = [entry for entry in found if entry.part == TRAIN]
    if not 0 < given.abnormal_first <= len(training):
        raise FeatureFileError(
            f"--abnormal-first {given.abnormal_first}: the training list has {len(training)} videos"
        )
    first = {entry.video for entry in training[: given.abnormal_first]}
    labelled = []
    for entry in found:
        label = entry.label
        if entry.part == TRAIN:
            label = ABNORMAL if entry.video in first else NORMAL
            if entry.label not in (None, label):
                raise FeatureFileError(
                    f"{entry.video}: its label contradicts --abnormal-first {given.abnormal_first}"
                )
        labelled.append(Entry(entry.video, entry.path, entry.part, label, entry.frames))
    return labelled


def _row(entry: Entry, file: FeatureFile, there: Video | None, given: Given) -> Video | NewVideo:
    """The row that the store has of a video, or a new one."""
    if there is not None:
        if file.clips != there.clip_count:
            raise FeatureFileError(
                f"{file.path}: has {file.clips} clips, the store {there.clip_count} of that video "
                f"({there.frames} frames); give another --name"
            )
        return there
    frames, remark = _frames(entry, file, given.segments)
    path = file.path.relative_to(given.folder).as_posix()
    return NewVideo(entry.video, path, frames, reason=remark)


def _frames(entry: Entry, file: FeatureFile, segments: int | None) -> tuple[int, str]:
    """How many frames there are features of, and what to say of that number."""
    known, clips = entry.frames, file.clips
    if segments:
        if clips != segments:
            raise FeatureFileError(f"{file.path}: has {clips} segments, not {segments}")
        return known or 0, "" if known else "number of frames not known"
    whole = CLIP_FRAMES * clips
    if known is None:
        return whole, f"number of frames not known; {CLIP_FRAMES} a clip make {whole}"
    if clips == clip_count(known):
        return known, ""
    if clips == known // CLIP_FRAMES:
        return whole, f"of {known} frames the last {known - whole} are in no clip"
    raise FeatureFileError(
        f"{file.path}: has {clips} clips, but {known} frames make {known // CLIP_FRAMES} or "
        f"{clip_count(known)}; averaged spans want --segments"
    )


def _truths(
    found: Sequence[Entry], rows: Sequence[Video | NewVideo], given: Given
) -> tuple[list[Truth], list[str]]:
    """What the lists and the gt file say of the videos; and remarks."""
    labels = {entry.video: UNKNOWN if entry.label is None else entry.label for entry in found}
    frames = {row.name: row.frames for row in rows}
    of_frames: dict[str, npt.NDArray[np.int8]] = {}
    if given.gt is not None:
        of_frames = _ground_truth(given.gt, [e.video for e in found if e.part == TEST], frames)
    listed = ", ".join(Path(text).name for text in given.lists)
    remarks = []
    truths = []
    for video, label in labels.items():
        own = of_frames.get(video)
        source = given.gt.name if own is not None and given.gt else listed
        if own is not None and label == ABNORMAL and not (own != NORMAL).any():
            remarks.append(
                f"{video}: is called abnormal, but {source} has no anomalous frame of it"
            )
        if own is not None or label != UNKNOWN:
            truths.append(Truth(video, label, own, source))
    return truths, remarks


def _ground_truth(
    gt: Path, videos: Sequence[str], frames: Mapping[str, int]
) -> dict[str, npt.NDArray[np.int8]]:
    """A gt file cut into its videos, in this order: int8 (frames,), -1 where it says nothing."""
    if not videos:
        raise FeatureFileError(f"{gt}: is of test videos, but no list names any; give a --list")
    values = read_labels(gt)
    if unknown := [video for video in videos if not frames[video]]:
        raise FeatureFileError(
            f"{gt}: cannot be told apart into videos, for the frames of {len(unknown)} are not "
            f"known: {shown(unknown)}; give a table video,frames with --frames"
        )
    counts = [frames[video] for video in videos]
    convention = align.convention_of(counts, len(values))
    if convention is None:
        made = {of: sum(align.frame_count(n, of) for n in counts) for of in align.CONVENTIONS}
        raise FeatureFileError(
            f"{gt}: has {len(values)} labels, but the {len(videos)} test videos of the lists make "
            f"{', '.join(f'{count} ({of})' for of, count in made.items())}; is it of another "
            "list? Where the numbers of frames are not known, --frames may help"
        )
    cuts = np.cumsum([align.frame_count(count, convention) for count in counts])[:-1]
    return {
        video: align.labels_as_decoded(part, frames[video], convention)
        for video, part in zip(videos, np.split(values, cuts), strict=True)
    }


def _split(found: Sequence[Entry], given: Given) -> Split | None:
    parts = {entry.video: entry.part for entry in found if entry.part is not None}
    if not parts:
        return None
    files = [Path(text).name for text in given.lists]
    name = given.split_name or (Path(files[0]).stem if len(files) == 1 else "imported")
    labels = {entry.video: entry.label for entry in found if entry.label is not None}
    return Split(name, parts, labels, f"imported from {', '.join(files)}")


def _check_split(
    split: Split | None, truths: Sequence[Truth], store: Store | None, there: Mapping[str, Video]
) -> None:
    """What Store.set_split would find out, before there is a store."""
    if split is None:
        return
    labels = {truth.video: truth.label for truth in truths}
    if store is not None:
        stored = store.labels().tolist()
        labels |= {video: stored[row.index] for video, row in there.items()}
    splits.check(split, {*split.parts, *split.labels, *there}, labels)


def _write(
    store: Store,
    array: str,
    found: Sequence[Entry],
    files: Sequence[FeatureFile],
    progress: Callable[[int, int], None],
) -> list[str]:
    """Writes what is missing, video by video; what is there must be the same."""
    rows = {video.name: video for video in store.videos()}
    status = store.status(array)
    fingerprint = store.fingerprint(array)
    remarks, rounded = [], 0
    for number, (entry, file) in enumerate(zip(found, files, strict=True)):
        progress(number, len(files))
        row = rows[entry.video]
        clips = np.arange(row.clip_offset, row.clip_offset + row.clip_count)
        values, exact = file.read()
        rounded += not exact
        bad = ~np.isfinite(values).all(axis=(1, 2))
        values[bad] = np.nan
        missing = status[clips] == MISSING
        if not missing.all():
            there = store.features(array, row.clips)
            if not np.array_equal(there[~missing], values[~missing], equal_nan=True):
                raise FeatureFileError(
                    f"{file.path}: differs from what the store has of {entry.video} in {array}; "
                    "give another --array or --name"
                )
        if missing.any():
            inhand.put(store.url, set((clips[missing] // store.block).tolist()))
        for run in runs(clips[missing], store.block):
            part = values[run.start - row.clip_offset : run.stop - row.clip_offset]
            write_clips(store.url, array, run.start, part, fingerprint=fingerprint)
        store.mark(array, clips[missing & ~bad], DONE)
        if (missing & bad).any():
            store.mark(array, clips[missing & bad], FAILED)
            numbers = shown(str(clip) for clip in np.flatnonzero(bad))
            reason = f"{file.path.name}: clips {numbers} hold NaN or infinity"
            store.update_videos({row.index: {"state": "damaged", "reason": reason}})
            remarks.append(f"{entry.video}: {reason}")
    inhand.given_back(store.url)
    progress(len(files), len(files))
    if rounded:
        remarks.append(f"{rounded} files hold more digits than float32 has; they were rounded")
    return remarks
