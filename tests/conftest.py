"""What all tests share: where the real data is, a cache of their own, and modest threads."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from tests import s3

# A busy machine is no failure; a hang still is, by pytest-timeout.
hypothesis.settings.register_profile(
    "tests", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("tests")

CHECKOUT = Path(__file__).resolve().parent.parent

# Before numpy, torch or OpenVINO are imported: they read these once. Two threads is what CI has;
# where two tests run at a time, each has one.
_THREADS = 1 if "PYTEST_XDIST_WORKER" in os.environ else min(2, os.cpu_count() or 1)
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, str(_THREADS))

# A shell's background jobs ignore Ctrl-C, and so would all that the tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real data: `FS_SHARED_DATA`, or `../shared/data` by the checkout; else a skip."""
    named = os.environ.get("FS_SHARED_DATA")
    folder = Path(named) if named else CHECKOUT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} is not a folder (set FS_SHARED_DATA)")
    return folder


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache (`FS_CACHE`: weights, converted networks) that is never the user's own.

    `FS_TEST_CACHE` names one to keep between runs: converting swin takes half a minute.
    """
    kept = os.environ.get("FS_TEST_CACHE")
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # one for all processes of the run: what one converts, others find
    folder = Path(kept).resolve() if kept else base / "cache"
    folder.mkdir(parents=True, exist_ok=True)
    before = os.environ.get("FS_CACHE")
    os.environ["FS_CACHE"] = str(folder)  # child processes inherit it: workers use the same cache
    yield folder
    if before is None:
        del os.environ["FS_CACHE"]
    else:
        os.environ["FS_CACHE"] = before


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[s3.Server]:
    """An S3 server on loopback, one for all tests; each makes a bucket of its own."""
    pytest.importorskip("moto", reason="pip install .[test]")
    with s3.serving(tmp_path_factory.mktemp("s3")) as server:
        yield server
