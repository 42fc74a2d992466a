"""Out of core: clips of a store, opened as an xarray Dataset, read block by block.

Works on what any reader of a store sees: the tables of clips and videos, the status of each
backbone, labels and splits. Test ground truth (`frame_label`, labels of test videos) is not read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from detector.errors import FitError
from detector.passes import Block, over_crops
from detector.videos import NORMAL, UNKNOWN, Videos, bounds_of
from featurestore import provenance
from featurestore.errors import ProvenanceMismatch, StoreUnreadable, UsageError
from featurestore.place import errors, told
from featurestore.schema import DONE, FAILED, is_features_name, parts_of, status_of

if TYPE_CHECKING:
    import xarray as xr

# A split's value of videos that train.
TRAIN: Final = 0

# Bytes read at a time, at least one row of chunks. One more block is read ahead.
BLOCK_BYTES: Final = 32 << 20

# Of provenance, what does not change features beyond rounding: it may differ between the store
# that a detector was fitted to and the one that it scores.
_MAY_DIFFER: Final = ("versions",)


@dataclass(frozen=True)
class Chosen:
    """Clips of a store that take part, and those that cannot.

    `clips` (n,) are their numbers in the store, increasing; `videos` says whose they are, and
    `rows` (V,) which rows of the video table. `left_out` has the numbers of clips that are not
    there, by the reason, and `left_out_videos` names their videos.
    """

    clips: npt.NDArray[np.int64]
    videos: Videos
    rows: npt.NDArray[np.int64]
    left_out: Mapping[str, npt.NDArray[np.int64]]
    left_out_videos: tuple[str, ...]


def live_rows(ds: xr.Dataset) -> npt.NDArray[np.bool_]:
    """Which rows of the video table count, (V,): not superseded, the last of their name."""
    names = names_of(ds)
    last = {name: row for row, name in enumerate(names)}
    live = np.array([last[name] == row for row, name in enumerate(names)], bool)
    if "state" in ds:
        live &= np.array([str(state) != "superseded" for state in ds["state"].values], bool)
    return live


def names_of(ds: xr.Dataset) -> list[str]:
    """Names of all rows of the video table."""
    _need(ds, "video", "clip_video")
    return [str(name) for name in ds["video"].values]


def training_rows(ds: xr.Dataset, split: str | npt.ArrayLike | None) -> npt.NDArray[np.bool_]:
    """Rows of the video table, (V,), that train in a split: its name, or its values (V,).

    None is the only split that the store has. Raises UsageError, naming the splits there are.
    """
    live = live_rows(ds)
    if split is not None and not isinstance(split, str):
        values = np.asarray(split)
        if values.shape != live.shape:
            raise UsageError(
                f"A split has one value a row of the video table, {len(live)}; got {values.shape}"
            )
        return _both(live, values == TRAIN)
    if "split" not in ds:
        raise UsageError(
            "The store has no split, so which videos train is unknown. Add one with `fs-submit "
            "split`, or give one value a video: 0 trains, 1 tests, -1 neither"
        )
    known = [str(name) for name in ds["split_name"].values]
    if split is None and len(known) == 1:
        split = known[0]
    if split is None or split not in known:
        asked = "Several splits are there" if split is None else f"There is no split {split!r}"
        raise UsageError(f"{asked}; choose one of: {', '.join(known) or 'none'}")
    values = ds["split"].isel(split_name=known.index(split)).values
    return _both(live, values == TRAIN)


def training_labels(ds: xr.Dataset, rows: npt.NDArray[np.bool_]) -> npt.NDArray[np.int8]:
    """Labels of all rows of the video table, (V,); those that do not train are UNKNOWN here.

    Raises FitError when a training video has no label.
    """
    if "label" not in ds:
        raise FitError("The store has no labels of videos; `fs-submit extract --labels` adds them")
    labels = np.full(len(rows), UNKNOWN, np.int8)
    labels[rows] = ds["label"].values[rows]
    unknown = [name for name, trains, label in zip(names_of(ds), rows, labels, strict=True)
               if trains and label == UNKNOWN]  # fmt: skip
    if unknown:
        more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        raise FitError(
            f"Training videos without a label: {', '.join(unknown[:5])}{more}. Label them, or "
            "take them out of the split"
        )
    return labels


def choose(
    ds: xr.Dataset,
    features: str,
    rows: npt.NDArray[np.bool_],
    labels: npt.NDArray[np.int8] | None = None,
) -> Chosen:
    """The clips of some rows of the video table that have features. `labels`: of all rows.

    Raises UsageError when the store has no such features, or clips of a video lie apart.
    """
    array_of(ds, features)
    names, of_clip = names_of(ds), ds["clip_video"].values.astype(np.int64)
    known = np.full(len(names), UNKNOWN, np.int8) if labels is None else labels
    wanted = rows[of_clip]
    missing, failed = np.zeros(len(of_clip), bool), np.zeros(len(of_clip), bool)
    for part in parts_of(features):
        if status_of(part) in ds:
            status = ds[status_of(part)].values
            failed |= status == FAILED
            missing |= (status != DONE) & (status != FAILED)
    left_out = {
        reason: np.flatnonzero(wanted & mask)
        for reason, mask in (("failed", failed), ("missing", missing & ~failed))
        if (wanted & mask).any()
    }
    without = np.unique(of_clip[wanted & (failed | missing)])
    clips = np.flatnonzero(wanted & ~failed & ~missing)
    kept, firsts, counts = np.unique(of_clip[clips], return_index=True, return_counts=True)
    order = np.argsort(firsts)
    kept, counts = kept[order], counts[order]
    if (np.repeat(kept, counts) != of_clip[clips]).any():
        raise UsageError("The clips of a video do not lie together in clip_video")
    videos = Videos(tuple(names[row] for row in kept), known[kept], bounds_of(counts))
    return Chosen(clips, videos, kept, left_out, tuple(names[row] for row in without))


def only_normal(chosen: Chosen) -> Chosen:
    """The normal videos of those chosen."""
    keep = chosen.videos.labels == NORMAL
    return Chosen(
        chosen.clips[np.repeat(keep, np.diff(chosen.videos.bounds))],
        chosen.videos.only(keep),
        chosen.rows[keep],
        chosen.left_out,
        chosen.left_out_videos,
    )


class StoreReader:
    """Some clips of a feature array, averaged over crops: see passes.Reader.

    Reads along the rows of chunks that the array has on disk, each once. It can be pickled when
    the Dataset was opened from a store: whoever gets it opens that store.
    """

    def __init__(
        self, array: xr.DataArray, clips: npt.NDArray[np.int64], where: str | None = None
    ) -> None:
        """`where` names the array in errors; its own name unless given."""
        self._array, self._clips = array, clips
        self._where = where or str(array.name)
        self._per_clip = array.dtype.itemsize * int(np.prod(array.shape[1:], dtype=np.int64))
        self._blocks: list[Block] = []
        self._ranges: dict[int, tuple[int, int]] = {}  # of the array, by where a block begins
        # The rows of chunks that hold wanted clips, and as many in one block as its bytes allow.
        borders = _chunk_borders(array)
        chunk, firsts = np.unique(
            np.searchsorted(borders, clips, side="right") - 1, return_index=True
        )
        stops = [*firsts.tolist(), len(clips)][1:]
        for number, first, stop in zip(chunk.tolist(), firsts.tolist(), stops, strict=True):
            low, high = int(borders[number]), int(borders[number + 1])
            if self._blocks:
                begin = self._blocks[-1].start
                start, end = self._ranges[begin]
                if end == low and (high - start) * self._per_clip <= BLOCK_BYTES:
                    self._blocks[-1] = slice(begin, stop)
                    self._ranges[begin] = (start, high)
                    continue
            self._blocks.append(slice(first, stop))
            self._ranges[first] = (low, high)

    @property
    def count(self) -> int:
        """Number of clips."""
        return len(self._clips)

    @property
    def channels(self) -> int:
        """Width of a clip's features."""
        return int(self._array.shape[-1])

    @property
    def blocks(self) -> Sequence[Block]:
        """One read each."""
        return self._blocks

    def bytes_of(self, block: Block) -> int:
        """Of whole chunks: those clips in them that are not wanted are read too."""
        low, high = self._ranges[block.start]
        return (high - low) * self._per_clip

    def read(self, block: Block) -> npt.NDArray[Any]:
        """Clips averaged over crops."""
        low, _ = self._ranges[block.start]
        values, wanted = self.load(block), self._clips[block] - low
        return over_crops(values if len(wanted) == len(values) else values[wanted])

    def load(self, block: Block) -> npt.NDArray[Any]:
        """All clips of its chunks, as they are stored.

        Raises StoreUnreadable, which a worker can send back as it is.
        """
        part = self._array.isel({self._array.dims[0]: slice(*self._ranges[block.start])})
        try:
            # A Dask array is computed here, not on the cluster that may be running this very task.
            loaded = part.compute(scheduler="synchronous") if part.chunks else part
            return np.asarray(loaded.values)
        except errors() as error:
            # Alone: what it comes from may hold a key.
            raise StoreUnreadable(
                f"{self._where}: cannot be read: {told(error)}. Run the command again when that is "
                "put right."
            ) from None
        except ValueError as error:
            raise StoreUnreadable(
                f"{self._where}: is damaged: {error}. fs-submit verify tells where, and what to do."
            ) from error


