"""Stores copied to an object store and back; its lock; what goes wrong there.

Each test runs on obstore's store in memory, and on an S3 server (moto's, on loopback) where moto is
installed: it is no part of the test environment, since botocore wants an older python-dateutil.
"""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from featurestore import objectlock
from featurestore.errors import StoreLocked, StoreUnreadable, UsageError
from featurestore.objectlock import locked_there
from featurestore.objects import Place, download, place_of, upload
from featurestore.runs import write_run
from featurestore.store import open_store
from featurestore.verify import verify
from tests.featurestore.making import make, read, video, write
from tests.featurestore.test_runs import columns

obstore = pytest.importorskip("obstore.store", reason="pip install .[objects]")

OPTIONS = {"access_key_id": "a", "secret_access_key": "secret", "region": "us-east-1"}


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server_of = pytest.importorskip("moto.server", reason="needs moto[s3], flask and flask-cors")
    server = server_of.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def options(endpoint: str) -> dict[str, str]:
    """A bucket with nothing in it."""
    import urllib.request

    for method, url in (("POST", f"{endpoint}/moto-api/reset"), ("PUT", f"{endpoint}/bucket")):
        urllib.request.urlopen(urllib.request.Request(url, method=method)).close()
    return {**OPTIONS, "endpoint": endpoint}


@pytest.fixture(params=["memory", "s3"])
def place(request: pytest.FixtureRequest) -> Place:
    if request.param == "memory":
        return Place("memory://features/x.zarr", obstore.MemoryStore(), "x.zarr")
    return place_of("s3://bucket/features/x.zarr", request.getfixturevalue("options"))


@pytest.fixture
def url(tmp_path: Path) -> Path:
    store = make(tmp_path / "x.zarr", names=["swin", "r3d", "swin_r3d"])
    for name in ("swin", "r3d"):
        write(store, name, range(9))
    write_run(store.url, "early", columns(), {})
    return tmp_path / "x.zarr"


def opened(place: Place) -> xr.Dataset:
    """As an analyst opens it, without our code and without a warning."""
    from zarr.storage import ObjectStore

    if place.url.startswith("s3://"):
        config = dict(place.objects.config)  # type: ignore[union-attr]
        client = {"allow_http": True}
        folder = obstore.from_url(place.url, config=config, client_options=client)
    else:
        folder = obstore.MemoryStore()
        for page in place.objects.list(place.key("")):
            for one in page:
                content = bytes(place.objects.get(one["path"]).bytes())
                folder.put(one["path"].removeprefix(place.key("")), content)
    objects: ObjectStore = ObjectStore(folder, read_only=True)
    dataset: xr.Dataset = xr.open_zarr(objects, chunks=None).load()
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
    with pytest.raises(StoreUnreadable, match="there is no store"):
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
    key = place.key("r3d/c/1/0/0")
    content = bytearray(bytes(place.objects.get(key).bytes()))
    content[1000] ^= 1
    place.objects.put(key, bytes(content))
    with pytest.raises(StoreUnreadable, match="r3d/c/1/0/0: is damaged"):
        download(place, tmp_path / "y.zarr")
    chunk = url / "swin/c/0/0/1"
    chunk.write_bytes(bytes(chunk.stat().st_size))
    with pytest.raises(StoreUnreadable, match="swin/c/0/0/1: is damaged"):
        upload(url, place)


def test_errors_name_the_place_and_no_secret(
    url: Path, options: dict[str, str], tmp_path: Path
) -> None:
    nowhere = place_of("s3://no-such-bucket/x.zarr", options)
    with pytest.raises(StoreUnreadable, match="x.zarr: there is no such bucket") as told:
        upload(url, nowhere)
    assert "secret" not in str(told.value)
    with pytest.raises(UsageError, match="give bucket and name"):
        place_of("s3://bucket", options)
    with pytest.raises(UsageError, match="cannot be used"):
        place_of("s3://bucket/x.zarr", {**options, "no_such_option": "1"})


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
    place.objects.put(f"{place.name}.lock", b"{}")
    time.sleep(0.5)


def test_a_lock_is_renewed_while_it_is_held_and_runs_out_after_a_crash(place: Place) -> None:
    with locked_there(place, expires=0.6, renew=0.1):
        time.sleep(1.5)
        with pytest.raises(StoreLocked, match="process"), locked_there(place, expires=0.6):
            pass
    with (
        pytest.raises(StoreLocked, match="took it over"),
        locked_there(place, expires=9, renew=0.1),
    ):
        lose(place)
    crashed = {"owner": "x", "pid": 1, "host": "h", "command": "c", "until": time.time() + 0.3}
    place.objects.put(f"{place.name}.lock", json.dumps(crashed).encode())
    with pytest.raises(StoreLocked, match="process 1 on h: c"), locked_there(place, expires=0.6):
        pass
    time.sleep(0.7)
    with locked_there(place, expires=0.6):
        owner = objectlock._read(place, f"{place.name}.lock")[0]["owner"]
    assert owner != "x"
