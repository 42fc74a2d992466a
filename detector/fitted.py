"""A fitted detector: how it is fitted in a pass or two over clips, and how it scores in one."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from detector import passes
from detector.context import Judged, OneTerm, TwoRatios
from detector.errors import FitError
from detector.methods import Method, options_of
from detector.models import AnyModel, compact
from detector.moments import Floats
from detector.passes import ArrayReader, Pass, Reader
from detector.projection import Projection, principal, principal_of_few
from detector.rows import kept
from detector.videos import ABNORMAL, NORMAL, Videos, bounds_of

# Principal components are those of this many clips at most, spread evenly over every video: more
# hardly turn them, and their product costs more than reading them.
BASIS_CLIPS: Final = 8192

# Averaged over crops, clips of so many bytes in float32 stay in memory after they were read once:
# 8,192 of 3072 channels take 100 MB, their covariance as much. More are read for each pass.
HELD_BYTES: Final = 128 << 20


@dataclass(frozen=True)
class Training:
    """The training videos and what the fit knows of their clips.

    `raw` (n, k): raw values, by fits that have not seen the clip's video where `held_out`, else of
    the final fit. `judged`: the scores made of them.
    """

    videos: Videos
    raw: Floats
    judged: Judged
    held_out: bool


@dataclass(frozen=True)
class Fitted:
    """A fitted detector.

    `name`, `options` and `seed` are what was asked for; `channels` the width of the features.
    `clip_unit` and `video_unit` are mean and standard deviation of the scores (held out) of normal
    training clips and videos: what a fusion standardises by. `notes` say what could not be done
    as usual; `left_out` is the number of clips of training videos that had no features.
    """

    name: str
    options: dict[str, Any]
    seed: int
    channels: int
    projection: Projection
    model: AnyModel
    context: TwoRatios | OneTerm
    clip_unit: tuple[float, float]
    video_unit: tuple[float, float]
    training: Training
    left_out: int
    notes: tuple[str, ...]
    passes: tuple[Pass, ...]

    @property
    def settings(self) -> dict[str, Any]:
        """What was asked for, plain JSON."""
        return {"detector": self.name, "seed": self.seed, **self.options}


@passes.one_blas_thread()
def fit_reader(
    name: str,
    method: Method,
    reader: Reader,
    videos: Videos,
    *,
    seed: int = 0,
    executor: Executor | None = None,
    scratch: Path | None = None,
    left_out: int = 0,
) -> Fitted:
    """Fits a method to the clips of a reader, which are those of the training videos.

    `scratch` is the folder for projected clips that are too many for memory, `left_out` the number
    of training clips that the reader does not even have. Raises FitError.
    """
    if method.normal_only and not videos.count(NORMAL):
        raise FitError(f"{name} learns from normal training videos, and there is none")
    for label, kind in ((NORMAL, "normal"), (ABNORMAL, "abnormal")):
        if not method.normal_only and not videos.count(label):
            raise FitError(
                f"{name} needs normal and abnormal training videos, and there is no {kind} one. "
                "Give another split, or a detector that needs normal videos only: oneclass"
            )
    log: list[Pass] = []
    held: ArrayReader | None = None
    if videos.clips <= reader.channels or videos.clips * reader.channels * 4 <= HELD_BYTES:
        held, read = passes.held(reader, executor)
        log.append(read)
        reader, executor = held, None
    components: Callable[[int], Projection]
    if held and videos.clips <= reader.channels:
        finite = passes.is_finite(held.rows)
        components = partial(principal_of_few, held.rows[finite])
    else:
        step = -(-videos.clips // BASIS_CLIPS)
        moments, finite, read = passes.sum_up(reader, videos.every(step), executor)
        components = partial(principal, moments)
        if not held:
            log.append(read)
    left, notes = without(videos, finite, method)
    labels = left.clip_labels
    width = method.width(int((labels == NORMAL).sum()), int((labels == ABNORMAL).sum()))
    projection = components(width)
    projected = passes.project(reader, projection, None, executor)
    if not held:
        projected = passes.timed(projected, "projection", reader, log.append)
    rows = kept(_finite(projected), left.clips, projection.width, scratch)
    fit = method.fit(rows, left, seed)
    projection, model = compact(projection, fit.model)
    return Fitted(
        name=name,
        options=options_of(method),
        seed=seed,
        channels=reader.channels,
        projection=projection,
        model=model,
        context=fit.context,
        clip_unit=_unit(fit.judged.score[labels == NORMAL]),
        video_unit=_unit(fit.judged.video[left.labels == NORMAL]),
        training=Training(left, fit.raw, fit.judged, fit.held_out),
        left_out=left_out + int((~finite).sum()),
        notes=(*notes, *fit.notes),
        passes=tuple(log),
    )


@passes.one_blas_thread()
def judge_reader(
    fitted: Fitted,
    reader: Reader,
    bounds: npt.NDArray[np.int64],
    executor: Executor | None = None,
) -> tuple[Judged, Pass]:
    """Scores of the clips of a reader, by their videos: those of video i are bounds[i:i + 2].

    NaN for clips without features and for videos without any clip; the others of a video are
    judged as if those were not there.
    """
    log: list[Pass] = []
    raw = passes.raw_values(reader, fitted.projection, fitted.model, executor, log.append)
    good = passes.is_finite(raw)
    counts = np.add.reduceat(np.append(good, False), bounds[:-1]) * (np.diff(bounds) > 0)
    there = np.greater(counts, 0)
    judged = fitted.context.judge(raw[good], bounds_of(counts[there]))
    return (
        Judged(
            _spread(judged.score, good),
            _spread(judged.place, good),
            _spread(judged.video, there),
            None if judged.clip_probability is None else _spread(judged.clip_probability, good),
            None if judged.video_probability is None else _spread(judged.video_probability, there),
        ),
        log[0],
    )


def without(
    videos: Videos, finite: npt.NDArray[np.bool_], method: Method
) -> tuple[Videos, tuple[str, ...]]:
    """The videos of the clips that are finite, and what to say of those that have none left."""
    counts = np.add.reduceat(finite.astype(np.int64), videos.bounds[:-1])
    there = counts > 0
    left = Videos(
        tuple(name for name, kept in zip(videos.names, there, strict=True) if kept),
        videos.labels[there],
        bounds_of(counts[there]),
    )
    gone = [name for name, kept in zip(videos.names, there, strict=True) if not kept]
    needed = (NORMAL,) if method.normal_only else (NORMAL, ABNORMAL)
    for label, kind in ((NORMAL, "normal"), (ABNORMAL, "abnormal")):
        if label in needed and not left.count(label):
            raise FitError(f"No {kind} training video has a clip with features: {_some(gone)}")
    notes = (f"training videos without any clip with features: {_some(gone)}",) if gone else ()
    return left, notes


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more


def _unit(values: Floats) -> tuple[float, float]:
    # A single value does not say how far values vary.
    return float(values.mean()), float(values.std()) or 1.0


def _finite(blocks: Any) -> Any:
    for block in blocks:
        good = passes.is_finite(block)
        yield block if good.all() else block[good]


def _spread(values: Floats, mask: npt.NDArray[Any]) -> Floats:
    found = np.full(len(mask), np.nan)
    found[mask] = values
    return found
