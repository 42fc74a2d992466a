"""Chunks of features on an object store: put whole, and the fused arrays' copies with them.

A chunk is float32 (clips of the block, crops, channels) and its checksum, as zarr writes it: the
only codec of features is CRC-32C. There are no links there, so whoever puts a part's chunk puts the
same bytes where the fused arrays have it. A block that is not all covered is read, completed, and
put only if it is still the one that was read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from featurestore import layout
from featurestore.disk import reading, writing
from featurestore.errors import StoreUnreadable
from featurestore.place import Place, delete, many
from featurestore.schema import CHANNEL_CHUNK, FEATURES, FUSED, parts_of

if TYPE_CHECKING:
    import zarr

CHECKSUM = 4  # bytes at the end of every chunk: CRC-32C, little-endian


@dataclass(frozen=True)
class Rows:
    """Some clips of a block, and some channels of them: what goes into one chunk."""

    clips: slice  # within the block
    values: npt.NDArray[np.float32]  # (clips, crops, channels)
    shape: tuple[int, ...]  # of the whole chunk

    def into(self, chunk: bytes | None, where: Place) -> bytes | None:
        """The chunk with these rows; None where it has them already (no chunk: all NaN)."""
        if chunk is None:
            if np.isnan(self.values).all():
                return None
            new = np.full(self.shape, np.nan, np.float32)
            old = None
        else:
            old = decoded(chunk, self.shape, where)
            new = old.copy()
        new[self.clips, :, : self.values.shape[2]] = self.values
        same = old is not None and np.array_equal(new, old, equal_nan=True)
        return None if same else encoded(new)

    @property
    def whole(self) -> bool:
        """Whether nothing of a chunk that may be there is to be kept."""
        return len(self.values) == self.shape[0] and not np.isnan(self.values).all()


def encoded(values: npt.NDArray[np.float32]) -> bytes:
    """As zarr encodes a chunk."""
    import google_crc32c

    content = np.ascontiguousarray(values, "<f4").tobytes()
    return content + int(google_crc32c.value(content)).to_bytes(CHECKSUM, "little")


def decoded(content: bytes, shape: Sequence[int], where: Place) -> npt.NDArray[np.float32]:
    """Raises StoreUnreadable when the checksum does not fit."""
    check(content, str(where))
    values = np.frombuffer(content[:-CHECKSUM], "<f4")
    if values.size != np.prod(shape):
        raise StoreUnreadable(f"{where}: is damaged: it has another size than its array says.")
    return values.reshape(shape)


def check(content: bytes, where: str) -> None:
    """Of any chunk of a store: its last codec is a CRC-32C. Raises StoreUnreadable."""
    import google_crc32c

    if google_crc32c.value(content[:-CHECKSUM]) != int.from_bytes(content[-CHECKSUM:], "little"):
        raise StoreUnreadable(
            f"{where}: is damaged: its checksum does not fit. fs-submit verify tells what to do."
        )


def write(
    root: Place,
    array: zarr.Array[Any],
    name: str,
    start: int,
    values: npt.NDArray[np.float32],
    members: layout.Members,
) -> None:
    """Puts features of clips of one block, from `start` on, into a backbone and its fused arrays.

    `members` says which of these there are. Raises StoreUnwritable, StoreUnreadable (a chunk that
    must be completed is damaged).
    """
    block, crops, width = array.chunks
    clips = slice(start % block, start % block + len(values))

    def put(item: tuple[Place, int]) -> None:
        where, first = item
        rows = Rows(clips, values[:, :, first : first + width], (block, crops, width))
        with writing(where):
            if rows.whole:
                where.write_bytes(encoded(_padded(rows.values, rows.shape)))
            else:
                where.change(lambda old: rows.into(old, where))

    list(many(put, _targets(root, name, start // block, array.shape[2], width, members)))


def show(root: Place, name: str, blocks: Mapping[str, Iterable[int]]) -> None:
    """Makes a new fused array show these blocks of its parts (part -> their numbers)."""

    def bring(pair: tuple[Place, Place]) -> None:
        source, target = pair
        with writing(target):
            root.objects.copy(source.path, target.path)

    list(many(bring, (
        (root / part / f"c/{block}/0/{chunk}", root / name / f"c/{block}/0/{first + chunk}")
        for part, first in _firsts(name).items()
        for block in blocks[part]
        for chunk in range(FEATURES[part].channels // CHANNEL_CHUNK)
    )))  # fmt: skip


def show_again(root: Place, paths: Iterable[str]) -> None:
    """Makes chunks of fused arrays, `swin_r3d/c/7/0/2`, show their parts' again, if there are any.

    What lay there is gone already.
    """
    for path in paths:
        name, _, block, _, number = path.split("/")
        part, first = max(
            (item for item in _firsts(name).items() if item[1] <= int(number)),
            key=lambda item: item[1],
        )
        with writing(root / path):
            source = root / part / f"c/{block}/0/{int(number) - first}"
            if source.exists():
                root.objects.copy(source.path, (root / path).path)


def withdraw(root: Place, part: str, blocks: int, fused: Iterable[str]) -> None:
    """Takes all chunks of a part out of these fused arrays."""
    for name in fused:
        if part in parts_of(name):
            first = _firsts(name)[part]
            numbers = range(first, first + FEATURES[part].channels // CHANNEL_CHUNK)
            with writing(root / name):
                delete(root / name, (f"c/{b}/0/{n}" for b in range(blocks) for n in numbers))


def drop(folder: Place, found: Sequence[int], kept: Sequence[int]) -> None:
    """Deletes the chunks in `folder` beyond the first `kept` of each axis; there may be `found`.

    By their keys: nothing is listed.
    """
    doomed: set[tuple[int, ...]] = set()
    for axis in range(len(kept)):
        ranges = [range(max(f, k)) for f, k in zip(found, kept, strict=True)]
        ranges[axis] = range(kept[axis], found[axis])
        doomed.update(product(*ranges))
    if doomed:
        delete(folder, ("/".join(map(str, chunk)) for chunk in sorted(doomed)))


def differences(root: Place, name: str, clips: int, block: int) -> list[tuple[str, str]]:
    """Chunks of a fused array that are not their parts': (path inside the store, what of it)."""
    pairs = [
        (root / part / f"c/{number}/0/{chunk}", f"{name}/c/{number}/0/{first + chunk}")
        for part, first in _firsts(name).items()
        for number in range(-(-clips // block))
        for chunk in range(FEATURES[part].channels // CHANNEL_CHUNK)
    ]

    def look(pair: tuple[Place, str]) -> str | None:
        source, path = _content(pair[0]), _content(root / pair[1])
        if source == path:
            return None
        if path is None:
            return "are missing"
        return "are of no part's chunk" if source is None else "differ from their parts"

    found = zip(pairs, many(look, pairs), strict=True)
    return [(path, what) for (_, path), what in found if what]


def _content(where: Place) -> bytes | None:
    with reading(where):
        try:
            return where.read_bytes()
        except FileNotFoundError:
            return None


def _padded(values: npt.NDArray[np.float32], shape: Sequence[int]) -> npt.NDArray[np.float32]:
    """Where the last chunk of channels is wider than its array, the rest of it is NaN."""
    if values.shape[2] == shape[2]:
        return values
    whole = np.full(shape, np.nan, np.float32)
    whole[:, :, : values.shape[2]] = values
    return whole


def _targets(
    root: Place, name: str, block: int, channels: int, width: int, members: layout.Members
) -> list[tuple[Place, int]]:
    """The chunks that hold a block of a backbone, and the first channel of each."""
    found = []
    firsts = {other: _firsts(other)[name] for other in FUSED
              if other in members and name in parts_of(other)}  # fmt: skip
    for chunk in range(-(-channels // width)):
        found.append((root / name / f"c/{block}/0/{chunk}", chunk * width))
        for other, first in firsts.items():
            found.append((root / other / f"c/{block}/0/{first + chunk}", chunk * width))
    return found


def _firsts(name: str) -> dict[str, int]:
    """Part -> number of its first chunk in a fused array."""
    found, first = {}, 0
    for part in parts_of(name):
        found[part] = first
        first += FEATURES[part].channels // CHANNEL_CHUNK
    return found
