"""An S3 server on loopback, for tests and benchmarks: moto's, in a process of its own.

It speaks the protocol of S3, so obstore is used as against a real one. Keys are made up.
"""

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xarray as xr

KEY, SECRET = "AKIAMADEUPKEY", "made/up+secret"


@dataclass
class Server:
    """A server that runs; `log` has a line a request."""

    process: "subprocess.Popen[bytes]"
    endpoint: str
    log: Path

    @property
    def options(self) -> dict[str, str]:
        """What `--storage-options` takes."""
        return {"endpoint": self.endpoint, "access_key_id": KEY, "secret_access_key": SECRET,
                "region": "us-east-1"}  # fmt: skip

    @property
    def env(self) -> dict[str, str]:
        """The same as the usual environment variables."""
        return {"AWS_ENDPOINT_URL": self.endpoint, "AWS_ACCESS_KEY_ID": KEY,
                "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_REGION": "us-east-1"}  # fmt: skip

    def ask(self, method: str, path: str, body: bytes | None = None) -> bytes:
        plain = {"Content-Type": "text/plain"}
        request = urllib.request.Request(f"{self.endpoint}/{path}", body, plain, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return bytes(answer.read())

    def bucket(self, name: str) -> str:
        """A new bucket with nothing in it."""
        self.ask("PUT", name)
        return f"s3://{name}"

    @contextmanager
    def keys_checked(self) -> Iterator[None]:
        """For so long it refuses keys that it has not given out: all."""
        self.ask("POST", "moto-api/reset-auth", b"0")
        try:
            yield
        finally:
            self.ask("POST", "moto-api/reset-auth", b"inf")

    @contextmanager
    def away(self) -> Iterator[None]:
        """For so long it does not answer."""
        os.kill(self.process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.process.pid, signal.SIGCONT)

    def requests(self) -> Counter[str]:
        """Requests so far, by kind: GET, PUT, HEAD, LIST, DELETE."""
        return Counter(kind for kind, _ in self.asked())

    def asked(self) -> list[tuple[str, str]]:
        """Kind and key (with its query) of each request so far."""
        found = []
        for method, path in re.findall(r'"([A-Z]+) (/\S*) HTTP', self.log.read_text()):
            if path.startswith("/moto-api"):
                continue
            listing = method == "GET" and "list-type" in path
            kind = "LIST" if listing else "DELETE" if method == "POST" else method
            found.append((kind, path))
        return found


def stock(url: str, server: Server) -> xr.Dataset:
    """A store as an analyst opens it who has none of our code: zarr on obstore, and no warning."""
    dataset: xr.Dataset = xr.open_zarr(objects(url, server), chunks=None).load()
    return dataset


def objects(url: str, server: Server) -> Any:
    """What zarr and xarray open a store there by."""
    from obstore.store import from_url
    from zarr.storage import ObjectStore

    config = {f"aws_{name}": value for name, value in server.options.items()}
    folder = from_url(url, config=config, client_options={"allow_http": True})  # type: ignore[call-overload]
    return ObjectStore(folder, read_only=True)


@contextmanager
def serving(folder: Path) -> Iterator[Server]:
    """A server for the length of the `with` block."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = folder / "s3.log"
    code = f"from moto.server import main; main(['-H', '127.0.0.1', '-p', '{port}'])"
    with log.open("wb") as out:
        process = subprocess.Popen([sys.executable, "-c", code], stdout=out, stderr=out)
    server = Server(process, f"http://127.0.0.1:{port}", log)
    try:
        end = time.monotonic() + 120
        while True:
            try:
                server.ask("GET", "moto-api/")
                break
            except OSError:
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < end, "no answer"
                time.sleep(0.1)
        yield server
    finally:
        process.kill()
        process.wait()
