"""The tables of a store: do their chunks read, and do their numbers agree with each other?

`frames` of each video decides. Its clips, where they are in the table of clips, where its frames
are in the table of frames: all follows from it, and can be written anew where it is wrong.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from featurestore import arrays, schema
from featurestore.align import segment_spans
from featurestore.clips import CLIP_FRAMES
from featurestore.errors import StoreUnreadable
from featurestore.findings import REPAIR, Findings
from featurestore.layout import Members
from featurestore.place import Spot
from featurestore.runs import FOLDER
from featurestore.schema import DONE, FAILED, MISSING, status_of
from featurestore.splits import TEST, TRAIN, UNUSED

if TYPE_CHECKING:
    import zarr

    from featurestore.store import Store

# Chunks of these may go: they then read as missing or unknown, and a command records them again.
_FORGETTABLE: Final = {"label", "frame_label", "split"}
# What derived_columns makes.
_DERIVED: Final = {
    "clip_count", "clip_offset", "clip_video", "clip_start", "clip_stop", "frame_offset"
}  # fmt: skip


def check_tables(
    root: Spot, store: Store, members: Members, found: Findings
) -> dict[str, npt.NDArray[Any]] | None:
    """Adds what is wrong with the tables to `found`, and returns those that are right, by name.

    Of the columns that follow from others those that are wrong are returned as they must be. None:
    too much is lost to tell which clip is of which video.
    """
    values = _read_all(root, store, members, found)
    if not {"frames", "video"} <= values.keys():
        return None
    derived = derived_columns(values["frames"], store.segments)
    if len(derived["clip_video"]) != store.clips:
        found.add(
            "frames",
            f"by their frames the videos have {len(derived['clip_video'])} clips, the store has "
            f"{store.clips}",
            _LOST,
            mendable=False,
        )
        return None
    for name, wanted in derived.items():
        if name in members and not np.array_equal(values.get(name, ()), wanted):
            if name in values:
                found.add(name, "does not agree with the frames of the videos", REPAIR)
            values[name] = found.columns[name] = wanted
    _check_lengths(members, values, store.clips, found)
    _check_values(store, values, found)
    return values


_LOST: Final = "Put the store back from a copy, or delete it and extract again"


def derived_columns(
    frames: npt.NDArray[np.int64], segments: int | None
) -> dict[str, npt.NDArray[Any]]:
    """The columns that follow from the videos' numbers of frames, as the store must have them."""
    counts = np.full_like(frames, segments) if segments else -(-frames // CLIP_FRAMES)
    rows = np.repeat(np.arange(len(frames), dtype=np.int32), counts)
    made: dict[str, npt.NDArray[Any]] = {
        "clip_count": counts,
        "clip_offset": np.cumsum(counts) - counts,
        "clip_video": rows,
        "frame_offset": np.cumsum(frames) - frames,
    }
    if segments:
        spans = [segment_spans(int(count), segments) for count in frames]
        none = np.zeros(0, np.int64)
        made["clip_start"] = np.concatenate([none, *(first for first, _ in spans)])
        made["clip_stop"] = np.concatenate([none, *(after for _, after in spans)])
    else:
        within = np.arange(len(rows), dtype=np.int64) - made["clip_offset"][rows]
        last = np.maximum(frames - CLIP_FRAMES, 0)[rows]
        made["clip_start"] = np.minimum(within * CLIP_FRAMES, last)
    return made


def _read_all(
    root: Spot, store: Store, members: Members, found: Findings
) -> dict[str, npt.NDArray[Any]]:
    """All tables that can be read, by name; what cannot be is added to `found`."""
    values: dict[str, npt.NDArray[Any]] = {}
    names = [name for name in members if not schema.is_features_name(name)]
    for name, array in arrays.open_members(root, names).items():
        try:
            values[name] = arrays.read(array, root / name)
        except StoreUnreadable as error:
            what = str(error).removeprefix(f"{root / name}: ").rstrip(".")
            _add_unreadable(root, store, name, array, what, found)
    return values


def _add_unreadable(
    root: Spot, store: Store, name: str, array: zarr.Array[Any], what: str, found: Findings
) -> None:
    backbone = name.removeprefix("status_")
    if name.startswith(f"{FOLDER}/"):
        run = name.split("/")[1]
        found.runs.add(run)
        found.add(name, what, f"{REPAIR} deletes the run {run}; then fs-submit score")
    elif name in _DERIVED:
        found.add(name, what, REPAIR)
    elif name in _FORGETTABLE:
        found.chunks += _damaged_chunks(root, name, array)
        found.add(name, what, f"{REPAIR}, then fs-submit extract or fs-submit split add again")
    elif name != backbone and backbone in store.backbones:
        found.chunks += _damaged_chunks(root, name, array)
        found.statuses.append(backbone)
        found.add(name, what, f"{REPAIR} (complete features count as done)")
    else:
        way_out = f"Put {name} back from a copy, or delete the store and extract again"
        found.add(name, what, way_out, mendable=False)


def _damaged_chunks(root: Spot, name: str, array: zarr.Array[Any]) -> list[str]:
    damaged = []
    for chunk in np.ndindex(*(-(-n // s) for n, s in zip(array.shape, array.chunks, strict=True))):
        at = tuple(slice(i * s, (i + 1) * s) for i, s in zip(chunk, array.chunks, strict=True))
        try:
            arrays.read(array, root / name, at)
        except StoreUnreadable:
            damaged.append("/".join([name, "c", *map(str, chunk)]))
    return damaged


def _check_lengths(
    members: Members, values: dict[str, npt.NDArray[Any]], clips: int, found: Findings
) -> None:
    frames = values["frames"]
    lengths = {"clip": clips, "video": len(frames), "frame": int(frames.sum())}
    for name, committed in members.items():
        if committed.get("node_type") != "array":
            continue
        for dim, length in zip(committed["dimension_names"], committed["shape"], strict=True):
            wanted = lengths.get(dim, length)
            # Older software left runs as long as the store was when they were made.
            if length > wanted or (length < wanted and not name.startswith(f"{FOLDER}/")):
                found.add(
                    name,
                    f"has {length} values over {dim}, the store {wanted}",
                    _LOST,
                    mendable=False,
                )


def _check_values(store: Store, values: dict[str, npt.NDArray[Any]], found: Findings) -> None:
    allowed: dict[str, tuple[object, ...]] = {
        "label": (0, 1, -1),
        "frame_label": (0, 1, -1),
        "split": (TRAIN, TEST, UNUSED),
        "state": tuple(schema.STATES),
        **{status_of(name): (MISSING, DONE, FAILED) for name in store.backbones},
    }
    for name, known in allowed.items():
        if name in values and (odd := set(np.unique(values[name]).tolist()) - set(known)):
            found.add(
                name,
                f"holds {sorted(map(str, odd))}, which mean nothing",
                _LOST,
                mendable=False,
            )
    if not all(values["video"].tolist()):
        found.add("video", "has a row without a name", _LOST, mendable=False)
    names = values["split_name"].tolist() if "split_name" in values else []
    splits = len(values["split"]) if "split" in values else len(names)
    if len(set(names)) != len(names) or splits != len(names):
        found.add(
            "split_name",
            f"{splits} splits have {len(set(names))} different names",
            _LOST,
            mendable=False,
        )
