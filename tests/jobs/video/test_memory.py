"""Reading holds a few frames, however long the video."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.jobs.video.painted import write_loop

LOOP = 50

# Run apart, so that nothing else's memory counts. Prints megabytes after each so many frames.
READ = """
import json, sys
from pathlib import Path
import psutil
from jobs.video import open_source, probe

path, report = Path(sys.argv[1]), [int(n) for n in sys.argv[2].split(",")]
process = psutil.Process()
frames = probe(path).frames
memory = []
with open_source(path, frames=frames) as source:
    for number, frame in enumerate(source.read(0, report[-1]), 1):
        assert frame.shape == (720, 1280, 3)
        if number in report:
            memory.append(process.memory_info().rss / 1e6)
print(json.dumps([frames, memory]))
"""


def megabytes(path: Path, after: list[int]) -> tuple[int, list[float]]:
    """(frames of the video, resident megabytes after each number of frames read)"""
    done = subprocess.run(
        [sys.executable, "-c", READ, str(path), ",".join(map(str, after))],
        check=True, capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    frames, memory = json.loads(done.stdout)
    return frames, memory


@pytest.mark.long
def test_memory_does_not_grow_with_the_length(tmp_path: Path) -> None:
    path = write_loop(tmp_path / "long.mp4", 20_000, (1280, 720), LOOP)
    frames, memory = megabytes(path, [200, 2_000, 20_000])
    assert frames == 20_000
    assert memory[1] < 200
    assert memory[2] < memory[1] + 15
    assert memory[1] < memory[0] + 15


@pytest.mark.parametrize("name", ["long.mp4", "long.avi"])
def test_memory_does_not_grow_in_short(name: str, tmp_path: Path) -> None:
    """300 frames are 800 MB of pixels: enough to see one kept that should not be."""
    path = write_loop(tmp_path / name, 600, (1280, 720), LOOP)
    frames, memory = megabytes(path, [20, 300])
    assert frames == 600
    assert memory[1] < memory[0] + 40
