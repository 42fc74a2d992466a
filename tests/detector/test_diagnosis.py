"""CDE loss, PIT, HPD and BIC against closed forms; p-values over videos hold what they promise."""

import numpy as np
import pytest
from scipy import integrate, stats

from detector.diagnosis import (
    bic,
    cde_loss,
    coverage,
    hpd_values,
    quantiles,
    squared_integral,
    uniformity,
)
from featurestore.errors import UsageError

EVEN = (np.arange(4000) + 0.5) / 4000


def test_uniform_density_has_a_loss_of_minus_one() -> None:
    unit = stats.uniform()
    x = np.random.default_rng(0).random(77)
    squared = squared_integral(unit.logpdf(unit.ppf(EVEN)))
    assert squared == 1
    assert cde_loss(squared, unit.pdf(x)) == -1


@pytest.mark.parametrize("f", [stats.norm(1, 2), stats.gamma(3), stats.beta(2, 5)])
def test_loss_of_the_true_density(f: stats.rv_continuous) -> None:
    """Then it is minus the integral of f^2 on average; the integral itself is by quadrature."""
    low, high = f.ppf([1e-12, 1 - 1e-12])
    exact = integrate.quad(lambda x: f.pdf(x) ** 2, low, high)[0]
    assert squared_integral(f.logpdf(f.ppf(EVEN))) == pytest.approx(exact, rel=2e-3)
    x = f.rvs(100_000, random_state=1)
    assert cde_loss(exact, f.pdf(x)) == pytest.approx(-exact, rel=0.01)


def test_the_true_density_has_the_lowest_loss() -> None:
    x = stats.norm(0, 1).rvs(20_000, random_state=2)
    losses = {
        (m, s): cde_loss(1 / (2 * s * np.sqrt(np.pi)), stats.norm(m, s).pdf(x))
        for m in (-0.3, 0.0, 0.3)
        for s in (0.7, 1.0, 1.4)
    }
    assert min(losses, key=losses.__getitem__) == (0.0, 1.0)


def test_hpd_values_of_a_gaussian() -> None:
    """The region as high as at x is the interval from -|x| to |x|."""
    f = stats.norm()
    x = np.linspace(-3, 3, 61)
    found = hpd_values(f.logpdf(x), f.logpdf(f.ppf(EVEN)))
    np.testing.assert_allclose(found, 2 * f.cdf(np.abs(x)) - 1, atol=1e-3)


def test_hpd_values_of_two_humps() -> None:
    """The region is not an interval: one hump of a mixture is higher than the other."""
    weights, humps = np.array([0.75, 0.25]), [stats.norm(-5, 1), stats.norm(5, 1)]

    def log_density(x: np.ndarray) -> np.ndarray:
        return np.log(sum(w * h.pdf(x) for w, h in zip(weights, humps, strict=True)))

    sample = np.concatenate([humps[0].ppf(EVEN), humps[1].ppf(EVEN)[1::3]])
    # At the top of the lower hump: where the higher one is above a third of its own top.
    expected = 0.75 * (2 * stats.norm.cdf(np.sqrt(2 * np.log(3))) - 1)
    found = hpd_values(log_density(np.array([5.0])), log_density(sample))
    assert found[0] == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize("f", [stats.norm(1, 2), stats.gamma(3), stats.beta(0.7, 2)])
def test_of_values_of_its_own_they_are_uniform(f: stats.rv_continuous) -> None:
    x = f.rvs(8000, random_state=1)
    hpd = hpd_values(f.logpdf(x), f.logpdf(f.ppf(EVEN)))
    for values in (f.cdf(x), hpd):
        assert stats.kstest(values, "uniform").pvalue > 0.01
        assert uniformity(values, np.arange(8000) // 100).p_value > 0.01
    for level in (0.1, 0.5, 0.9):
        assert coverage(hpd, level) == pytest.approx(level, abs=0.02)
    wrong = stats.norm(f.mean(), 3 * f.std())
    assert coverage(hpd_values(wrong.logpdf(x), wrong.logpdf(wrong.ppf(EVEN))), 0.5) > 0.7
    assert uniformity(wrong.cdf(x), np.arange(8000) // 100).p_value <= 0.001


def test_bic() -> None:
    x = stats.norm(0, 1).rvs(500, random_state=4)
    log_likelihood = stats.norm(x.mean(), x.std()).logpdf(x).sum()
    assert bic(log_likelihood, 2, 500) == pytest.approx(
        500 * (1 + np.log(2 * np.pi * x.var())) + 2 * np.log(500)
    )


@pytest.mark.parametrize("f", [stats.norm(-3, 5), stats.gamma(0.4), stats.cauchy()])
def test_quantiles(f: stats.rv_continuous) -> None:
    p = np.linspace(0.001, 0.999, 33)
    np.testing.assert_allclose(quantiles(f.cdf, p, -1e5, 1e5), f.ppf(p), rtol=1e-8, atol=1e-9)


def test_distance_is_that_of_kolmogorov_and_smirnov() -> None:
    u = np.random.default_rng(5).random(300) ** 1.2
    assert uniformity(u, np.arange(300)).distance == pytest.approx(
        stats.kstest(u, "uniform").statistic
    )
    assert uniformity(u, np.zeros(300)).p_value is None


def test_p_values_over_videos_hold_where_clips_of_a_video_are_alike() -> None:
    """At 5 % at most about 5 % are below; counting clips, most would be."""
    trials, below, by_clips = 200, 0, 0
    video = np.repeat(np.arange(20), 30)
    for seed in range(trials):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=20)[video] + 0.5 * rng.normal(size=600)
        u = stats.norm.cdf(x, scale=np.sqrt(1.25))
        below += uniformity(u, video, resamples=199, seed=seed).p_value <= 0.05
        by_clips += stats.kstest(u, "uniform").pvalue <= 0.05
    assert below / trials <= 0.09
    assert by_clips / trials > 0.5


@pytest.mark.parametrize(
    ("values", "videos", "says"),
    [([0.5, 1.5], [0, 1], r"in \[0, 1\]"), ([0.5], [0, 1], "shapes"), ([], [], "shapes")],
)
def test_bad_input(values: list[float], videos: list[int], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        uniformity(values, videos)
