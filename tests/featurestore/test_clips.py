import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore import catalog
from featurestore.align import segment_spans
from featurestore.catalog import NewVideo
from featurestore.clips import CLIP_FRAMES, clip_count, clip_frames, clip_starts


@pytest.mark.parametrize(
    ("frames", "starts"),
    [(0, []), (1, [0]), (15, [0]), (16, [0]), (17, [0, 1]), (32, [0, 16]), (40, [0, 16, 24])],
)
def test_starts(frames: int, starts: list[int]) -> None:
    assert clip_starts(frames).tolist() == starts
    assert clip_starts(frames).dtype == np.int64
    assert clip_count(frames) == len(starts)


@given(st.integers(1, 5_000))
def test_every_frame_is_in_a_clip_and_the_first_clips_are_those_of_the_floor_rule(
    frames: int,
) -> None:
    starts = clip_starts(frames)
    held = np.unique([clip_frames(int(start), frames) for start in starts])
    assert held.tolist() == list(range(frames))
    floor = frames // CLIP_FRAMES
    assert starts[:floor].tolist() == list(range(0, floor * CLIP_FRAMES, CLIP_FRAMES))
    assert len(starts) - floor in (0, 1)


@given(st.lists(st.integers(0, 100), max_size=8), st.sampled_from([None, 3]))
def test_clips_of_many_videos_at_once(frames: list[int], segments: int | None) -> None:
    videos = [NewVideo(f"v{i}", "", count) for i, count in enumerate(frames)]
    made = catalog.clip_columns(videos, 7, segments)
    counts = [segments or clip_count(count) for count in frames]
    assert made["clip_video"].tolist() == np.repeat(range(7, 7 + len(frames)), counts).tolist()
    spans = [segment_spans(count, 3) for count in frames]
    starts = [of[0] for of in spans] if segments else [clip_starts(count) for count in frames]
    assert made["clip_start"].tolist() == [start for of in starts for start in of]
    if segments:
        assert made["clip_stop"].tolist() == [stop for _, of in spans for stop in of]
    assert catalog.columns(videos, 5, segments)["clip_count"].tolist() == counts


def test_a_short_video_repeats_its_last_frame() -> None:
    assert clip_frames(0, 3).tolist() == [0, 1] + [2] * 14
    assert clip_frames(24, 40).tolist() == list(range(24, 40))


@pytest.mark.parametrize(("start", "frames"), [(0, 0), (5, 5), (-1, 5)])
def test_no_such_clip(start: int, frames: int) -> None:
    with pytest.raises(ValueError, match="has no clip at frame"):
        clip_frames(start, frames)


def test_negative_frames() -> None:
    with pytest.raises(ValueError, match="has no -1 frames"):
        clip_count(-1)
