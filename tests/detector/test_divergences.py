"""Divergences against closed forms, scipy and every pair counted; p-values over videos."""

import numpy as np
import pytest
from scipy import integrate, stats
from scipy.spatial.distance import cdist, jensenshannon

from detector import differences as module
from detector.differences import Difference, differences
from detector.divergences import (
    bhattacharyya,
    gaussian_bhattacharyya,
    gaussian_kernel,
    gaussian_kl,
    jensen_shannon,
    kl,
    mmd,
    wasserstein,
)
from featurestore.errors import UsageError


def masses(seed: int, bins: int = 12) -> tuple[np.ndarray, np.ndarray]:
    p, q = np.random.default_rng(seed).dirichlet(np.ones(bins), 2)
    return p, q


def test_of_masses() -> None:
    p, q = masses(0)
    assert kl(p, q) == pytest.approx(stats.entropy(p, q))
    assert jensen_shannon(p, q) == pytest.approx(jensenshannon(p, q) ** 2)
    assert bhattacharyya(p, q) == pytest.approx(-np.log(np.sqrt(p * q).sum()))
    apart = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    assert kl(*apart) == np.inf
    assert jensen_shannon(*apart) == pytest.approx(np.log(2))
    assert bhattacharyya(*apart) == np.inf
    for measure in (kl, jensen_shannon, bhattacharyya):
        assert measure(p, p) == pytest.approx(0, abs=1e-12)
        assert measure(p, p) >= 0
        np.testing.assert_allclose(measure(np.stack([p, q]), q), [measure(p, q), 0], atol=1e-12)


def test_wasserstein_against_scipy() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=57), np.round(rng.exponential(size=91), 1)
    assert wasserstein(a, b) == pytest.approx(stats.wasserstein_distance(a, b))
    assert wasserstein(a, a + 3) == pytest.approx(3)
    assert wasserstein([1.0], [1.0]) == 0
    with pytest.raises(UsageError, match="two samples"):
        wasserstein([], [1.0])


def test_mmd_counts_every_pair() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(9, 3)), rng.normal(1, 1, size=(7, 3))
    k = [np.exp(-cdist(x, y, "sqeuclidean") / (2 * 1.7**2)) for x, y in ((a, a), (b, b), (a, b))]
    np.fill_diagonal(k[0], 0)
    np.fill_diagonal(k[1], 0)
    expected = k[0].sum() / 72 + k[1].sum() / 42 - 2 * k[2].mean()
    assert mmd(a, b, 1.7) == pytest.approx(expected)
    np.testing.assert_allclose(gaussian_kernel(a, b, 1.7), k[2])
    with pytest.raises(UsageError, match="two or more; got 1"):
        mmd(a[:1], b, 1.0)


def test_mmd_of_gaussians() -> None:
    """Closed form: the kernel's mean over N(0, 1) and N(m, 1) is s / sqrt(s^2 + 2) exp(...)."""
    rng = np.random.default_rng(3)
    m, s = 1.5, 0.8
    a, b = rng.normal(size=(3000, 1)), rng.normal(m, 1, size=(3000, 1))
    same = s / np.sqrt(s**2 + 2)
    expected = 2 * same * (1 - np.exp(-(m**2) / (2 * (s**2 + 2))))
    assert mmd(a, b, s) == pytest.approx(expected, abs=0.02)


def test_gaussians_in_one_dimension() -> None:
    """Against quadrature of their definitions."""
    p, q = stats.norm(0.3, 1.2), stats.norm(-0.5, 0.7)
    by_quadrature = integrate.quad(lambda x: p.pdf(x) * (p.logpdf(x) - q.logpdf(x)), -12, 12)[0]
    assert gaussian_kl(0.3, 1.2**2, -0.5, 0.7**2) == pytest.approx(by_quadrature)
    overlap = integrate.quad(lambda x: np.sqrt(p.pdf(x) * q.pdf(x)), -12, 12)[0]
    assert gaussian_bhattacharyya(0.3, 1.2**2, -0.5, 0.7**2) == pytest.approx(-np.log(overlap))
    assert gaussian_kl(0, 1, 1, 1) == pytest.approx(0.5)
    assert gaussian_bhattacharyya(0, 1, 1, 1) == pytest.approx(1 / 8)


