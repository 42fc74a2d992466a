"""Generated videos, each written once a session, when a test first asks for it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.jobs.video.samples import SAMPLES


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`sample("h264_open.mp4")`: the path of that sample. Not to be changed: copy it."""
    root = tmp_path_factory.mktemp("samples")

    def written(name: str) -> Path:
        path = root / name
        return path if path.exists() else SAMPLES[name].write(path)

    return written