def _chunk_borders(array: xr.DataArray) -> npt.NDArray[np.int64]:
    """Clips at which chunks begin, and the end."""
    count = array.shape[0]
    stored = array.encoding.get("chunks") or ()
    if stored:
        size = int(stored[0])
    elif array.chunks:
        return bounds_of(array.chunks[0])
    else:
        size = 512
    return np.append(np.arange(0, count, size), count)


def array_of(ds: xr.Dataset, features: str) -> xr.DataArray:
    """The array of features, (clip, channel) or (clip, crop, channel)."""
    if features not in ds:
        known = [str(name) for name in ds.data_vars if is_features_name(str(name))]
        raise UsageError(
            f"The store has no features {features!r}; it has: {', '.join(known) or 'none'}"
        )
    array = ds[features]
    if array.ndim not in (2, 3) or array.dims[0] != "clip":
        raise UsageError(
            f"{features}: features have dimensions (clip, crop, channel); got {array.dims}"
        )
    # The coordinates stay behind: a reader that travels to a worker takes the array alone.
    return array.reset_coords(drop=True)


def where(ds: xr.Dataset, features: str) -> str:
    """Names an array in errors: `features/ped2.zarr/r3d`."""
    source = ds.encoding.get("source")
    return f"{source}/{features}" if isinstance(source, str) else features