def test_gaussians_in_more_dimensions() -> None:
    """Against a mean over samples, and the same in other coordinates."""
    rng = np.random.default_rng(4)
    roots = rng.normal(size=(2, 3, 3))
    cov_p, cov_q = (r @ r.T + np.eye(3) for r in roots)
    mean_p, mean_q = rng.normal(size=(2, 3))
    p, q = stats.multivariate_normal(mean_p, cov_p), stats.multivariate_normal(mean_q, cov_q)
    x = p.rvs(200_000, random_state=5)
    gap = p.logpdf(x) - q.logpdf(x)
    assert gaussian_kl(mean_p, cov_p, mean_q, cov_q) == pytest.approx(gap.mean(), abs=0.02)
    overlap = np.exp(-gap / 2).mean()
    assert gaussian_bhattacharyya(mean_p, cov_p, mean_q, cov_q) == pytest.approx(
        -np.log(overlap), abs=0.02
    )
    turn = rng.normal(size=(3, 3))
    moved = (turn @ mean_p, turn @ cov_p @ turn.T, turn @ mean_q, turn @ cov_q @ turn.T)
    assert gaussian_kl(*moved) == pytest.approx(gaussian_kl(mean_p, cov_p, mean_q, cov_q))
    with pytest.raises(UsageError, match="not positive definite"):
        gaussian_kl(mean_p, np.zeros((3, 3)), mean_q, cov_q)
    with pytest.raises(UsageError, match="3 dimensions"):
        gaussian_kl(mean_p, np.eye(2), mean_q, cov_q)


# Between classes of videos


