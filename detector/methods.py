"""The detectors by name: from projected training clips to a model and its context."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Protocol

import numpy as np

from detector.context import VIDEO_SIGMA, Judged, OneTerm, TwoRatios
from detector.errors import FitError
from detector.families import FAMILIES, fit, support_of
from detector.gaussian import fit_gaussian
from detector.mixture import RIDGE, fit_mixture, start_from
from detector.models import AnyModel, FamilyRatio, Linear, LogRatio, Surprise
from detector.moments import Floats, merged, moments
from detector.neighbours import fit_kernels, fit_neighbours
from detector.ratio import Ratio, RatioSettings, fit_ratio
from detector.reference import Mask, blocks_of, reference_clips
from detector.rows import Columns, Rows, smoothed, spans
from detector.videos import ABNORMAL, NORMAL, Videos
from featurestore.errors import UsageError

# Clips of a class that kernels and neighbours are made of, and that a mixture starts from.
REFERENCE_CLIPS: Final = 10_000

_ALONE: Final = (
    "too few training videos of a class to leave some out: no clip is re-weighted, scores are not "
    "calibrated"
)
_NO_SIGNAL: Final = (
    "held-out scores of abnormal training videos are no higher than those of normal ones: scores "
    "are not calibrated"
)


@dataclass(frozen=True)
class Fit:
    """What a method found.

    `raw` (n, k): raw values of the training clips, by fits without their own video's fold where
    `held_out`, else of the final fit; `judged` are the scores made of them.
    """

    model: AnyModel
    context: TwoRatios | OneTerm
    raw: Floats
    judged: Judged
    held_out: bool
    notes: tuple[str, ...] = ()


class Method(Protocol):
    """A way to fit: a frozen dataclass whose fields are its options."""

    normal_only: ClassVar[bool]

    def width(self, normal: int, abnormal: int) -> int:
        """Principal components wanted for so many clips of each class."""

    def fit(self, rows: Rows, videos: Videos, seed: int) -> Fit:
        """Fits to the rows of the clips of training videos."""


@dataclass(frozen=True)
class DensityMethod:
    """The default: one ratio for which video is abnormal, one for where in it.

    Sharp directions tell abnormal videos from normal ones, heavily shrunk ones tell places. The
    constants were chosen on two datasets; cross-validation on one picks worse ones.
    """

    normal_only: ClassVar[bool] = False
    video: ClassVar[RatioSettings] = RatioSettings((0.05, 0.2, 0.5), 1.0, hard_negatives=True)
    place: ClassVar[RatioSettings] = RatioSettings((0.3, 0.7, 0.9), 4.0)

    smooth: float = 1.5
    video_components: int = 768
    place_components: int = 384

    def width(self, normal: int, abnormal: int) -> int:
        """The wider of both."""
        return max(self.video_components, self.place_components)

    def fit(self, rows: Rows, videos: Videos, seed: int) -> Fit:
        """Two ratios, calibrated on held-out scores."""
        over_time = smoothed(Columns(rows, self.video_components), videos.bounds, VIDEO_SIGMA)
        video = fit_ratio(over_time, videos, self.video)
        place = fit_ratio(Columns(rows, self.place_components), videos, self.place)
        directions = np.zeros((rows.shape[1], 2))
        directions[: len(video.direction), 0] = video.direction
        directions[: len(place.direction), 1] = place.direction
        model = Linear(directions, np.array([video.offset, place.offset]))
        context = TwoRatios(self.smooth)
        if video.held_out is None or place.held_out is None:
            raw = raw_of(model, rows)
            return Fit(model, context, raw, context.judge(raw, videos.bounds), False, (_ALONE,))
        held_out = np.stack([video.held_out, place.held_out], axis=1)
        context = context.calibrated(held_out, videos)
        notes = () if context.video_curve else (_NO_SIGNAL,)
        judged = context.judge_smoothed(held_out, videos.bounds)
        return Fit(model, context, held_out, judged, True, notes)


@dataclass(frozen=True)
class RatioMethod:
    """One cross-fitted ratio."""

    normal_only: ClassVar[bool] = False

    smooth: float = 1.5
    aggregate: str = "max"
    components: int = 384
    exponent: float = 2.0
    lambdas: tuple[float, ...] = (0.1, 0.3, 0.7)

    def width(self, normal: int, abnormal: int) -> int:
        """As the option says."""
        return self.components

    def fit(self, rows: Rows, videos: Videos, seed: int) -> Fit:
        """The ratio, calibrated on held-out scores."""
        ratio = self.ratio(rows, videos)
        model = Linear(ratio.direction[:, None], np.array([ratio.offset]))
        held_out = None if ratio.held_out is None else ratio.held_out[:, None]
        return _judged(model, self.context(), rows, videos, held_out)

    def ratio(self, rows: Rows, videos: Videos) -> Ratio:
        """The ratio alone."""
        return fit_ratio(rows, videos, RatioSettings(tuple(self.lambdas), self.exponent))

    def context(self) -> OneTerm:
        """How its scores are smoothed and aggregated."""
        return OneTerm(self.smooth, self.aggregate)


@dataclass(frozen=True)
class FamilyMethod(RatioMethod):
    """A parametric family of the ratio's scores, fitted to each class; the log of their ratio.

    Fitted to held-out scores, abnormal clips weighted as in the ratio's last fit.
    """

    family: str = "normal"

    def fit(self, rows: Rows, videos: Videos, seed: int) -> Fit:
        """The ratio, and the family of each class along it."""
        ratio = self.ratio(rows, videos)
        linear = Linear(ratio.direction[:, None], np.array([ratio.offset]))
        scores = raw_of(linear, rows)[:, 0] if ratio.held_out is None else ratio.held_out
        support, abnormal = support_of(scores), videos.clip_labels == ABNORMAL
        model = FamilyRatio(
            linear,
            fit(self.family, scores[abnormal], support, ratio.weights[abnormal]),
            fit(self.family, scores[~abnormal], support, ratio.weights[~abnormal]),
        )
        held_out = None if ratio.held_out is None else model.of_scores(scores[:, None])
        return _judged(model, self.context(), rows, videos, held_out)


@dataclass(frozen=True)
class _Densities:
    """A density of each class or of one, in so many components as its clips allow."""

    kind: str = "gaussian"
    smooth: float = 1.5
    aggregate: str = "max"
    components: int = 0  # 0: by the number of clips of the smaller class
    mixed: int = 2  # of a mixture
    nearest: int = 5  # of neighbours

    def __post_init__(self) -> None:
        if self.kind not in _WIDTHS:
            raise UsageError(f"{self.kind!r} is no density; give one of {', '.join(_WIDTHS)}")

    def width(self, normal: int, abnormal: int) -> int:
        """Grows with the square root of the clips of the smaller class."""
        most, factor = _WIDTHS[self.kind]
        fewest = min(normal, abnormal) if abnormal else normal
        return self.components or min(most, max(1, int(factor * math.sqrt(fewest))))

    def density(self, rows: Rows, videos: Videos, mask: Mask, seed: int) -> Any:
        """The density of the clips of a mask (n,)."""
        if self.kind == "gaussian":
            parts = (moments(block) for block in blocks_of(rows, mask))
            return fit_gaussian(merged(parts, rows.shape[1]))
        reference = reference_clips(rows, videos, mask, REFERENCE_CLIPS)
        if self.kind == "kde":
            return fit_kernels(reference)
        if self.kind == "knn":
            return fit_neighbours(reference, self.nearest)
        components = max(1, min(self.mixed, len(reference) // (rows.shape[1] + 1)))
        variance = float(reference.var(axis=0).mean())
        if not variance > 0:
            raise FitError("The clips of a class do not vary: no mixture fits them")
        start = start_from(reference, components, seed)
        return fit_mixture(lambda: blocks_of(rows, mask), start, RIDGE * variance)

    def context(self) -> OneTerm:
        """How its scores are smoothed and aggregated."""
        return OneTerm(self.smooth, self.aggregate)


# Most components, and how many for each root of the number of clips. By those that did best on
# 2,000 clips of the smaller class (ShanghaiTech) and on 40 (Ped2): 128 and 16, 32 and 8, 16 and 4.
_WIDTHS: Final = {"gaussian": (128, 2.5), "gmm": (32, 1.0), "kde": (16, 0.6), "knn": (128, 2.5)}


@dataclass(frozen=True)
class PairMethod(_Densities):
    """A density of each class, and the log of their ratio."""

    normal_only: ClassVar[bool] = False

    def fit(self, rows: Rows, videos: Videos, seed: int) -> Fit:
        """Both densities; held out, those without each fold."""

        def model_of(keep: Mask) -> LogRatio:
            labels = videos.clip_labels
            return LogRatio(
                self.density(rows, videos, keep & (labels == ABNORMAL), seed),
                self.density(rows, videos, keep & (labels == NORMAL), seed),
            )

        alone = min(videos.count(NORMAL), videos.count(ABNORMAL)) < 2
        return _cross_fitted(model_of, self.context(), rows, videos, alone)


@dataclass(frozen=True)
class OneClassMethod(_Densities):
    """A density of normal videos alone; scores are how far from it a clip is."""

    normal_only: ClassVar[bool] = True
    aggregate: str = "none"

    def fit(self, rows: Rows, videos: Videos, seed: int) -> Fit:
        """The density; held out, those without each fold."""

        def model_of(keep: Mask) -> Surprise:
            return Surprise(self.density(rows, videos, keep, seed))

        return _cross_fitted(model_of, self.context(), rows, videos, len(videos.names) < 2)


METHODS: Final[dict[str, Method]] = {
    "density": DensityMethod(),
    "ratio": RatioMethod(),
    **{kind: PairMethod(kind) for kind in _WIDTHS},
    **{family: FamilyMethod(family=family) for family in FAMILIES},
    "oneclass": OneClassMethod("gaussian"),
    "oneclass-gmm": OneClassMethod("gmm"),
    "oneclass-knn": OneClassMethod("knn"),
}


def method(name: str, options: dict[str, Any]) -> Method:
    """The method of this name with some of its options changed. Raises UsageError."""
    if name not in METHODS:
        raise UsageError(f"{name!r} is no detector; these are: {', '.join(METHODS)}, fusion")
    found: Any = METHODS[name]
    fixed = {"kind", "family"}
    known = [field.name for field in dataclasses.fields(found) if field.name not in fixed]
    for option in options:
        if option not in known:
            raise UsageError(f"{name} has no option {option!r}; it has: {', '.join(known)}")
    changed: Method = dataclasses.replace(found, **options)
    return changed


def options_of(of: Method) -> dict[str, Any]:
    """Its options and their values, plain JSON."""
    plain: Any = of
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in dataclasses.asdict(plain).items()
        if key not in ("kind", "family")
    }


def raw_of(model: AnyModel, rows: Rows) -> Floats:
    """Raw values of all rows, block by block, (n, k)."""
    return np.concatenate([model.raw(np.asarray(rows[s], float)) for s in spans(rows.shape[0])])


def _cross_fitted(
    model_of: Callable[[Mask], LogRatio | Surprise],
    context: OneTerm,
    rows: Rows,
    videos: Videos,
    alone: bool,
) -> Fit:
    """The model of all clips, and raw values of each fold by the model of the others."""
    everything = np.ones(videos.clips, bool)
    model = model_of(everything)
    if alone:
        return _judged(model, context, rows, videos, None)
    folds = np.repeat(videos.folds, np.diff(videos.bounds))
    held_out = np.empty((videos.clips, 1))
    for fold in np.unique(folds):
        others = model_of(folds != fold)
        for span in spans(videos.clips):
            its = folds[span] == fold
            if its.any():
                held_out[span][its] = others.raw(np.asarray(rows[span], float)[its])
    return _judged(model, context, rows, videos, held_out)


def _judged(
    model: AnyModel,
    context: OneTerm,
    rows: Rows,
    videos: Videos,
    held_out: Floats | None,
) -> Fit:
    if held_out is None:
        raw = raw_of(model, rows)
        return Fit(model, context, raw, context.judge(raw, videos.bounds), False, (_ALONE,))
    context = context.calibrated(held_out, videos)
    wanted = videos.count(ABNORMAL) > 0
    notes = (_NO_SIGNAL,) if wanted and context.video_curve is None else ()
    return Fit(model, context, held_out, context.judge(held_out, videos.bounds), True, notes)
