"""Fit to a store and score one: out of core, on an xarray Dataset of it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from detector import dataset, saving
from detector.dataset import StoreReader
from detector.errors import FitError, UnknownDetector
from detector.estimator import NOT_FINITE, Detector, Scores, restored
from detector.fitted import fit_reader, judge_reader
from detector.fusion import Fusion
from detector.moments import Floats
from featurestore.errors import UsageError

if TYPE_CHECKING:
    import xarray as xr

AnyDetector = Detector | Fusion


def fit(
    ds: xr.Dataset,
    features: str | Sequence[str],
    *,
    detector: str | Sequence[str] = "density",
    split: str | npt.ArrayLike | None = None,
    seed: int = 0,
    executor: Executor | None = None,
    scratch: Path | None = None,
    **options: Any,
) -> AnyDetector:
    """Fits to the training videos of a store.

    >>> ds = xarray.open_zarr("features/ped2.zarr", chunks=None)
    >>> found = detector.fit(ds, features="swin_i3d", split="official")

    Several features, or several detectors, make a fusion: each detector on each array.

    Args:
        ds: a store, opened lazily; only labels of training videos are read of its ground truth.
        features: the array, one of the store's.
        detector: see detector.METHODS; "fusion" is "density" on several arrays.
        split: its name in the store, or one value a row of the video table: 0 trains, 1 tests,
            -1 neither. None: the only split there is.
        executor: runs the passes over chunks elsewhere, for example
            `distributed.Client(...).get_executor()`; its workers must see the store's path.
        scratch: folder for projected clips that are too many for memory.
        options: change the detector's constants.

    Raises UsageError for names that are not there, FitError for data that nothing can be fitted
    to (a class without videos, a training video without a label, constant features).
    """
    arrays = [features] if isinstance(features, str) else list(features)
    names = [detector] if isinstance(detector, str) else list(detector)
    names = ["density" if name == "fusion" else name for name in names]
    if not arrays or not names:
        raise UsageError("Give features and a detector, one of each at least")
    rows = dataset.training_rows(ds, split)
    labels = dataset.training_labels(ds, rows)
    members = [
        _fit(ds, array, Detector(name, seed=seed, **options), rows, labels, executor, scratch)
        for array in arrays
        for name in names
    ]
    fused = len(members) > 1 or detector == "fusion"
    return Fusion(members) if fused else members[0]


def score(ds: xr.Dataset, detector: AnyDetector, *, executor: Executor | None = None) -> Scores:
    """Scores all clips of a store: every video by itself, those that trained too.

    Clip scores are in the order of the store's clips, video scores in that of its video table;
    NaN for rows that are superseded, and for clips without features, which `left_out` counts.

    Raises UsageError when the store has no such features, ProvenanceMismatch when they were made
    otherwise than those the detector was fitted to.
    """
    if isinstance(detector, Fusion):
        each = [score(ds, member, executor=executor) for member in detector.members]
        return detector.combine(each)
    features = detector.features
    if features is None:
        raise UsageError("The detector was fitted to a plain array; use its score_samples")
    array = dataset.array_of(ds, features)
    dataset.check_features(
        features,
        detector.provenance,
        dataset.provenance_of(ds, features),
        (detector.fitted.channels, array.shape[-1]),
    )
    chosen = dataset.choose(ds, features, dataset.live_rows(ds))
    reader = StoreReader(array, chosen.clips, dataset.where(ds, features))
    judged, read = judge_reader(detector.fitted, reader, chosen.videos.bounds, executor)
    clips, names = ds.sizes["clip"], dataset.names_of(ds)
    not_finite = chosen.clips[np.isnan(judged.score)]
    without = np.unique(chosen.videos.of_clip[np.isnan(judged.score)])
    left_out = {**chosen.left_out, **({NOT_FINITE: not_finite} if len(not_finite) else {})}
    return Scores(
        _spread(judged.score, chosen.clips, clips),
        _spread(judged.place, chosen.clips, clips),
        None
        if judged.clip_probability is None
        else _spread(judged.clip_probability, chosen.clips, clips),
        tuple(names),
        _spread(judged.video, chosen.rows, len(names)),
        None
        if judged.video_probability is None
        else _spread(judged.video_probability, chosen.rows, len(names)),
        left_out,
        tuple(
            dict.fromkeys([*chosen.left_out_videos, *(chosen.videos.names[row] for row in without)])
        ),
        (read,),
    )


def load(path: str | os.PathLike[str]) -> AnyDetector:
    """A saved detector or fusion. Raises UnknownDetector when there is none, or it is damaged."""
    content = saving.read(path)
    try:
        if "members" in content:
            return Fusion([restored(member) for member in content["members"]])
        return restored(content)
    except (KeyError, AttributeError, TypeError, UsageError) as error:
        raise UnknownDetector(f"{path}: is damaged ({error}). Fit it again") from error


def _fit(
    ds: xr.Dataset,
    features: str,
    unfitted: Detector,
    rows: npt.NDArray[np.bool_],
    labels: npt.NDArray[np.int8],
    executor: Executor | None,
    scratch: Path | None,
) -> Detector:
    if not rows.any():
        raise FitError("The split has no training video that is in the store")
    chosen = dataset.choose(ds, features, rows, labels)
    if unfitted.method.normal_only:
        chosen = dataset.only_normal(chosen)
    lacking = sum(len(clips) for clips in chosen.left_out.values())
    if not len(chosen.clips) and lacking:
        raise FitError(f"{features}: no clip of the training videos has features yet")
    fitted = fit_reader(
        unfitted.name,
        unfitted.method,
        StoreReader(dataset.array_of(ds, features), chosen.clips, dataset.where(ds, features)),
        chosen.videos,
        seed=unfitted.seed,
        executor=executor,
        scratch=scratch,
        left_out=lacking,
    )
    return unfitted.adopt(fitted, features, dataset.provenance_of(ds, features))


def _spread(values: Floats, places: npt.NDArray[np.int64], size: int) -> Floats:
    found = np.full(size, np.nan)
    found[places] = values
    return found
