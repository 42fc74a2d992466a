"""New videos -> rows of the video table: true length, digest, damage. Read on the workers."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from distributed import Client, Future, KilledWorker, as_completed

from featurestore.catalog import NewVideo
from featurestore.errors import FeatureStoreError, UnreadableVideo
from featurestore.place import Options, in_use, use
from jobs.plan import MAX_DEATHS
from jobs.progress import Progress
from jobs.remote import Origin, staged
from jobs.video import Source, VideoInfo, digest, patience, probe, stat_source

__all__ = ["index_all", "index_video"]

IN_FLIGHT = 200  # tasks given to Dask at a time


def index_all(
    client: Client, sources: Sequence[Source], origin: Origin, *, strict: bool
) -> list[NewVideo]:
    """The row of each source, in the order given; shows progress.

    A worker that dies takes others' tasks with it, so those are tried again one by one; a video
    under which ``MAX_DEATHS`` workers died gets a row that says so.
    """
    rows: dict[int, NewVideo] = {}
    killed: list[int] = []
    running: dict[Future[NewVideo], int] = {}
    progress = Progress(len(sources), len(sources), noun="videos indexed")

    def submit(number: int) -> Future[NewVideo]:
        source = sources[number]
        future = client.submit(
            index_video, source.name, origin.address(source.path),
            relative(source.path, origin.root), strict, in_use(), pure=False,
        )  # fmt: skip
        running[future] = number
        return future

    waiting = iter(range(len(sources)))
    # The range first: zip takes from its first argument before it sees that the other has ended
    done = as_completed([submit(n) for _, n in zip(range(IN_FLIGHT), waiting, strict=False)])
    for future in done:
        number = running.pop(future)
        try:
            rows[number] = future.result()
        except KilledWorker:
            killed.append(number)
        if (following := next(waiting, None)) is not None:
            done.add(submit(following))
        progress.at(len(rows), len(rows))
        progress.show()
    for number in killed:
        rows[number] = _alone(submit, number, sources[number], origin.root)
        progress.at(len(rows), len(rows))
    if sources:
        progress.end()
    return [rows[n] for n in range(len(sources))]


def _alone(
    submit: Callable[[int], Future[NewVideo]], number: int, source: Source, root: Path
) -> NewVideo:
    for _ in range(MAX_DEATHS - 1):
        try:
            return submit(number).result()
        except KilledWorker:
            continue
    reason = f"{source.path}: the decoder crashed {MAX_DEATHS} times reading it; convert the file"
    return _failed(source.name, relative(source.path, root), reason)


def index_video(
    name: str, path: str, shown: str, strict: bool, storage: Options | None = None
) -> NewVideo:
    """Read a video's index (on a worker): its true length, its digest, and whether it is sound.

    A video that cannot be opened comes back with state ``failed``, no frames, and the reason; a
    damaged one with the frames before the damage (``failed`` instead, if ``strict``).

    Raises:
        StoreUnreadable: the object store that it lies on is away: no fault of the video.
    """
    if storage is not None:
        use(storage)
    try:
        with staged(path) as file:
            row = _index(name, file, shown, strict)
    except UnreadableVideo as error:
        return _failed(name, shown, str(error))
    return replace(row, reason=row.reason.replace(str(file), path))


def _index(name: str, file: Path, shown: str, strict: bool) -> NewVideo:
    size, mtime, sha256 = 0, 0.0, ""
    try:
        size, mtime = stat_source(file)
        sha256 = digest(file)
        info = _bounded_probe(file, patience(file))
    except (FeatureStoreError, OSError) as error:
        return _failed(name, shown, str(error), sha256, size, mtime)
    except Exception as error:  # noqa: BLE001 - one odd file is no reason to stop the others
        reason = f"{file}: cannot be read ({type(error).__name__}: {error}); convert the file"
        return _failed(name, shown, reason, sha256, size, mtime)
    damaged = info.damaged_at is not None
    state = ("failed" if strict else "damaged") if damaged else "ok"
    return NewVideo(
        name=name, path=shown, frames=0 if state == "failed" else info.frames, fps=info.fps,
        width=info.width, height=info.height, sha256=sha256, size=size, mtime=mtime,
        state=state, reason=info.reason,
    )  # fmt: skip


def _bounded_probe(file: Path, seconds: float) -> VideoInfo:
    """``probe``, given up after ``seconds``: a decoder cannot be stopped, its thread stays behind.

    Raises:
        FeatureStoreError: what ``probe`` raised, or that it hangs.
    """
    found: list[VideoInfo | BaseException] = []

    def look() -> None:
        try:
            found.append(probe(file))
        except BaseException as error:  # noqa: BLE001 - raised in the thread that waits
            found.append(error)

    thread = threading.Thread(target=look, name=f"probe {file.name}", daemon=True)
    thread.start()
    thread.join(seconds)
    if not found:
        raise FeatureStoreError(
            f"{file}: the decoder did not get through it in {seconds:.0f} s; convert the file"
        )
    if isinstance(found[0], BaseException):
        raise found[0]
    return found[0]


def relative(path: Path, root: Path) -> str:
    """The path as the store shows it: from the dataset's root, if it lies there."""
    path, root = path.absolute(), root.absolute()
    shown = path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)
    return os.fsencode(shown).decode("utf-8", "backslashreplace")  # what any store can hold


def _failed(
    name: str, shown: str, reason: str, sha256: str = "", size: int = 0, mtime: float = 0.0
) -> NewVideo:
    return NewVideo(
        name=name, path=shown, frames=0, sha256=sha256, size=size, mtime=mtime,
        state="failed", reason=reason,
    )  # fmt: skip