def provenance_of(ds: xr.Dataset, features: str) -> dict[str, Any]:
    """How features were made: of each backbone that they are made of, as far as it is there."""
    return {
        part: provenance.of(ds[part].attrs)
        for part in (*parts_of(features), features)
        if part in ds and provenance.of(ds[part].attrs)
    }


def check_features(
    where: str, fitted: Mapping[str, Any], found: Mapping[str, Any], channels: tuple[int, int]
) -> None:
    """Raises ProvenanceMismatch unless features were made as those a detector was fitted to.

    `channels`: the detector's, and theirs. Package versions may differ.
    """
    if channels[0] != channels[1]:
        raise ProvenanceMismatch(
            f"{where}: has {channels[1]} channels, and the detector was fitted to {channels[0]}. "
            "Score the features that it was fitted to, or fit it to these"
        )
    differences = []
    for part in sorted({*fitted, *found}):
        old, new = _flat(fitted.get(part, {})), _flat(found.get(part, {}))
        differences += [
            f"{part} {key}: {old.get(key, 'nothing')} -> {new.get(key, 'nothing')}"
            for key in {**old, **new}
            if old.get(key) != new.get(key)
        ]
    if differences:
        raise ProvenanceMismatch(
            f"{where}: the features there were made otherwise than those the detector was fitted "
            f"to ({'; '.join(differences)}). Fit a detector to these features, or extract them "
            "again in the same way"
        )


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        if not prefix and key in _MAY_DIFFER:
            continue
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = list(value) if isinstance(value, tuple) else value
    return found


def _both(one: npt.NDArray[np.bool_], other: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    return one & other


def _need(ds: xr.Dataset, *names: str) -> None:
    for name in names:
        if name not in ds:
            raise UsageError(
                f"The Dataset has no {name!r}: open a feature store, for example "
                "xarray.open_zarr('features/ped2.zarr', chunks=None)"
            )
