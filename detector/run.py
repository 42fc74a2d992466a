"""A run: what is kept of one scoring in the store, and what can be told from it afterwards."""

from __future__ import annotations

import importlib.metadata
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from detector import dataset
from detector.distributions import CLASSES, Description, describe
from detector.errors import FitError
from detector.estimator import Detector, Scores
from detector.families import FAMILIES, fit, support_of
from detector.figures import Densities
from detector.fusion import Fusion
from detector.moments import Floats
from detector.videos import ABNORMAL, NORMAL
from featurestore.align import span_scores
from featurestore.clips import CLIP_FRAMES
from featurestore.errors import UsageError
from featurestore.runs import Column, Run

if TYPE_CHECKING:
    import xarray as xr

AnyDetector = Detector | Fusion

_UP: Final = "the higher, the more abnormal; NaN: not scored"
_TEXTS: Final = {
    "clip_score": ("score of the clip", f"what its video says + clip_place; {_UP}"),
    "clip_place": ("where in the video", f"compares clips of one video; {_UP}"),
    "clip_probability": ("probability that the clip is anomalous", "calibrated, 0 to 1"),
    "clip_held_out": (
        "score of the training clip, held out",
        "by fits that have not seen its video, which are wider than clip_score; NaN: did not train",
    ),
    "frame_score": ("score of the frame", f"its clip's, the first one's of two; {_UP}"),
    "frame_probability": ("probability that the frame is anomalous", "its clip's, 0 to 1"),
    "video_score": ("score of the video", f"compares videos; {_UP}"),
    "video_probability": ("probability that the video is abnormal", "calibrated, 0 to 1"),
}
# One density is drawn for each class: that of the best of these. Ranks have none.
_DRAWN: Final = tuple(name for name in FAMILIES if FAMILIES[name].domain != "ranks")
_POINTS: Final = 600


def columns(
    ds: xr.Dataset, scores: Scores, found: AnyDetector, *, trained_here: bool
) -> dict[str, Column]:
    """The arrays of a run: of clips, frames and videos of the store, each in its order.

    `trained_here`: the detector was fitted to training videos of this very store; then their
    held-out scores are kept, too.
    """
    clips: dict[str, Floats | None] = {
        "clip_score": scores.clip_score,
        "clip_place": scores.clip_place,
        "clip_probability": scores.clip_probability,
        "clip_held_out": _held_out(ds, scores, found) if trained_here else None,
    }
    frames = {
        "frame_score": of_frames(ds, scores.clip_score),
        "frame_probability": None
        if scores.clip_probability is None
        else of_frames(ds, scores.clip_probability),
    }
    videos = {
        "video_score": scores.video_score,
        "video_probability": scores.video_probability,
    }
    return {
        name: Column(
            dim,
            values.astype(np.float32),
            {"long_name": _TEXTS[name][0], "description": _TEXTS[name][1]},
        )
        for dim, its in (("clip", clips), ("frame", frames), ("video", videos))
        for name, values in its.items()
        if values is not None
    }


def attributes(
    ds: xr.Dataset, scores: Scores, found: AnyDetector, *, split: str | None, source: str
) -> dict[str, Any]:
    """All that made a run, plain JSON. `source`: where the fit is from."""
    members = found.members if isinstance(found, Fusion) else (found,)
    arrays = dict.fromkeys(str(member.features) for member in members)
    software = ["video-anomaly-feature-store", "numpy", "scipy"]
    return {
        "title": f"Scores of {ds.attrs.get('dataset', 'a store')}",
        "detector": "+".join(dict.fromkeys(member.name for member in members)),
        "features": "fusion" if len(arrays) > 1 else next(iter(arrays)),
        "split": split,
        "source": source,
        "members": [
            {
                **member.fitted.settings,
                "features": member.features,
                "features_made": member.provenance,
                "channels": member.fitted.channels,
                "training": {
                    "normal videos": member.fitted.training.videos.count(NORMAL),
                    "abnormal videos": member.fitted.training.videos.count(ABNORMAL),
                    "clips": member.fitted.training.videos.clips,
                    "clips left out": member.fitted.left_out,
                },
            }
            for member in members
        ],
        "notes": list(found.notes),
        "left_out": {reason: len(its) for reason, its in scores.left_out.items()},
        "left_out_videos": list(scores.left_out_videos),
        "passes": [str(one) for m in members for one in m.fitted.passes]
        + [str(one) for one in scores.passes],
        "versions": {name: importlib.metadata.version(name) for name in software},
        "made": datetime.now().astimezone().isoformat(timespec="seconds"),
    }


