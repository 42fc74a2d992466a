"""One suite for everything that yields frames: exactly, in order, from anywhere."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from jobs.video import FrameSource, open_source, probe
from tests.jobs.video.painted import number_of
from tests.jobs.video.samples import FILES, FOLDERS, SAMPLES, Sample

CASES = [
    *(("pyav", name) for name in SAMPLES),
    *(("decord", name) for name, sample in FILES.items() if sample.decord),
]


@dataclass(frozen=True)
class Case:
    path: Path
    sample: Sample
    decoder: str

    def open(self) -> FrameSource:
        return open_source(self.path, frames=len(self.sample.numbers), decoder=self.decoder)

    def read(self, source: FrameSource, start: int, count: int) -> list[int]:
        """The numbers painted into the frames read, which must be as they are to be."""
        numbers = []
        for frame in source.read(start, count):
            assert frame.dtype == np.uint8
            assert frame.flags["C_CONTIGUOUS"]
            assert frame.shape == (self.sample.size[1], self.sample.size[0], 3)
            numbers.append(number_of(np.rot90(frame, -self.sample.quarters)))
        return numbers

    def expect(self, start: int, count: int) -> list[int]:
        return list(self.sample.numbers[start : start + count])


@pytest.fixture(params=CASES, ids=lambda case: "-".join(case))
def case(request: pytest.FixtureRequest, sample: Callable[[str], Path]) -> Case:
    decoder, name = request.param
    if decoder == "decord":
        pytest.importorskip("decord")
    return Case(sample(name), SAMPLES[name], decoder)


@pytest.mark.parametrize("name", SAMPLES)
def test_probe_tells_what_is_there(name: str, sample: Callable[[str], Path]) -> None:
    expected = SAMPLES[name]
    info = probe(sample(name))
    assert (info.frames, info.width, info.height) == (len(expected.numbers), *expected.size)
    assert info.damaged_at is None
    assert info.seekable == expected.seekable
    assert np.isnan(info.fps) if name in FOLDERS else 15 < info.fps < 30


def test_keeps_the_contract(case: Case) -> None:
    with case.open() as source:
        assert isinstance(source, FrameSource)
        assert source.path == case.path
        assert source.frames == len(case.sample.numbers)


def test_the_whole_in_order(case: Case) -> None:
    with case.open() as source:
        before = source.decoded
        assert case.read(source, 0, source.frames) == list(case.sample.numbers)
        assert source.decoded >= before + source.frames


def test_from_every_frame_going_back(case: Case) -> None:
    with case.open() as source:
        # Each step back in a file that cannot be sought in decodes all before it.
        step = 1 if case.path.suffix in ("", ".mp4") else 7
        for start in reversed(range(0, source.frames, step)):
            count = min(2, source.frames - start)
            assert case.read(source, start, count) == case.expect(start, count)


def test_a_new_source_from_any_frame(case: Case) -> None:
    frames = len(case.sample.numbers)
    for start in sorted({0, 1, frames // 3, frames // 2, frames - 1} & set(range(frames))):
        with case.open() as source:
            count = min(3, frames - start)
            assert case.read(source, start, count) == case.expect(start, count)


def test_jumps(case: Case) -> None:
    random = np.random.default_rng(3)
    with case.open() as source:
        for start in random.integers(0, source.frames, 12).tolist():
            count = min(int(random.integers(1, 17)), source.frames - start)
            assert case.read(source, start, count) == case.expect(start, count)


def test_reads_that_take_turns_and_ones_given_up(case: Case) -> None:
    with case.open() as source:
        half = source.frames // 2
        one, other = source.read(0, half), source.read(half, half)
        for n, (a, b) in enumerate(zip(one, other, strict=True)):
            if n == 4:
                break
            turned = [number_of(np.rot90(x, -case.sample.quarters)) for x in (a, b)]
            assert turned == [case.sample.numbers[n], case.sample.numbers[half + n]]
        assert case.read(source, half, half) == case.expect(half, half)


def test_only_frames_that_exist(case: Case) -> None:
    with case.open() as source:
        assert list(source.read(source.frames, 0)) == []
        for start, count in ((-1, 1), (0, source.frames + 1), (source.frames, 1), (0, -1)):
            with pytest.raises(ValueError, match="were asked for"):
                source.read(start, count)


def test_goes_on_after_closing(case: Case) -> None:
    source = case.open()
    assert case.read(source, 0, 1) == case.expect(0, 1)
    source.close()
    source.close()
    last = source.frames - 1
    assert case.read(source, last, 1) == case.expect(last, 1)
    source.close()
