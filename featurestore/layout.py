"""The root of a store: what its attributes say, and its consolidated metadata, the commit."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from featurestore import arrays, disk, schema
from featurestore.clips import CLIP_FRAMES
from featurestore.disk import reading, writing
from featurestore.errors import NotAStore, StoreNotFound, StoreUnreadable, UsageError
from featurestore.fused import can_link
from featurestore.labels import UNKNOWN
from featurestore.location import beside
from featurestore.place import Place, Spot, many

COMPACTING: Final = ".compact" + disk.PARTIAL  # the folder beside a store that is compacted

_VERSION: Final = "featurestore_layout"
_ANOTHER: Final = "Give another --store, or move this away."

Members = Mapping[str, Mapping[str, Any]]


def make(
    root: Spot,
    *,
    dataset: str,
    block: int,
    fused_as: Literal["auto", "link", "copy", "none"],
    segments: int | None = None,
) -> None:
    """Makes an empty store at `root`, in one step: it is built beside and then renamed.

    On an object store it is built in a temporary folder here, and its root's metadata, the commit,
    is put last.
    """
    if segments is not None and segments < 1:
        raise UsageError(f"A store of videos in {segments} segments makes no sense")
    if not dataset or block < 1 or fused_as not in ("auto", "link", "copy", "none"):
        raise UsageError(
            f"A store has a dataset's name, blocks of 1 clip or more and fused arrays that are "
            f"link, copy, none or auto; got {dataset!r}, {block}, {fused_as!r}"
        )
    root = root.resolve()
    _check_free(root)
    if isinstance(root, Place):
        if fused_as == "link":
            raise UsageError(f"{root}: an object store has no links; give --fused copy, or none")
        kept = "copy" if fused_as == "auto" else fused_as
        _put_new(root, _attributes(root.name, dataset, block, kept, segments), segments)
        return
    new = beside(root, ".new.partial")
    with writing(root):
        disk.remove(new)  # of a run that was killed here
        new.mkdir(parents=True)
        if fused_as == "auto":
            fused_as = "link" if can_link(new) else "copy"
        _fill(new, _attributes(root.name, dataset, block, fused_as, segments), segments)
        new.rename(root)


def read(root: Spot) -> dict[str, Any]:
    """The root's metadata of a store. Raises StoreNotFound, NotAStore, StoreUnreadable."""
    document = _read_there(root) if isinstance(root, Place) else _read_here(root)
    attributes = document.get("attributes") or {}
    version = attributes.get(_VERSION)
    if not isinstance(version, int):
        raise NotAStore(f"{root}: is a Zarr made by something else. {_ANOTHER}")
    if version > schema.LAYOUT_VERSION:
        raise NotAStore(
            f"{root}: was made by a newer version of this software (layout {version}; this one "
            f"knows up to {schema.LAYOUT_VERSION}). Update it, or give another --store."
        )
    if not document.get("consolidated_metadata"):
        # Without it nobody can tell what was committed. zarr drops it when someone edits the
        # attributes of the group.
        raise StoreUnreadable(
            f"{root}: another program has removed the consolidated metadata. Put it back with: "
            f"python -c 'import zarr; zarr.consolidate_metadata({str(root)!r})'"
        )
    return document


def _read_there(root: Place) -> dict[str, Any]:
    with reading(root):
        try:
            return arrays.document(root)
        except FileNotFoundError:
            others = [name for name in disk.names(root) if not _is_ours(name)]
        except ValueError as error:
            raise StoreUnreadable(f"{root / arrays.METADATA}: is damaged: {error}.") from error
    if others:
        raise NotAStore(f"{root}: is something else than a store of features. {_ANOTHER}")
    # What is there then is of a command that was killed before its first commit.
    raise StoreNotFound(
        f"{root}: there is no store. Make one with `fs-submit extract`, or give another --store."
    )


def _is_ours(name: str) -> bool:
    return schema.is_array_name(name) or name == schema.RUNS


def _read_here(root: Path) -> dict[str, Any]:
    with reading(root):
        if not root.exists() and halfway(root).exists():
            raise StoreUnreadable(
                f"{halfway(root)}: here lies the store that should be at {root}: compacting it was "
                f"killed at the last step. Put it back with: fs-submit compact --store {root}"
            )
        if not root.exists() or (root.is_dir() and not disk.names(root)):
            raise StoreNotFound(
                f"{root}: there is no store. Make one with `fs-submit extract`, or give another "
                "--store."
            )
        if not root.is_dir() or not (root / arrays.METADATA).exists():
            raise NotAStore(f"{root}: is something else than a store of features. {_ANOTHER}")
        try:
            return arrays.document(root)
        except ValueError as error:
            raise StoreUnreadable(f"{root / arrays.METADATA}: is damaged: {error}.") from error


def halfway(root: Path) -> Path:
    """Where a store lies for a moment while `copying.compact` puts a new one in its place."""
    return beside(root, COMPACTING) / "old"


