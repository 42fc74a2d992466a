"""The clips that a worker gets: of the file that is there now, without decoding more than it must,
and past a video that hangs."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from featurestore.clips import clip_starts
from featurestore.errors import UnreadableVideo
from jobs import reading
from jobs.plan import Segment, Task
from jobs.reading import Clip, ClipReader, clips_of
from jobs.video import open_source
from tests.jobs.video.painted import number_of, paint, write_video
from tests.jobs.video.samples import H264_B


@pytest.fixture(autouse=True)
def no_readers() -> Iterator[None]:
    reading._readers.clear()
    yield
    for reader in reading._readers.values():
        reader.close()
    reading._readers.clear()


def task_of(block: int, *videos: tuple[Path, int, tuple[int, ...]]) -> Task:
    segments = tuple(
        Segment(row, path.stem, str(path), frames, 0, starts)
        for row, (path, frames, starts) in enumerate(videos)
    )
    return Task(block, ("r3d",), segments)


def firsts(task: Task) -> list[tuple[int, int]]:
    """(segment, number of the first frame) of each clip."""
    found = []
    for segment, clip in clips_of(task, "pyav", ahead=2):
        assert isinstance(clip, list), clip
        assert len(clip) == 16
        found.append((segment, number_of(clip[0])))
    return found


def test_all_clips_of_all_segments_in_order(tmp_path: Path) -> None:
    a = write_video(tmp_path / "a.mp4", 40, options=H264_B)
    b = write_video(tmp_path / "b.mp4", 17, options=H264_B)
    task = task_of(0, (a, 40, (0, 16, 24)), (b, 17, (0, 1)))
    assert firsts(task) == [(0, 0), (0, 16), (0, 24), (1, 0), (1, 1)]


def test_a_file_replaced_while_a_worker_keeps_it_open(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 48, options=H264_B)
    assert firsts(task_of(0, (path, 48, (0,)))) == [(0, 0)]
    other = write_video(tmp_path / "new.mp4", (paint(n) for n in range(100, 148)), options=H264_B)
    other.replace(path)
    assert firsts(task_of(0, (path, 48, (16,)))) == [(0, 116)]


def test_two_blocks_in_turn_decode_an_unseekable_file_twice_at_most(tmp_path: Path) -> None:
    """Two tasks of a worker are under way at a time; with one reader it was 12 times."""
    frames = 16 * 24
    path = write_video(tmp_path / "a.avi", frames, codec="mpeg4")
    starts = clip_starts(frames).tolist()
    for step in range(0, 12, 2):
        for block in (0, 1):
            mine = starts[12 * block + step : 12 * block + step + 2]
            found = firsts(task_of(block, (path, frames, tuple(mine))))
            assert [start for _, start in found] == mine
    decoded = sum(reader.source.decoded for reader in reading._readers.values())
    assert len(reading._readers) == 2
    assert decoded <= frames / 2 + frames + 64


def test_no_more_than_two_readers_are_kept(tmp_path: Path) -> None:
    for number in range(4):
        path = write_video(tmp_path / f"{number}.mp4", 16, options=H264_B)
        firsts(task_of(number, (path, 16, (0,))))
    assert len(reading._readers) == 2


class Hanging(ClipReader):
    """Hangs at its second clip, where the video is called so."""

    release = threading.Event()

    def clip(self, start: int) -> Clip:
        if start and self.source.path.stem == "hangs":
            self.release.wait(60)
        return super().clip(start)


def test_a_decoder_that_hangs_costs_its_own_video_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "STALL_SECONDS", 3.0)
    monkeypatch.setattr(reading, "ClipReader", Hanging)
    hangs = write_video(tmp_path / "hangs.mp4", 48, options=H264_B)
    sound = write_video(tmp_path / "sound.mp4", 32, options=H264_B)
    task = task_of(0, (hangs, 48, (0, 16, 32)), (sound, 32, (0, 16)))
    try:
        found = list(clips_of(task, "pyav", ahead=1))
    finally:
        Hanging.release.set()
    assert [segment for segment, _ in found] == [0, 0, 1, 1]
    trouble = found[1][1]
    assert isinstance(trouble, UnreadableVideo)
    assert str(trouble).startswith(f"{hangs}: the decoder gave no frame for 3 s")
    assert number_of(found[3][1][0]) == 16


def test_opening_a_large_file_may_take_longer_than_a_frame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow(ClipReader):
        def __init__(self, path: str, frames: int, decoder: str) -> None:
            threading.Event().wait(5)
            super().__init__(path, frames, decoder)

    monkeypatch.setattr(reading, "STALL_SECONDS", 3.0)
    monkeypatch.setattr(reading, "ClipReader", Slow)
    path = write_video(tmp_path / "a.mp4", 16, options=H264_B)
    assert firsts(task_of(0, (path, 16, (0,)))) == [(0, 0)]


def test_what_cannot_be_explained_is_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> ClipReader:
        raise RuntimeError("a bug of ours")

    monkeypatch.setattr(reading, "ClipReader", broken)
    path = write_video(tmp_path / "a.mp4", 16, options=H264_B)
    with pytest.raises(RuntimeError, match="a bug of ours"):
        firsts(task_of(0, (path, 16, (0,))))


def test_what_is_said_of_a_file_here_stays_as_it_was(tmp_path: Path) -> None:
    """Only the address of a file that was brought here is put in place of where it was brought."""
    path = tmp_path / "None.mp4"
    path.write_bytes(b"no video")
    with pytest.raises(UnreadableVideo) as expected:
        open_source(path, frames=16)
    with pytest.raises(UnreadableVideo) as told:
        ClipReader(str(path), 16, "pyav")
    assert str(told.value) == str(expected.value)
