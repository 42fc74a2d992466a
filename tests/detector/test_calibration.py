"""The logistic curve against scikit-learn's, and where there is nothing to calibrate."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from detector.calibration import Logistic, fit_logistic


def test_logistic_curve() -> None:
    rng = np.random.default_rng(0)
    positive = rng.random(4000) < 0.3
    scores = rng.normal(size=4000) * 40 + 30 * positive + 1000
    weights = rng.random(4000)
    found = fit_logistic(scores, positive, weights)
    assert found is not None
    theirs = LogisticRegression(C=np.inf, tol=1e-10).fit(
        (scores[:, None] - 1000) / 40, positive, sample_weight=weights
    )
    # Platt's targets differ from 0 and 1 by one in some thousand.
    assert found.slope * 40 == pytest.approx(theirs.coef_[0, 0], rel=0.01)
    assert found.probability(1000.0) == pytest.approx(
        float(theirs.predict_proba([[0.0]])[0, 1]), rel=0.01
    )
    np.testing.assert_allclose(np.exp(found.log_probability(scores)), found.probability(scores))


def test_its_targets_are_platts() -> None:
    """At the optimum the mean probability of a group is the mean target."""
    scores = np.array([0.0, 0, 1, 1, 1])
    found = fit_logistic(scores, scores > 0)
    assert found is not None
    np.testing.assert_allclose(found.probability([0, 1]), [1 / 4, 4 / 5])


def test_separated_scores_have_a_finite_slope() -> None:
    found = fit_logistic(np.array([-1e9, -1.0, 1, 2]), np.array([False, False, True, True]))
    assert found is not None
    assert np.isfinite([found.slope, found.intercept]).all()
    assert np.isfinite(found.log_probability([-1e300, 1e300])).all()


def test_nothing_to_calibrate() -> None:
    up = np.array([0.0, 1])
    assert fit_logistic(up, np.array([True, True])) is None
    assert fit_logistic(np.ones(2), np.array([True, False])) is None
    assert fit_logistic(up, np.array([True, False])) is None, "falls where it should rise"
    assert isinstance(fit_logistic(up, np.array([False, True])), Logistic)
