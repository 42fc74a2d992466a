"""What a worker does once for several networks, and what it does while they compute."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from featurestore.clips import clip_starts
from jobs import crops, reading, worker
from jobs.engines import Pending
from jobs.plan import Segment, Task
from jobs.reading import clips_of
from jobs.specs import SPECS, BackboneSpec, Geometry
from tests.jobs.conftest import wait_for
from tests.jobs.video.painted import write_video
from tests.jobs.video.samples import H264_B


class Counting:
    """A network that computes nothing, and notes in ``told`` what it is asked."""

    engine, precision, device = "none", "float32", "cpu"

    def __init__(self, spec: BackboneSpec, told: list[str]) -> None:
        self.spec, self.versions = spec, dict[str, str]()
        self.told = told

    def start(self, given: list[torch.Tensor]) -> Pending:
        assert given[0].shape[-1] == self.spec.preprocessing.crop
        self.told.append(f"{self.spec.name} begins")

        def wait() -> tuple[np.ndarray, float]:
            self.told.append(f"{self.spec.name} ends")
            return np.zeros((len(given), self.spec.channels), np.float32), time.perf_counter()

        return wait


def test_frames_are_resized_once_for_networks_of_one_geometry(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[Geometry] = []
    resize = crops.resize

    def counted(frames: crops.Frames, geometry: Geometry) -> torch.Tensor:
        asked.append(geometry)
        return resize(frames, geometry)

    monkeypatch.setattr(crops, "resize", counted)
    clip = [np.zeros((60, 80, 3), np.uint8)] * 16
    networks: list[Any] = [Counting(spec, []) for spec in SPECS.values()]
    computing = worker.Computing(networks, "", worker.Spent())
    rows = computing.begin(worker._cut(networks, "cpu", [clip, clip]))
    computing.end()
    for row in rows:
        assert {name: values.shape for name, values in row.items()} == {
            name: (10, spec.channels) for name, spec in SPECS.items()
        }
    assert len(rows) == 2
    # swin and i3d share one, r3d and r2plus1d another: three for each of the two clips
    assert len(asked) == 6
    assert len(set(asked)) == 3
    other = replace(SPECS["swin"].preprocessing, antialias=True).geometry
    assert other != SPECS["swin"].preprocessing.geometry


def test_a_network_begins_before_the_one_before_it_has_ended() -> None:
    """Also from clip to clip; never more than two, or crops would pile up."""
    told: list[str] = []
    networks: list[Any] = [Counting(SPECS[name], told) for name in ("r3d", "s3d")]
    computing = worker.Computing(networks, "", worker.Spent())
    clip = [np.zeros((60, 80, 3), np.uint8)] * 16
    rows = [computing.begin(worker._cut(networks, "cpu", [clip])) for _ in range(2)]
    computing.end()
    assert [line for line in told if "begins" in line] == ["r3d begins", "s3d begins"] * 2
    assert [line for line in told if "ends" in line] == ["r3d ends", "s3d ends"] * 2
    assert told[:3] == ["r3d begins", "s3d begins", "r3d ends"]
    assert told[3:5] == ["r3d begins", "s3d ends"]
    assert all(set(row) == {"r3d", "s3d"} for (row,) in rows)


def test_waiting_while_the_networks_work_is_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clip waited for from 0 to 10 s, the next from 12 to 20, the networks at work until 15."""
    times = iter([0.0, 10.0, 10.0, 12.0, 12.0, 20.0, 20.0, 21.0, 21.0, 23.0])
    monkeypatch.setattr(worker, "time", SimpleNamespace(perf_counter=lambda: next(times)))
    spent = worker.Spent()
    spent.on("decode", list)
    spent.on("networks", list)
    spent.on("decode", list)
    spent.on("networks", list)
    spent.networks_worked(12.0, 15.0)
    assert spent.seconds == {"decode": 15.0, "crops": 0.0, "networks": 6.0, "writing": 0.0}
    spent.networks_worked(12.0, 20.0)  # told of once
    spent.on("writing", list)
    assert spent.seconds == {"decode": 15.0, "crops": 0.0, "networks": 6.0, "writing": 2.0}


def test_the_first_network_need_not_wait_for_the_crops_of_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    go_on = threading.Event()
    ten_crops = crops.ten_crops

    def slowly(resized: torch.Tensor, size: int) -> list[torch.Tensor]:
        assert size == 224 or go_on.wait(60)
        return ten_crops(resized, size)

    monkeypatch.setattr(crops, "ten_crops", slowly)
    first, second = (SPECS[name].preprocessing for name in ("swin", "r3d"))
    clip = torch.zeros(16, 60, 80, 3, dtype=torch.uint8)
    with ThreadPoolExecutor(1) as thread:
        cut = crops.cut([clip], [first, second], thread)
        assert [crop.shape for crop in cut.of(first)] == [(3, 16, 224, 224)] * 10
        assert not cut.crops[second.geometry, 112].done()
        go_on.set()
        assert [crop.shape for crop in cut.of(second)] == [(3, 16, 112, 112)] * 10


def test_the_next_clip_is_decoded_while_the_networks_work(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 80, options=H264_B)
    task = Task(0, ("r3d",), (Segment(0, "a", str(path), 80, 0, tuple(clip_starts(80).tolist())),))
    reading._readers.clear()
    clips = clips_of(task, "pyav", ahead=1)
    try:
        next(clips)  # and now the networks would be at work on it
        (reader,) = reading._readers.values()
        wait_for(lambda: reader.source.decoded >= 32)
        # One clip lies ready and one waits for its place: no more, however slow the networks are
        wait_for(lambda: reader.source.decoded >= 48)
        assert reader.source.decoded < 64
    finally:
        clips.close()  # type: ignore[attr-defined]
        reading._readers.clear()
