"""Blocks in hand in a store on an object store: what a killed command may have written, not marked.

The driver puts their numbers into the object NAME.inhand beside the store before it hands them out,
many at a time, and deletes it when all are marked. So the next command that opens the store for
writing finds what it has to blank, without a list of all chunks. On a disk, where such a list is a
moment, there is no such file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from typing import Final

from featurestore import objectlock
from featurestore.disk import reading, writing
from featurestore.location import spot
from featurestore.place import Place, delete

SUFFIX: Final = ".inhand"


def put(url: str | os.PathLike[str], blocks: Iterable[int]) -> None:
    """These blocks, and no others, may get clips from now on that are not marked yet.

    The caller holds the lock. Raises StoreUnwritable, StoreLocked.
    """
    root = spot(url)
    if isinstance(root, Place):
        objectlock.check(root)
        with writing(root.beside(SUFFIX)):
            root.beside(SUFFIX).write_bytes(json.dumps({"blocks": sorted(blocks)}).encode())


def given_back(url: str | os.PathLike[str]) -> None:
    """All that was written is marked, or blank. Raises StoreUnwritable, StoreLocked."""
    root = spot(url)
    if isinstance(root, Place):
        objectlock.check(root)
        with writing(root.beside(SUFFIX)):
            delete(root.beside(SUFFIX), [""])


def blocks(root: Place, count: int) -> list[int] | None:
    """Those that a command left behind, of the first `count`; None if none did.

    Raises StoreUnreadable.
    """
    with reading(root.beside(SUFFIX)):
        try:
            content = root.beside(SUFFIX).read_bytes()
        except FileNotFoundError:
            return None
    try:
        found = json.loads(content)["blocks"]
        return sorted({n for n in found if isinstance(n, int) and 0 <= n < count})
    except (ValueError, KeyError, TypeError):
        return []  # not ours