def of_frames(ds: xr.Dataset, clip_values: Floats) -> Floats:
    """A value for each frame of the store from those of its clips (clips,): float64 (frames,).

    Frames of two clips have the first one's value, those of none (of a damaged end, say) NaN.
    """
    frames = ds["frames"].values.astype(np.int64)
    offsets = ds["frame_offset"].values if "frame_offset" in ds else np.cumsum(frames) - frames
    total = ds.sizes["frame"] if "frame" in ds.sizes else int(frames.sum())
    starts = ds["clip_start"].values.astype(np.int64)
    of_clip = ds["clip_video"].values
    stops = np.minimum(starts + CLIP_FRAMES, frames[of_clip])
    if "clip_stop" in ds:
        stops = ds["clip_stop"].values.astype(np.int64)
    found = np.full(total, np.nan)
    counts = ds["clip_count"].values
    for row, first in enumerate(ds["clip_offset"].values):
        its = slice(int(first), int(first + counts[row]))
        known = starts[its] >= 0
        found[int(offsets[row]) : int(offsets[row] + frames[row])] = span_scores(
            clip_values[its][known], starts[its][known], stops[its][known], int(frames[row])
        )
    return found


def training_clips(
    ds: xr.Dataset, run: Run
) -> tuple[Floats, npt.NDArray[np.int64], npt.NDArray[np.bool_]] | None:
    """Held-out scores of a run's training clips (n,), each one's video, which videos are abnormal.

    None for a run without them: of a detector fitted elsewhere, or with nothing held out.
    """
    if "clip_held_out" not in run.columns:
        return None
    values = run.columns["clip_held_out"].values.astype(np.float64)
    clips = np.flatnonzero(np.isfinite(values))
    rows, of_clip = np.unique(ds["clip_video"].values[clips], return_inverse=True)
    names = np.array(dataset.names_of(ds))[rows]
    order = np.argsort(names, kind="stable")  # folds go by names
    labels = ds["label"].values[rows][order]
    return values[clips], np.argsort(order)[of_clip], labels == ABNORMAL


def description(ds: xr.Dataset, run: Run) -> Description | None:
    """Families and differences of the held-out training scores; None where there are none.

    Raises FitError, UsageError as `distributions.describe`.
    """
    its = training_clips(ds, run)
    if its is None:
        return None
    values, videos, abnormal = its
    return describe("score", values, videos, abnormal)


def densities(ds: xr.Dataset, run: Run) -> Densities | None:
    """The best family of each class, drawn over the held-out training scores; None without two
    classes of them."""
    its = training_clips(ds, run)
    if its is None:
        return None
    values, videos, abnormal = its
    try:
        told = describe("score", values, videos, abnormal, names=_DRAWN, permutations=0)
    except (UsageError, FitError):
        return None  # one class only, or nothing that varies
    at = np.linspace(values.min(), values.max(), _POINTS)
    of_class = {"normal": values[~abnormal[videos]], "abnormal": values[abnormal[videos]]}
    drawn = {}
    for name in CLASSES:
        best = told.families[name][0]
        if best.bic is None:
            return None
        fitted = fit(best.family, of_class[name], support_of(values))
        drawn[name] = (best.fitted, np.exp(fitted.logpdf(at)))
    return Densities(of_class, at, drawn, "score of a training clip, held out")


def _held_out(ds: xr.Dataset, scores: Scores, found: AnyDetector) -> Floats | None:
    """Held-out scores of the training clips at their places, (clips,); None where none are."""
    members = found.members if isinstance(found, Fusion) else (found,)
    trained = [member.fitted.training for member in members]
    first = trained[0].videos
    for its in trained:
        same = its.videos.names == first.names and np.array_equal(its.videos.bounds, first.bounds)
        if not its.held_out or not same:
            return None
    values = trained[0].judged.score
    if isinstance(found, Fusion):
        units = [member.fitted.clip_unit for member in members]
        values = np.mean(
            [(its.judged.score - m) / s for its, (m, s) in zip(trained, units, strict=True)], axis=0
        )
    rows = {name: row for row, name in enumerate(dataset.names_of(ds))}
    offsets, counts = ds["clip_offset"].values, ds["clip_count"].values
    result = np.full(ds.sizes["clip"], np.nan)
    for number, name in enumerate(first.names):
        row = rows[name]
        clips = np.arange(offsets[row], offsets[row] + counts[row])
        clips = clips[np.isfinite(scores.clip_score[clips])]
        result[clips] = values[first.bounds[number] : first.bounds[number + 1]]
    return result
