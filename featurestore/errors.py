"""Errors whose message is shown to the user as it is.

Each concrete one also subclasses the builtin that a caller would catch. A message says what is
wrong, names the file, and gives the way out.
"""

from __future__ import annotations


class FeatureStoreError(Exception):
    """Base of all errors that are the user's to read; a command ends with exit code 1."""


class UsageError(FeatureStoreError, ValueError):
    """A request that makes no sense, whatever the data holds."""


class StoreNotFound(FeatureStoreError, FileNotFoundError):
    """There is no store at that place."""


class NotAStore(FeatureStoreError, ValueError):
    """Something else lies at that place, or a store of a layout newer than this version."""


class StoreLocked(FeatureStoreError, RuntimeError):
    """Another process is writing to the store."""


class StoreUnwritable(FeatureStoreError, OSError):
    """The disk refused a write: full, over quota, read-only, no permission."""


class StoreUnreadable(FeatureStoreError, OSError):
    """The disk refused a read, or what it gave is damaged (a checksum differs)."""


class ProvenanceMismatch(FeatureStoreError, ValueError):
    """Features made one way must not be mixed with features made another way."""


class UnreadableVideo(FeatureStoreError, ValueError):
    """A video that cannot be opened or decoded at all."""


class DamagedVideo(FeatureStoreError, ValueError):
    """A video that breaks in the middle: frames before `frame` are good, from there on not."""

    def __init__(self, message: str, frame: int) -> None:
        super().__init__(message)
        self.frame = frame

    def __reduce__(self) -> tuple[type[DamagedVideo], tuple[str, int]]:
        # Errors travel from worker to driver by pickle, which would call with the message alone.
        return type(self), (str(self), self.frame)


class WeightsError(FeatureStoreError, ValueError):
    """A weights file that is missing, truncated, of another network or with a wrong digest."""


class DatasetError(FeatureStoreError, ValueError):
    """A dataset's folder that does not have the layout expected."""


class SplitError(FeatureStoreError, ValueError):
    """A split that contradicts itself, the videos that there are, or their labels."""


class LabelError(FeatureStoreError, ValueError):
    """Ground truth that contradicts itself, or is of a video that is not there."""


class FeatureFileError(FeatureStoreError, ValueError):
    """A file of features made elsewhere, or a list of such files, that cannot be used."""
