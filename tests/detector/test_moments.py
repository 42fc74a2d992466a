"""Moments, shrinkage and principal components against numpy and scikit-learn."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.covariance import OAS, shrunk_covariance
from sklearn.decomposition import PCA

from detector.errors import FitError
from detector.moments import Moments, Running, merged, moments, nothing
from detector.projection import Projection, Projector, principal, principal_of_few
from detector.shrinkage import oas, shrunk, solve


def assert_same(found: Moments, wanted: Moments, rtol: float = 1e-10) -> None:
    assert found.count == wanted.count
    np.testing.assert_allclose(found.weight, wanted.weight, rtol=1e-12)
    np.testing.assert_allclose(found.mean, wanted.mean, rtol=rtol, atol=1e-10)
    scale = np.abs(wanted.scatter).max() or 1.0
    np.testing.assert_allclose(found.scatter / scale, wanted.scatter / scale, atol=rtol)


@st.composite
def cut_rows(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Rows, whole and fractional weights, zeros among them, and where to cut."""
    seed, count, width = draw(st.integers(0, 99)), draw(st.integers(1, 40)), draw(st.integers(1, 6))
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(count, width)) * 10.0 ** rng.integers(-3, 4, width)
    rows += 10.0 ** rng.integers(0, 4, width)
    weights = rng.choice([0.0, 0.3, 1.0, 2.0], count)
    return rows, weights, draw(st.lists(st.integers(0, count), max_size=6).map(sorted))


@given(cut_rows())
@settings(max_examples=150)
def test_moments_of_parts_are_those_of_the_whole(cut: tuple) -> None:
    rows, weights, cuts = cut
    parts = zip(np.split(rows, cuts), np.split(weights, cuts), strict=True)
    whole = moments(rows, weights)
    assert_same(merged((moments(part, w) for part, w in parts), rows.shape[1]), whole)
    assert_same(moments(rows, np.ones(len(rows))), moments(rows))
    assert not np.isnan(whole.covariance).any()
    if weights.sum() > 0:
        np.testing.assert_allclose(whole.mean, np.average(rows, axis=0, weights=weights))
        theirs = np.atleast_2d(np.cov(rows.T, aweights=weights, bias=True))
        scale = np.abs(theirs).max() or 1.0
        np.testing.assert_allclose(whole.covariance / scale, theirs / scale, atol=1e-9)


def test_nothing_adds_nothing() -> None:
    some = moments(np.arange(6.0).reshape(3, 2))
    assert_same(nothing(2) + some, some)
    assert_same(some + nothing(2), some)
    assert (nothing(2).covariance == 0).all()


def test_large_means_cost_no_precision() -> None:
    rows = np.random.default_rng(0).normal(size=(1000, 3)) + 1e8
    halves = moments(rows[:500]) + moments(rows[500:])
    np.testing.assert_allclose(halves.covariance, np.cov(rows.T, bias=True), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("dtype", "rtol"), [(np.float64, 1e-11), (np.float32, 2e-6)])
def test_running_moments(dtype: type, rtol: float) -> None:
    rng = np.random.default_rng(1)
    mixed = rng.normal(size=(700, 20)) @ rng.normal(size=(20, 20)) + 3
    mixed[:, 5] = 7.0  # constant
    mixed[:64, 6] = 1.0  # constant at first
    rows = mixed.astype(dtype)
    running = Running(20)
    for part in np.split(rows, [64, 65, 65, 400]):
        running.add(part)
    assert_same(running.result(), moments(rows), rtol)
    assert_same(running.result(), moments(rows), rtol)  # asking changes nothing
    assert_same(Running(4).result(), nothing(4))


def test_running_moments_flush(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detector.moments.FLUSH_ROWS", 100)
    rows = np.random.default_rng(1).normal(size=(700, 5)).astype(np.float32)
    running = Running(5)
    for part in np.split(rows, 7):
        running.add(part)
    assert_same(running.result(), moments(rows), 2e-6)


def test_principal_components_are_those_of_others() -> None:
    rng = np.random.default_rng(2)
    rows = rng.normal(size=(300, 12)) @ rng.normal(size=(12, 12)) + rng.normal(size=12)
    found = principal(moments(rows), 5)
    standardised = (rows - rows.mean(0)) / (rows.std(0) + 1e-8)
    theirs = PCA(5).fit(standardised)
    np.testing.assert_allclose(found.eigenvalues, theirs.explained_variance_ * 299 / 300)
    ours, z = Projector(found, np.float64)(rows), theirs.transform(standardised)
    np.testing.assert_allclose(np.abs(ours), np.abs(z), atol=1e-8)
    np.testing.assert_allclose(
        Projector(found.first(2), np.float32)(rows.astype(np.float32)), ours[:, :2], atol=1e-4
    )
    directions = rng.normal(size=(5, 2))
    np.testing.assert_allclose(
        Projector(found.onto(directions), np.float64)(rows), ours @ directions, atol=1e-10
    )


@pytest.mark.parametrize("count", [2, 9, 40])
def test_components_of_few_clips_are_those_of_their_moments(count: int) -> None:
    rng = np.random.default_rng(count)
    rows = (rng.normal(size=(count, 30)) @ rng.normal(size=(30, 30)) + 9).astype(np.float32)
    rows[:, 4] = 0.1  # constant
    wanted, found = principal(moments(rows), 12), principal_of_few(rows, 12)
    assert found.width == wanted.width == min(count - 1, 12)
    np.testing.assert_allclose(found.mean, wanted.mean, rtol=1e-12)
    np.testing.assert_allclose(found.scale, wanted.scale, rtol=1e-9)
    np.testing.assert_allclose(found.eigenvalues, wanted.eigenvalues, rtol=1e-9)
    np.testing.assert_allclose(found.basis, wanted.basis, atol=1e-8)
    np.testing.assert_allclose(found.basis.T @ found.basis, np.eye(found.width), atol=1e-9)


@pytest.mark.parametrize("of", [lambda x, d: principal(moments(x), d), principal_of_few])
def test_components_that_do_not_vary_are_left_out(
    of: Callable[[np.ndarray, int], Projection],
) -> None:
    rng = np.random.default_rng(3)
    rows = np.concatenate([rng.normal(size=(6, 4)), np.full((6, 2), 0.1)], axis=1)
    rows = np.concatenate([rows, rows[:, :1]], axis=1)
    assert of(rows, 99).width == 4  # of seven: two constant, one a copy
    assert of(rows[:3], 99).width == 2  # three clips span two dimensions
    with pytest.raises(FitError, match="are the same"):
        of(np.full((9, 3), 0.1), 2)
    with pytest.raises(FitError, match="only one clip"):
        of(rows[:1], 2)


def test_shrinkage_is_that_of_others() -> None:
    rng = np.random.default_rng(4)
    for count in (4, 30, 500):
        rows = rng.normal(size=(count, 8)) * np.arange(1, 9)
        of = moments(rows)
        theirs = OAS().fit(rows)
        assert oas(of) == pytest.approx(theirs.shrinkage_)
        np.testing.assert_allclose(shrunk(of.covariance, oas(of)), theirs.covariance_, atol=1e-10)
    np.testing.assert_allclose(shrunk(of.covariance, 0.3), shrunk_covariance(of.covariance, 0.3))
    right = rng.normal(size=8)
    wanted = np.linalg.solve(shrunk(of.covariance, 0.3), right)
    np.testing.assert_allclose(solve(of.covariance, 0.3, right), wanted)
