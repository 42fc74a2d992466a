"""Stores copied to an object store and back; its lock; what goes wrong there.

Each test runs on obstore's store in memory, and on an S3 server (moto's, on loopback).
"""

import json
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from featurestore import objectlock
from featurestore.arrays import zarr_store
from featurestore.errors import (
    StoreLocked,
    StoreNotFound,
    StoreUnreadable,
    StoreUnwritable,
    UsageError,
)
from featurestore.objectlock import locked_there
from featurestore.objects import download, upload
from featurestore.place import Place, hidden, place_of
from featurestore.runs import write_run
from featurestore.store import open_store
from featurestore.verify import verify
from tests import s3
from tests.featurestore.making import make, read, video, write
from tests.featurestore.test_runs import columns

obstore = pytest.importorskip("obstore.store", reason="pip install .[objects]")


@pytest.fixture(params=["memory", "s3"])
def place(request: pytest.FixtureRequest) -> Place:
    if request.param == "memory":
        return Place("memory://features/x.zarr", obstore.MemoryStore(), "x.zarr")
    server: s3.Server = request.getfixturevalue("s3_server")
    bucket = server.bucket(f"copies-{uuid.uuid4().hex}")
    return place_of(f"{bucket}/features/x.zarr", server.options)


@pytest.fixture
def url(tmp_path: Path) -> Path:
    store = make(tmp_path / "x.zarr", names=["swin", "r3d", "swin_r3d"])
    for name in ("swin", "r3d"):
        write(store, name, range(9))
    write_run(store.url, "early", columns(), {})
    return tmp_path / "x.zarr"


def opened(place: Place) -> xr.Dataset:
    """As stock zarr and xarray open it, without a warning."""
    dataset: xr.Dataset = xr.open_zarr(zarr_store(place, read_only=True), chunks=None).load()
    return dataset


def same(one: xr.Dataset, other: xr.Dataset) -> None:
    assert set(one.variables) == set(other.variables)
    for name in one.variables:
        np.testing.assert_array_equal(one[name].values, other[name].values, err_msg=str(name))


def test_there_and_back(url: Path, place: Place, tmp_path: Path) -> None:
    sent = upload(url, place)
    assert sent.there == 0
    same(opened(place), read(url))
    again = upload(url, place)
    assert again.there > 3 * (2 + 1 + 3)
    assert again.brought < 40  # the metadata files
    back = tmp_path / "back" / "y.zarr"
    download(place, back)
    same(read(back), read(url))
    assert (back / "swin_r3d/c/0/0/0").is_symlink()
    assert open_store(back, "a").fused == "link"
    assert verify(back).problems == []
    with pytest.raises(UsageError, match="is there already"):
        download(place, back)


def test_what_changed_here_changes_there(url: Path, place: Place) -> None:
    upload(url, place)
    store = open_store(url, "a")
    store.append([video("v0", 2), video("late", 3)])
    store.commit()
    for name in ("swin", "r3d"):
        write(store, name, range(9, 15))
    from featurestore.runs import delete_run

    delete_run(url, "early")
    sent = upload(url, place)
    assert sent.there >= 2 * (2 + 1 + 3)  # the blocks that were full
    same(opened(place), read(url))
    assert not [o["path"] for page in place.objects.list() for o in page if "early" in o["path"]]


def test_some_arrays_and_none_that_are_fused(url: Path, place: Place, tmp_path: Path) -> None:
    upload(url, place, names=["r3d"])
    assert "swin" not in opened(place)
    upload(url, place, fused_as="none")
    assert {"swin", "r3d"} <= set(opened(place))
    assert "swin_r3d" not in opened(place)
    download(place, tmp_path / "y.zarr", names=["r3d"])
    assert open_store(tmp_path / "y.zarr").backbones == ("r3d",)
    assert verify(tmp_path / "y.zarr").problems == []


