"""What a projected clip says alone: raw values from the distributions that were fitted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from detector.families import Distribution
from detector.gaussian import Gaussian
from detector.mixture import Mixture
from detector.moments import Floats
from detector.neighbours import Kernels, Neighbours
from detector.projection import Projection


class Density(Protocol):
    """The distribution of one class."""

    def logpdf(self, rows: Floats) -> Floats: ...


class Model(Protocol):
    """Rows (n, d) to raw values (n, k), each row for itself."""

    def raw(self, rows: Floats) -> Floats: ...


@dataclass(frozen=True)
class Linear:
    """Along directions (d, k), less offsets (k,): ratios of two Gaussians of one covariance."""

    directions: Floats
    offsets: Floats

    def raw(self, rows: Floats) -> Floats:
        """Rows (n, d) to (n, k)."""
        found: Floats = rows @ self.directions - self.offsets
        return found


@dataclass(frozen=True)
class LogRatio:
    """Log density among abnormal videos less that among normal ones, (n, 1)."""

    abnormal: Gaussian | Mixture | Kernels | Neighbours
    normal: Gaussian | Mixture | Kernels | Neighbours

    def raw(self, rows: Floats) -> Floats:
        """Rows (n, d) to (n, 1)."""
        return (self.abnormal.logpdf(rows) - self.normal.logpdf(rows))[:, None]


@dataclass(frozen=True)
class FamilyRatio:
    """The same of two parametric distributions of a linear score, (n, 1)."""

    linear: Linear
    abnormal: Distribution
    normal: Distribution

    def raw(self, rows: Floats) -> Floats:
        """Rows (n, d) to (n, 1)."""
        return self.of_scores(self.linear.raw(rows))

    def of_scores(self, scores: Floats) -> Floats:
        """Linear scores (n, 1) to (n, 1)."""
        return self.abnormal.logpdf(scores) - self.normal.logpdf(scores)


@dataclass(frozen=True)
class Surprise:
    """How far from normal clips, (n, 1): nothing is known of abnormal ones.

    Of a Gaussian the Mahalanobis distance, of others -log density.
    """

    normal: Gaussian | Mixture | Kernels | Neighbours

    def raw(self, rows: Floats) -> Floats:
        """Rows (n, d) to (n, 1)."""
        if isinstance(self.normal, Gaussian):
            return np.asarray(np.sqrt(self.normal.distance(rows)))[:, None]
        return -self.normal.logpdf(rows)[:, None]


AnyModel = Linear | LogRatio | FamilyRatio | Surprise


def compact(projection: Projection, model: AnyModel) -> tuple[Projection, AnyModel]:
    """The same, with as few columns between the two as can be.

    A linear model's directions become the projection's: scoring a clip is then a few products of
    vectors, and what is saved is small.
    """
    if isinstance(model, Linear):
        return _compact(projection, model)
    if isinstance(model, FamilyRatio):
        projection, linear = _compact(projection, model.linear)
        return projection, FamilyRatio(linear, model.abnormal, model.normal)
    return projection, model


def _compact(projection: Projection, model: Linear) -> tuple[Projection, Linear]:
    width = model.directions.shape[1]
    return projection.onto(model.directions), Linear(np.eye(width), model.offsets)
