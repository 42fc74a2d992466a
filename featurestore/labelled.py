"""Labels and splits of an opened store: what is known of its videos, which train and which test.

They are named by video, so a replaced video keeps its label and its half of every split; its
frame labels are forgotten, for its frames may be others. Unknown never overwrites known.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from featurestore import arrays, layout, schema, splits
from featurestore.catalog import NewVideo
from featurestore.disk import writing
from featurestore.errors import LabelError, SplitError
from featurestore.labels import LABEL_NAMES, UNKNOWN, Truth, fit
from featurestore.opened import Opened
from featurestore.splits import PART_NAMES, UNUSED, Split, shown

WINDOW: Final = 16_777_216  # frame labels looked at at a time: bytes


class Labelled(Opened):
    """The part of `Store` that knows labels and splits."""

    _row_of: dict[str, int] | None = None

    # What is there

    def labels(self) -> npt.NDArray[np.int8]:
        """Label of each video, int8 (videos,): labels.NORMAL, ABNORMAL or UNKNOWN."""
        return self._read("label") if self._labelled else self._unknown(self._length("video"))

    def frame_labels(self, row: int) -> npt.NDArray[np.int8]:
        """Label of each frame of a video, int8 (frames,): 0, 1 or -1."""
        count = int(self._read("frames", slice(row, row + 1))[0])
        if not self._labelled:
            return self._unknown(count)
        first = int(self._read("frame_offset", slice(row, row + 1))[0])
        return self._read("frame_label", slice(first, first + count))

    def frame_table(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int8]]:
        """First frame of each video in the table of frames, int64 (videos,); all frames' labels,
        int8 (frames,): those of superseded videos too."""
        if self._labelled:
            return self._read("frame_offset"), self._read("frame_label")
        counts = self._read("frames")
        return np.cumsum(counts) - counts, self._unknown(int(counts.sum()))

    @property
    def split_names(self) -> tuple[str, ...]:
        """Names of the splits, in the order they were added."""
        return tuple(self._read("split_name").tolist()) if self._labelled else ()

    def split_parts(self, name: str) -> npt.NDArray[np.int8]:
        """Half of each video, int8 (videos,): splits.TRAIN, TEST or UNUSED.

        Raises SplitError, naming the splits there are.
        """
        return self._read("split", (self._split_row(name), slice(None)))

    def split(self, name: str) -> Split:
        """A split with what the store knows of its videos, in the order of the table.

        Superseded videos are left out. Raises SplitError, naming the splits there are.
        """
        parts, labels = self.split_parts(name), self.labels()
        rows = {video: row for video, row in self._rows().items() if parts[row] != UNUSED}
        return Split(
            name,
            {video: int(parts[row]) for video, row in rows.items()},
            {video: int(labels[row]) for video, row in rows.items() if labels[row] != UNKNOWN},
            self._sources().get(name, ""),
        )

    # Changes. Of videos and splits that are committed readers see them at once, of others at the
    # next commit. The same call again finishes what a kill interrupted.

    def set_truth(self, truths: Iterable[Truth]) -> list[str]:
        """Records what is known of videos; returns remarks, each naming its videos.

        A remark is what the truth itself says is odd; labels for another number of frames than
        were decoded (see labels.fit: the frame labels stay unknown); known labels that changed.
        Raises LabelError, before anything is written, when a video is not in the store or stands
        there twice.
        """
        fitted, odd = self._fitted(list(truths))
        if not fitted:
            return []
        with self._changing():
            self._make_room()
            for rows, first, stop in self._windows(sorted(fitted)):
                given = np.full(stop - first, UNKNOWN, np.int8)
                for row, offset, count in rows:
                    given[offset - first : offset - first + count] = fitted[row][1]
                old = self._read("frame_label", slice(first, stop))
                known = given != UNKNOWN
                differs = known & (old != given)
                if not differs.any():
                    continue
                changed = differs & (old != UNKNOWN)
                if changed.any():
                    odd["frame labels changed"] = odd.get("frame labels changed", []) + [
                        fitted[row][0]
                        for row, offset, count in rows
                        if changed[offset - first : offset - first + count].any()
                    ]
                self._write("frame_label", slice(first, stop), np.where(known, given, old))
            # The label last: whoever reads it finds the frames there.
            old = self.labels()
            new = old.copy()
            for row, (video, _, label) in fitted.items():
                if label != UNKNOWN:
                    if old[row] not in (label, UNKNOWN):
                        changed = f"{LABEL_NAMES[int(old[row])]} -> {LABEL_NAMES[label]}"
                        odd.setdefault(f"label changed, {changed}", []).append(video)
                    new[row] = label
            if (old != new).any():
                self._write("label", slice(None), new)
        return [f"{shown(videos)}: {remark}" for remark, videos in odd.items()]

    def set_split(self, split: Split, *, replace: bool = False) -> list[str]:
        """Adds a split, or completes the one of its name; returns remarks.

        Labels that it has and the store lacks are recorded too. Videos of the store that it does
        not name are in neither half, and remarked on. Raises SplitError, before anything is
        written: it names videos that are not there, contradicts labels, or would put videos
        elsewhere than the split of its name there does (unless `replace`).
        """
        rows, labels = self._rows(), self.labels()
        splits.check(split, rows, {video: int(labels[row]) for video, row in rows.items()})
        there = split.name in self.split_names
        videos = self._length("video")
        old = self.split_parts(split.name) if there else np.full(videos, UNUSED, np.int8)
        parts = old.copy()  # superseded rows stay as they are
        parts[list(rows.values())] = UNUSED
        for video, part in split.parts.items():
            parts[rows[video]] = part
        if there and not replace:
            moved = [v for v, row in rows.items() if old[row] not in (parts[row], UNUSED)]
            if moved:
                raise SplitError(
                    f"{self.url}: has a split {split.name!r} already, in which {len(moved)} videos "
                    f"are elsewhere: {shown(moved)}. Give the new one another name, or --replace."
                )
        remarks = self.set_truth(
            Truth(video, label, None, f"split {split.name}")
            for video, label in split.labels.items()
            if labels[rows[video]] == UNKNOWN
        )
        self._put_split(split.name, parts, split.source)
        if left := [video for video, row in rows.items() if parts[row] == UNUSED]:
            remarks.append(f"split {split.name}: {len(left)} videos in neither half: {shown(left)}")
        return remarks

    def take_labels(self, source: Labelled, rows: npt.NDArray[np.integer[Any]]) -> None:
        """Labels, frame labels and splits of another store, whose row `rows[i]` is row i here."""
        if not source._labelled:
            return
        with self._changing():
            self._make_room()
            old, new = self.labels(), source.labels()[rows]
            new = np.where(new == UNKNOWN, old, new)
            if (old != new).any():
                self._write("label", slice(None), new)
            for window, first, stop in self._windows(range(len(rows))):
                old = self._read("frame_label", slice(first, stop))
                theirs = [source.frame_labels(int(rows[row])) for row, _, _ in window]
                new = np.concatenate(theirs)
                new = np.where(new == UNKNOWN, old, new)
                if (old != new).any():
                    self._write("frame_label", slice(first, stop), new)
        for name in source.split_names:
            self._put_split(name, source.split_parts(name)[rows], source._sources().get(name, ""))

    # For the rest of Store

    def _append_labels(self, videos: Sequence[NewVideo], first_row: int) -> None:
        """Makes room for new videos, of which those of a name that is there inherit by name."""
        if not self._labelled:
            return
        frames = np.array([video.frames for video in videos], np.int64)
        ends = np.cumsum(frames)
        start = self._length("frame_label")
        heirs = self._rows() if first_row else {}
        pairs = [(new, heirs[v.name]) for new, v in enumerate(videos) if v.name in heirs]
        labels = self._unknown(len(videos))
        if pairs:
            news, olds = np.array(pairs).T
            labels[news] = self.labels()[olds]
        self._extend("label", labels)
        self._extend("frame_offset", start + ends - frames)
        self._grow("frame_label", start + int(frames.sum()))
        count = len(self.split_names)
        self._grow("split", count, first_row + len(videos))
        if pairs and count:
            inherited = np.full((count, len(videos)), UNUSED, np.int8)
            inherited[:, news] = self._read("split", (slice(None), slice(0, first_row)))[:, olds]
            self._write("split", (slice(None), slice(first_row, None)), inherited)

    # Below: private

    @property
    def _labelled(self) -> bool:
        return "label" in self._arrays

    def _make_room(self) -> None:
        """Adds the arrays of labels and splits to a store that was made before there were any."""
        if not self._labelled:
            layout.make_labels(self._root, self._read("frames"))
            for name in (*schema.LABEL_TABLE, "split"):
                self._arrays[name] = arrays.open_array(self._root, name, empty_chunks=False)

    def _put_split(self, name: str, parts: npt.NDArray[np.int8], source: str) -> None:
        """Writes a split, int8 (videos,), if it is not there like this."""
        with self._changing():
            self._make_room()
            if name not in self.split_names:
                row = self._length("split_name")
                self._grow("split", row + 1)
                # Written, not left to the fill value: a killed run may have left something there.
                self._write("split", row, parts)
                self._extend("split_name", np.array([name], np.dtypes.StringDType()))
            elif (self.split_parts(name) != parts).any():
                self._write("split", self._split_row(name), parts)
            sources = {**self._sources(), name: source}
            if sources != self._sources():
                with writing(self._root / "split"):
                    self._arrays["split"] = self._arrays["split"].update_attributes(
                        {"sources": sources}
                    )

    def _rows(self) -> dict[str, int]:
        """Row of each video, by name: the last of its name. Kept: only `append` changes it."""
        if self._row_of is None:
            self._row_of = {name: row for row, name in enumerate(self._read("video").tolist())}
        return self._row_of

    def _split_row(self, name: str) -> int:
        names = self.split_names
        if name not in names:
            known = f"it has {', '.join(names)}" if names else "it has none: fs-submit split add"
            raise SplitError(f"{self.url}: has no split {name!r}; {known}")
        return names.index(name)

    def _sources(self) -> dict[str, str]:
        found: dict[str, Any] = self._arrays["split"].attrs.asdict() if self._labelled else {}
        return dict(found.get("sources", {}))

    def _fitted(
        self, truths: Sequence[Truth]
    ) -> tuple[dict[int, tuple[str, npt.NDArray[np.int8], int]], dict[str, list[str]]]:
        """Row -> video, its frames' labels, its label; and remark -> videos."""
        rows, frames, states = self._rows(), self._read("frames"), self._read("state")
        if unknown := [truth.video for truth in truths if truth.video not in rows]:
            raise LabelError(
                f"{self.url}: has no video of the name of {len(unknown)} that there are labels "
                f"for: {shown(unknown)}"
            )
        fitted: dict[int, tuple[str, npt.NDArray[np.int8], int]] = {}
        odd: dict[str, list[str]] = {}
        for truth in truths:
            row = rows[truth.video]
            if row in fitted:
                raise LabelError(f"{truth.video}: there are two sets of labels for it")
            found = fit(truth, int(frames[row]), damaged=states[row] != "ok")
            fitted[row] = truth.video, found.frames, found.label
            if found.remark:
                odd.setdefault(found.remark, []).append(truth.video)
        return fitted, odd

    def _windows(
        self, rows: Sequence[int]
    ) -> Iterator[tuple[list[tuple[int, int, int]], int, int]]:
        """Stretches of the table of frames that hold these rows' frames: (row, offset, frames)."""
        offsets, frames = self._read("frame_offset"), self._read("frames")
        window: list[tuple[int, int, int]] = []
        for row in rows:
            offset, count = int(offsets[row]), int(frames[row])
            if window and offset + count - window[0][1] > WINDOW:
                yield window, window[0][1], window[-1][1] + window[-1][2]
                window = []
            window.append((row, offset, count))
        if window:
            yield window, window[0][1], window[-1][1] + window[-1][2]

    @staticmethod
    def _unknown(count: int) -> npt.NDArray[np.int8]:
        return np.full(count, UNKNOWN, np.int8)


