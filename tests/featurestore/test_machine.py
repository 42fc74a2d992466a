"""Any sequence of changes, kills and openings: readers see the last commit and what was written."""

import itertools
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from featurestore.blocks import write_clips
from featurestore.labels import Truth
from featurestore.schema import DONE, FAILED, MISSING
from featurestore.splits import Split
from featurestore.store import Store, create, open_store
from tests.featurestore.making import read, video

CHANNELS = {"swin": 1024, "r3d": 512, "timm_small": 3}
names = st.sampled_from(sorted(CHANNELS))


def mark_of(name: str, clip: int, version: int) -> np.float32:
    """Fills one clip's features: tells the backbone, the clip and which writing of it."""
    return np.float32(version * 1000 + clip + sorted(CHANNELS).index(name) / 4)


class Machine(RuleBasedStateMachine):
    """`rows`, `status`, `written` and `made_by` are what the writer has; `committed` what shows."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.url = str(self.folder / "x.zarr")
        self.rows: list[tuple[str, int]] = []
        self.status: dict[str, list[int]] = {}
        self.written: dict[str, dict[int, int]] = {}  # clip -> version
        self.made_by: dict[str, int] = {}
        self.fused: set[str] = set()
        self.labels: list[int] = []  # of each row
        self.frame_labels: list[int] = []  # of each row: all its frames have the same one
        self.splits: dict[str, list[int]] = {}  # half of each row
        self.versions = itertools.count(1)
        self.looked = False

    @property
    def clips(self) -> int:
        return sum(count for _, count in self.rows)

    @initialize(
        mode=st.sampled_from(["link", "copy"]), block=st.integers(2, 4), fused=st.booleans()
    )
    def create(self, mode: Any, block: int, fused: bool) -> None:
        self.store: Store = create(self.url, dataset="x", block=block, fused=mode)
        self.append({"a": 3, "b": 2})
        self.add_features("r3d")
        if fused:
            self.add_features("swin")
            self.add_fused()
        self.commit()

    def remember(self) -> None:
        self.committed = (
            list(self.rows), dict(self.made_by), set(self.fused), self.clips, list(self.splits)
        )  # fmt: skip

    @property
    def live(self) -> dict[str, int]:
        """Row of each name: the last one."""
        return {name: row for row, (name, _) in enumerate(self.rows)}

    @rule(
        counts=st.dictionaries(st.sampled_from("abcd"), st.integers(0, 6), min_size=1, max_size=3)
    )
    def append(self, counts: dict[str, int]) -> None:
        rows = self.store.append([video(name, count) for name, count in counts.items()])
        assert rows == range(len(self.rows), len(self.rows) + len(counts))
        heirs = [self.live.get(name) for name in counts]
        for of_rows in (self.labels, *self.splits.values()):
            of_rows += [-1 if heir is None else of_rows[heir] for heir in heirs]
        self.frame_labels += [-1] * len(counts)
        self.rows += counts.items()
        for status in self.status.values():
            status += [MISSING] * sum(counts.values())

    @rule(name=names)
    def add_features(self, name: str) -> None:
        if name not in self.status:
            self.made_by[name] = next(self.versions)
            self.store.add_features(name, CHANNELS[name], {"version": self.made_by[name]})
            self.status[name] = [MISSING] * self.clips
            self.written[name] = {}

    @precondition(lambda self: {"swin", "r3d"} <= set(self.status) and not self.fused)
    @rule()
    def add_fused(self) -> None:
        self.store.add_fused("swin_r3d")
        self.fused.add("swin_r3d")

    @precondition(lambda self: self.status and self.clips)
    @rule(data=st.data(), killed=st.booleans())
    def write(self, data: st.DataObject, killed: bool) -> None:
        name = data.draw(st.sampled_from(sorted(self.status)))
        # Most of all where growth happens: in the last block, and where the commit ends.
        near_end = st.integers(max(0, self.clips - 2), self.clips - 1)
        start = data.draw(near_end | st.integers(0, self.clips - 1))
        end = min(self.clips, (start // self.store.block + 1) * self.store.block)
        run = range(start, data.draw(st.integers(start + 1, end)))
        version = next(self.versions)
        values = np.empty((len(run), 10, CHANNELS[name]), np.float32)
        values[:] = np.array([mark_of(name, clip, version) for clip in run])[:, None, None]
        write_clips(self.url, name, start, values, fingerprint=self.store.fingerprint(name))
        self.written[name].update(dict.fromkeys(run, version))
        if not killed:
            self.store.mark(name, run, DONE)
            self.status[name][run.start : run.stop] = [DONE] * len(run)

    @precondition(lambda self: self.status and self.clips)
    @rule(data=st.data(), value=st.sampled_from([MISSING, DONE, FAILED]))
    def mark(self, data: st.DataObject, value: int) -> None:
        name = data.draw(st.sampled_from(sorted(self.status)))
        clips = data.draw(st.lists(st.integers(0, self.clips - 1), unique=True, max_size=5))
        self.store.mark(name, np.array(clips, dtype=int), value)
        for clip in clips:
            self.status[name][clip] = value
            if value == FAILED:
                self.written[name].pop(clip, None)

    @precondition(lambda self: self.status)
    @rule(data=st.data())
    def replace(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.status)))
        self.made_by[name] = next(self.versions)
        self.store.replace_features(name, {"version": self.made_by[name]})
        self.written[name].clear()
        self.status[name] = [MISSING] * self.clips

    @rule(data=st.data())
    def set_truth(self, data: st.DataObject) -> None:
        wanted = data.draw(st.dictionaries(st.sampled_from(sorted(self.live)), st.integers(-1, 1)))
        frames = {name: max(16 * self.rows[self.live[name]][1] - 5, 0) for name in wanted}
        self.store.set_truth(
            Truth(name, label, np.full(frames[name], label, np.int8), "t")
            for name, label in wanted.items()
        )
        for name, label in wanted.items():
            if label != -1:
                self.labels[self.live[name]] = self.frame_labels[self.live[name]] = label

    @rule(data=st.data(), name=st.sampled_from(["s", "t"]))
    def set_split(self, data: st.DataObject, name: str) -> None:
        halves = st.dictionaries(st.sampled_from(sorted(self.live)), st.integers(0, 1))
        parts = data.draw(halves)
        self.store.set_split(Split(name, parts, {}, "drawn"), replace=True)
        of_rows = self.splits.setdefault(name, [-1] * len(self.rows))
        for video_name, row in self.live.items():
            of_rows[row] = parts.get(video_name, -1)

    @rule()
    def commit(self) -> None:
        self.store.commit()
        self.remember()
        self.look()

    @rule(leftover=st.sampled_from(["zarr.1.partial", "r3d/c/0/0/0.1.partial", "swin/c/x.partial"]))
    def kill(self, leftover: str) -> None:
        if (Path(self.url) / leftover).parent.is_dir():
            (Path(self.url) / leftover).write_bytes(b"half")
        self.store = open_store(self.url, "a")
        self.rows, self.made_by, self.fused = (x.copy() for x in self.committed[:3])  # type: ignore[assignment]
        count = len(self.rows)
        self.labels, self.frame_labels = self.labels[:count], self.frame_labels[:count]
        self.splits = {name: self.splits[name][:count] for name in self.committed[4]}
        self.status = {name: self.status[name][: self.clips] for name in self.made_by}
        # Whoever opens a store for writing blanks what a killed run wrote but did not mark.
        self.written = {
            name: {
                c: v
                for c, v in self.written[name].items()
                if c < self.clips and self.status[name][c] == DONE
            }
            for name in self.made_by
        }
        assert not list(Path(self.url).rglob("*.partial"))
        self.look()

    @rule()
    def look(self) -> None:
        rows, made_by, fused, clips, splits = self.committed
        ds = read(self.url)
        assert ds["label"].values.tolist() == self.labels[: len(rows)]
        frames = np.repeat(self.frame_labels[: len(rows)], ds["frames"].values)
        assert ds["frame_label"].values.tolist() == frames.tolist()
        assert ds["split_name"].values.tolist() == splits
        halves = [self.splits[name][: len(rows)] for name in splits]
        assert ds["split"].values.tolist() == halves
        assert ds["video"].values.tolist() == [name for name, _ in rows]
        assert ds.sizes["clip"] == clips
        last = {name: index for index, (name, _) in enumerate(rows)}
        states = ["ok" if last[n] == index else "superseded" for index, (n, _) in enumerate(rows)]
        assert ds["state"].values.tolist() == states
        whole = {name: self.features(name, clips) for name in made_by}
        for name, values in whole.items():
            np.testing.assert_array_equal(ds[name].values, values)
            assert ds[f"status_{name}"].values.tolist() == self.status[name][:clips]
            assert ds[name].attrs["version"] == made_by[name]
        for name in fused:
            both = np.concatenate([whole["swin"], whole["r3d"]], axis=2)
            np.testing.assert_array_equal(ds[name].values, both)
        assert {name for name in ds if ds[name].ndim == 3} == {*made_by, *fused}
        live = [states[row] == "ok" for row, (_, count) in enumerate(rows) for _ in range(count)]
        assert open_store(self.url).live().tolist() == live

    def features(self, name: str, clips: int) -> npt.NDArray[np.float32]:
        values = np.full((clips, 10, CHANNELS[name]), np.nan, np.float32)
        for clip, version in self.written[name].items():
            if clip < clips:
                values[clip] = mark_of(name, clip, version)
        return values

    @invariant()
    def the_writer_knows_what_it_has(self) -> None:
        if hasattr(self, "store"):
            assert self.store.clips == self.clips
            assert set(self.store.backbones) == set(self.status)
            for name, status in self.status.items():
                assert self.store.status(name).tolist() == status

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.look()
        shutil.rmtree(self.folder)


def test_machine() -> None:
    run_state_machine_as_test(Machine, settings=settings(max_examples=8, stateful_step_count=12))
