"""The arrays of a store: how each is encoded, made, opened and grown, on disk or elsewhere.

zarr is imported when the first array is touched: it takes 0.3 seconds, and `--help` needs none.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from featurestore import disk, schema
from featurestore.disk import reading, writing
from featurestore.errors import StoreUnreadable
from featurestore.place import Place, Spot

if TYPE_CHECKING:
    import zarr

METADATA: Final = "zarr.json"


# Chunks of tables; what is not here is one chunk.
_CHUNKS: Final = {
    "clip": schema.CLIP_CHUNK,
    "video": schema.VIDEO_CHUNK,
    "frame": schema.FRAME_CHUNK,
    "split_name": 64,
}


def make_features(
    root: Spot,
    name: str,
    channels: int,
    clips: int,
    block: int,
    attributes: Mapping[str, Any],
    *,
    crops: int | None = None,
) -> zarr.Array[Any]:
    """A feature array, float32 of shape (clips, crops, channels), all NaN.

    Its crops are those of schema.CROPS, or so many whose positions are not known.

    Its only codec is a checksum: a flipped bit is an error, reading goes at full speed, and the
    same chunk is valid in a fused array.
    """
    count = len(schema.CROPS) if crops is None else crops
    return _make(
        root,
        name,
        shape=(clips, count, channels),
        chunks=(block, count, min(channels, schema.CHANNEL_CHUNK)),
        dims=("clip", "crop" if crops is None else f"crop_{crops}", f"channel_{channels}"),
        dtype="float32",
        attributes=attributes,
        compressed=False,
    )


def make_column(
    root: Spot, name: str, dim: str, dtype: str, length: int, attributes: Mapping[str, Any]
) -> zarr.Array[Any]:
    """A one-dimensional array: a status, a column of a table, a coordinate."""
    return _make(
        root,
        name,
        shape=(length,),
        chunks=(_CHUNKS.get(dim, max(length, 1)),),
        dims=(dim,),
        dtype=dtype,
        attributes=attributes,
    )


def make_splits(root: Spot, videos: int) -> zarr.Array[Any]:
    """The array of splits, int8 of shape (splits, videos), without splits yet."""
    return _make(
        root,
        "split",
        shape=(0, videos),
        chunks=(1, schema.SPLIT_CHUNK),
        dims=("split_name", "video"),
        dtype="int8",
        attributes={**schema.SPLIT_ATTRIBUTES, "sources": {}},
    )


def _make(
    root: Spot,
    name: str,
    *,
    shape: tuple[int, ...],
    chunks: tuple[int, ...],
    dims: tuple[str, ...],
    dtype: str,
    attributes: Mapping[str, Any],
    compressed: bool = True,
) -> zarr.Array[Any]:
    import zarr
    from zarr.codecs import Crc32cCodec, ZstdCodec

    # int8: labels and splits, -1 where nothing is known.
    fills: dict[str, object] = {"float32": math.nan, "float64": math.nan, "string": "", "int8": -1}
    codecs = [ZstdCodec(level=1), Crc32cCodec()] if compressed else [Crc32cCodec()]
    with writing(root / name):
        # On an object store zarr would make a group of each folder above it, up to the bucket.
        there = isinstance(root, Place)
        made = zarr.create_array(
            store={} if there else root / name,
            shape=shape,
            chunks=chunks,
            dtype=dtype,
            dimension_names=dims,
            fill_value=fills.get(dtype, 0),
            compressors=codecs,
            attributes=dict(attributes),
        )
    if there:
        put_document(root / name, made.metadata.to_dict())
        return open_array(root, name, empty_chunks=False)
    return made


def make_group(folder: Spot, attributes: Mapping[str, Any]) -> None:
    """A group without arrays."""
    import zarr

    with writing(folder):
        if isinstance(folder, Place):
            document = {"attributes": dict(attributes), "zarr_format": 3, "node_type": "group"}
            put_document(folder, document)
        else:
            zarr.create_group(folder, attributes=dict(attributes))


def zarr_store(folder: Spot, *, read_only: bool = False) -> Any:
    """What zarr and xarray open a group or an array of ours by."""
    if not isinstance(folder, Place):
        return folder
    from zarr.storage import ObjectStore, StorePath

    return StorePath(ObjectStore(folder.objects, read_only=read_only), folder.path)


def open_array(root: Spot, name: str, *, empty_chunks: bool = True) -> zarr.Array[Any]:
    """An array with the shape its own metadata has, for writing.

    Of features a chunk without a value must be a file too, for links to point to.
    """
    import zarr

    # `open_array` takes no such option (it ignores `config`); what zarr's configuration says when
    # it opens is kept.
    with reading(root / name), zarr.config.set({"array.write_empty_chunks": empty_chunks}):
        array = zarr.open_array(store=zarr_store(root / name), mode="r+", zarr_format=3)
    return array


def open_all(root: Spot, *, writable: bool) -> dict[str, zarr.Array[Any]]:
    """All arrays of the last commit that lie in the root, by name."""
    import zarr

    with reading(root):
        group = zarr.open_group(
            zarr_store(root), mode="r+" if writable else "r", zarr_format=3, use_consolidated=True
        )
        return dict(group.arrays())


def open_members(root: Spot, names: Iterable[str]) -> dict[str, zarr.Array[Any]]:
    """Arrays of the last commit by their paths in the store, those in groups too, for reading."""
    import zarr

    with reading(root):
        group = zarr.open_group(zarr_store(root), mode="r", zarr_format=3, use_consolidated=True)
        found = {name: group[name] for name in names}
        return {name: one for name, one in found.items() if isinstance(one, zarr.Array)}


def grow(array: zarr.Array[Any], path: Spot, *lengths: int) -> None:
    """Makes the first dimension, or the first ones, so long."""
    with writing(path):
        array.resize((*lengths, *array.shape[len(lengths) :]))


def read(array: zarr.Array[Any], path: Spot, selection: Any = ...) -> npt.NDArray[Any]:
    """All values of an array, or those of a selection by numbers and slices.

    Raises StoreUnreadable when a file of it is damaged.
    """
    with reading(path):
        try:
            return np.asarray(array[selection])
        except ValueError as error:
            raise StoreUnreadable(f"{path}: is damaged: {error}.") from error


def write(array: zarr.Array[Any], path: Spot, selection: Any, values: Any) -> None:
    """Values at `selection` (slice or indices of the first dimension).

    A chunk that is only partly covered is read, completed and written anew, each in one step.
    Raises StoreUnwritable, or StoreUnreadable when a chunk that is there is damaged.
    """
    with writing(path):
        try:
            if isinstance(selection, np.ndarray):
                array.oindex[selection] = values
            else:
                array[selection] = values
        except ValueError as error:
            raise StoreUnreadable(f"{path}: is damaged: {error}.") from error


def document(folder: Spot) -> dict[str, Any]:
    """What the metadata file of an array or group says. Raises OSError, or ValueError."""
    loaded = json.loads((folder / METADATA).read_bytes())
    if not isinstance(loaded, dict):
        raise ValueError(f"{folder / METADATA}: not a JSON object")
    return loaded


def put_document(folder: Spot, content: Mapping[str, Any]) -> None:
    """Replaces the metadata file of an array, in one step."""
    text = json.dumps(content, indent=2)
    with writing(folder):
        if isinstance(folder, Place):
            (folder / METADATA).write_bytes(text.encode())
            return
        folder.mkdir(parents=True, exist_ok=True)
        disk.replace(folder / METADATA, lambda path: path.write_text(text))


def describe(root: Spot, name: str, attributes: Mapping[str, Any]) -> None:
    """Replaces the attributes of an array."""
    with reading(root / name):
        content = document(root / name)
    put_document(root / name, {**content, "attributes": dict(attributes)})


def clear(root: Spot, name: str) -> None:
    """Removes all values of an array (on a disk in one step): it reads as if never written."""
    with writing(root / name):
        disk.remove(root / name / "c")


def signature(folder: Spot) -> tuple[object, ...]:
    """Changes whenever the metadata file does: it is never edited, always replaced."""
    if isinstance(folder, Place):
        return (folder / METADATA).signature()
    stat = (folder / METADATA).stat()
    return stat.st_ino, stat.st_mtime_ns, stat.st_size
