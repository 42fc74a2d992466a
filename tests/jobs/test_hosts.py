"""Several hosts, as network namespaces: one is cut off in the middle, a worker of another dies."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from featurestore.store import open_store
from jobs import sample
from tests.jobs.conftest import ENVIRONMENT, FAST, FAST_ARRAY, Command, wait_for

# Each video takes its worker a while that costs no processor time, so that there is a middle.
SLOWLY = """
import time
import jobs.reading

if not hasattr(jobs.reading, "opened"):
    jobs.reading.opened = jobs.reading.open_source

def open_source(path, **settings):
    time.sleep(0.7)
    return jobs.reading.opened(path, **settings)

jobs.reading.open_source = open_source
"""


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@dataclass
class Hosts:
    """Namespaces with an address each, on one switch that is a namespace too."""

    folder: Path
    stack: ExitStack
    prefix: str = f"fs{os.getpid()}"
    count: int = 0
    processes: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._namespace("switch")
        ip("-n", f"{self.prefix}switch", "link", "add", "bridge", "type", "bridge")
        ip("-n", f"{self.prefix}switch", "link", "set", "bridge", "up")

    def _namespace(self, name: str) -> None:
        ip("netns", "add", f"{self.prefix}{name}")
        self.stack.callback(ip, "netns", "delete", f"{self.prefix}{name}")
        ip("-n", f"{self.prefix}{name}", "link", "set", "lo", "up")

    def add(self, name: str) -> str:
        """A host of this name, its cable in the switch; returns its address."""
        self._namespace(name)
        self.count += 1
        switch, own = f"{self.prefix}switch", f"{self.prefix}{name}"
        # The cable's far end is called by the host's name
        ip("-n", switch, "link", "add", name, "type", "veth", "peer", "name", "eth", "netns", own)
        ip("-n", switch, "link", "set", name, "master", "bridge", "up")
        ip("-n", own, "address", "add", f"10.77.0.{self.count}/24", "dev", "eth")
        ip("-n", own, "link", "set", "eth", "up")
        return f"10.77.0.{self.count}"

    def cut_off(self, name: str) -> None:
        ip("-n", f"{self.prefix}switch", "link", "set", name, "down")

    def start(self, name: str, *words: str, **env: str) -> None:
        """Run ``python -m WORDS`` on that host; its output lies in the folder."""
        with (self.folder / f"{name}.log").open("w") as log:
            process = subprocess.Popen(
                ["ip", "netns", "exec", f"{self.prefix}{name}", sys.executable, "-m", *words],
                env={**os.environ, **ENVIRONMENT, **env},
                cwd=self.folder, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        self.processes[name] = process
        self.stack.callback(self.kill, name)

    def kill(self, name: str) -> None:
        if self.processes[name].poll() is None:
            os.killpg(self.processes[name].pid, signal.SIGKILL)
        self.processes[name].wait(timeout=30)

    def wait_until_it_says(self, name: str, words: str) -> None:
        def said() -> bool:
            assert self.processes[name].poll() is None, self.log(name)
            return words in self.log(name)

        try:
            wait_for(said, 120)
        except AssertionError:
            raise AssertionError(f"{name} never said {words!r}:\n{self.log(name)}") from None

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("no network namespaces: they need root and the command ip")
    with ExitStack() as stack:
        try:
            found = Hosts(tmp_path, stack)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no network namespaces here: {error.stderr.strip()}")
        yield found


@pytest.mark.netns
@pytest.mark.long
def test_a_host_is_cut_off_and_another_ones_worker_dies(
    hosts: Hosts, command: Command, tmp_path: Path
) -> None:
    recipe = sample.Recipe(videos=12, frames=60, width=96, height=80)
    root = sample.write(tmp_path / "sample", recipe)
    command.extract(root, "--store", tmp_path / "here")
    expected = xr.open_zarr(tmp_path / "here" / "videos.zarr").load()

    slowly = tmp_path / "slowly.py"
    slowly.write_text(SLOWLY)
    # A host that is cut off says nothing; by default Dask waits 30 seconds before it believes it
    patience = {"DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP": "12s"}
    scheduler = f"tcp://{hosts.add('head')}:8786"
    hosts.start("head", "dask", "scheduler", "--host", scheduler, "--no-dashboard", **patience)
    for name in ("one", "two", "three"):
        hosts.start(
            name, "dask", "worker", scheduler, "--host", hosts.add(name), "--nthreads", "1",
            "--no-dashboard", "--no-nanny",
            DASK_DISTRIBUTED__WORKER__PRELOAD=f'["{slowly}"]', **patience,
        )  # fmt: skip
        hosts.wait_until_it_says(name, "Registered to")
    hosts.add("desk")
    store = tmp_path / "there" / "videos.zarr"
    hosts.start(
        "desk", "jobs.cli", "extract", "--dataset", "folder", "--root", str(root),
        "--weights", "random", "--backbones", FAST, "--store", str(store.parent),
        "--cluster", scheduler, **patience,
    )  # fmt: skip

    def done() -> int:
        if hosts.processes["desk"].poll() is not None:
            raise AssertionError(hosts.log("desk"))
        if not (store / "zarr.json").exists():
            return 0
        opened = open_store(str(store))
        known = FAST_ARRAY in opened.backbones
        return int((opened.status(FAST_ARRAY) == 1).sum()) if known else 0

    clips = expected.sizes["clip"]
    wait_for(lambda: done() > 0, 120)
    hosts.cut_off("one")
    seen = done()
    wait_for(lambda: done() > seen, 120)
    assert done() < clips
    hosts.kill("two")
    began = time.monotonic()
    assert hosts.processes["desk"].wait(timeout=200) == 0, hosts.log("desk")
    print(f"{time.monotonic() - began:.0f} s after the second loss; {hosts.log('desk')[-300:]}")
    found = xr.open_zarr(store).load()
    xr.testing.assert_identical(found.drop_vars("mtime"), expected.drop_vars("mtime"))
    assert np.isfinite(found[FAST_ARRAY]).all()
