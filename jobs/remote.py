"""Videos that lie on an object store: ``--root s3://bucket/videos``.

The command gets a folder that looks like the one there: labels and other small files in full, the
videos as placeholders of the right size and time. So it finds, names and compares them as on a
disk. Whoever reads a video (a worker: to count its frames, to compute its clips) brings it to this
machine, whole, and removes it when done: a connection that breaks is an error of its own, and never
taken for a damaged video.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from featurestore.disk import reading, writing
from featurestore.errors import DatasetError, UnreadableVideo
from featurestore.place import Place, is_object_url, many, place_of
from jobs.video import IMAGE_SUFFIXES, VIDEO_SUFFIXES, Source

__all__ = ["Origin", "mirrored", "stage", "staged", "unstage"]

SMALL_BYTES = 256 << 20  # other files than videos, up to this size, are brought along
HEAD_BYTES, TAIL_BYTES = 512 << 10, 2 << 20  # where a file says how many frames it has
PART_BYTES = 16 << 20  # of a video, at a time


@dataclass(frozen=True)
class Origin:
    """Where the files of ``root`` truly are; ``url`` is empty where they lie in it."""

    root: Path
    url: str = ""

    def address(self, path: Path) -> str:
        """What a worker finds a file by."""
        if not self.url:
            return str(path.absolute())
        return f"{self.url}/{path.relative_to(self.root).as_posix()}"

    def check(self, sources: Iterable[Source]) -> None:
        """Raise DatasetError where frames lie there as images: each would be a request."""
        frames = [source.name for source in sources if self.url and source.kind == "frames"]
        if frames:
            raise DatasetError(
                f"{self.url}: {frames[0]} is a folder of images; on an object store videos must be "
                "files: bring it to a disk, or make videos of it"
            )

    def bring_headers(self, sources: Iterable[Source]) -> None:
        """Has the placeholders tell how many frames their videos announce, as the videos do."""
        if self.url:
            list(many(lambda s: _bring_ends(s.path, place_of(self.address(s.path))), sources))


@contextmanager
def mirrored(url: str) -> Iterator[Path]:
    """A folder that looks like the one at ``url``, for the length of the ``with`` block.

    Raises:
        DatasetError: nothing lies there.
        StoreUnreadable: the object store does not let it be read.
    """
    place = place_of(url, folder=True)
    with tempfile.TemporaryDirectory(prefix="featurestore-") as scratch:
        root = Path(scratch) / (place.name or place.url.rpartition("/")[2])
        root.mkdir()
        with reading(place):
            prefix = place.key("")
            found = [
                one for page in place.objects.list(prefix or None) for one in page
                if _is_wanted(one["path"].removeprefix(prefix))
            ]  # fmt: skip
        if not found:
            raise DatasetError(f"{url}: nothing lies there; give the folder of videos with --root")

        def bring(one: Any) -> None:
            path = root / one["path"].removeprefix(prefix)
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix.lower() in VIDEO_SUFFIXES | IMAGE_SUFFIXES:
                with path.open("wb") as file:
                    file.truncate(one["size"])
            elif one["size"] <= SMALL_BYTES:
                there = place / one["path"].removeprefix(prefix)
                with reading(there):
                    path.write_bytes(there.read_bytes())
            else:
                return
            time = one["last_modified"].timestamp()
            os.utime(path, (time, time))

        with writing(root):
            list(many(bring, found))
        yield root


def stage(address: str, folder: str | None = None) -> Path:
    """A file of this machine with the video's content; ``unstage`` removes it.

    Raises:
        UnreadableVideo: it is gone.
        StoreUnreadable: the object store does not give it, or is away.
        StoreUnwritable: it does not fit on the disk here.
    """
    place = place_of(address)
    scratch = Path(tempfile.mkdtemp(prefix="featurestore-", dir=folder or _scratch()))
    path = scratch / place.name
    try:
        with reading(place):
            try:
                about = place.objects.head(place.path)
            except FileNotFoundError:
                raise UnreadableVideo(
                    f"{address}: is not there any more; put it back, or run the command again"
                ) from None
        with writing(path), path.open("wb") as file:
            for start in range(0, about["size"], PART_BYTES):
                # A range at a time, for a request has to be done within its timeout; all of the
                # same version.
                stop = min(start + PART_BYTES, about["size"])
                with reading(place):
                    part = place.objects.get(
                        place.path, options={"range": (start, stop), "if_match": about["e_tag"]}
                    ).bytes()
                file.write(part)
        time = about["last_modified"].timestamp()
        os.utime(path, (time, time))
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    return path


def unstage(path: Path) -> None:
    """Removes what ``stage`` brought."""
    shutil.rmtree(path.parent, ignore_errors=True)


@contextmanager
def staged(address: str) -> Iterator[Path]:
    """The file at ``address``, a path here or a URL, for the length of the ``with`` block."""
    if not is_object_url(address):
        yield Path(address)
        return
    path = stage(address)
    try:
        yield path
    finally:
        unstage(path)


def _is_wanted(path: str) -> bool:
    """Neither hidden, nor in a store, nor one of the objects that stand for folders; and a path
    that stays in the folder it is brought to."""
    parts = PurePosixPath(path).parts
    stays = bool(parts) and not path.startswith("/") and ".." not in parts
    return stays and not path.endswith("/") and not any(
        part.startswith(".") or part.endswith(".zarr") for part in parts
    )  # fmt: skip


def _bring_ends(path: Path, place: Place) -> None:
    size = path.stat().st_size
    times = path.stat()
    tail = max(min(size, HEAD_BYTES), size - TAIL_BYTES)
    with path.open("r+b") as file, reading(place):
        for start, stop in ((0, min(size, HEAD_BYTES)), (tail, size)):
            if start < stop:
                file.seek(start)
                file.write(place.objects.get_range(place.path, start=start, end=stop))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def _scratch() -> str | None:
    """On a worker its own folder, of which Dask removes what a killed one left."""
    import distributed

    try:
        return str(distributed.get_worker().local_directory)
    except ValueError:
        return None