def clips(
    seed: int, videos: int, each: int, shift: float, alike: float = 0.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`alike`: how much videos differ beside their class, in units of a video's own spread."""
    rng = np.random.default_rng(seed)
    abnormal = np.arange(videos) % 2 == 1
    level = alike * rng.normal(size=videos) + shift * abnormal
    video = np.repeat(np.arange(videos), each)
    return rng.normal(level[video], 1), video, abnormal


def named(found: list[Difference]) -> dict[str, Difference]:
    return {one.measure: one for one in found}


def test_values_of_gaussian_classes() -> None:
    found = named(differences(*clips(0, 40, 1500, 1.0), permutations=19))
    assert found["KL of abnormal from normal"].value == pytest.approx(0.5, abs=0.03)
    assert found["KL of normal from abnormal"].value == pytest.approx(0.5, abs=0.03)
    assert found["Bhattacharyya distance"].value == pytest.approx(1 / 8, abs=0.01)
    x = np.linspace(-9, 10, 4001)
    p, q = (stats.norm(m).pdf(x) * (x[1] - x[0]) for m in (0, 1))
    assert found["Jensen-Shannon divergence"].value == pytest.approx(jensen_shannon(p, q), abs=0.01)
    assert found["Wasserstein distance"].value == pytest.approx(1, abs=0.03)
    assert all(one.p_value == 1 / 20 for one in found.values())


def test_sums_over_videos_equal_the_measures_themselves() -> None:
    value, video, abnormal = clips(1, 9, 30, 0.6)
    value = np.round(value, 1)
    found = named(differences(value, video, abnormal, permutations=9))
    a, b = value[abnormal[video]], value[~abnormal[video]]
    assert found["Wasserstein distance"].value == pytest.approx(wasserstein(a, b))
    width = module._median_distance(value)
    pairwise = np.abs(value[:, None] - value)[np.triu_indices(len(value), 1)]
    assert width == np.median(pairwise)
    assert found["MMD squared"].value == pytest.approx(mmd(a[:, None], b[:, None], width))


def test_divergences_do_not_depend_on_the_scale() -> None:
    value, video, abnormal = clips(2, 8, 50, 0.5)
    first = named(differences(value, video, abnormal, permutations=50))
    second = named(differences(np.exp(3 * value), video, abnormal, permutations=50))
    for name in first:
        if "Wasserstein" not in name and "MMD" not in name:
            assert first[name] == second[name]


@pytest.mark.parametrize("alike", [0.0, 2.0])
def test_p_values_hold_where_there_is_no_difference(alike: float) -> None:
    """At 5 % about 5 % are below, also where clips of a video are alike: over clips most were."""
    below: dict[str, int] = {}
    trials = 120
    for seed in range(trials):
        for one in differences(*clips(seed, 12, 15, 0.0, alike), permutations=99, seed=seed):
            below[one.measure] = below.get(one.measure, 0) + (one.p_value <= 0.05)
    assert all(count / trials <= 0.11 for count in below.values()), below
    assert any(count for count in below.values())


def test_few_videos_are_all_tried() -> None:
    """Of 2 and 2 videos there are 6 labelings; a p-value below 1/6 cannot be had."""
    value, video, abnormal = clips(3, 4, 40, 8.0)
    found = differences(value, video, abnormal)
    assert {one.p_value for one in found if "KL" not in one.measure} == {2 / 6}
    assert len(module._labelings(abnormal, 999, 0)) == 6
    assert len(np.unique(module._labelings(abnormal, 999, 0), axis=0)) == 6


def test_pieces_and_order_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    value, video, abnormal = clips(4, 10, 20, 0.4)
    first = differences(value, video, abnormal, permutations=40)
    mixed = np.random.default_rng(0).permutation(len(value))
    monkeypatch.setattr(module, "_CELLS", 41 * 7)
    second = differences(value[mixed], video[mixed], abnormal, permutations=40)
    for one, other in zip(first, second, strict=True):
        assert one.value == pytest.approx(other.value)
        assert one.p_value == other.p_value


def test_large_sets_are_thinned_for_mmd_only(monkeypatch: pytest.MonkeyPatch) -> None:
    value, video, abnormal = clips(5, 10, 400, 1.0)
    whole = named(differences(value, video, abnormal, permutations=9))
    monkeypatch.setattr(module, "_MMD_CLIPS", 2000)
    thinned = named(differences(value, video, abnormal, permutations=9))
    assert thinned["MMD squared"].value != whole["MMD squared"].value
    assert thinned["MMD squared"].value == pytest.approx(whole["MMD squared"].value, abs=0.03)
    assert thinned["Wasserstein distance"] == whole["Wasserstein distance"]


def test_constant_values_do_not_differ() -> None:
    found = differences(np.ones(12), np.repeat(np.arange(6), 2), [True, False] * 3)
    assert all(one.p_value == 1 for one in found)
    assert all(abs(one.value) < 1e-12 for one in found)


def test_videos_without_clips_are_no_videos() -> None:
    value, video, abnormal = clips(6, 8, 20, 0.5)
    first = differences(value, video, abnormal, permutations=99)
    spread = differences(value, video * 2, np.repeat(abnormal, 2), permutations=99)
    assert first == spread


@pytest.mark.parametrize(
    ("values", "videos", "abnormal", "says"),
    [
        ([1.0, np.nan, 1, 1], [0, 0, 1, 1], [True, False], "NaN"),
        ([1.0, 2, 3, 4], [0, 0, 1, 2], [True, False], "videos 0 to 2, not of 2"),
        ([1.0, 2, 3, 4], [0, 0, 0, 0], [False], "abnormal videos"),
        ([1.0, 2, 3], [0, 0, 1], [True, False], "two or more clips of normal"),
        ([1.0, 2, 3], [0, 0], [True], "shapes"),
    ],
)
def test_bad_input(values: list[float], videos: list[int], abnormal: list[bool], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        differences(values, videos, abnormal)