def check_whole(root: Spot, document: Mapping[str, Any]) -> None:
    """Raises StoreUnreadable when chunks of the table of videos are not there.

    They always are, since no name is empty; zarr would read them as empty names, and every video
    would be taken for a new one.
    """
    table = members(document)["video"]
    chunk = table["chunk_grid"]["configuration"]["chunk_shape"][0]
    for number in range(-(-table["shape"][0] // chunk)):
        path = root / "video" / "c" / str(number)
        with reading(path):
            there = path.exists()
        if not there:
            raise StoreUnreadable(
                f"{path}: is missing, so the store was copied in part, or something was deleted. "
                "Copy it again."
            )


def members(document: Mapping[str, Any]) -> Members:
    """The committed arrays and groups, by path inside the store, from the root's metadata."""
    found: Members = document["consolidated_metadata"]["metadata"]
    return found


def commit(root: Spot) -> None:
    """Replaces the root's metadata, in one step, by one that shows all arrays as they are."""
    import zarr
    from zarr.errors import ZarrUserWarning

    with writing(root), warnings.catch_warnings():
        # Consolidated metadata is not in the specification of Zarr 3 yet. Readers rely on it all
        # the same: without it xarray warns, and asks for each array's metadata one by one.
        warnings.simplefilter("ignore", ZarrUserWarning)
        zarr.consolidate_metadata(arrays.zarr_store(root), zarr_format=3)


def _check_free(root: Spot) -> None:
    try:
        read(root)
    except StoreNotFound:
        return
    except StoreUnreadable as error:
        raise NotAStore(f"{error} It is in the way of a new store. {_ANOTHER}") from error
    raise UsageError(f"{root}: there is a store already")


def make_labels(root: Spot, frames: npt.NDArray[np.int64]) -> None:
    """Adds the arrays of labels and splits, all unknown, to videos of so many frames.

    Readers see them at the next commit. A store of an older layout then has this one: software
    that only knows that one could not add videos rightly.
    """
    totals = np.cumsum(frames)
    values = {"label": np.full(len(frames), UNKNOWN, np.int8), "frame_offset": totals - frames}
    lengths = {"video": len(frames), "frame": int(frames.sum()), "split_name": 0}
    for name, column in schema.LABEL_TABLE.items():
        made = arrays.make_column(
            root, name, column.dim, column.dtype, lengths[column.dim], column.attributes
        )
        if name in values and len(frames):
            arrays.write(made, root / name, slice(None), values[name])
    arrays.make_splits(root, len(frames))
    # Last: an older software that finds the arrays finds the version, too.
    document = arrays.document(root)
    if document["attributes"][_VERSION] < schema.LAYOUT_VERSION:
        document["attributes"][_VERSION] = schema.LAYOUT_VERSION
        arrays.put_document(root, document)


def _put_new(root: Place, attributes: Mapping[str, Any], segments: int | None) -> None:
    with tempfile.TemporaryDirectory() as folder, writing(root):
        new = Path(folder) / root.name
        _fill(new, attributes, segments)
        files = [path for path in new.rglob("*") if path.is_file()]
        last = new / arrays.METADATA
        root.remove()  # what a command that was killed here left
        puts = {path: root / path.relative_to(new).as_posix() for path in files if path != last}
        list(many(lambda path: puts[path].write_bytes(path.read_bytes()), puts))
        (root / arrays.METADATA).write_bytes(last.read_bytes())


def _fill(root: Path, attributes: Mapping[str, Any], segments: int | None) -> None:
    import zarr

    zarr.create_group(root, attributes=dict(attributes))
    crop = arrays.make_column(
        root, "crop", "crop", "string", len(schema.CROPS), schema.CROP_ATTRIBUTES
    )
    names = np.array(schema.CROPS, dtype=np.dtypes.StringDType())
    arrays.write(crop, root / "crop", slice(None), names)
    clips = schema.CLIP_TABLE | (schema.SEGMENT_TABLE if segments else {})
    for name, column in (*clips.items(), *schema.VIDEO_TABLE.items()):
        arrays.make_column(root, name, column.dim, column.dtype, 0, column.attributes)
    make_labels(root, np.zeros(0, np.int64))
    commit(root)


def _attributes(
    name: str, dataset: str, block: int, fused_as: str, segments: int | None
) -> dict[str, Any]:
    clips = (
        f"{CLIP_FRAMES} consecutive frames, stride {CLIP_FRAMES}; ceil(T/{CLIP_FRAMES}) clips "
        f"a video of T frames; the last begins at max(T-{CLIP_FRAMES}, 0) and ends with the "
        f"video; of a video shorter than {CLIP_FRAMES} frames the last frame is repeated."
    )
    if segments:
        clips = (
            f"each video is cut into {segments} spans, features averaged over each: frames "
            "clip_start to clip_stop - 1 (-1 where the video's number of frames is not known)"
        )
    return {
        "title": f"Video features of {dataset}",
        "description": (
            "Features of video clips from pretrained networks: each array of features has a "
            "vector for each clip and each of ten crops. NaN: missing. Each clip's video is "
            "clip_video, a row of the table of videos, which are the arrays over video; leave "
            "out clips of videos whose state is superseded. Labels: label, frame_label; who "
            "trains and who tests: split."
        ),
        "clips": clips,
        "open_with": (
            f"xarray.open_zarr({name!r}, chunks=None), or for Dask "
            "chunks={'clip': 8192, 'crop': -1}"
        ),
        "dataset": dataset,
        "block": block,
        **({"segments": segments} if segments else {"clip_frames": CLIP_FRAMES}),
        "fused": fused_as,
        _VERSION: schema.LAYOUT_VERSION,
        # xarray makes these coordinates, so that ds["r3d"] has them too.
        "coordinates": " ".join((*schema.CLIP_TABLE, *(schema.SEGMENT_TABLE if segments else ()))),
    }
