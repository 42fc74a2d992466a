"""Weights: found, fetched from a server on loopback, checked, refused."""

import hashlib
import re
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing import get_context
from pathlib import Path

import pytest
from safetensors.torch import save_file

from featurestore.errors import UsageError, WeightsError
from jobs import backbones, download
from jobs.backbones import Weights, resolve, resolve_all
from jobs.backbones._torchvision import timm
from jobs.specs import SPECS, BackboneSpec, spec_of
from jobs.weights import cache_folder

BODY = bytes(range(256)) * 12_000  # 3 MB
DIGEST = hashlib.sha256(BODY).hexdigest()


@dataclass
class Server:
    """What the server on loopback does, and what it was asked."""

    url: str = ""
    body: bytes = BODY
    etag: str = '"one"'
    cuts: list[int] = field(default_factory=list)  # bytes of an answer before each breaks off
    statuses: list[int] = field(default_factory=list)  # answered before all is well
    ranges: bool = True
    length: bool = True
    asked: list[str] = field(default_factory=list)  # the Range of each request


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range", "")
            state.asked.append(wanted)
            if state.statuses:
                self.send_error(state.statuses.pop(0))
                return
            fresh = self.headers.get("If-Range") == state.etag
            start = int(re.findall(r"\d+", wanted)[0]) if wanted and state.ranges and fresh else 0
            if start > len(state.body):
                self.send_error(416)
                return
            body = state.body[start:]
            self.send_response(206 if start else 200)
            if start:
                end = len(state.body)
                self.send_header("Content-Range", f"bytes {start}-{end - 1}/{end}")
            if state.etag:
                self.send_header("ETag", state.etag)
            if state.length:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: state.cuts.pop(0)] if state.cuts else body)

        def log_message(self, *_: object) -> None:
            pass

    monkeypatch.setattr(download, "PAUSE_SECONDS", 0.01)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        state.url = f"http://127.0.0.1:{running.server_address[1]}/r3d_18-file.pth"
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield state
        running.shutdown()
        thread.join()


def spec_at(server: Server, sha256: str = DIGEST[:8]) -> BackboneSpec:
    return replace(SPECS["r3d"], url=server.url, sha256=sha256)


# -- fetching


def test_fetched_once_with_progress(server: Server, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int | None]] = []
    spec = spec_at(server)
    found = resolve(spec, progress=lambda *args: seen.append(args), cache=tmp_path)
    path = tmp_path / "weights" / "r3d_18-file.pth"
    assert found == Weights(path, f"sha256:{DIGEST}", server.url)
    assert path.read_bytes() == BODY
    assert seen[0] == (path.name, 0, len(BODY))
    assert seen[-1] == (path.name, len(BODY), len(BODY))
    done = [bytes_ for _, bytes_, _ in seen]
    assert done == sorted(set(done))
    assert len(done) > 2
    assert resolve(spec, cache=tmp_path) == found
    assert server.asked == [""]
    assert not list(path.parent.glob("*.partial*"))


