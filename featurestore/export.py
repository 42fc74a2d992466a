"""Features of a store, as other people's code reads them: `export_features`. In: see exchange."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
import numpy.typing as npt

from featurestore import align, disk, splits
from featurestore.catalog import Video
from featurestore.disk import writing
from featurestore.errors import FeatureFileError, LabelError, UsageError
from featurestore.labels import ABNORMAL, NORMAL, UNKNOWN
from featurestore.splits import TRAIN, Split, shown
from featurestore.store import Store, open_store


@dataclass(frozen=True)
class Exported:
    """What was written: lines for people, and videos that were left out."""

    lines: Sequence[str]
    left_out: Sequence[str]


def export_features(
    url: str | os.PathLike[str],
    folder: Path,
    *,
    array: str | None = None,
    split: str | None = None,
    convention: Literal["floor", "ceil"] = "ceil",
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Exported:
    """Writes features as RTFM and the code after it read them, into a new folder.

    `features/VIDEO.npy`, float32 (clips, crops, channels); `train.list` and `test.list`, a path a
    line, abnormal videos first; `gt.npy`, float64, the labels of the test videos' frames in the
    order of the list, 16 a clip; `videos.csv` with video, split, label and frames. Under `floor`
    the clip that ends with a video is left out where it is no whole one more, under `ceil` it is
    kept, and the last frame's label stands for frames that there are not. Segments are written as
    they are, `gt.npy` then has the frames as decoded. Videos of which some clip that counts has
    no features are left out. `progress` is told how many videos are done, of how many.

    Raises UsageError, SplitError, LabelError (a label is missing that the lists or gt.npy need),
    FeatureFileError (a video's name that cannot be a file's), StoreUnwritable; nothing is then
    left behind.
    """
    store = open_store(url)
    array = _the_one("array", array, (*store.backbones, *store.fused_arrays), store)
    split = _the_one("split", split, store.split_names, store)
    known = store.split(split)
    videos = {v.name: v for v in store.videos() if v.state != "superseded"}
    done = store.done(array)
    counts = {name: _clips(store, videos[name], convention) for name in known.parts}
    kept = [n for n, c in counts.items() if c and done[videos[n].clips[:c]].all()]
    left_out = [name for name in known.parts if name not in set(kept)]
    lists = {half: _ordered(known, kept, part) for part, half in splits.PART_NAMES.items()}
    gt = _ground_truth(store, [videos[name] for name in lists["test"]], convention)
    for name in kept:
        _check_name(name)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder}: is there already; give a new folder")
    with writing(folder):
        new = folder.with_name(f"{folder.name}.{uuid.uuid4().hex}{disk.PARTIAL}")
        try:
            for number, name in enumerate(kept):
                progress(number, len(kept))
                path = new / "features" / f"{name}.npy"
                path.parent.mkdir(parents=True, exist_ok=True)
                first = videos[name].clip_offset
                np.save(path, store.features(array, range(first, first + counts[name])))
            progress(len(kept), len(kept))
            features = folder.resolve() / "features"
            for half, names in lists.items():
                text = "".join(f"{features / name}.npy\n" for name in names)
                (new / f"{half}.list").write_text(text, encoding="utf-8")
            if gt is not None:
                np.save(new / "gt.npy", gt.astype(np.float64))
            _write_table(new / "videos.csv", known, lists, videos)
            if folder.exists():
                folder.rmdir()
            new.rename(folder)
        except BaseException:
            disk.remove(new)
            raise
    return Exported(_lines(folder, known, lists, gt, left_out), left_out)


def _the_one(what: str, name: str | None, there: Sequence[str], store: Store) -> str:
    if name is None and len(there) == 1:
        return there[0]
    if name is None or name not in there:
        asked = f"no {what} {name!r}" if name else f"several {what}s" if there else f"no {what}"
        choice = f"; give one with --{what}: {', '.join(there)}" if there else ""
        raise UsageError(f"{store.url}: has {asked}{choice}")
    return name


def _clips(store: Store, video: Video, convention: Literal["floor", "ceil"]) -> int:
    if store.segments:
        return video.clip_count
    return align.clips_that_count(video.frames, convention)


def _ordered(split: Split, kept: Sequence[str], part: int) -> list[str]:
    """The videos of one half, abnormal ones first."""
    own = [name for name in kept if split.parts[name] == part]
    if part == TRAIN and (unknown := [name for name in own if name not in split.labels]):
        raise LabelError(
            f"split {split.name}: the labels of {len(unknown)} training videos are not known: "
            f"{shown(unknown)}; the lists need them"
        )
    return sorted(own, key=lambda name: split.labels.get(name) != ABNORMAL)


def _ground_truth(
    store: Store, videos: Sequence[Video], convention: Literal["floor", "ceil"]
) -> npt.NDArray[np.int8] | None:
    """Labels of the test videos' frames; None where nothing is known of any of them."""
    of: align.Convention = "ours" if store.segments else convention
    parts = {v.name: align.frame_labels(store.frame_labels(v.index), of) for v in videos}
    unknown = [name for name, part in parts.items() if (part == UNKNOWN).any() or not len(part)]
    if len(unknown) == len(parts):
        return None
    if unknown:
        raise LabelError(
            f"{store.url}: the frame labels of {len(unknown)} test videos are not known: "
            f"{shown(unknown)}; gt.npy would be wrong. Add them (fs-submit extract --labels), or "
            "leave the videos out of the split"
        )
    return np.concatenate(list(parts.values())).astype(np.int8)


def _check_name(name: str) -> None:
    path = PurePosixPath(name)
    plain = name.isprintable() and not path.is_absolute() and ".." not in path.parts
    if not plain or path.as_posix() != name:
        raise FeatureFileError(f"{name!r}: this video's name cannot be the name of a file")


def _write_table(
    path: Path, split: Split, lists: Mapping[str, Sequence[str]], videos: Mapping[str, Video]
) -> None:
    """videos.csv, in the order of the lists, so that gt.npy belongs to it too."""
    names = [*lists["train"], *lists["test"]]
    parts = {name: split.parts[name] for name in names}
    labels = {name: split.labels[name] for name in names if name in split.labels}
    frames = {name: videos[name].frames for name in names if videos[name].frames}
    splits.write_csv(path, Split(split.name, parts, labels, ""), frames=frames)


def _lines(
    folder: Path,
    split: Split,
    lists: Mapping[str, Sequence[str]],
    gt: npt.NDArray[np.int8] | None,
    left_out: Sequence[str],
) -> list[str]:
    abnormal = {
        half: sum(split.labels.get(name, NORMAL) == ABNORMAL for name in names)
        for half, names in lists.items()
    }
    first = abnormal["train"]
    lines = [
        f"{folder}: {len(lists['train'])} videos to train, the first {first} of them abnormal "
        f"(RTFM's dataset.py has 63 written in: make that {first}); {len(lists['test'])} to test, "
        f"the first {abnormal['test']} abnormal"
    ]
    if gt is None:
        lines.append("no gt.npy: no frame labels of the test videos are known")
    else:
        lines.append(f"gt.npy: {len(gt)} frames, {int(gt.sum())} anomalous")
    if left_out:
        lines.append(f"left out, for clips without features: {shown(left_out)}")
    return lines
