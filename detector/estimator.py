"""A detector for plain arrays, in the manner of scikit-learn: `fit`, `score_samples`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from detector import saving
from detector.errors import FitError
from detector.fitted import Fitted, fit_reader, judge_reader
from detector.methods import method
from detector.moments import Floats
from detector.passes import ArrayReader, Pass
from detector.videos import ABNORMAL, NORMAL, Videos, grouped
from featurestore.errors import UsageError

# Why a clip has no score: its features are NaN or infinite.
NOT_FINITE: Final = "not finite"


@dataclass(frozen=True)
class Scores:
    """Scores of clips and of their videos; the higher, the more abnormal. NaN: not scored.

    `clip_score` (clips,) is in the order the clips came in: what the video says + `clip_place`,
    where in the video (for comparing clips of one video). `clip_probability` is calibrated: 0.5 is
    as good as a coin. Of videos, in the order of `videos`: `video_score` and `video_probability`
    (V,). Probabilities are None where nothing could be calibrated. `left_out`: the numbers of clips
    that were not scored, by the reason; `left_out_videos` names their videos. `passes`: what was
    read for it.
    """

    clip_score: Floats
    clip_place: Floats
    clip_probability: Floats | None
    videos: tuple[str, ...]
    video_score: Floats
    video_probability: Floats | None
    left_out: Mapping[str, npt.NDArray[np.int64]] = field(default_factory=dict)
    left_out_videos: tuple[str, ...] = ()
    passes: tuple[Pass, ...] = ()


class Detector:
    """Tells abnormal clips from normal ones, having seen videos of which only labels are known.

    >>> found = Detector("density").fit(X, videos, labels)
    >>> found.score_samples(other_X, other_videos)

    `detector` is one of `detector.methods.METHODS`; options change its constants. The same seed
    gives the same scores. Raises UsageError for an unknown detector or option.
    """

    def __init__(self, detector: str = "density", *, seed: int = 0, **options: Any) -> None:
        self.name, self.seed = detector, seed
        self.method = method(detector, options)
        self._fitted: Fitted | None = None
        # Of the features that it was fitted to: their name and how they were made.
        self.features: str | None = None
        self.provenance: dict[str, Any] = {}

    def __repr__(self) -> str:
        if self._fitted is None:
            return f"<Detector {self.name}, not fitted>"
        its = self._fitted.training.videos
        return (
            f"<Detector {self.name} of {self.features or 'an array'}, {self._fitted.channels} "
            f"channels; {its.count(ABNORMAL)} abnormal and {its.count(NORMAL)} normal training "
            f"videos, {its.clips} clips>"
        )

    @property
    def fitted(self) -> Fitted:
        """All that the fit found. Raises UsageError before `fit`."""
        if self._fitted is None:
            raise UsageError("The detector is not fitted yet; call fit first")
        return self._fitted

    @property
    def notes(self) -> tuple[str, ...]:
        """What could not be done as usual, in words; usually nothing."""
        return self.fitted.notes

    def fit(
        self,
        X: npt.ArrayLike,
        videos: npt.ArrayLike,
        labels: npt.ArrayLike | Mapping[Any, int],
    ) -> Detector:
        """Fits to training clips.

        X: (clips, channels) or (clips, crops, channels); crops are averaged.
        videos: each clip's video, any plain value (clips,); clips of a video in order of time.
        labels: 0 for clips of normal videos, 1 for those of abnormal ones (clips,), or a mapping
            from video to label.

        Clips with NaN are left out (`fitted.left_out` counts them). Raises UsageError for arrays
        that do not fit together, FitError for data that nothing can be fitted to.
        """
        values = _values(X)
        order, names, bounds = _grouped(values, videos)
        found = Videos(names, _labels(labels, np.asarray(videos), order, bounds), bounds)
        keep = np.ones(len(names), bool)
        if self.method.normal_only:
            keep = found.labels == NORMAL
        order = order[np.repeat(keep, np.diff(bounds))]
        reader = ArrayReader(values, order)
        fitted = fit_reader(self.name, self.method, reader, found.only(keep), seed=self.seed)
        return self.adopt(fitted, None, {})

    def adopt(
        self, fitted: Fitted, features: str | None, provenance: Mapping[str, Any]
    ) -> Detector:
        """Becomes what was fitted, to features of this name, made in this way."""
        self._fitted = fitted
        self.features, self.provenance = features, dict(provenance)
        return self

    def score(self, X: npt.ArrayLike, videos: npt.ArrayLike) -> Scores:
        """Scores of clips, of any videos; each video is scored by itself. X, videos: as in fit."""
        values = _values(X)
        if values.shape[-1] != self.fitted.channels:
            raise UsageError(
                f"The detector was fitted to {self.fitted.channels} channels, and these clips "
                f"have {values.shape[-1]}"
            )
        order, names, bounds = _grouped(values, videos)
        judged, read = judge_reader(self.fitted, ArrayReader(values, order), bounds)
        missing = np.isnan(judged.score)
        of_clip = np.repeat(np.arange(len(names)), np.diff(bounds))
        return Scores(
            _unordered(judged.score, order),
            _unordered(judged.place, order),
            None if judged.clip_probability is None else _unordered(judged.clip_probability, order),
            names,
            judged.video,
            judged.video_probability,
            {NOT_FINITE: np.sort(order[missing])} if missing.any() else {},
            tuple(names[row] for row in np.unique(of_clip[missing])),
            (read,),
        )

    def score_samples(self, X: npt.ArrayLike, videos: npt.ArrayLike) -> Floats:
        """A score a clip, (clips,), the higher the more abnormal; NaN for clips with NaN."""
        return self.score(X, videos).clip_score

    def save(self, path: str | os.PathLike[str], *, replace: bool = False) -> None:
        """Writes a folder of arrays and JSON. Raises UsageError when there is something already."""
        saving.save(path, self.content(), replace=replace)

    def content(self) -> dict[str, Any]:
        """What is saved."""
        return {
            "fitted": self.fitted,
            "features": self.features,
            "provenance": self.provenance,
        }


def restored(content: Mapping[str, Any]) -> Detector:
    """The detector of a saved content."""
    fitted: Fitted = content["fitted"]
    options = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in fitted.options.items()
    }
    found = Detector(fitted.name, seed=fitted.seed, **options)
    return found.adopt(fitted, content["features"], content["provenance"])


def _values(X: npt.ArrayLike) -> npt.NDArray[Any]:
    values = np.asarray(X)
    if values.ndim not in (2, 3) or 0 in values.shape or values.dtype.kind not in "fiu":
        raise UsageError(
            "Clips are numbers of shape (clips, channels) or (clips, crops, channels); got "
            f"{values.dtype} of shape {values.shape}"
        )
    return values


def _grouped(
    values: npt.NDArray[Any], videos: npt.ArrayLike
) -> tuple[npt.NDArray[np.int64], tuple[str, ...], npt.NDArray[np.int64]]:
    ids = np.asarray(videos)
    if len(ids.shape) != 1 or len(ids) != len(values):
        raise UsageError(f"{len(values)} clips need as many videos; got shape {ids.shape}")
    return grouped(ids)


def _labels(
    labels: npt.ArrayLike | Mapping[Any, int],
    videos: npt.NDArray[Any],
    order: npt.NDArray[np.int64],
    bounds: npt.NDArray[np.int64],
) -> npt.NDArray[np.int8]:
    """One label a video, of one a clip or of a mapping."""
    firsts = videos[order[bounds[:-1]]].tolist()
    if isinstance(labels, Mapping):
        missing = [video for video in firsts if video not in labels]
        if missing:
            raise FitError(f"There is no label for video {missing[0]!r} ({len(missing)} in all)")
        found = np.array([labels[video] for video in firsts])
    else:
        of_clips = np.asarray(labels)
        if of_clips.shape != (len(order),):
            raise UsageError(f"{len(order)} clips need as many labels; got {of_clips.shape}")
        of_clips = of_clips[order]
        found = of_clips[bounds[:-1]]
        mixed = np.flatnonzero(of_clips != np.repeat(found, np.diff(bounds)))
        if len(mixed):
            row = int(np.searchsorted(bounds, mixed[0], side="right")) - 1
            raise UsageError(f"Clips of video {firsts[row]!r} have different labels")
    wrong = np.flatnonzero(~np.isin(found, (NORMAL, ABNORMAL)))
    if len(wrong):
        raise FitError(
            f"Training video {firsts[wrong[0]]!r} has the label {found[wrong[0]]}; labels are 0 "
            f"(normal) and 1 (abnormal). {len(wrong)} videos have none of these: leave them out"
        )
    return found.astype(np.int8)


def _unordered(values: Floats, order: npt.NDArray[np.int64]) -> Floats:
    found = np.empty(len(values))
    found[order] = values
    return found