def test_the_cache_is_where_the_environment_says(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FS_CACHE", str(tmp_path / "elsewhere"))
    resolve(spec_at(server))
    assert (tmp_path / "elsewhere" / "weights" / "r3d_18-file.pth").exists()
    monkeypatch.delenv("FS_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "featurestore"


def test_resumes_after_cuts(server: Server, tmp_path: Path) -> None:
    server.cuts = [1_000_000, 500_000]
    found = resolve(spec_at(server), cache=tmp_path)
    assert found.digest == f"sha256:{DIGEST}"
    assert server.asked == ["", "bytes=1000000-", "bytes=1500000-"]


def test_a_later_run_goes_on(server: Server, tmp_path: Path) -> None:
    server.cuts = [1_000_000] + [0] * download.TRIES
    with pytest.raises(WeightsError, match=r"keeps breaking .* 1,000,000 bytes are kept in "):
        resolve(spec_at(server), cache=tmp_path)
    assert [p.name for p in sorted((tmp_path / "weights").glob("*.pth"))] == []
    server.cuts, server.asked = [], []
    seen: list[int] = []
    resolve(spec_at(server), progress=lambda _, done, __: seen.append(done), cache=tmp_path)
    assert server.asked == ["bytes=1000000-"]
    assert seen[0] == 1_000_000


def test_a_server_that_ignores_ranges(server: Server, tmp_path: Path) -> None:
    server.cuts, server.ranges = [1_000_000], False
    assert resolve(spec_at(server), cache=tmp_path).digest == f"sha256:{DIGEST}"
    assert server.asked == ["", "bytes=1000000-"]


def test_a_file_that_changed_between_the_parts(server: Server, tmp_path: Path) -> None:
    server.cuts = [1_000_000] + [0] * download.TRIES
    with pytest.raises(WeightsError):
        resolve(spec_at(server, ""), cache=tmp_path)
    server.cuts, server.body, server.etag = [], BODY[::-1], '"two"'
    found = resolve(spec_at(server, ""), cache=tmp_path)
    assert found.digest == f"sha256:{hashlib.sha256(BODY[::-1]).hexdigest()}"


@pytest.mark.parametrize("etag", ["", 'W/"weak"'])
def test_a_version_that_cannot_be_told_is_not_resumed(
    server: Server, tmp_path: Path, etag: str
) -> None:
    server.cuts, server.etag = [1_000_000], etag
    assert resolve(spec_at(server), cache=tmp_path).digest == f"sha256:{DIGEST}"
    assert server.asked == ["", ""]


def test_more_kept_than_the_server_has(server: Server, tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    partial = tmp_path / "weights" / "r3d_18-file.pth.partial"
    partial.write_bytes(BODY + b"x")
    partial.with_name(partial.name + ".etag").write_text(server.etag)
    assert resolve(spec_at(server), cache=tmp_path).digest == f"sha256:{DIGEST}"


def test_no_length_said(server: Server, tmp_path: Path) -> None:
    server.length = False
    seen: list[int | None] = []
    resolve(spec_at(server), progress=lambda *args: seen.append(args[2]), cache=tmp_path)
    assert set(seen) == {None}
    server.cuts = [1_000_000]  # then only the digest can tell
    with pytest.raises(WeightsError, match="not the official file"):
        resolve(spec_at(server), cache=tmp_path / "other")


def test_wrong_digest(server: Server, tmp_path: Path) -> None:
    with pytest.raises(WeightsError) as caught:
        resolve(spec_at(server, "0123abcd"), cache=tmp_path)
    said = str(caught.value)
    path = tmp_path / "weights" / "r3d_18-file.pth"
    for part in (server.url, str(path), "0123abcd", DIGEST, "run again"):
        assert part in said
    assert not path.exists()
    assert not list(path.parent.glob("*.partial*"))


@pytest.mark.parametrize("status", [403, 404])
def test_refused(server: Server, tmp_path: Path, status: int) -> None:
    server.statuses = [status]
    unreachable = backbones.WeightsUnreachable
    with pytest.raises(unreachable, match=f"the server answers {status} .*--weights"):
        resolve(spec_at(server), cache=tmp_path)


def test_busy_for_a_moment(server: Server, tmp_path: Path) -> None:
    server.statuses = [503, 429]
    assert resolve(spec_at(server), cache=tmp_path).digest == f"sha256:{DIGEST}"


def test_nobody_there(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: refuses
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/r3d.pth"
        began = time.monotonic()
        with pytest.raises(backbones.WeightsUnreachable, match=r"cannot reach 127.0.0.1:\d+ \("):
            resolve(replace(SPECS["r3d"], url=url), cache=tmp_path)
        assert time.monotonic() - began < 5


def test_no_such_host(tmp_path: Path) -> None:
    spec = replace(SPECS["r3d"], url="https://nowhere.invalid/r3d.pth")
    with pytest.raises(backbones.WeightsUnreachable, match="--weights random"):
        resolve(spec, cache=tmp_path)


def test_nobody_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "CONNECT_SECONDS", 0.2)
    later = threading.Event()

    def silent(*_: object, **__: object) -> None:
        later.wait(5)
        raise TimeoutError

    monkeypatch.setattr(socket, "create_connection", silent)
    with pytest.raises(backbones.WeightsUnreachable, match="no answer in"):
        resolve(SPECS["r3d"], cache=tmp_path)
    later.set()


def test_no_digest_published(server: Server, tmp_path: Path) -> None:
    """The first copy fetched is the one kept to, and that is said."""
    spec = spec_at(server, "")
    found = resolve(spec, cache=tmp_path)
    assert found.digest == f"sha256:{DIGEST}"
    assert "no digest is published" in found.source
    assert found.path is not None
    assert resolve(spec, cache=tmp_path) == found
    with found.path.open("r+b") as file:
        file.write(b"changed")
    with pytest.raises(WeightsError, match=f"changed since it was fetched: sha256 was {DIGEST}"):
        resolve(spec, cache=tmp_path)


def test_damaged_in_the_cache(server: Server, tmp_path: Path) -> None:
    spec = spec_at(server)
    path = resolve(spec, cache=tmp_path).path
    assert path is not None
    path.write_bytes(BODY[:100])
    with pytest.raises(WeightsError, match="delete it to fetch it again"):
        resolve(spec, cache=tmp_path)


def test_cache_that_cannot_be_written(server: Server, tmp_path: Path) -> None:
    (tmp_path / "weights").write_text("a file where the folder should be")
    with pytest.raises(WeightsError, match=r"cannot write the weights .* FS_CACHE"):
        resolve(spec_at(server), cache=tmp_path)


def _resolve_in_child(spec: BackboneSpec, cache: Path) -> str:
    return resolve(spec, cache=cache).digest


def test_two_processes_fetch_once(server: Server, tmp_path: Path) -> None:
    spec = spec_at(server)
    with get_context("spawn").Pool(2) as pool:
        found = pool.starmap(_resolve_in_child, [(spec, tmp_path)] * 2)
    assert found == [f"sha256:{DIGEST}"] * 2
    assert server.asked == [""]


# -- finding


def test_random() -> None:
    assert resolve(SPECS["swin"], "random") == Weights(
        None, "RANDOM(seed=0)", "random numbers", seed=0
    )


@pytest.mark.parametrize(
    "name", ["r3d_18-b3b3357e.pth", "r3d.pth", "r3d.pt", "r3d.pyth", "r3d.safetensors"]
)
def test_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"numbers")
    digest = hashlib.sha256(b"numbers").hexdigest()
    spec = replace(SPECS["r3d"], sha256=digest[:8])
    assert resolve(spec, tmp_path) == Weights(
        tmp_path / name, f"sha256:{digest}", str(tmp_path / name)
    )
    assert resolve(spec, str(tmp_path / name)).digest == f"sha256:{digest}"


def test_folder_without(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"no weights for r3d; .*r3d_18-b3b3357e.pth, r3d.pth"):
        resolve(SPECS["r3d"], tmp_path)


def test_a_file_of_the_official_name_is_the_official_file(tmp_path: Path) -> None:
    path = tmp_path / SPECS["r3d"].file_name
    path.write_bytes(b"mine")
    with pytest.raises(WeightsError, match="not the official weights that its name says"):
        resolve(SPECS["r3d"], path)
    path = path.rename(tmp_path / "mine.pth")
    assert resolve(SPECS["r3d"], path).path == path


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no such file or folder; --weights takes official"):
        resolve(SPECS["r3d"], tmp_path / "missing.pth")


def test_one_file_for_several(tmp_path: Path) -> None:
    path = tmp_path / "one.pth"
    path.write_bytes(b"numbers")
    two = [SPECS["r3d"], SPECS["swin"]]
    with pytest.raises(UsageError, match="one weights file cannot serve r3d, swin"):
        resolve_all(two, path)
    assert list(resolve_all(two[:1], path)) == ["r3d"]
    assert [w.seed for w in resolve_all(two, "random").values()] == [0, 0]


def test_no_official_ones() -> None:
    spec = replace(SPECS["r3d"], url="")
    with pytest.raises(WeightsError, match=r"nobody publishes weights for r3d_18\.k400"):
        resolve(spec)


def test_image_model_official(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the hub, by our own download: one way to fetch, one place to keep."""
    network = timm.create_model("test_resnet")
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    server.body = (tmp_path / "model.safetensors").read_bytes()
    monkeypatch.setenv("HF_ENDPOINT", server.url.rpartition("/")[0])
    spec = spec_of("timm:test_resnet")
    assert spec.url.endswith("/timm/test_resnet.r160_in1k/resolve/main/model.safetensors")
    found = resolve(spec, cache=tmp_path)
    assert found.path == tmp_path / "weights" / "timm_test_resnet.r160_in1k.safetensors"
    backbones.check(spec, found)


def test_official_files_if_they_are_in_the_users_cache() -> None:
    """Skipped without a network and without the files; the only test that loads the real ones."""
    folder = Path.home() / ".cache" / "featurestore" / "weights"
    there = [s for s in SPECS.values() if (folder / s.file_name).is_file()]
    if not there:
        pytest.skip(f"no official weights in {folder}")
    for spec in there:
        backbones.check(spec, resolve(spec, cache=folder.parent))
