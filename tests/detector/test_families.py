"""The ten families against scipy: densities, distribution functions, maximum likelihood."""

import numpy as np
import pytest
from scipy import stats

from detector.errors import FitError
from detector.families import FAMILIES, Distribution, Support, fit, support_of
from featurestore.errors import UsageError


def frozen(found: Distribution) -> "stats.rv_frozen":
    """The same distribution as scipy has it, of scores as the family sees them."""
    p = found.parameters
    made = {
        "cauchy": lambda: stats.cauchy(p[0], p[1]),
        "halfcauchy": lambda: stats.halfcauchy(0, p[0]),
        "exponential": lambda: stats.expon(0, p[0]),
        "geometric": lambda: stats.geom(p[0]),
        "gumbel": lambda: stats.gumbel_r(p[0], p[1]),
        "gamma": lambda: stats.gamma(p[0], 0, p[1]),
        "halfnormal": lambda: stats.halfnorm(0, p[0]),
        "normal": lambda: stats.norm(p[0], p[1]),
        "student": lambda: stats.t(*p),
        "beta": lambda: stats.beta(p[0], p[1]),
    }
    return made[found.family]()


def seen(found: Distribution, scores: np.ndarray) -> tuple[np.ndarray, float]:
    """Scores as scipy's distribution takes them, and the log of how much they were stretched."""
    support, domain = found.support, FAMILIES[found.family].domain
    width = support.upper - support.lower
    if domain == "line":
        return scores, 0.0
    if domain == "ranks":
        return np.array([1 + (support.reference < score).sum() for score in scores]), 0.0
    if domain == "positive":
        return scores - support.lower, 0.0
    return (scores - support.lower) / width, np.log(width)


@pytest.fixture(scope="module")
def scores() -> np.ndarray:
    rng = np.random.default_rng(3)
    return np.concatenate([rng.gamma(3.0, 2.0, 300) - 4, rng.normal(5, 4, 100)])


@pytest.mark.parametrize("family", FAMILIES)
def test_density_and_distribution_function(family: str, scores: np.ndarray) -> None:
    found = fit(family, scores, support_of(scores))
    x, stretched = seen(found, scores)
    theirs = frozen(found)
    log_density = theirs.logpmf(x) if family == "geometric" else theirs.logpdf(x)
    np.testing.assert_allclose(found.logpdf(scores), log_density - stretched, rtol=1e-9)
    np.testing.assert_allclose(found.cdf(scores), theirs.cdf(x), rtol=1e-9, atol=1e-12)


THEIRS = {
    "cauchy": lambda x: stats.cauchy.fit(x),
    "halfcauchy": lambda x: stats.halfcauchy.fit(x, floc=0)[1:],
    "exponential": lambda x: stats.expon.fit(x, floc=0)[1:],
    "gumbel": lambda x: stats.gumbel_r.fit(x),
    "gamma": lambda x: stats.gamma.fit(x, floc=0)[::2],
    "halfnormal": lambda x: stats.halfnorm.fit(x, floc=0)[1:],
    "normal": lambda x: stats.norm.fit(x),
    "student": lambda x: stats.t.fit(x),
    "beta": lambda x: stats.beta.fit(x, floc=0, fscale=1)[:2],
}


@pytest.mark.parametrize("family", THEIRS)
def test_maximum_likelihood(family: str, scores: np.ndarray) -> None:
    found = fit(family, scores, support_of(scores))
    x, _ = seen(found, scores)
    theirs = Distribution(family, tuple(map(float, THEIRS[family](x))), found.support)
    np.testing.assert_allclose(found.parameters, theirs.parameters, rtol=2e-3, atol=2e-3)
    # Their search stops earlier than ours: never more likely, but for rounding.
    assert found.logpdf(scores).sum() >= theirs.logpdf(scores).sum() - 1e-5


def test_geometric_counts_ranks(scores: np.ndarray) -> None:
    found = fit("geometric", scores, support_of(scores))
    ranks = stats.rankdata(scores, "min")
    assert found.parameters == pytest.approx((1 / ranks.mean(),))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_weight_is_so_many_copies(family: str, scores: np.ndarray) -> None:
    few = scores[:80]
    copies = np.random.default_rng(0).integers(0, 4, len(few))
    support = support_of(few)
    weighted = fit(family, few, support, copies)
    repeated = fit(family, np.repeat(few, copies), support)
    np.testing.assert_allclose(weighted.parameters, repeated.parameters, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_any_score_has_a_finite_density(family: str, scores: np.ndarray) -> None:
    found = fit(family, scores, support_of(scores))
    far = np.array([scores.min() - 100, scores.max() + 100, scores.min(), scores.max()])
    assert np.isfinite(found.logpdf(far)).all()
    assert ((found.cdf(far) >= 0) & (found.cdf(far) <= 1)).all()


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {"geometric"}))
def test_densities_of_all_families_are_of_the_same_scores(family: str, scores: np.ndarray) -> None:
    """So their likelihoods can be compared: between the ends of the support each is that of cdf."""
    found = fit(family, scores, support_of(scores))
    x = np.linspace(found.support.inside(-1e9), found.support.inside(1e9), 200_001)
    area = np.trapezoid(np.exp(found.logpdf(x)), x)
    assert area == pytest.approx(float(found.cdf(x[-1]) - found.cdf(x[0])), abs=1e-4)


def test_what_cannot_be_fitted() -> None:
    with pytest.raises(FitError, match="the same"):
        support_of(np.ones(5))
    support = Support(0.0, 1.0, np.array([0.2, 0.8]))
    with pytest.raises(FitError, match="two different scores"):
        fit("normal", np.full(4, 0.3), support)
    with pytest.raises(UsageError, match="these are: cauchy"):
        fit("levy", np.arange(3.0), support)
    assert str(fit("normal", np.array([0.0, 2.0]), support)) == "normal(mean=1, deviation=1)"
