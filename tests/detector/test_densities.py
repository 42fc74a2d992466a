"""Gaussian, mixture, kernels and neighbours against scipy and scikit-learn."""

from collections.abc import Iterator

import numpy as np
import pytest
from scipy import stats
from sklearn.covariance import OAS
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity, NearestNeighbors

from detector.errors import FitError
from detector.gaussian import fit_gaussian, gaussian_of
from detector.mixture import fit_mixture, start_from
from detector.moments import moments
from detector.neighbours import fit_kernels, fit_neighbours, squared_distances
from detector.reference import blocks_of, reference_clips
from detector.videos import Videos, bounds_of


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    rng = np.random.default_rng(0)
    mixed = rng.normal(size=(300, 3)) @ rng.normal(size=(3, 3))
    mixed[:100] += [6, 0, -4]
    return mixed + 10


def test_gaussian(rows: np.ndarray) -> None:
    found, theirs = fit_gaussian(moments(rows)), OAS().fit(rows)
    np.testing.assert_allclose(found.distance(rows), theirs.mahalanobis(rows))
    wanted = stats.multivariate_normal(theirs.location_, theirs.covariance_).logpdf(rows)
    np.testing.assert_allclose(found.logpdf(rows), wanted)
    with pytest.raises(FitError, match="do not vary"):
        gaussian_of(np.zeros(2), np.zeros((2, 2)))


@pytest.mark.parametrize("size", [300, 37])
def test_mixture(rows: np.ndarray, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """EM from one start ends where scikit-learn's does, however the rows are cut."""
    monkeypatch.setattr("detector.mixture.CONVERGED", 1e-10)
    start = start_from(rows, 2, seed=0)
    found = fit_mixture(lambda: cut(rows, size), start, 1e-6)
    theirs = GaussianMixture(
        2,
        tol=1e-10,
        reg_covar=1e-6,
        max_iter=1000,
        means_init=[part.mean for part in start],
        weights_init=[part.weight / 300 for part in start],
        precisions_init=[np.linalg.inv(part.covariance) for part in start],
    ).fit(rows)
    np.testing.assert_allclose([c.mean for c in found.components], theirs.means_, rtol=1e-4)
    np.testing.assert_allclose(np.exp(found.log_weights), theirs.weights_, rtol=1e-4)
    np.testing.assert_allclose(found.logpdf(rows), theirs.score_samples(rows), rtol=1e-4)


def test_a_mixture_starts_anywhere() -> None:
    same = np.ones((20, 2))
    assert sum(part.count for part in start_from(same, 3, seed=1)) == 20
    few = np.arange(4.0).reshape(2, 2)
    found = fit_mixture(lambda: iter([few]), start_from(few, 2, seed=0), 0.1)
    assert np.isfinite(found.logpdf(few)).all()


def test_kernels(rows: np.ndarray) -> None:
    found = fit_kernels(rows)
    white = (rows - found.whitening.mean) @ found.whitening.root
    theirs = KernelDensity(bandwidth=found.bandwidth).fit(white)
    stretched = np.linalg.slogdet(found.whitening.root)[1]
    np.testing.assert_allclose(found.logpdf(rows), theirs.score_samples(white) + stretched)
    # scipy's kernels have the plain covariance; with so many clips it is hardly shrunk.
    kde = stats.gaussian_kde(rows.T, "scott")
    assert found.bandwidth == kde.factor
    np.testing.assert_allclose(found.logpdf(rows), kde.logpdf(rows.T), atol=0.1)


def test_neighbours(rows: np.ndarray) -> None:
    found = fit_neighbours(rows, 5)
    at = rows + 0.5
    distance = NearestNeighbors(n_neighbors=5).fit(rows).kneighbors(at)[0][:, -1]
    np.testing.assert_allclose(found.logpdf(at), np.log(5 / 300) - 3 * np.log(distance))
    few = fit_neighbours(rows[:3], 5)
    assert few.nearest == 3
    assert np.isfinite(fit_neighbours(rows[[0, 0, 0]], 2).logpdf(rows)).all()


def test_distances_far_from_the_origin(rows: np.ndarray) -> None:
    direct = ((rows[:9, None] - rows) ** 2).sum(2)
    np.testing.assert_allclose(squared_distances(rows[:9] + 1e6, rows + 1e6), direct, atol=1e-6)


def test_reference_clips_go_by_names() -> None:
    rows = np.arange(12.0)[:, None]
    videos = Videos(("b", "a", "c"), np.array([0, 1, 0], np.int8), bounds_of([3, 4, 5]))
    mask = videos.clip_labels == 0
    assert reference_clips(rows, videos, mask, 99)[:, 0].tolist() == [0, 1, 2, 7, 8, 9, 10, 11]
    turned = Videos(("c", "b"), np.array([0, 0], np.int8), bounds_of([5, 3]))
    other = np.array([7.0, 8, 9, 10, 11, 0, 1, 2])[:, None]
    for most in (3, 5):
        one = reference_clips(rows, videos, mask, most)
        assert len(one) == most
        np.testing.assert_array_equal(one, reference_clips(other, turned, np.ones(8, bool), most))
    assert np.concatenate(list(blocks_of(rows, mask)))[:, 0].tolist() == [0, 1, 2, *range(7, 12)]


def cut(rows: np.ndarray, size: int) -> Iterator[np.ndarray]:
    return (rows[begin : begin + size] for begin in range(0, len(rows), size))
