"""A fitted detector as a folder: `detector.json` and `arrays.npz`. Nothing in it is code.

Frozen dataclasses become JSON with their name; arrays go beside it. Only the classes listed here
are made again when it is read.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import uuid
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from detector.calibration import Logistic
from detector.context import Judged, OneTerm, TwoRatios
from detector.errors import UnknownDetector
from detector.families import Distribution, Support
from detector.fitted import Fitted, Training
from detector.gaussian import Gaussian
from detector.mixture import Mixture
from detector.models import FamilyRatio, Linear, LogRatio, Surprise
from detector.neighbours import Kernels, Neighbours
from detector.passes import Pass
from detector.projection import Projection
from detector.videos import Videos
from featurestore.disk import writing
from featurestore.errors import UsageError

VERSION: Final = 1

_JSON: Final = "detector.json"
_ARRAYS: Final = "arrays.npz"
_CLASSES: Final = {
    found.__name__: found
    for found in (
        Distribution,
        FamilyRatio,
        Fitted,
        Gaussian,
        Judged,
        Kernels,
        Linear,
        LogRatio,
        Logistic,
        Mixture,
        Neighbours,
        OneTerm,
        Pass,
        Projection,
        Support,
        Surprise,
        Training,
        TwoRatios,
        Videos,
    )
}


def save(
    path: str | os.PathLike[str], content: Mapping[str, Any], *, replace: bool = False
) -> None:
    """Writes content to a folder that is not there yet, in one step.

    With `replace` a saved detector that is there is replaced. Raises UsageError when something
    is in the way, StoreUnwritable.
    """
    folder = Path(path)
    if folder.exists() and not (replace and (folder / _JSON).is_file()):
        raise UsageError(
            f"{folder}: is there already. Give another name"
            + ("" if replace else ", or replace it (if it is a saved detector)")
        )
    arrays: dict[str, npt.NDArray[Any]] = {}
    plain = {"format": VERSION, "content": _to_plain(dict(content), arrays)}
    new = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}")
    with writing(folder):
        new.mkdir(parents=True)
        try:
            np.savez(new / _ARRAYS, allow_pickle=False, **arrays)
            (new / _JSON).write_text(json.dumps(plain, indent=1, allow_nan=False) + "\n")
            if folder.exists():
                shutil.rmtree(folder)
            new.rename(folder)
        finally:
            shutil.rmtree(new, ignore_errors=True)


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The content of a saved detector. Raises UnknownDetector."""
    folder = Path(path)
    if not (folder / _JSON).is_file():
        raise UnknownDetector(f"{folder}: no detector is saved there. `fs-submit fit` makes one")
    try:
        plain = json.loads((folder / _JSON).read_text())
        version = plain["format"]
        if version != VERSION:
            raise UnknownDetector(
                f"{folder}: was saved by another version of this software (format {version}; this "
                f"one knows {VERSION}). Fit it again, or use that version"
            )
        # Opened here: of a damaged file numpy would leave its own open.
        with (folder / _ARRAYS).open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            content: dict[str, Any] = _from_plain(plain["content"], arrays)
    except UnknownDetector:
        raise
    except (OSError, ValueError, TypeError, KeyError, AttributeError, zipfile.BadZipFile) as error:
        raise UnknownDetector(f"{folder}: is damaged ({error}). Fit it again") from error
    return content


def _to_plain(value: Any, arrays: dict[str, npt.NDArray[Any]]) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        name = type(value).__name__
        if _CLASSES.get(name) is not type(value):
            raise TypeError(f"{name} is not among the classes that can be saved")
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return {"class": name, "fields": _to_plain(fields, arrays)}
    if isinstance(value, np.ndarray):
        name = f"a{len(arrays)}"
        arrays[name] = value
        return {"array": name}
    if isinstance(value, Mapping):
        return {"map": {key: _to_plain(item, arrays) for key, item in value.items()}}
    if isinstance(value, tuple):
        return {"tuple": [_to_plain(item, arrays) for item in value]}
    if isinstance(value, list):
        return [_to_plain(item, arrays) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    return value


def _from_plain(plain: Any, arrays: Mapping[str, npt.NDArray[Any]]) -> Any:
    if isinstance(plain, list):
        return [_from_plain(item, arrays) for item in plain]
    if not isinstance(plain, dict):
        return plain
    if "class" in plain:
        return _CLASSES[plain["class"]](**_from_plain(plain["fields"], arrays))
    if "array" in plain:
        return arrays[plain["array"]]
    if "tuple" in plain:
        return tuple(_from_plain(item, arrays) for item in plain["tuple"])
    return {key: _from_plain(item, arrays) for key, item in plain["map"].items()}
