"""The linear ratio: folds by moment algebra, weights, degenerate classes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from detector import ratio
from detector.errors import FitError
from detector.moments import moments
from detector.ratio import RatioSettings, direction_of, fit_ratio
from detector.rows import FileRows, Rows
from detector.smoothing import ranks, smooth
from detector.videos import Videos, bounds_of

SETTINGS = RatioSettings((0.1, 0.3, 0.7), 2.0)
HARD = RatioSettings((0.05, 0.2, 0.5), 1.0, hard_negatives=True)


def some_videos(normal: int = 7, abnormal: int = 6, width: int = 8, seed: int = 0):  # type: ignore[no-untyped-def]
    """Rows and videos; a third of each abnormal video's clips lie apart."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation([0] * normal + [1] * abnormal).astype(np.int8)
    counts = rng.integers(1, 15, len(labels))
    rows = rng.normal(size=(counts.sum(), width))
    bounds = bounds_of(counts)
    for begin, end, label in zip(bounds, bounds[1:], labels, strict=False):
        if label:
            rows[begin : begin + (end - begin) // 3 + 1, :2] += 3
    names = tuple(f"v{i:02d}" for i in rng.permutation(len(labels)))
    return rows, Videos(names, labels, bounds)


def from_scratch(rows: np.ndarray, videos: Videos, settings: RatioSettings) -> tuple:
    """The same by the book: every fold refitted on the rows of the others, no moment algebra."""
    labels, fold = videos.clip_labels, videos.folds[videos.of_clip]
    weights = np.ones(len(rows))

    def fitted(chosen: np.ndarray) -> tuple[np.ndarray, float]:
        spread, means = [], []
        for label in (0, 1):
            its = chosen & (labels == label)
            means.append(np.average(rows[its], axis=0, weights=weights[its]))
            spread.append(
                np.cov(rows[its].T, aweights=weights[its], bias=True)
                if its.sum() > 1
                else np.zeros((rows.shape[1],) * 2)
            )
        both = (spread[0] + spread[1]) / 2
        total = np.zeros(rows.shape[1])
        for amount in settings.lambdas:
            s = (1 - amount) * both + amount * np.trace(both) / len(both) * np.eye(len(both))
            w = np.linalg.inv(s) @ (means[1] - means[0])
            total += w / np.sqrt(w @ spread[0] @ w) / len(settings.lambdas)
        return total, total @ means[0]

    def held_out() -> np.ndarray:
        scores = np.empty(len(rows))
        for number in np.unique(fold):
            w, b = fitted(fold != number)
            scores[fold == number] = rows[fold == number] @ w - b
        return scores

    for _ in range(2):
        s = smooth(held_out(), videos.bounds, 1.0)
        weights = np.where(labels == 1, ranks(s, videos.bounds) ** settings.exponent, 1.0)
    scores = held_out()
    if settings.hard_negatives:
        own = scores[labels == 0]
        below = np.array([((own < s).sum() + ((own == s).sum() + 1) / 2) / len(own) for s in own])
        weights[labels == 0] = 0.2 + below**2
        scores = held_out()
    w, b = fitted(np.ones(len(rows), bool))
    return w, b, weights, scores


@pytest.mark.parametrize("settings", [SETTINGS, HARD], ids=["plain", "hard negatives"])
@pytest.mark.parametrize("seed", range(3))
def test_folds_by_moment_algebra_equal_refitting(settings: RatioSettings, seed: int) -> None:
    rows, videos = some_videos(seed=seed)
    found = fit_ratio(rows, videos, settings)
    w, b, weights, scores = from_scratch(rows, videos, settings)
    np.testing.assert_allclose(found.direction, w, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(found.offset, b, atol=1e-8)
    np.testing.assert_allclose(found.weights, weights, atol=1e-8)
    np.testing.assert_allclose(found.held_out, scores, atol=1e-8)


@given(st.integers(1, 60), st.booleans())
@settings(max_examples=25)
def test_blocks_do_not_matter(size: int, in_file: bool) -> None:
    rows, videos = some_videos()
    whole = fit_ratio(rows, videos, HARD)
    kept: Rows = rows
    if in_file:
        kept = FileRows(rows.shape[1], np.float64)
        kept.append(rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ratio, "spans", lambda n: (slice(i, i + size) for i in range(0, n, size)))
        cut = fit_ratio(kept, videos, HARD)
    np.testing.assert_allclose(cut.direction, whole.direction, rtol=1e-9)
    np.testing.assert_allclose(cut.held_out, whole.held_out, rtol=1e-8, atol=1e-9)


def test_the_direction_is_fishers() -> None:
    rng = np.random.default_rng(0)
    normal, abnormal = rng.normal(size=(400, 5)), rng.normal(size=(400, 5)) + np.arange(5) / 4
    w, offset = direction_of(moments(normal), moments(abnormal), (0.2,))
    theirs = LinearDiscriminantAnalysis(
        solver="lsqr", covariance_estimator=None, shrinkage=0.2, priors=(0.5, 0.5)
    )
    # scikit-learn standardises before it shrinks; with unit variances that is the same.
    scale = np.sqrt((normal.var(0) + abnormal.var(0)) / 2)
    fisher = theirs.fit(np.concatenate([normal, abnormal]) / scale, np.repeat([0, 1], 400)).coef_[0]
    v, _ = direction_of(moments(normal / scale), moments(abnormal / scale), (0.2,))
    assert np.corrcoef(v, fisher)[0, 1] == pytest.approx(1, abs=1e-4)
    scores = normal @ w - offset
    assert scores.mean() == pytest.approx(0, abs=1e-9)
    assert scores.std() == pytest.approx(1)


def test_a_video_is_scored_by_a_fit_without_it() -> None:
    """However odd its own clips are, the direction that they are scored along stays."""
    rows, videos = some_videos()
    number = videos.in_order[-1]
    its = slice(*videos.bounds[number : number + 2])
    odd = rows.copy()
    odd[its] += 100
    groups = ratio._groups(videos)
    parts = ratio.moments_of_groups(odd, np.ones(len(odd)), groups, range(10))
    scores = ratio.score_held_out(odd, parts, groups, SETTINGS.lambdas)
    others = videos.folds[videos.of_clip] != videos.folds[number]
    labels = videos.clip_labels
    w, b = direction_of(
        moments(rows[others & (labels == 0)]),
        moments(rows[others & (labels == 1)]),
        SETTINGS.lambdas,
    )
    np.testing.assert_allclose(scores[its], odd[its] @ w - b, rtol=1e-8)


def test_one_video_of_a_class_is_not_reweighted() -> None:
    rows, videos = some_videos(normal=4, abnormal=1)
    found = fit_ratio(rows, videos, HARD)
    assert found.held_out is None
    assert (found.weights == 1).all()
    assert np.isfinite(found.direction).all()


def test_one_normal_clip_is_enough() -> None:
    rng = np.random.default_rng(0)
    videos = Videos(("a", "b"), np.array([0, 1], np.int8), bounds_of([1, 9]))
    found = fit_ratio(rng.normal(size=(10, 20)), videos, SETTINGS)
    assert np.isfinite(found.direction).all()


def test_what_cannot_be_fitted() -> None:
    rows, videos = some_videos()
    for label, name in ((0, "abnormal"), (1, "normal")):
        with pytest.raises(FitError, match=f"no {name} video"):
            fit_ratio(rows, Videos(videos.names, videos.labels * 0 + label, videos.bounds), HARD)
    twice = Videos(("a", "b"), np.array([0, 1], np.int8), bounds_of([9, 9]))
    with pytest.raises(FitError, match="the same on average"):
        fit_ratio(np.tile(rows[:9], (2, 1)), twice, SETTINGS)
    constant = np.repeat([[1.0, 2.0], [3.0, 4.0]], 9, axis=0)
    with pytest.raises(FitError, match="More training videos"):
        fit_ratio(constant, twice, SETTINGS)


def test_two_videos_of_one_clip_a_class_are_fitted_together() -> None:
    """Without either of them one clip of the class is left, which says nothing of its spread."""
    rows = np.random.default_rng(0).normal(size=(4, 8))
    labels = np.array([0, 0, 1, 1], np.int8)
    videos = Videos(("a", "b", "c", "d"), labels, bounds_of(np.ones(4, int)))
    found = fit_ratio(rows, videos, HARD)
    assert found.held_out is None
    np.testing.assert_array_equal(found.weights, 1)
    scores = rows @ found.direction - found.offset
    assert scores[2:].min() > scores[:2].max()
