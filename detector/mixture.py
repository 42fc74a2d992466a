"""A mixture of Gaussians of full covariance, by expectation maximisation over blocks of rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.special import logsumexp, softmax

from detector.gaussian import Gaussian, gaussian_of
from detector.moments import Floats, Moments, moments, nothing

ROUNDS: Final = 100
# Rise of the mean log likelihood, per row, below which it has converged.
CONVERGED: Final = 1e-3
# Added to the covariances, in parts of the rows' mean variance: keeps a component from
# collapsing onto a few clips.
RIDGE: Final = 1e-2


@dataclass(frozen=True)
class Mixture:
    """Components and their log weights (k,)."""

    log_weights: Floats
    components: tuple[Gaussian, ...]

    def joint(self, rows: Floats) -> Floats:
        """Log of weight times density, of rows (n, d) and each component, (n, k)."""
        each = [component.logpdf(rows) for component in self.components]
        return np.stack(each, axis=1) + self.log_weights

    def logpdf(self, rows: Floats) -> Floats:
        """Log density at rows (n, d), (n,)."""
        found: Floats = logsumexp(self.joint(rows), axis=1)
        return found


def fit_mixture(
    blocks: Callable[[], Iterator[Floats]], start: Sequence[Moments], ridge: float
) -> Mixture:
    """The mixture that EM finds from a start: one component for each of the moments.

    `blocks()` goes over the rows once; a round is one pass. `ridge` is added to the variances.
    """
    mixture = _maximise(start, ridge)
    before = -np.inf
    for _ in range(ROUNDS):
        found = [nothing(len(start[0].mean)) for _ in start]
        likelihood, count = 0.0, 0
        for block in blocks():
            joint = mixture.joint(block)
            likelihood += float(logsumexp(joint, axis=1).sum())
            count += len(block)
            shares = softmax(joint, axis=1)
            found = [f + moments(block, shares[:, i]) for i, f in enumerate(found)]
        if likelihood / count - before < CONVERGED:
            break
        before = likelihood / count
        mixture = _maximise(found, ridge)
    return mixture


def start_from(rows: Floats, components: int, seed: int) -> list[Moments]:
    """Moments of groups of rows (n, d), found by k-means from a drawn start (k-means++)."""
    rng = np.random.default_rng(seed)
    centres = rows[int(rng.integers(len(rows)))][None]
    for _ in range(components - 1):
        nearest = _squares(rows, centres).min(axis=1)
        total = nearest.sum()
        chosen = int(rng.choice(len(rows), p=nearest / total if total else None))
        centres = np.concatenate([centres, rows[chosen][None]])
    for _ in range(20):
        nearest = _squares(rows, centres).argmin(axis=1)
        groups = [rows[nearest == i] for i in range(components)]
        # A centre that no row is nearest to stays where it is.
        centres = np.stack(
            [g.mean(axis=0) if len(g) else c for g, c in zip(groups, centres, strict=True)]
        )
    nearest = _squares(rows, centres).argmin(axis=1)
    found = [moments(rows[nearest == i]) for i in range(components)]
    return [part for part in found if part.count]


def _maximise(parts: Sequence[Moments], ridge: float) -> Mixture:
    kept = [part for part in parts if part.weight > 1e-8]
    total = sum(part.weight for part in kept)
    width = len(kept[0].mean)
    return Mixture(
        np.log([part.weight / total for part in kept]),
        tuple(gaussian_of(part.mean, part.covariance + ridge * np.eye(width)) for part in kept),
    )


def _squares(rows: Floats, centres: Floats) -> Floats:
    found: Floats = ((rows[:, None] - centres) ** 2).sum(axis=2)
    return found
