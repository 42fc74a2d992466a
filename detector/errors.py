"""Errors of the detector whose message is shown to the user as it is."""

from __future__ import annotations

from featurestore.errors import FeatureStoreError


class FitError(FeatureStoreError, ValueError):
    """Training data from which no detector can be fitted: a class is missing, all is constant."""


class UnknownDetector(FeatureStoreError, ValueError):
    """A saved detector that is damaged, made by a newer version, or none at all."""
