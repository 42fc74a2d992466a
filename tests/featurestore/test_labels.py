"""Truth of a video, fitted to the frames that were decoded."""

import numpy as np
import pytest

from featurestore.errors import LabelError
from featurestore.labels import ABNORMAL, NORMAL, UNKNOWN, Truth, fit


def truth(label: int, frames: list[int] | None, remark: str = "") -> Truth:
    values = None if frames is None else np.array(frames, np.int8)
    return Truth("v", label, values, "v.npy", remark)


@pytest.mark.parametrize(
    ("label", "given", "decoded", "fitted"),
    [
        (ABNORMAL, [0, 1, 0], 3, (ABNORMAL, [0, 1, 0])),
        (ABNORMAL, None, 3, (ABNORMAL, [-1, -1, -1])),
        (NORMAL, None, 3, (NORMAL, [0, 0, 0])),
        (NORMAL, [0, 0], 3, (NORMAL, [0, 0, 0])),
        (UNKNOWN, None, 3, (UNKNOWN, [-1, -1, -1])),
        (UNKNOWN, [0, 1, -1], 3, (ABNORMAL, [0, 1, -1])),
        (UNKNOWN, [0, 0, 0], 3, (NORMAL, [0, 0, 0])),
        (UNKNOWN, [0, 0, -1], 3, (UNKNOWN, [0, 0, -1])),
        (UNKNOWN, [], 0, (UNKNOWN, [])),
    ],
)
def test_fitted(
    label: int, given: list[int] | None, decoded: int, fitted: tuple[int, list[int]]
) -> None:
    found = fit(truth(label, given, "odd"), decoded)
    assert (found.label, found.frames.tolist()) == fitted
    assert found.frames.dtype == np.int8
    assert found.remark == "odd"


def test_another_number_of_frames_than_decoded() -> None:
    found = fit(truth(ABNORMAL, [0, 1, 0, 0], "odd"), 3)
    assert (found.label, found.frames.tolist()) == (ABNORMAL, [-1, -1, -1])
    assert found.remark == (
        "odd; v.npy has labels of 4 frames, but 3 were decoded; its frame labels stay unknown"
    )
    assert fit(truth(ABNORMAL, [0, 1]), 3, damaged=True).frames.tolist() == [-1, -1, -1]


def test_a_damaged_video_has_the_labels_before_the_damage() -> None:
    found = fit(truth(ABNORMAL, [0, 0, 0, 1]), 3, damaged=True)
    assert (found.label, found.frames.tolist(), found.remark) == (ABNORMAL, [0, 0, 0], "")


@pytest.mark.parametrize(
    ("label", "frames", "message"),
    [
        (NORMAL, [0, 1, 1], "called normal, but 2 of its frames are anomalous, .* frame 1"),
        (7, None, "7 is no label"),
        (ABNORMAL, [0, 3], "frame labels are 0, 1 or -1, one a frame"),
    ],
)  # fmt: skip
def test_truth_that_contradicts_itself(label: int, frames: list[int] | None, message: str) -> None:
    with pytest.raises(LabelError, match=rf"v \(v\.npy\): .*{message}"):
        truth(label, frames)