def counts(store: Labelled, live: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """Videos by label, and by split, half and label: what a store says of those that count.

    `{"labels": {"normal": 16, ...}, "splits": {"official": {"train": {"normal": 16}, ...}}}`;
    `live` says which videos count, bool (videos,).
    """
    labels = store.labels()

    def by_label(videos: npt.NDArray[np.bool_]) -> dict[str, int]:
        found = {name: int((labels[videos] == of).sum()) for of, name in LABEL_NAMES.items()}
        return {name: count for name, count in found.items() if count}

    halves = {
        name: {half: by_label(live & (parts == part)) for part, half in PART_NAMES.items()}
        for name, parts in ((name, store.split_parts(name)) for name in store.split_names)
    }
    return {"labels": by_label(live), "splits": halves}


def summary(found: Mapping[str, Any]) -> str:
    """`labels: 12 abnormal, 16 normal; splits: official (16 train, 12 test)`, from `counts`."""
    labels = ", ".join(f"{count} {name}" for name, count in found["labels"].items())
    halves = [
        f"{split} ({', '.join(f'{sum(of.values())} {half}' for half, of in parts.items())})"
        for split, parts in found["splits"].items()
    ]
    return f"labels: {labels or 'none'}; splits: {', '.join(halves) or 'none'}"
