"""Create, open, grow and commit a store.

A store shows its readers the state of the last `commit`, whatever a writer is doing: a commit
replaces one small file, the root's metadata, in one step. One process at a time writes (see
`lock`); the features themselves come from workers (see `blocks`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from featurestore import (
    arrays,
    catalog,
    chunks,
    disk,
    fused,
    inhand,
    labelled,
    layout,
    provenance,
    run_lengths,
    schema,
)
from featurestore.blocks import blank_clips, missing, runs, unfinished, written_blocks
from featurestore.catalog import NewVideo, Video
from featurestore.clips import CLIP_FRAMES
from featurestore.errors import UsageError
from featurestore.labelled import Labelled
from featurestore.location import spot
from featurestore.place import Place, Spot
from featurestore.repair import repair
from featurestore.schema import BACKBONES, FEATURES, FUSED, parts_of, status_of

Url = str | os.PathLike[str]

ALL: Final = slice(None)
STRETCH: Final = 4_194_304  # clips looked at at a time, about: some tens of megabytes


def create(
    url: Url,
    *,
    dataset: str,
    block: int,
    fused: Literal["auto", "link", "copy", "none"] = "auto",
    segments: int | None = None,
) -> Store:
    """Makes a store without videos and opens it for writing; the caller holds the lock.

    `block` is the number of clips a block (schema.block_clips). Fused arrays are links to their
    parts' chunks, copies of them, or left out; "auto" is links where the disk can make them, else
    copies. With `segments`, clips are so many spans a video (align.segment_spans), not runs of 16
    frames. Killed at any moment, it leaves a whole store or none.

    Raises NotAStore or UsageError when something lies there already, StoreUnwritable.
    """
    layout.make(spot(url), dataset=dataset, block=block, fused_as=fused, segments=segments)
    return open_store(url, "a")


def open_store(url: Url, mode: Literal["r", "a"] = "r") -> Store:
    """Opens a store: "r" shows the last commit, "a" also writes (the caller holds the lock).

    Opening for writing first brings the store back to its last commit, if a killed writer left
    something unfinished; runs that an older version left shorter than the store are made as long.

    Raises StoreNotFound, NotAStore (made by something else, or by a newer version),
    StoreUnreadable, StoreUnwritable.
    """
    root = spot(url)
    document = layout.read(root)
    if mode == "a":
        repair(root, document["attributes"]["fused"], layout.members(document))
    store = Store(os.fspath(url), root, document, writable=mode == "a")
    if mode == "a":
        store._mark_superseded()
        store._blank_unfinished()
        members = layout.members(document)
        if run_lengths.misfits(members, run_lengths.lengths(members)):
            store.commit()
    return store


class Store(Labelled):
    """An open store. Made by `create` and `open_store`. Labels and splits: see Labelled."""

    def __init__(
        self, url: str, root: Spot, document: Mapping[str, Any], *, writable: bool
    ) -> None:
        super().__init__(url, root, writable=writable)
        attributes = document["attributes"]
        layout.check_whole(root, document)
        self.dataset: str = attributes["dataset"]
        self.block: int = attributes["block"]
        self.fused: fused.Mode = attributes["fused"]
        self.generation = provenance.generation(attributes)
        # Clips a video where they are no runs of 16 frames but spans of another length each.
        self.segments: int | None = attributes.get("segments")

    def __repr__(self) -> str:
        held = ", ".join((*self.backbones, *self.fused_arrays)) or "no features"
        return (
            f"<Store {self.url}: {self.dataset}, {self._length('video')} videos, "
            f"{self.clips} clips, {held}>"
        )

    # What is there

    @property
    def clips(self) -> int:
        """Number of clips, superseded ones included."""
        return self._length("clip_video")

    @property
    def backbones(self) -> tuple[str, ...]:
        """Backbones whose features the store has: those of schema.BACKBONES, then others."""
        found = {name for name in self._arrays if status_of(name) in self._arrays}
        return (*(name for name in BACKBONES if name in found), *sorted(found - set(BACKBONES)))

    @property
    def fused_arrays(self) -> tuple[str, ...]:
        """Fused arrays that the store has, in the order of schema.FUSED."""
        return tuple(name for name in FUSED if name in self._arrays)

    def videos(self) -> list[Video]:
        """The table of videos. A video that a later row of its name replaced is superseded."""
        return catalog.videos_of({column: self._read(column) for column in schema.VIDEO_TABLE})

    def video(self, name: str) -> Video:
        """The row of one video, the last of its name. Raises UsageError when there is none."""
        found = np.flatnonzero(self._read("video") == name)
        if not found.size:
            raise UsageError(f"{self.url}: has no video {name!r}")
        row = int(found[-1])
        one = slice(row, row + 1)
        table = {column: self._read(column, one) for column in schema.VIDEO_TABLE}
        return replace(catalog.videos_of(table)[0], index=row)

    def clip_table(self) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
        """Row of its video, int32 (clips,), and first frame, int64 (clips,), of each clip."""
        return self._read("clip_video"), self._read("clip_start")

    def label_counts(self) -> dict[str, Any]:
        """Videos by label, and of each split by half and label (see labelled.counts)."""
        return labelled.counts(self, self.live_videos())

    def clip_spans(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """First frame of each clip and the frame after its last, int64 (clips,) each.

        -1 where a video's number of frames is not known.
        """
        starts = self._read("clip_start")
        if self.segments:
            return starts, self._read("clip_stop")
        ends = self._read("frames")[self._read("clip_video")]
        return starts, np.minimum(starts + CLIP_FRAMES, ends)

    def live(self) -> npt.NDArray[np.bool_]:
        """Which clips are of videos not superseded, bool (clips,)."""
        of_clips: npt.NDArray[np.bool_] = self.live_videos()[self._read("clip_video")]
        return of_clips

    def live_videos(self) -> npt.NDArray[np.bool_]:
        """Which rows of the table of videos are not superseded, bool (videos,)."""
        states = self._read("state")
        live = np.zeros(len(states), bool)
        live[list(self._rows().values())] = True
        live[states == "superseded"] = False
        return live

    def features(self, name: str, clips: range, channels: slice = ALL) -> npt.NDArray[np.float32]:
        """Features of consecutive clips, float32 (clips, crops, channels); fused arrays too."""
        return self._read(self._known(name), (slice(clips.start, clips.stop), ALL, channels))

    def shape(self, name: str) -> tuple[int, ...]:
        """Clips, crops and channels of an array of features."""
        return tuple(self._arrays[self._known(name)].shape)

    def crops_unknown(self, name: str) -> bool:
        """Whether its crops are others than schema.CROPS, of positions not known."""
        found: list[str] = arrays.document(self._root / self._known(name))["dimension_names"]
        return found[1] != "crop"

    def done(self, name: str) -> npt.NDArray[np.bool_]:
        """Which clips have features of this name, bool (clips,); fused ones need all parts."""
        rows = [self.status(part) == schema.DONE for part in parts_of(self._known(name))]
        whole: npt.NDArray[np.bool_] = np.logical_and.reduce(rows)
        return whole

    def status(self, backbone: str) -> npt.NDArray[np.uint8]:
        """schema.MISSING, DONE or FAILED of each clip, uint8 (clips,)."""
        return self._read(status_of(self._backbone(backbone)))

    def missing(self, backbone: str, *, retry_failed: bool = False) -> Iterator[range]:
        """What blocks.missing and then blocks.runs tell, read a stretch of clips at a time.

        For stores of which the table of clips is a good part of the memory.
        """
        live = self.live_videos()
        status = status_of(self._backbone(backbone))
        for first in range(0, self.clips, self._stretch):
            part = slice(first, min(first + self._stretch, self.clips))
            wanted = missing(
                self._read(status, part),
                live[self._read("clip_video", part)],
                retry_failed=retry_failed,
            )
            yield from runs(first + np.flatnonzero(wanted), self.block)

    def provenance(self, name: str) -> dict[str, Any]:
        """How the features of a backbone were made."""
        return provenance.of(self._arrays[self._backbone(name)].attrs.asdict())

    def fingerprint(self, name: str) -> str:
        """Stands for that provenance; a task carries it (see blocks.write_clips)."""
        return provenance.fingerprint(self.provenance(name), self.generation)

    def check_provenance(self, name: str, attributes: Mapping[str, Any]) -> None:
        """Raises ProvenanceMismatch unless these features were made in this way."""
        provenance.check(self.url, name, self.provenance(name), attributes)

    def stored_bytes(self, name: str) -> int:
        """Bytes on disk of an array of the store; links count nothing. Reads the folder's list; on
        an object store, where that is long, it counts the blocks that have a clip done."""
        if not isinstance(self._root, Place):
            return disk.stored_bytes(self._root / self._known(name))
        _, crops, width = self._arrays[self._known(name)].chunks
        chunk = 4 * self.block * crops * width + chunks.CHECKSUM
        return sum(
            len(self._blocks(part)) * chunk * -(-self.shape(part)[2] // width)
            for part in parts_of(name)
        )

    # Changes that readers see at the next commit

    def add_features(
        self,
        name: str,
        channels: int,
        attributes: Mapping[str, Any],
        *,
        crops: int | None = None,
    ) -> None:
        """Adds a backbone: its features, all NaN, and its status, all missing.

        `attributes` is its provenance: plain JSON. With `crops` there are so many, of unknown
        positions, on a dimension `crop_N` in place of `crop`. Raises UsageError for a name or
        width that is not the schema's, or a backbone that is there.
        """
        known = FEATURES.get(name)
        if not schema.is_features_name(name) or (known and known.parts):
            raise UsageError(
                f"{name!r} is no backbone; give one of {BACKBONES} or, for example, timm_resnet50"
            )
        if channels < 1 or (known and known.channels != channels):
            raise UsageError(f"{name} cannot have {channels} channels")
        if crops is not None and (known or crops < 1):
            raise UsageError(f"{name} cannot have {crops} crops")
        self._not_there(name)
        described = provenance.attributes_of(name, channels, attributes)
        with self._changing():
            self._arrays[name] = arrays.make_features(
                self._root, name, channels, self.clips, self.block, described, crops=crops
            )
            status = status_of(name)
            self._arrays[status] = arrays.make_column(
                self._root,
                status,
                "clip",
                "uint8",
                self.clips,
                {"long_name": f"status of the {name} features", **schema.STATUS_ATTRIBUTES},
            )

    def add_fused(self, name: str) -> None:
        """Adds a fused array, which shows what its parts hold now and later.

        Raises UsageError when a part is not there, or the store is one without fused arrays.
        """
        if name not in FUSED:
            raise UsageError(f"{name!r} is no fused array; these are: {FUSED}")
        if self.fused == "none":
            raise UsageError(
                f"{self.url}: was made without fused arrays; give another --store to have {name}"
            )
        for part in parts_of(name):
            self._backbone(part)
        self._not_there(name)
        channels = FEATURES[name].channels
        described = provenance.attributes_of(name, channels, {})
        with self._changing():
            self._arrays[name] = arrays.make_features(
                self._root, name, channels, self.clips, self.block, described
            )
            if isinstance(self._root, Place):
                chunks.show(self._root, name, {part: self._blocks(part) for part in parts_of(name)})
            else:
                fused.settle(self._root, self.fused, name)

    def replace_features(self, name: str, attributes: Mapping[str, Any]) -> None:
        """Forgets all features of a backbone, to compute them anew in another way.

        The features are gone at once, for readers too (NaN, status missing); the new provenance
        shows at the commit.
        """
        array = self._arrays[self._backbone(name)]
        described = provenance.attributes_of(name, array.shape[2], attributes)
        with self._changing():
            self._write(status_of(name), slice(None), schema.MISSING)
            if isinstance(self._root, Place):
                blocks = -(-self.clips // self.block)
                chunks.withdraw(self._root, name, blocks, self.fused_arrays)
            else:
                fused.withdraw(self._root, name)
            arrays.clear(self._root, name)
            arrays.describe(self._root, name, described)
            self._arrays[name] = arrays.open_array(self._root, name)

    def append(self, videos: Sequence[NewVideo]) -> range:
        """Adds videos and their clips, all missing; returns their rows.

        A video of a name that is there supersedes the older one, at the commit. Raises UsageError
        when two of the new ones have one name.
        """
        first, clips = self._length("video"), self.clips
        rows = catalog.columns(videos, clips, self.segments)
        new_clips = catalog.clip_columns(videos, first, self.segments)
        end = clips + len(new_clips["clip_video"])
        with self._changing():
            self._append_labels(videos, first)
            for name in (*self.backbones, *self.fused_arrays, *map(status_of, self.backbones)):
                self._grow(name, end)
            for column, values in (*new_clips.items(), *rows.items()):
                self._extend(column, values)
        self._rows().update((video.name, first + i) for i, video in enumerate(videos))
        return range(first, first + len(videos))

    def commit(self) -> None:
        """Shows readers all changes made so far, in one step. Runs become as long as the store.

        Raises UsageError after a change that failed half-way: open the store again for writing,
        which undoes it.
        """
        with self._changing():
            tables = {dim: of for dim, of in run_lengths.TABLES.items() if of in self._arrays}
            run_lengths.commit(self._root, {dim: self._length(of) for dim, of in tables.items()})
        self._mark_superseded()

    # Changes that readers see at once

    def update_videos(self, changes: Mapping[int, Mapping[str, object]]) -> None:
        """Changes columns of rows in place: row -> column -> value, see catalog.CHANGEABLE."""
        self._check_writable()
        catalog.check_changes(self._length("video"), changes)
        # The state last: whoever reads that a video failed finds the reason there.
        for column in sorted(catalog.CHANGEABLE, key="state".__eq__):
            rows = sorted(row for row, change in changes.items() if column in change)
            if rows:
                values = catalog.array_of(column, [changes[row][column] for row in rows])
                self._write(column, np.array(rows), values)

    def mark(
        self, backbone: str, clips: slice | range | npt.NDArray[np.integer[Any]], value: int
    ) -> None:
        """Sets the status of clips (a slice, a range, or their numbers) to one value.

        Features of clips that failed read NaN from then on, whatever was written before: a
        damage found late makes them worthless.
        """
        self._check_writable()
        status = status_of(self._backbone(backbone))
        if value not in (schema.MISSING, schema.DONE, schema.FAILED):
            raise UsageError(f"{value} is no status of a clip")
        if isinstance(clips, slice):
            clips = range(self.clips)[clips]
        numbers = np.unique(np.asarray(clips, dtype=np.int64))
        if numbers.size and not 0 <= numbers[0] <= numbers[-1] < self.clips:
            raise UsageError(f"The store has no clips {numbers[0]} to {numbers[-1]}")
        if not numbers.size:
            return
        there = isinstance(self._root, Place)
        if there and value == schema.FAILED:
            # First: `_blank_unfinished` cannot do it there when this is killed in between.
            blank_clips(str(self._root), backbone, numbers)
        self._write(status, numbers, np.uint8(value))
        if not there and value == schema.FAILED:
            blank_clips(str(self._root), backbone, numbers)

    # Below: private

    def _mark_superseded(self) -> None:
        if len(self._rows()) == self._length("video"):
            return
        late = ~self.live_videos() & (self._read("state") != "superseded")
        if late.any():
            self.update_videos({int(row): {"state": "superseded"} for row in np.flatnonzero(late)})

    @property
    def _stretch(self) -> int:
        """Clips looked at at a time: whole blocks."""
        return self.block * max(1, STRETCH // self.block)

    def _blank_unfinished(self) -> None:
        """Clips that are not done read NaN: a killed run may have written some without marking
        them, or have marked them failed without blanking them.

        On an object store only in blocks that a driver had in hand (see inhand)."""
        root, begun = self._root, None
        if isinstance(root, Place):
            begun = inhand.blocks(root, -(-self.clips // self.block))
            if begun is None:
                return
        for name in self.backbones:
            written = (
                written_blocks(root, name) if isinstance(root, Path) else np.array(begun, np.int64)
            )
            status = partial(self._read, status_of(name))
            for clips in unfinished(written, self.block, self._stretch, self.clips, status):
                blank_clips(str(root), name, clips)
        if begun is not None:
            inhand.given_back(str(root))

    def _blocks(self, backbone: str) -> list[int]:
        """Numbers of the blocks of which some clip is done."""
        done = np.flatnonzero(self.status(backbone) == schema.DONE)
        numbers: list[int] = np.unique(done // self.block).tolist()
        return numbers

    def _backbone(self, name: str) -> str:
        if name in FUSED:
            raise UsageError(f"{name} is made of {' and '.join(parts_of(name))}; ask for those")
        if status_of(name) not in self._arrays:
            raise UsageError(f"{self.url}: has no features of {name!r}")
        return name

    def _not_there(self, name: str) -> None:
        if name in self._arrays:
            raise UsageError(f"{self.url}: has an array {name!r} already")
