"""How features were made: kept as attributes of their array, checked before more are added."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from featurestore.errors import ProvenanceMismatch, UsageError
from featurestore.schema import FEATURES, parts_of, status_of

GENERATION: Final = "compacted"  # attribute of the root

# What describes an array whatever made it; the rest of its attributes is provenance.
_OURS = ("long_name", "description", "parts", "channels", "units", "missing")


def attributes_of(name: str, channels: int, made_by: Mapping[str, Any]) -> dict[str, Any]:
    """All attributes of a feature array. Raises UsageError for provenance JSON cannot hold."""
    clash = sorted(set(made_by) & set(_OURS))
    if clash:
        raise UsageError(f"{name}: provenance must not be called {', '.join(clash)}")
    known = FEATURES.get(name)
    elsewhere = name.startswith("imported_")
    parts = parts_of(name)
    statuses = " and ".join(status_of(part) for part in parts)
    return {
        "long_name": known.long_name if known else f"{name} features",
        "description": known.description
        if known
        else "Features made elsewhere, as they were found in files; see imported and made_by."
        if elsewhere
        else f"Features of {name}, averaged over the frames of each clip, for each of ten crops.",
        "parts": list(parts),
        "channels": channels,
        "units": "1",
        "missing": f"NaN: the clip is missing or failed; {statuses} tells which are done: "
        "while a command runs, clips may have values before they are.",
        **_plain(name, made_by),
    }


def of(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """The provenance among an array's attributes."""
    return {key: value for key, value in attributes.items() if key not in _OURS}


def check(where: str, name: str, recorded: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raises ProvenanceMismatch, naming every difference, unless both are the same."""
    old, new = dict(_flat(recorded)), dict(_flat(_plain(name, wanted)))
    differences = [
        f"{key}: {_shown(old, key)} -> {_shown(new, key)}"
        for key in {**old, **new}
        if key not in old or key not in new or old[key] != new[key]
    ]
    if differences:
        raise ProvenanceMismatch(
            f"{where}: the {name} features there were made in another way than asked for now "
            f"({'; '.join(differences)}). Give another --store, or compute them anew with "
            "--replace."
        )


def generation(attributes: Mapping[str, Any]) -> int:
    """How often a store was compacted, from its attributes: then its clips have other numbers."""
    return int(attributes.get(GENERATION, 0))


def fingerprint(made_by: Mapping[str, Any], generation: int = 0) -> str:
    """Tells one way of making features from another, and clips' numbers from those before."""
    canonical = json.dumps(made_by, sort_keys=True, separators=(",", ":")) + "+" * generation
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def _plain(name: str, made_by: Mapping[str, Any]) -> dict[str, Any]:
    """As it reads back from the store: tuples are lists."""
    try:
        plain: dict[str, Any] = json.loads(json.dumps(dict(made_by), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise UsageError(f"{name}: provenance must be plain JSON: {error}") from error
    return plain


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _shown(values: Mapping[str, Any], key: str) -> str:
    return json.dumps(values[key]) if key in values else "nothing"