def test_stopped_half_way_and_run_again(url: Path, place: Place, tmp_path: Path) -> None:
    class Stopped(Exception):
        pass

    def stop(done: int, of: int) -> None:
        if done > of // 2:
            raise Stopped

    with pytest.raises(Stopped):
        upload(url, place, progress=stop)
    with pytest.raises(StoreNotFound, match="there is no store"):
        download(place, tmp_path / "y.zarr")
    assert upload(url, place).there > 0
    with pytest.raises(Stopped):
        download(place, tmp_path / "y.zarr", progress=stop)
    assert not (tmp_path / "y.zarr").exists()
    assert download(place, tmp_path / "y.zarr").there > 0
    same(read(tmp_path / "y.zarr"), read(url))
    assert verify(tmp_path / "y.zarr").problems == []


def test_damage_is_seen_on_the_way(url: Path, place: Place, tmp_path: Path) -> None:
    upload(url, place)
    damaged = place / "r3d/c/1/0/0"
    content = bytearray(damaged.read_bytes())
    content[1000] ^= 1
    damaged.write_bytes(bytes(content))
    with pytest.raises(StoreUnreadable, match="r3d/c/1/0/0: is damaged"):
        download(place, tmp_path / "y.zarr")
    chunk = url / "swin/c/0/0/1"
    chunk.write_bytes(bytes(chunk.stat().st_size))
    with pytest.raises(StoreUnreadable, match="swin/c/0/0/1: is damaged"):
        upload(url, place)


