"""Which weights file a network gets: the official one, the user's own, or none (random numbers).

Every file's digest is computed each time it is used, because the digest is what the store records.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from featurestore.errors import UsageError, WeightsError
from jobs.download import Progress, WeightsUnreachable, fetch, sha256_of
from jobs.specs import BackboneSpec

__all__ = ["Weights", "WeightsUnreachable", "cache_folder", "resolve", "resolve_all"]

SEED = 0
SUFFIXES = (".pth", ".pt", ".pyth", ".safetensors")


@dataclass(frozen=True)
class Weights:
    """What a network is loaded from.

    Attributes:
        path: the file; None for random weights.
        digest: ``sha256:<hex>``, or ``RANDOM(seed=0)``.
        source: where it came from, for people.
        seed: of random weights; None otherwise.
    """

    path: Path | None
    digest: str
    source: str
    seed: int | None = None


def cache_folder(cache: Path | None = None) -> Path:
    """Where weights and converted networks are kept: ``FS_CACHE``, or ~/.cache/featurestore."""
    if cache is not None:
        return cache
    named = os.environ.get("FS_CACHE")
    return Path(named).expanduser() if named else Path.home() / ".cache" / "featurestore"


def resolve(
    spec: BackboneSpec,
    weights: str | Path = "official",
    *,
    progress: Progress | None = None,
    cache: Path | None = None,
) -> Weights:
    """Find, and fetch if need be, the weights of one network.

    Args:
        weights: ``official``: fetched once, into ``<cache>/weights``. ``random``: the same numbers
            in every process. Else a file, or a folder that holds the file under its official name
            or as ``<backbone>.pth`` (``.pt``, ``.pyth``, ``.safetensors``).
        progress: told about the bytes of a download.

    Raises:
        WeightsUnreachable: official weights that are not in the cache and cannot be fetched.
        WeightsError: no such file, or not the one that its name says.
    """
    if weights == "random":
        return Weights(None, f"RANDOM(seed={SEED})", "random numbers", SEED)
    if weights == "official":
        return _official(spec, cache_folder(cache) / "weights", progress)
    path = Path(weights).expanduser().absolute()  # workers may stand elsewhere
    if path.is_dir():
        path = _in_folder(spec, path)
    elif not path.is_file():
        raise WeightsError(
            f"{path}: no such file or folder; --weights takes official, random, a file or a folder"
        )
    return Weights(path, f"sha256:{_digest(path, spec)}", str(path))


def resolve_all(
    specs: Iterable[BackboneSpec],
    weights: str | Path = "official",
    *,
    progress: Progress | None = None,
    cache: Path | None = None,
) -> dict[str, Weights]:
    """``resolve`` for several networks, by name; the first that fails ends it.

    Raises:
        UsageError: one file given for several networks.
        WeightsError: as ``resolve``.
    """
    specs = list(specs)
    if len(specs) > 1 and weights not in ("official", "random"):
        path = Path(weights).expanduser()
        if path.is_file():
            raise UsageError(
                f"{path}: one weights file cannot serve {', '.join(s.name for s in specs)}; give a "
                "folder that holds one for each, or ask for one backbone"
            )
    return {spec.name: resolve(spec, weights, progress=progress, cache=cache) for spec in specs}


def _official(spec: BackboneSpec, folder: Path, progress: Progress | None) -> Weights:
    if not spec.url:
        raise WeightsError(
            f"{spec.name}: nobody publishes weights for {spec.model}; give your own with --weights "
            "FILE, or use --weights random"
        )
    path = folder / spec.file_name
    if not path.exists():
        fetch(spec.url, path, sha256=spec.sha256, progress=progress)
    digest = _digest(path, spec)
    if not spec.sha256:
        _check_first_copy(path, digest)
    unpublished = "" if spec.sha256 else " (no digest is published; kept to the first copy fetched)"
    return Weights(path, f"sha256:{digest}", spec.url + unpublished)


def _check_first_copy(path: Path, digest: str) -> None:
    """Nobody published what the digest should be: later uses must find what the first one had."""
    note = path.with_name(f"{path.name}.sha256")
    if not note.exists():
        temporary = note.with_name(f"{note.name}.{os.getpid()}")
        temporary.write_text(f"{digest}  {path.name}\n")  # what `sha256sum -c` reads
        temporary.replace(note)
    expected = note.read_text().partition(" ")[0].strip()
    if digest != expected:
        raise WeightsError(
            f"{path}: changed since it was fetched: sha256 was {expected}, is {digest}; delete it "
            f"and {note.name} to fetch it again"
        )


def _in_folder(spec: BackboneSpec, folder: Path) -> Path:
    names = [spec.file_name] if spec.file_name else []
    names += [spec.name + suffix for suffix in SUFFIXES]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise WeightsError(
        f"{folder}: no weights for {spec.name}; it should be called one of: {', '.join(names)}"
    )


def _digest(path: Path, spec: BackboneSpec) -> str:
    """The file's digest; a file of the official name must be the official file."""
    try:
        digest = sha256_of(path)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror or error})") from error
    if path.name == spec.file_name and not digest.startswith(spec.sha256):
        raise WeightsError(
            f"{path}: not the official weights that its name says: expected sha256 "
            f"{spec.sha256}..., got {digest}; delete it to fetch it again, or, if these weights "
            "are your own, rename it"
        )
    return digest
