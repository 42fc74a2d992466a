"""Distributions of normal and abnormal videos, fitted to a store's features; scores, evaluation.

    import detector, xarray
    ds = xarray.open_zarr("features/ped2.zarr", chunks=None)
    found = detector.fit(ds, features="swin_i3d", split="official")
    scores = detector.score(ds, found).clip_score

`Detector` does the same for plain arrays. Knows numpy, scipy, dask and xarray; never torch, never
the command line.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from detector.estimator import Detector, Scores
    from detector.fitting import fit, load, score
    from detector.fusion import Fusion
    from detector.methods import METHODS

__all__ = ["METHODS", "Detector", "Fusion", "Scores", "fit", "load", "score"]

# scipy takes half a second to import; whoever only asks for help should not wait for it.
_WHERE: Final = {
    "METHODS": "methods",
    "Detector": "estimator",
    "Fusion": "fusion",
    "Scores": "estimator",
    "fit": "fitting",
    "load": "fitting",
    "score": "fitting",
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