def test_errors_name_the_place_and_no_secret(
    url: Path, s3_server: s3.Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = s3_server.options
    nowhere = place_of("s3://no-such-bucket/x.zarr", options)
    for act in (lambda: upload(url, nowhere), lambda: download(nowhere, tmp_path / "y.zarr")):
        with pytest.raises((StoreUnreadable, StoreUnwritable), match=r"x\.zarr.*no such bucket"):
            act()
    wrong = {"access_key_id": "AKIAOFANOTHER", "secret_access_key": "not/the+secret"}
    bucket = s3_server.bucket(f"wrong-{uuid.uuid4().hex}")
    with s3_server.keys_checked():
        there = place_of(f"{bucket}/x.zarr", {**options, **wrong})
        with pytest.raises(StoreUnreadable, match="refuses these keys") as refused:
            download(there, tmp_path / "y.zarr")
    assert not any(secret in shown(refused.value) for secret in wrong.values())
    away = {**options, "endpoint": "http://127.0.0.1:9", "max_retries": "1"}
    with pytest.raises(StoreUnreadable, match=r"x\.zarr: cannot be read") as gone:
        download(place_of(f"{bucket}/x.zarr", away), tmp_path / "y.zarr")
    assert not any(secret in shown(gone.value) for secret in (s3.KEY, s3.SECRET))
    with pytest.raises(UsageError, match="cannot be used"):
        place_of("s3://bucket/x.zarr", {**options, "no_such_option": "1"})
    for text in ("s3://bucket", "s3://bucket/../x.zarr", "s3:///x.zarr", "s3://bucket//x.zarr"):
        with pytest.raises(UsageError, match="give bucket and name"):
            place_of(text, options)
    with pytest.raises(UsageError, match="do not belong in a URL") as told:
        place_of("s3://key:secret@bucket/x.zarr", options)
    assert "secret" not in str(told.value)


def shown(error: BaseException | None) -> str:
    """All that a log could have of an error."""
    if error is None:
        return ""
    return f"{error!r} {error} {shown(error.__cause__)}"


def test_what_a_command_was_given_is_not_shown() -> None:
    words = ["fs-submit", "copy", "--storage-options", "secret_access_key=x", "a", "b"]
    assert hidden(words) == ["fs-submit", "copy", "--storage-options", "...", "a", "b"]
    assert hidden(["--storage-options=key=x"]) == ["--storage-options=..."]


def test_one_of_eight_wins_the_lock(place: Place) -> None:
    won: list[int] = []
    refused: list[str] = []
    barrier = threading.Barrier(8)

    def go(number: int) -> None:
        barrier.wait()
        try:
            with locked_there(place):
                won.append(number)
                time.sleep(1)
        except StoreLocked as error:
            refused.append(str(error))

    threads = [threading.Thread(target=go, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(refused)) == (1, 7)
    assert any("another command is writing to this store (process" in text for text in refused)
    with locked_there(place):
        pass


def lose(place: Place) -> None:
    """Another command takes the lock over; the next renewal finds it."""
    place.beside(".lock").write_bytes(b"{}")
    time.sleep(0.5)


def lose_and_write(place: Place) -> None:
    """Nothing is written any more that only the holder may."""
    with locked_there(place, expires=9, renew=0.1):
        lose(place)
        objectlock.check(place)
        pytest.fail("it would have been written")


def test_a_lock_is_renewed_while_it_is_held_and_runs_out_after_a_crash(place: Place) -> None:
    with locked_there(place, expires=0.6, renew=0.1):
        time.sleep(1.5)
        with pytest.raises(StoreLocked, match="process"), locked_there(place, expires=0.6):
            pass
    with (
        pytest.raises(StoreLocked, match="taken it over"),
        locked_there(place, expires=9, renew=0.1),
    ):
        lose(place)
    with pytest.raises(StoreLocked, match="taken it over"):
        lose_and_write(place)


def of_another_host(**more: object) -> bytes:
    """A lock that a command on another machine holds, or held when it crashed."""
    holder = {"owner": "x", "pid": 1, "host": "h", "command": "c", "expires": 0.6, "until": 0}
    return json.dumps(holder | more).encode()


@pytest.mark.parametrize("hours", [-24, 0, 24])
def test_a_crash_elsewhere_is_seen_by_watching_whatever_the_clocks_say(
    place: Place, hours: int
) -> None:
    place.beside(".lock").write_bytes(of_another_host(until=time.time() + hours * 3600))
    said: list[str] = []
    began = time.monotonic()
    with locked_there(place, expires=60, say=said.append):
        took = time.monotonic() - began
        owner = objectlock._read(place.beside(".lock"))[0]["owner"]
    assert owner != "x"
    assert 0.9 <= took < 10  # half as long again as its holder said
    assert "is locked (process 1 on h: c); watching" in said[0]
    assert "taken over" in said[-1]


@pytest.mark.parametrize("hours", [-24, 24])
def test_a_lock_that_another_host_renews_is_held_however_wrong_its_clock_is(
    place: Place, hours: int
) -> None:
    lock = place.beside(".lock")
    ended = threading.Event()

    def renew() -> None:
        puts = 0
        while not ended.wait(0.1):
            puts += 1
            lock.write_bytes(of_another_host(puts=puts, until=time.time() + hours * 3600))

    lock.write_bytes(of_another_host(until=time.time() + hours * 3600))
    thread = threading.Thread(target=renew)
    thread.start()
    try:
        for _ in range(3):
            with (
                pytest.raises(StoreLocked, match="another command is writing.*process 1 on h: c"),
                locked_there(place, expires=0.6),
            ):
                pass
    finally:
        ended.set()
        thread.join()


def test_of_those_that_watch_one_takes_over(place: Place) -> None:
    place.beside(".lock").write_bytes(of_another_host())
    won: list[int] = []
    refused: list[str] = []

    def go(number: int) -> None:
        try:
            with locked_there(place, expires=0.6):
                won.append(number)
                time.sleep(1)
        except StoreLocked as error:
            refused.append(str(error))

    threads = [threading.Thread(target=go, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(refused)) == (1, 3), refused


def test_watching_is_cheap_and_a_lock_given_back_meanwhile_is_free(s3_server: s3.Server) -> None:
    bucket = s3_server.bucket(f"watched-{uuid.uuid4().hex}")
    place = place_of(f"{bucket}/features/x.zarr", s3_server.options)
    lock = place.beside(".lock")
    lock.write_bytes(of_another_host(expires=1.2))
    before = s3_server.requests()
    with locked_there(place, expires=1.2):
        asked = s3_server.requests() - before
    assert asked["GET"] + asked["HEAD"] <= 22, asked
    assert asked["PUT"] <= 3  # one finds it, one takes it over; and the one before, if logged late
    assert asked["LIST"] == 0
    lock.write_bytes(of_another_host(expires=60))
    given_back = threading.Timer(1, lock.remove)
    given_back.start()
    began = time.monotonic()
    with locked_there(place, expires=60):
        assert time.monotonic() - began < 30
    given_back.join()


def test_a_lock_that_says_nothing_sensible_runs_out_too(place: Place) -> None:
    for junk in (b"", b"[1]", b'{"pid": "x", "expires": Infinity, "until": "y", "machine": []}'):
        place.beside(".lock").write_bytes(junk)
        assert objectlock.writer_there(place) is None
        with locked_there(place, expires=0.2):
            pass


@pytest.mark.parametrize("seconds", [-86400.0, 86400.0])
def test_a_clock_that_jumps_costs_its_holder_nothing(
    place: Place, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It asks once whether the lock is still its own: a machine that was paused, and does not know
    it, shows just so."""
    right = time.time
    with locked_there(place, renew=60):
        before = place.beside(".lock").read_bytes()
        objectlock.check(place)
        assert place.beside(".lock").read_bytes() == before
        monkeypatch.setattr(time, "time", lambda: right() + seconds)
        objectlock.check(place)
        after = place.beside(".lock").read_bytes()
        assert after != before
        objectlock.check(place)
        assert place.beside(".lock").read_bytes() == after
        assert "process" in (objectlock.writer_there(place) or "")
        monkeypatch.setattr(time, "time", lambda: right() + 2 * seconds)
        assert "process" in (objectlock.writer_there(place) or "")
    assert not place.beside(".lock").exists()


def test_a_machine_that_was_paused_and_lost_its_lock_writes_nothing(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    with pytest.raises(StoreLocked, match="taken it over"):
        pause_and_write(place, lambda: monkeypatch.setattr(time, "time", lambda: now + 600))


def pause_and_write(place: Place, pause: Callable[[], None]) -> None:
    with locked_there(place, renew=60):
        place.beside(".lock").write_bytes(of_another_host())
        pause()
        objectlock.check(place)
        pytest.fail("it would have been written")


def test_a_command_that_slept_goes_on_if_nobody_took_its_lock(place: Place) -> None:
    with locked_there(place, expires=0.3, renew=60):
        time.sleep(0.5)
        objectlock.check(place)
    with (
        pytest.raises(StoreLocked, match="taken it over"),
        locked_there(place, expires=0.3, renew=60),
    ):
        sleep_while_another_comes(place)


def sleep_while_another_comes(place: Place) -> None:
    time.sleep(0.5)
    with locked_there(place, expires=0.2):
        objectlock.check(place)


def test_nobody_waits_for_a_process_that_was_killed_on_this_machine(place: Place) -> None:
    code = "import sys; sys.stdin.read()"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
    with locked_there(place):
        holder = json.loads(place.beside(".lock").read_bytes())
    holder |= {"pid": process.pid, "started": objectlock._started(process.pid)}
    place.beside(".lock").write_bytes(json.dumps(holder).encode())
    with pytest.raises(StoreLocked, match=f"process {process.pid}"), locked_there(place):
        pass
    assert str(process.pid) in (objectlock.writer_there(place) or "")
    process.kill()
    process.communicate()
    assert objectlock.writer_there(place) is None
    with locked_there(place):
        pass
    assert not place.beside(".lock").exists()
