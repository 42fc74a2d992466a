"""Requests to an object store, by kind: `python -m tests.benchmarks.objects [--clips N]`.

A server on loopback (moto's) counts; what it takes tells nothing of a real one's speed. First the
writing of a worker and a driver alone, all nine arrays, for blocks that a task covers whole and for
tasks of one clip; then the command itself, with a small network; then one scoring.
"""

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np

from featurestore import place
from featurestore.schema import BACKBONES, FEATURES
from featurestore.store import open_store
from tests import s3
from tests.featurestore import making
from tests.jobs.conftest import FAST, Command

KINDS = ("GET", "PUT", "HEAD", "LIST", "DELETE")


def main() -> None:
    """Runs all and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=64, help="clips written, in blocks of 32")
    clips: int = parser.parse_args().clips
    with tempfile.TemporaryDirectory() as folder, s3.serving(Path(folder)) as server:
        place.use(server.options)
        print(f"{'requests':<58}{'clips':>6}" + "".join(f"{kind:>8}" for kind in KINDS)
              + f"{'a clip':>8}")  # fmt: skip
        _write(server, server.bucket("whole"), clips, clips_per_task=32)
        _write(server, server.bucket("single"), clips // 4, clips_per_task=1)
        _command(server, Path(folder))
        listed = Counter(path.split("?")[0] for kind, path in server.asked() if kind == "LIST")
        print(f"LIST requests in all: {sum(listed.values())}")


def _write(server: s3.Server, bucket: str, clips: int, clips_per_task: int) -> None:
    url = f"{bucket}/features/x.zarr"
    what = f"nine arrays, blocks of 32, tasks of {clips_per_task}"
    before = server.requests()
    store = making.make(url, (clips,), block=32)
    _tell(f"{what}: make the store", 0, server.requests() - before)
    before = server.requests()
    for first in range(0, clips, clips_per_task):
        for name in BACKBONES:
            making.write(store, name, range(first, min(first + clips_per_task, clips)))
    _tell(f"{what}: write", clips, server.requests() - before)
    for mode in ("r", "a"):
        before = server.requests()
        store = open_store(url, mode)  # type: ignore[arg-type]
        _tell(f"{what}: open, mode {mode}", 0, server.requests() - before)
    values = store.features("swin_i3d", range(clips))
    assert np.isfinite(values).all()
    assert values.shape[2] == FEATURES["swin_i3d"].channels


def _command(server: s3.Server, folder: Path) -> None:
    from jobs import sample

    root = sample.write(folder / "s", sample.Recipe(videos=8, frames=90, width=96, height=80))
    store = f"{server.bucket('command')}/features"
    command = Command(folder, server.env)
    for what in ("extract, one small network, blocks of 4", "extract again: nothing to do"):
        before = server.requests()
        command.extract(
            root, "--store", store, "--backbones", FAST,
            "--labels", root.parent / "intervals.csv",
            "--split", f"weak={root.parent / 'labels.csv'}",
        )  # fmt: skip
        _tell(what, 48, server.requests() - before)
    for what, words in (
        ("status", ["status"]),
        ("score", ["score", "--resamples", "20"]),
        ("evaluate", ["evaluate", "--resamples", "20"]),
        ("verify", ["verify"]),
    ):
        before = server.requests()
        command.run(*words, "--store", store)
        _tell(what, 48, server.requests() - before)


def _tell(what: str, clips: int, found: Counter[str]) -> None:
    each = f"{sum(found.values()) / clips:8.2f}" if clips else f"{'':>8}"
    print(f"{what:<58}{clips or '':>6}" + "".join(f"{found[kind]:>8}" for kind in KINDS) + each)
    sys.stdout.flush()


if __name__ == "__main__":
    main()
