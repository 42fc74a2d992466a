"""The arrays of a store that is open: reading, writing and growing them, where that is allowed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy.typing as npt

from featurestore import arrays, objectlock
from featurestore.errors import UsageError
from featurestore.place import Place, Spot


class Opened:
    """What `Store` is made on: its arrays by name, as they are on disk."""

    def __init__(self, url: str, root: Spot, *, writable: bool) -> None:
        self.url = url
        self._root = root
        self._writable = writable
        self._failed = False
        self._arrays = arrays.open_all(root, writable=writable)

    def _known(self, name: str) -> str:
        if name not in self._arrays:
            raise UsageError(f"{self.url}: has no array {name!r}")
        return name

    def _length(self, name: str) -> int:
        return int(self._arrays[name].shape[0])

    def _read(self, name: str, selection: Any = ...) -> npt.NDArray[Any]:
        return arrays.read(self._arrays[name], self._root / name, selection)

    def _write(self, name: str, selection: Any, values: Any) -> None:
        arrays.write(self._arrays[name], self._root / name, selection, values)

    def _grow(self, name: str, *lengths: int) -> None:
        arrays.grow(self._arrays[name], self._root / name, *lengths)

    def _extend(self, name: str, values: npt.NDArray[Any]) -> None:
        if len(values):
            length = self._length(name)
            self._grow(name, length + len(values))
            self._write(name, slice(length, None), values)

    def _check_writable(self) -> None:
        if isinstance(self._root, Place):
            objectlock.check(self._root)
        if not self._writable:
            raise UsageError(f"{self.url}: is open for reading only")
        if self._failed:
            raise UsageError(f"{self.url}: an earlier change failed; open the store again")

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """A change in several steps: if one fails, nothing more may be committed."""
        self._check_writable()
        try:
            yield
        except BaseException:
            self._failed = True
            raise
