"""Areas and rates against scikit-learn, against every pair counted, and on what is undefined."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from detector.curves import auc, average_precision, count, equal_error_rate, roc
from featurestore.errors import UsageError

# Few distinct scores: most of what can go wrong is about ties.
TIED = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 1)), min_size=2, max_size=60)


def samples(n: int, levels: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    label = (rng.random(n) < 0.2).astype(np.int8)
    score = rng.normal(size=n) + 0.7 * label
    return (np.round(score * levels) / levels if levels else score), label


@settings(max_examples=200)
@given(TIED)
def test_every_pair_counted(rows: list[tuple[int, int]]) -> None:
    score, label = np.array(rows, np.float64).T
    positives, negatives = score[label == 1], score[label == 0]
    found = auc(count(score, label))
    if not len(positives) or not len(negatives):
        assert found is None
        return
    gaps = positives[:, None] - negatives
    assert found == ((gaps > 0).sum() + (gaps == 0).sum() / 2) / gaps.size


@pytest.mark.parametrize("levels", [0, 1, 3, 50])
@pytest.mark.parametrize("n", [30, 20_000])
def test_as_scikit_learn_has_it(n: int, levels: int) -> None:
    score, label = samples(n, levels, seed=n + levels)
    counts = count(score, label)
    assert auc(counts) == pytest.approx(roc_auc_score(label, score), abs=1e-12)
    assert average_precision(counts) == pytest.approx(
        average_precision_score(label, score), abs=1e-12
    )
    curve = roc(counts)
    false, true, threshold = roc_curve(label, score, drop_intermediate=False)
    np.testing.assert_allclose(curve.false_positive_rate, false, atol=1e-12)
    np.testing.assert_allclose(curve.true_positive_rate, true, atol=1e-12)
    np.testing.assert_array_equal(curve.threshold, threshold)


def crossing(score: np.ndarray, label: np.ndarray) -> float:
    """The equal error rate by bisection on scikit-learn's curve."""
    false, true, _ = roc_curve(label, score, drop_intermediate=False)
    # Bisect along the length of the curve, which may be vertical anywhere.
    way = np.linspace(0, 1, len(false))
    low, high = 0.0, 1.0
    for _ in range(80):
        middle = (low + high) / 2
        if np.interp(middle, way, false) < 1 - np.interp(middle, way, true):
            low = middle
        else:
            high = middle
    return float(np.interp(low, way, false))


@pytest.mark.parametrize("levels", [0, 1, 2, 20])
@pytest.mark.parametrize("seed", range(4))
def test_equal_error_rate(levels: int, seed: int) -> None:
    score, label = samples(300, levels, seed)
    assert equal_error_rate(count(score, label)) == pytest.approx(crossing(score, label), abs=1e-9)


@pytest.mark.parametrize(
    ("score", "expected"),
    [([0, 0, 1, 1], 0.0), ([1, 1, 0, 0], 1.0), ([5, 5, 5, 5], 0.5), ([0, 1, 1, 0], 0.5)],
)
def test_equal_error_rate_of_simple_cases(score: list[float], expected: float) -> None:
    assert equal_error_rate(count(score, [0, 0, 1, 1])) == pytest.approx(expected)


def test_only_the_order_of_scores_matters() -> None:
    score, label = samples(2000, 5, seed=1)
    for measure in (auc, average_precision, equal_error_rate):
        assert measure(count(np.exp(score), label)) == measure(count(score, label))
    shuffled = np.random.default_rng(2).permutation(len(score))
    assert auc(count(score[shuffled], label[shuffled])) == auc(count(score, label))
    assert auc(count(-score, label)) == pytest.approx(1 - auc(count(score, label)), abs=1e-15)


@pytest.mark.parametrize("labels", [[0, 0, 0], [1, 1, 1], []])
def test_undefined_without_both_kinds(labels: list[int]) -> None:
    counts = count(np.arange(len(labels)), labels)
    assert auc(counts) is None
    assert average_precision(counts) is None
    assert equal_error_rate(counts) is None
    with pytest.raises(UsageError, match="both anomalous and normal"):
        roc(counts)


@pytest.mark.parametrize(
    ("scores", "labels", "says"),
    [
        ([0.0, np.nan], [0, 1], "NaN"),
        ([0.0, np.inf], [0, 1], "infinite"),
        ([0.0, 1.0], [0, -1], r"0 or 1; got \[-1, 0\]"),
        ([0.0, 1.0], [0, 1, 1], "shapes"),
        ([[0.0], [1.0]], [[0], [1]], "shapes"),
    ],
)
def test_bad_input(scores: list[float], labels: list[int], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        count(scores, labels)


def test_many_frames_do_not_overflow() -> None:
    """Twice the wins of 100,000 against 1,000,000 need more than 32 bits."""
    score = np.concatenate([np.ones(100_000), np.zeros(1_000_000)])
    label = np.repeat([1, 0], [100_000, 1_000_000])
    assert auc(count(score, label)) == 1.0
