"""What timm knows of a model, kept: asking timm takes seconds of imports, reading a file none.

``<cache>/timm/<model>-<key>.json`` holds the spec of ``timm:<model>``. The key is of all that
decides what is in it: the versions of timm and torch, the hub, and the code that asks.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from contextlib import suppress
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jobs.specs import BackboneSpec, Preprocessing
from jobs.weights import cache_folder

__all__ = ["facts_of"]

# What the answers come from; `jobs.backbones` itself would import them
_ASKING = [Path(__file__).with_name("specs.py"), Path(__file__).parent / "backbones" / "image.py"]


def facts_of(model: str) -> BackboneSpec:
    """The facts about a timm model; see ``jobs.backbones.image.image_spec``.

    Where timm is loaded already it is asked: there the caller may have registered its own models.

    Raises:
        UsageError: no such model, or one that cannot be run here.
    """
    kept = None
    if "timm" not in sys.modules and re.fullmatch(r"[A-Za-z0-9_.\-]+", model):
        kept = cache_folder() / "timm" / f"{model}-{_key()}.json"
        # Not there, or damaged: timm is asked
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            return _read(kept.read_text())
    from jobs.backbones.image import image_spec

    spec = image_spec(model)
    if kept is not None:
        with suppress(OSError):  # asked again the next time
            kept.parent.mkdir(parents=True, exist_ok=True)
            temporary = kept.with_name(f"{kept.name}.{os.getpid()}")
            temporary.write_text(json.dumps(asdict(spec), indent=1) + "\n")
            temporary.replace(kept)
    return spec


def _key() -> str:
    digest = hashlib.sha256()
    for name in ("timm", "torch"):
        digest.update(f"{name} {version(name)}\n".encode())
    digest.update(os.environ.get("HF_ENDPOINT", "").encode())
    for path in _ASKING:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _read(text: str) -> BackboneSpec:
    values: dict[str, Any] = json.loads(text)
    preprocessing = values.pop("preprocessing")
    lists = {k: tuple(v) for k, v in preprocessing.items() if isinstance(v, list)}
    return BackboneSpec(**values, preprocessing=Preprocessing(**{**preprocessing, **lists}))
