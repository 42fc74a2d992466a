"""The whole evaluation on hand-made videos, against scikit-learn, and where nothing is defined."""

import json

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from detector.comparison import compare
from detector.evaluation import evaluate, over_splits
from detector.scored import Scored, scored
from detector.videos import ABNORMAL, NORMAL
from featurestore.errors import UsageError

NAMES = ["b", "d", "a", "c", "e"]
LABELS = [1, 0, 1, 0, 1]


def five() -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Scores and frame labels: b and a partly anomalous, e throughout, c and d normal."""
    rng = np.random.default_rng(0)
    frames = [np.zeros(n, np.int8) for n in (40, 30, 25, 50, 20)]
    frames[0][10:20], frames[2][5:9], frames[4][:] = 1, 1, 1
    scores = [np.round(rng.normal(size=len(y)) + y, 1) for y in frames]
    return scores, frames


def test_against_scikit_learn() -> None:
    scores, frames = five()
    found = evaluate(scored(scores, frames, LABELS, names=NAMES), resamples=200)
    s, y = np.concatenate(scores), np.concatenate(frames)
    assert found.overall.auc == pytest.approx(roc_auc_score(y, s))
    assert found.overall.ap == pytest.approx(average_precision_score(y, s))
    assert (found.frames, found.anomalous_frames, found.base_rate) == (165, 34, 34 / 165)
    inside = [0, 2, 4]
    s_in, y_in = (np.concatenate([a[i] for i in inside]) for a in (scores, frames))
    assert found.inside.auc == pytest.approx(roc_auc_score(y_in, s_in))
    own = [roc_auc_score(frames[i], scores[i]) for i in (0, 2)]
    assert found.inside_mean == pytest.approx(np.mean(own))
    assert (found.inside_mean_videos, found.all_anomalous_videos) == (2, 1)
    assert found.video_auc == pytest.approx(roc_auc_score(LABELS, [a.max() for a in scores]))
    assert (found.abnormal_videos, found.normal_videos, found.unknown_videos) == (3, 2, 0)
    assert found.overall.auc_interval is not None
    assert found.overall.auc_interval[0] <= found.overall.auc <= found.overall.auc_interval[1]
    json.loads(json.dumps(found.json(), allow_nan=False))


def test_perfect_video_level_classifier() -> None:
    scores, frames = five()
    found = evaluate(scored(scores, frames, LABELS, names=NAMES), resamples=50)
    by_label = np.concatenate([np.full(len(y), v) for y, v in zip(frames, LABELS, strict=True)])
    y = np.concatenate(frames)
    assert found.perfect.auc == pytest.approx(roc_auc_score(y, by_label))
    assert found.perfect.ap == pytest.approx(average_precision_score(y, by_label))
    # 51 of the 131 normal frames are in abnormal videos, and tie with all anomalous ones.
    assert found.perfect.auc == pytest.approx(1 - 51 / 131 / 2)


def test_the_order_of_videos_does_not_matter() -> None:
    scores, frames = five()
    shuffled = [3, 0, 4, 2, 1]
    first = evaluate(scored(scores, frames, LABELS, names=NAMES), resamples=100)
    second = evaluate(
        scored(
            [scores[i] for i in shuffled],
            [frames[i] for i in shuffled],
            [LABELS[i] for i in shuffled],
            names=[NAMES[i] for i in shuffled],
        ),
        resamples=100,
    )
    assert first == second


def test_unknown_frames_and_missing_scores_are_left_out_and_counted() -> None:
    scores, frames = five()
    plain = evaluate(scored(scores, frames, LABELS, names=NAMES), resamples=50)
    # The same again, with frames in between that count for nothing.
    wide_scores, wide_frames = [], []
    for s, y in zip(scores, frames, strict=True):
        wide_scores.append(np.concatenate([[0.3], s, [np.nan, np.nan]]))
        wide_frames.append(np.concatenate([[-1], y, [0, -1]]).astype(np.int8))
    wide_frames[4][-2] = 1
    wide = evaluate(scored(wide_scores, wide_frames, LABELS, names=NAMES), resamples=50)
    assert wide.overall == plain.overall
    assert wide.inside == plain.inside
    assert wide.perfect == plain.perfect
    assert (wide.frames, wide.unknown_frames, wide.unscored_frames) == (165, 10, 5)


def test_videos_without_scores_or_labels() -> None:
    found = evaluate(
        scored(
            [np.full(3, np.nan), np.array([1.0, 2.0]), np.array([0.0]), np.array([9.0, 9.0])],
            [np.zeros(3, int), np.array([0, 1]), np.array([0]), np.array([-1, -1])],
            [0, -1, -1, -1],
        ),
        resamples=10,
    )
    # The second shows an anomaly, the third is all normal, nothing is known of the last.
    assert (found.abnormal_videos, found.normal_videos, found.unknown_videos) == (1, 2, 1)
    assert (found.unscored_videos, found.unscored_frames, found.unknown_frames) == (1, 3, 2)
    assert found.overall.auc == 1.0
    assert found.video_auc == 1.0


def test_videos_that_are_not_measured_do_not_move_the_intervals() -> None:
    """One without a score, one without a known frame: each would be drawn for one that counts."""
    scores, frames = five()
    plain = scored(scores, frames, LABELS, names=NAMES)
    more = scored(
        [*scores, np.full(9, np.nan), np.arange(5.0)],
        [*frames, np.ones(9, np.int8), np.full(5, -1, np.int8)],
        [*LABELS, 1, 0],
        names=[*NAMES, "aa", "bb"],
    )
    found, expected = evaluate(more, resamples=100), evaluate(plain, resamples=100)
    assert found.unscored_videos == 1
    for area in ("overall", "inside", "perfect"):
        assert getattr(found, area) == getattr(expected, area)
    other = compare(more, more.scored_by([-s for s in more.scores]), resamples=100)
    assert other == compare(plain, plain.scored_by([-s for s in plain.scores]), resamples=100)


def test_false_alarms() -> None:
    scores, frames = five()
    calibrated = [np.full(len(y), 0.9) for y in frames]
    calibrated[1][:] = 0.1
    calibrated[1][:6] = [0.5, 0.7, 0.49, 0.99, np.nan, np.nan]  # d: 3 alarms of 28 frames
    calibrated[3][:] = 0.2  # c: none of 50
    found = evaluate(
        scored(scores, frames, LABELS, names=NAMES, calibrated=calibrated), resamples=10
    )
    assert found.false_alarms == pytest.approx(3 / 78)
    assert found.false_alarm_videos == 0.5
    without = evaluate(scored(scores, frames, LABELS, names=NAMES), resamples=10)
    assert without.false_alarms is None


@pytest.mark.parametrize("value", [0, 1])
def test_one_kind_of_frames_only(value: int) -> None:
    """An all-normal test set, and one that is anomalous throughout: undefined, and said so."""
    rng = np.random.default_rng(1)
    of = scored([rng.normal(size=9) for _ in range(4)], [np.full(9, value)] * 4, [value] * 4)
    found = evaluate(of, resamples=20)
    assert found.overall.auc is None
    assert found.overall.ap is None
    assert found.overall.auc_interval is None
    assert found.equal_error_rate is None
    assert found.video_auc is None
    assert found.inside.auc is None
    assert found.inside_mean is None
    assert found.perfect.auc is None
    assert found.all_anomalous_videos == 4 * value
    json.dumps(found.json(), allow_nan=False)


def test_no_video_at_all() -> None:
    found = evaluate(scored([], [], []))
    assert found.frames == 0
    assert found.base_rate is None
    assert found.overall.auc is None


def test_a_single_abnormal_video_has_no_interval() -> None:
    frames = [np.array([0, 1, 1, 0]), np.zeros(4, int), np.zeros(4, int)]
    found = evaluate(scored([np.arange(4.0)] * 3, frames, [1, 0, 0]), resamples=50)
    assert found.overall.auc is not None
    assert found.overall.auc_interval is None
    assert found.inside.auc is not None
    assert found.inside.auc_interval is None


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"scores": [np.zeros(3)] * 2}, "one score and one label a frame"),
        ({"scores": [np.array([0, np.inf, 0, 0])] * 2}, "v0: a score is infinite"),
        ({"frame_labels": [np.full(4, 2)] * 2}, "v0: labels of frames are 0, 1 or -1"),
        ({"frame_labels": [np.zeros(4)]}, "2 videos, but frame labels of 1"),
        ({"video_labels": [0, 0]}, "v1: its label says normal, but 2 of its frames"),
        ({"video_labels": [0, 3]}, "v1: the label of a video is 0, 1 or -1; got 3"),
        ({"names": ["v0", "v0"]}, "same name"),
        ({"calibrated": [np.full(4, 1.5)] * 2}, "v0: calibrated scores are probabilities"),
    ],
)
def test_bad_input_names_the_video(change: dict[str, object], says: str) -> None:
    good = {
        "scores": [np.zeros(4)] * 2,
        "frame_labels": [np.zeros(4, int), np.array([0, 1, 1, 0])],
        "video_labels": [0, 1],
        "names": ["v0", "v1"],
    }
    scored(**good)
    with pytest.raises(UsageError, match=says):
        scored(**{**good, **change})


def test_over_splits() -> None:
    spread = over_splits([0.5, None, 0.7, 0.9])
    assert spread is not None
    assert (spread.mean, spread.sd, spread.splits) == (
        pytest.approx(0.7),
        pytest.approx(0.2),
        3,
    )
    alone = over_splits([0.5])
    assert alone is not None
    assert alone.sd is None
    assert over_splits([None]) is None


# Pairs


def pair() -> tuple[Scored, Scored]:
    scores, frames = five()
    better = [s + 0.8 * y for s, y in zip(scores, frames, strict=True)]
    return (
        scored(scores, frames, LABELS, names=NAMES),
        scored(better, frames, LABELS, names=NAMES),
    )


def test_compare() -> None:
    a, b = pair()
    found = compare(a, b, resamples=500)
    assert found.overall.auc_a == evaluate(a, resamples=10).overall.auc
    assert found.overall.auc_b == evaluate(b, resamples=10).overall.auc
    assert found.overall.difference == found.overall.auc_b - found.overall.auc_a
    assert found.overall.interval is not None
    assert 0 < found.overall.interval[0] < found.overall.difference < found.overall.interval[1]
    assert found.inside is not None
    assert found.inside.auc_b == evaluate(b, resamples=10).inside.auc
    # Paired: with itself there is no difference in any resample.
    same = compare(a, a, resamples=500)
    assert same.overall.interval == (0.0, 0.0)
    json.dumps(found.json(), allow_nan=False)


def test_compare_only_frames_that_both_score() -> None:
    a, b = pair()
    gaps = [s.copy() for s in b.scores]
    gaps[1][:10] = np.nan
    found = compare(a, b.scored_by(gaps), resamples=20)
    assert found.frames == 165 - 10
    kept = [s.copy() for s in a.scores]
    kept[1][:10] = np.nan
    assert found.overall.auc_a == evaluate(a.scored_by(kept), resamples=10).overall.auc


def test_compare_refuses_other_videos_or_truth() -> None:
    a, _ = pair()
    with pytest.raises(UsageError, match=r"different videos; only one of them has \['c', 'd'\]"):
        compare(a, a.only(ABNORMAL))
    scores, frames = five()
    frames[2][0] = 1
    with pytest.raises(UsageError, match="a: the two runs have different ground truth"):
        compare(a, scored(scores, frames, LABELS, names=NAMES))
    normal = a.only(NORMAL)
    with pytest.raises(UsageError, match="both anomalous and normal frames"):
        compare(normal, normal)
