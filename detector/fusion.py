"""Several detectors as one: the mean of their scores, each in its own unit.

The unit of a detector is what its scores, held out, do on normal training videos: their mean is
0, their standard deviation 1. Those of its own training clips would be far too narrow.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from detector import saving
from detector.estimator import Detector, Scores
from detector.moments import Floats
from featurestore.errors import UsageError


class Fusion:
    """Detectors of the same videos, of one feature array or of several.

    >>> Fusion([Detector("density"), Detector("gaussian")]).fit(X, videos, labels)
    >>> Fusion([Detector(), Detector()]).fit([swin, i3d], videos, labels)
    """

    def __init__(self, members: Sequence[Detector]) -> None:
        if not members:
            raise UsageError("A fusion needs detectors")
        self.members = tuple(members)

    def __repr__(self) -> str:
        return f"<Fusion of {', '.join(map(repr, self.members))}>"

    @property
    def notes(self) -> tuple[str, ...]:
        """What members could not do as usual."""
        return tuple(
            f"{member.name} of {member.features or 'an array'}: {note}"
            for member in self.members
            for note in member.notes
        )

    def fit(
        self,
        X: npt.ArrayLike | Sequence[npt.ArrayLike],
        videos: npt.ArrayLike,
        labels: npt.ArrayLike | Mapping[Any, int],
    ) -> Fusion:
        """Fits each member; X is one array for all of them, or a list of one for each."""
        for member, values in zip(self.members, self._each(X), strict=True):
            member.fit(values, videos, labels)
        return self

    def score(
        self,
        X: npt.ArrayLike | Sequence[npt.ArrayLike],
        videos: npt.ArrayLike,
    ) -> Scores:
        """See Detector.score. A clip without features of one member has no score."""
        each = zip(self.members, self._each(X), strict=True)
        return self.combine([member.score(values, videos) for member, values in each])

    def score_samples(
        self,
        X: npt.ArrayLike | Sequence[npt.ArrayLike],
        videos: npt.ArrayLike,
    ) -> Floats:
        """See Detector.score_samples."""
        return self.score(X, videos).clip_score

    def combine(self, each: Sequence[Scores]) -> Scores:
        """The members' scores of the same clips, as one."""
        fitted = [member.fitted for member in self.members]
        clips = [_in(s.clip_score, f.clip_unit) for s, f in zip(each, fitted, strict=True)]
        places = [s.clip_place / f.clip_unit[1] for s, f in zip(each, fitted, strict=True)]
        videos = [_in(s.video_score, f.video_unit) for s, f in zip(each, fitted, strict=True)]
        left_out: dict[str, npt.NDArray[np.int64]] = {}
        for scores in each:
            for reason, its in scores.left_out.items():
                left_out[reason] = np.union1d(left_out.get(reason, its), its)
        return Scores(
            np.mean(clips, axis=0),
            np.mean(places, axis=0),
            _mean([s.clip_probability for s in each]),
            each[0].videos,
            np.mean(videos, axis=0),
            _mean([s.video_probability for s in each]),
            left_out,
            tuple(dict.fromkeys(name for s in each for name in s.left_out_videos)),
            tuple(read for s in each for read in s.passes),
        )

    def save(self, path: str | os.PathLike[str], *, replace: bool = False) -> None:
        """Writes a folder of arrays and JSON. Raises UsageError when there is something already."""
        content = {"members": [member.content() for member in self.members]}
        saving.save(path, content, replace=replace)

    def _each(self, values: Any) -> list[Any]:
        if not isinstance(values, (list, tuple)):
            return [values] * len(self.members)
        if len(values) != len(self.members):
            raise UsageError(
                f"Give one array, or one for each of the {len(self.members)} detectors; got "
                f"{len(values)}"
            )
        return list(values)


def _in(values: Floats, unit: tuple[float, float]) -> Floats:
    return (values - unit[0]) / unit[1]


def _mean(each: list[Floats | None]) -> Floats | None:
    known = [values for values in each if values is not None]
    return np.asarray(np.mean(known, axis=0)) if known else None
