"""Fetch one file over HTTP, once: resumed when cut, checked, and only then given its name.

While under way the bytes lie in ``<name>.partial``, with the server's ETag in
``<name>.partial.etag``: a later try asks for the rest of that same version. Two processes that want
one file wait for each other (``<name>.lock``).
"""

from __future__ import annotations

import hashlib
import http.client
import os
import socket
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from filelock import FileLock

from featurestore.errors import WeightsError

__all__ = ["Progress", "WeightsUnreachable", "fetch", "sha256_of"]

Progress = Callable[[str, int, int | None], None]
"""Called with a file's name, bytes so far, bytes in all (None: the server does not say)."""

CONNECT_SECONDS = 5.0
READ_SECONDS = 30.0  # without a byte
TRIES = 4  # connections in a row that bring nothing
PAUSE_SECONDS = 1.0  # before the second of them; doubled each time
_PIECE = 1 << 20


class WeightsUnreachable(WeightsError):
    """The server cannot be reached: no network, no such host, or nobody there."""


class _Cut(Exception):
    """The connection broke; what has come so far is on disk."""


def fetch(url: str, target: Path, *, sha256: str, progress: Progress | None = None) -> None:
    """Bring ``url`` to ``target``; nothing to do when it is there.

    Args:
        sha256: hex digest of the file, or its first digits, or "" where none is published.
        progress: told about the bytes, from the first to the last.

    Raises:
        WeightsUnreachable: the server cannot be reached (known within seconds), refuses, or keeps
            breaking the connection.
        WeightsError: the file is not the one expected, or cannot be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"):
            if not target.exists():
                _fetch(url, target, sha256, progress)
    except OSError as error:
        raise WeightsError(
            f"{target}: cannot write the weights ({error.strerror or error}); make room or set "
            "FS_CACHE to another folder"
        ) from error


def sha256_of(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fetch(url: str, target: Path, sha256: str, progress: Progress | None) -> None:
    partial = target.with_name(f"{target.name}.partial")
    etag = target.with_name(f"{target.name}.partial.etag")
    failures, before = 0, -1
    while True:
        _reach(url)
        try:
            _receive(url, partial, etag, progress)
            break
        except _Cut as cut:
            size = partial.stat().st_size if partial.exists() else 0
            failures = 1 if size > before else failures + 1
            before = size
            if failures >= TRIES:
                raise WeightsUnreachable(
                    f"{url}: the connection keeps breaking ({cut}); {size:,} bytes are kept in "
                    f"{partial}, and another run goes on from there"
                ) from cut
            time.sleep(PAUSE_SECONDS * 2 ** (failures - 1))
    got = sha256_of(partial)
    etag.unlink(missing_ok=True)
    if not got.startswith(sha256):
        partial.unlink()
        raise WeightsError(
            f"{url}: what came is not the official file: expected sha256 {sha256}..., got {got}; "
            f"run again, or fetch it by other means to {target}"
        )
    partial.replace(target)


def _receive(url: str, partial: Path, etag: Path, progress: Progress | None) -> None:
    """One connection: append to ``partial`` what is missing of it, or start again."""
    have = partial.stat().st_size if partial.exists() and etag.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "featurestore"})
    if have:
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", etag.read_text())
    try:
        response = urllib.request.urlopen(request, timeout=READ_SECONDS)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:  # more bytes here than there: not the same file
            partial.unlink()
            raise _Cut("the server has fewer bytes than were kept") from error
        if error.code in (408, 429) or error.code >= 500:
            raise _Cut(f"HTTP status {error.code}") from error
        raise WeightsUnreachable(
            f"{url}: the server answers {error.code} {error.reason}; fetch the file by other means "
            "and give it with --weights"
        ) from error
    except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
        raise _Cut(str(error)) from error
    with response:
        resumed = response.status == 206 and _range_start(response) == have
        if response.status == 206 and not resumed:
            partial.unlink()
            raise _Cut("the server sent another part than was asked for")
        length = response.headers.get("Content-Length")
        done = have if resumed else 0
        total = done + int(length) if length is not None else None
        with partial.open("ab" if resumed else "wb") as file:
            _note_version(response, etag)
            _copy(response, file, partial.name.removesuffix(".partial"), done, total, progress)


def _copy(
    response: Any,
    file: IO[bytes],
    name: str,
    done: int,
    total: int | None,
    progress: Progress | None,
) -> None:
    if progress:
        progress(name, done, total)
    while True:
        try:
            piece = response.read(_PIECE)
        except http.client.IncompleteRead as error:
            piece = error.partial
        except (OSError, http.client.HTTPException) as error:
            raise _Cut(str(error)) from error
        if not piece:
            break
        file.write(piece)
        done += len(piece)
        if progress:
            progress(name, done, total)
    file.flush()
    os.fsync(file.fileno())
    if total is not None and done != total:
        raise _Cut(f"{done:,} of {total:,} bytes came")


def _note_version(response: Any, etag: Path) -> None:
    """Keep what identifies this version of the file. Weak ones do not promise equal bytes."""
    version = response.headers.get("ETag") or response.headers.get("Last-Modified")
    if version and not version.startswith("W/"):
        etag.write_text(version)
    else:
        etag.unlink(missing_ok=True)


def _range_start(response: Any) -> int:
    # "bytes 100-199/200"
    said = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("-")[0]
    return int(said) if said.isdigit() else -1


def _reach(url: str) -> None:
    """Raise unless somebody listens there, within ``CONNECT_SECONDS`` in all.

    urllib's own timeout counts for each address of a host, and the look-up of its name has none: a
    machine without a network would wait for minutes. Hence a thread, which may be left behind.
    """
    asked = urllib.parse.urlsplit(url)
    host, port = asked.hostname or "", asked.port or (443 if asked.scheme == "https" else 80)
    proxy = urllib.request.getproxies().get(asked.scheme)
    if proxy and not urllib.request.proxy_bypass(host):
        via = urllib.parse.urlsplit(proxy if "//" in proxy else f"//{proxy}")
        host, port = via.hostname or "", via.port or 80
    outcome: list[str] = []

    def connect() -> None:
        try:
            socket.create_connection((host, port), timeout=CONNECT_SECONDS).close()
            outcome.append("")
        except OSError as error:
            outcome.append(error.strerror or str(error))

    thread = threading.Thread(target=connect, daemon=True, name=f"reach {host}")
    thread.start()
    thread.join(CONNECT_SECONDS)
    trouble = outcome[0] if outcome else f"no answer in {CONNECT_SECONDS:.0f} s"
    if trouble:
        raise WeightsUnreachable(
            f"{url}: cannot reach {host}:{port} ({trouble}); fetch the file elsewhere and give it "
            "with --weights FILE or FOLDER, or use --weights random"
        )
