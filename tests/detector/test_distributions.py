"""The families of each class, judged on videos they have not seen."""

import json

import numpy as np
import pytest

from detector import diagnosis, families
from detector.distributions import Description, FamilyFit, _judge, describe, text
from detector.errors import FitError
from detector.families import FAMILIES, Distribution, Support
from featurestore.errors import UsageError


def clips(seed: int = 0, videos: int = 24, each: int = 25) -> tuple[np.ndarray, ...]:
    """Normal videos' clips are Gumbel, abnormal ones' normal."""
    rng = np.random.default_rng(seed)
    abnormal = np.arange(videos) % 2 == 1
    video = np.repeat(np.arange(videos), each)
    values = np.where(abnormal[video], rng.normal(4, 1, len(video)), rng.gumbel(0, 1, len(video)))
    return values, video, abnormal


@pytest.fixture(scope="module")
def described() -> Description:
    return describe("score", *clips(), permutations=99)


def of(found: Description, kind: str, family: str) -> FamilyFit:
    return next(fit for fit in found.families[kind] if fit.family == family)


def test_finds_the_families_that_made_them(described: Description) -> None:
    assert described.clips == {"normal": 300, "abnormal": 300}
    assert described.videos == {"normal": 12, "abnormal": 12}
    assert described.families["normal"][0].family == "gumbel"
    assert described.families["abnormal"][0].family in ("normal", "student", "beta", "gamma")
    for fits in described.families.values():
        assert {fit.family for fit in fits} == set(FAMILIES)
        judged = [fit.log_likelihood for fit in fits if fit.family != "geometric"]
        assert judged == sorted(judged, reverse=True)
        assert fits[-1].family == "geometric"  # per rank: not one of the others' kind


def test_the_right_family_is_calibrated_and_a_wrong_one_is_not(described: Description) -> None:
    right, wrong = of(described, "normal", "gumbel"), of(described, "normal", "exponential")
    for uniform in (right.pit, right.hpd):
        assert uniform is not None
        assert uniform.p_value is not None
        assert uniform.p_value > 0.05
    assert right.coverage == pytest.approx((0.5, 0.9), abs=0.07)
    assert wrong.pit is not None
    assert wrong.pit.p_value is not None
    assert wrong.pit.p_value < 0.05
    assert right.cde_loss < wrong.cde_loss
    assert right.bic < wrong.bic


def test_held_out_likelihood_is_of_fits_without_the_fold() -> None:
    values, video, abnormal = clips(1, videos=14, each=8)
    found = describe("score", values, video, abnormal, names=("normal",), permutations=9)
    support = families.support_of(values)
    expected = np.zeros(len(values))
    for row, index in enumerate(np.flatnonzero(abnormal)):
        rest = [v for p, v in enumerate(np.flatnonzero(abnormal)) if p % 5 != row % 5]
        fitted = families.fit("normal", values[np.isin(video, rest)], support)
        expected[video == index] = fitted.logpdf(values[video == index])
    fit = of(found, "abnormal", "normal")
    own = abnormal[video]
    assert fit.log_likelihood == pytest.approx(expected[own].mean())
    whole = families.fit("normal", values[own], support)
    assert fit.bic == pytest.approx(diagnosis.bic(whole.logpdf(values[own]).sum(), 2, own.sum()))


def test_cde_loss_of_a_gaussian_is_the_closed_form() -> None:
    values, video, abnormal = clips(2, videos=4, each=200)
    fit = of(describe("score", values, video, abnormal, names=("normal",)), "abnormal", "normal")
    # Two videos: each is judged by the fit to the other.
    first, second = (values[video == v] for v in (1, 3))
    losses = []
    for seen, unseen in ((second, first), (first, second)):
        density = np.exp(-((unseen - seen.mean()) ** 2) / (2 * seen.var()))
        density /= np.sqrt(2 * np.pi * seen.var())
        losses.append(1 / (2 * seen.std() * np.sqrt(np.pi)) - 2 * density.mean())
    assert fit.cde_loss == pytest.approx(np.mean(losses), abs=1e-3)


def test_geometric_ranks_of_its_own_are_calibrated() -> None:
    """Ranks are discrete: spread over each rank's probability the PIT is uniform all the same."""
    support = Support(-1.0, 2000.0, np.arange(2000.0))
    p = 0.2
    values = np.random.default_rng(3).geometric(p, 5000) - 1.0  # as many reference scores below
    judged = _judge(Distribution("geometric", (p,), support), values, np.arange(5000), seed=0)
    video = np.arange(5000) // 50
    assert diagnosis.uniformity(judged.pit, video).p_value > 0.05
    np.testing.assert_allclose(np.exp(judged.log_density), p * (1 - p) ** values)
    # Of the true probabilities the loss is minus the sum of their squares.
    ranks = np.arange(1, 400)
    squares = ((p * (1 - p) ** (ranks - 1)) ** 2).sum()
    assert judged.loss == pytest.approx(-squares, abs=0.005)


def test_the_table_and_json_say_the_same(described: Description) -> None:
    shown = text(described)
    for fits in described.families.values():
        for fit in fits:
            assert f"{fit.log_likelihood:.3f} nats a clip" in shown
            assert fit.fitted in shown
    for one in described.differences:
        assert f"{one.value:.4g} {one.unit}" in shown
    assert "normal videos (12 videos, 300 clips)" in shown
    json.dumps(described.json(), allow_nan=False)


def test_one_video_of_a_class_has_nothing_to_hold_out() -> None:
    values, video, _ = clips(4, videos=6)
    abnormal = np.arange(6) == 5
    found = describe("score", values, video, abnormal, names=("normal", "beta"))
    for fit in found.families["abnormal"]:
        assert fit.log_likelihood is None
        assert fit.bic is not None
        assert fit.trouble == "one video only: nothing to hold out"
    assert "one video only" in text(found)
    json.dumps(found.json(), allow_nan=False)


def test_a_class_of_equal_values_is_said_to_be_one() -> None:
    values, video, abnormal = clips(5, videos=8)
    values[abnormal[video]] = 2.0
    found = describe("score", values, video, abnormal, names=("normal",))
    assert of(found, "abnormal", "normal").bic is None
    assert "two different scores" in (of(found, "abnormal", "normal").trouble or "")
    assert "two different scores" in text(found)
    with pytest.raises(FitError, match="All training scores are the same"):
        describe("score", np.ones(len(values)), video, abnormal)


def test_unknown_family() -> None:
    with pytest.raises(UsageError, match="'weibull' is no family; these are: cauchy"):
        describe("score", *clips(), names=("weibull",))
