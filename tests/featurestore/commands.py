"""Commands that write to a store, run and killed by the crash tests in processes of their own.

Run as a module it reads lines `url round kill` and answers each with a line. It forks a child,
which does that round; at its kill-th change of the disk the child kills itself, and the answer is
"killed", else the answer is how many changes it made. Forking saves half a minute of importing
zarr; nothing has run in the parent, so no thread of it is missing in the child.
"""

import os
import signal
import sys

import numpy as np
import zarr  # noqa: F401 - so that children have it

from featurestore.blocks import missing, runs, write_clips
from featurestore.catalog import NewVideo
from featurestore.errors import StoreNotFound
from featurestore.labels import ABNORMAL, Truth
from featurestore.lock import locked
from featurestore.schema import DONE, FEATURES
from featurestore.splits import Split
from featurestore.store import create, open_store

# Each round: the videos that are there, by name (frames; another number is another file), and the
# arrays asked for.
ROUNDS: list[tuple[dict[str, int], list[str]]] = [
    ({"a": 40, "b": 20}, ["r3d"]),
    ({"a": 40, "b": 30, "c": 70}, ["r3d", "swin", "swin_r3d"]),
    ({"a": 40, "b": 30, "c": 70, "d": 100, "broken": 0}, ["r3d", "swin", "swin_r3d"]),
]
SPLITS = ["one", "other", "third"]  # a round adds one
BLOCK = 4
CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.symlink", "os.truncate"}


def features(name: str, clips: range) -> np.ndarray:
    """Features of clips in the order of the store: float32 (clips, 10, channels)."""
    base = np.arange(10 * FEATURES[name].channels, dtype=np.float32)
    whole = np.stack([base + clip * 100_000 + len(name) for clip in clips])
    return whole.reshape(len(clips), 10, -1)


def truth(name: str, frames: int) -> Truth:
    """Every third frame is anomalous."""
    return Truth(name, ABNORMAL, (np.arange(frames) % 3 == 0).astype(np.int8), "t")


def run(url: str, number: int) -> None:
    """What `fs-submit extract` does to a store: adds what is new, computes what is missing."""
    wanted, names = ROUNDS[number]
    with locked(url):
        try:
            store = open_store(url, "a")
        except StoreNotFound:
            store = create(url, dataset="x", block=BLOCK)
        known = {row.name: row.frames for row in store.videos() if row.state != "superseded"}
        store.append(
            [
                NewVideo(name, f"{name}.avi", frames)
                for name, frames in wanted.items()
                if known.get(name) != frames
            ]
        )
        store.set_truth(truth(name, frames) for name, frames in wanted.items() if name != "b")
        for split in SPLITS[: number + 1]:
            parts = {name: (len(name) + len(split)) % 2 for name in wanted}
            store.set_split(Split(split, parts, {}, split))
        for name in names:
            if name not in (*store.backbones, *store.fused_arrays):
                parts = FEATURES[name].parts
                if parts:
                    store.add_fused(name)
                else:
                    store.add_features(name, FEATURES[name].channels, {"weights": "RANDOM"})
        store.commit()
        for name in store.backbones:
            for clips in runs(missing(store.status(name), store.live()), store.block):
                write_clips(url, name, clips.start, features(name, clips))
                store.mark(name, clips, DONE)


class Changes:
    """Counts the changes of the disk that this process begins; kills it at one of them."""

    def __init__(self, kill: int) -> None:
        self.made, self.kill = 0, kill
        sys.addaudithook(self)

    def __call__(self, event: str, arguments: tuple[object, ...]) -> None:
        made = event == "open" and isinstance(arguments[2], int) and arguments[2] & os.O_CREAT
        if event in CHANGES or made:
            self.made += 1
            if self.made == self.kill:
                os.kill(os.getpid(), signal.SIGKILL)


def _serve() -> None:
    for line in sys.stdin:
        url, number, kill = line.rstrip("\n").rsplit(" ", 2)
        child = os.fork()
        if child == 0:
            changes = Changes(int(kill))
            run(url, int(number))
            print(changes.made, flush=True)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        if code:
            print("killed" if code == -signal.SIGKILL else f"failed: {code}", flush=True)


if __name__ == "__main__":
    _serve()
