import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from featurestore.errors import StoreLocked, StoreUnwritable
from featurestore.lock import locked

HOLD = """
import sys, time
from featurestore.lock import locked
with locked(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def hold(url: Path) -> subprocess.Popen[str]:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(url)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    return holder


def test_the_second_says_who_holds_it_and_it_dies_with_its_process(tmp_path: Path) -> None:
    url = tmp_path / "features" / "ped2.zarr"
    holder = hold(url)
    try:
        with pytest.raises(StoreLocked) as error, locked(url):
            pass
        message = str(error.value)
        assert f"process {holder.pid} on {os.uname().nodename}, since 20" in message
        assert str(url) in message
        assert "-c" in message
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.communicate()
    assert (url.parent / "ped2.zarr.lock").exists()
    with locked(url):
        pass
    with locked(url), locked(tmp_path / "features" / "avenue.zarr"):
        pass


def test_not_twice_in_one_process(tmp_path: Path) -> None:
    with locked(tmp_path / "x.zarr"), pytest.raises(StoreLocked), locked(tmp_path / "x.zarr"):
        pass
    with locked(tmp_path / "x.zarr"):
        pass


def test_by_another_name(tmp_path: Path) -> None:
    (tmp_path / "x.zarr").mkdir()
    (tmp_path / "y.zarr").symlink_to(tmp_path / "x.zarr")
    with locked(tmp_path / "x.zarr"), pytest.raises(StoreLocked), locked(tmp_path / "y.zarr"):
        pass


def test_a_forked_child_does_not_hold_it(tmp_path: Path) -> None:
    fork = (
        "import os, sys, time\n"
        "from featurestore.lock import locked\n"
        "with locked(sys.argv[1]):\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        os.close(1)\n"
        "        time.sleep(60)\n"
        "    print(child, flush=True)\n"
        "    os._exit(0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", fork, str(tmp_path / "x.zarr")],
        stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    child = int(done.stdout)
    try:
        with locked(tmp_path / "x.zarr"):
            os.kill(child, 0)
    finally:
        os.kill(child, signal.SIGKILL)


def test_where_no_lock_can_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnwritable, match="cannot be written"), locked(tmp_path / "file" / "x"):
        pass
