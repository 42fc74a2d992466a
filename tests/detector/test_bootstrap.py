"""Resamples of videos: the fast way equals copying the videos' frames and measuring anew."""

import time

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from detector import bootstrap
from detector.curves import Counts, count
from featurestore.errors import UsageError

Videos = tuple[list[np.ndarray], list[np.ndarray]]


def videos(seed: int, abnormal: int = 4, normal: int = 5, levels: int = 4) -> Videos:
    """Scores with many ties, and labels; each video has a level of its own."""
    rng = np.random.default_rng(seed)
    scores, labels = [], []
    for index in range(abnormal + normal):
        frames = int(rng.integers(5, 60))
        label = (rng.random(frames) < 0.4 if index < abnormal else np.zeros(frames)).astype(int)
        score = rng.normal(rng.normal(), 1, frames) + label
        scores.append(np.round(score * levels) / levels)
        labels.append(label)
    return scores, labels


def counts(of: Videos) -> list[Counts]:
    return [count(s, y) for s, y in zip(*of, strict=True)]


def repeated(of: Videos, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All frames of a resample, copied."""
    scores, labels = (
        np.concatenate([np.tile(a, int(m)) for a, m in zip(arrays, times, strict=True)])
        for arrays in of
    )
    return scores, labels


@pytest.mark.parametrize("seed", range(3))
def test_as_copying_frames(seed: int) -> None:
    of = videos(seed)
    drawn = bootstrap.draw([1] * 4 + [0] * 5, 40, seed)
    aucs = bootstrap.aucs(bootstrap.pairs(counts(of)), drawn)
    precisions = bootstrap.average_precisions(counts(of), drawn)
    for times, found, precision in zip(drawn, aucs, precisions, strict=True):
        scores, labels = repeated(of, times)
        assert found == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
        assert precision == pytest.approx(average_precision_score(labels, scores), abs=1e-12)


def test_pieces_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    of = counts(videos(0))
    drawn = bootstrap.draw([1] * 4 + [0] * 5, 30, 0)
    at = np.linspace(0, 1, 11)
    whole = bootstrap.average_precisions(of, drawn), bootstrap.roc_band(of, drawn, at)
    monkeypatch.setattr(bootstrap, "_CELLS", 70)
    pieces = bootstrap.average_precisions(of, drawn), bootstrap.roc_band(of, drawn, at)
    np.testing.assert_allclose(pieces[0], whole[0], atol=1e-12)
    np.testing.assert_allclose(pieces[1], whole[1], atol=1e-12)


def test_draws_keep_the_number_of_each_kind() -> None:
    kinds = np.array([1, 0, 1, 0, 0, 1, 0])
    drawn = bootstrap.draw(kinds, 20_000, seed=3)
    assert (drawn[:, kinds == 1].sum(axis=1) == 3).all()
    assert (drawn[:, kinds == 0].sum(axis=1) == 4).all()
    np.testing.assert_allclose(drawn.mean(axis=0), 1, atol=0.03)
    # Drawn with replacement: a video of three is missing from (2/3)^3 of the resamples.
    assert (drawn[:, 0] == 0).mean() == pytest.approx((2 / 3) ** 3, abs=0.02)
    np.testing.assert_array_equal(drawn, bootstrap.draw(kinds, 20_000, seed=3))
    assert (drawn != bootstrap.draw(kinds, 20_000, seed=4)).any()


def test_interval_covers_the_truth() -> None:
    """Of data whose AUC is known, frames of a video being alike, it holds it about as promised.

    Treating 40 equal frames of each video as 40 samples would hold it in under a quarter.
    """
    rng = np.random.default_rng(5)
    truth, hits, trials = 0.7602, 0, 150  # Phi(1 / sqrt(2))
    strata = np.repeat([1, 0], 30)
    for trial in range(trials):
        level = rng.normal(strata, 1)
        each = [count(np.full(40, s), np.full(40, k)) for s, k in zip(level, strata, strict=True)]
        drawn = bootstrap.draw(strata, 200, trial)
        found = bootstrap.interval(bootstrap.aucs(bootstrap.pairs(each), drawn))
        assert found is not None
        hits += found[0] <= truth <= found[1]
    assert 0.90 <= hits / trials <= 0.98


def test_undefined_resamples() -> None:
    of = counts(([np.array([1.0, 0.0]), np.zeros(3)], [np.array([1, 0]), np.zeros(3, int)]))
    drawn = np.array([[1.0, 1.0], [0.0, 2.0], [2.0, 0.0]])
    assert bootstrap.aucs(bootstrap.pairs(of), drawn).tolist() == pytest.approx(
        [1.0, np.nan, 1.0], nan_ok=True
    )
    assert bootstrap.average_precisions(of, drawn).tolist() == pytest.approx(
        [1.0, np.nan, 1.0], nan_ok=True
    )
    assert bootstrap.interval(np.array([1.0, np.nan, 0.5])) is not None
    assert bootstrap.interval(np.array([1.0, np.nan, np.nan])) is None
    assert bootstrap.interval(np.zeros(0)) is None
    with pytest.raises(UsageError, match="both anomalous and normal"):
        bootstrap.roc_band(of, drawn[1:2], np.array([0.5]))


def test_roc_band() -> None:
    """Of one resample, the video set itself, it is the curve itself, its upper end where steep."""
    of = videos(2, levels=1)
    scores, labels = repeated(of, np.ones(9))
    false, true, _ = roc_curve(labels, scores, drop_intermediate=False)
    low, high = bootstrap.roc_band(counts(of), np.ones((1, 9)), false)
    np.testing.assert_allclose(low, true)
    np.testing.assert_allclose(high, true)
    drawn = bootstrap.draw([1] * 4 + [0] * 5, 300, 0)
    low, high = bootstrap.roc_band(counts(of), drawn, false)
    assert (low <= true + 1e-12).all()
    assert (true <= high + 1e-12).all()
    assert (low < high).any()


def test_two_thousand_resamples_of_a_large_set_take_seconds() -> None:
    """199 videos, 142,000 frames, no two scores alike."""
    rng = np.random.default_rng(0)
    each = []
    for index in range(199):
        label = np.zeros(713, int)
        label[200 : 200 + 180 * (index < 44)] = 1
        each.append(count(rng.normal(size=713) + label, label))
    start = time.process_time()
    drawn = bootstrap.draw([1] * 44 + [0] * 155, 2000)
    bootstrap.aucs(bootstrap.pairs(each), drawn)
    bootstrap.average_precisions(each, drawn)
    assert time.process_time() - start < 15  # 1.3 s of one thread of an idle machine
