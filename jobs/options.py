"""What ``fs-submit extract`` is asked for, and what can be told from that alone."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from featurestore import schema
from featurestore.errors import UsageError
from featurestore.place import is_object_url
from jobs.specs import BackboneSpec, spec_of

__all__ = [
    "Options",
    "absolute",
    "check_options",
    "plain_name",
    "store_name",
    "store_path",
    "wanted_arrays",
]


LOCAL = ("local", "cuda")  # --cluster


@dataclass(frozen=True)
class Options:
    """What ``fs-submit extract`` is asked for; the fields are its options."""

    dataset: str
    root: Path
    store: str = "features"
    name: str | None = None
    videos: tuple[str, ...] = ()
    labels: Path | None = None
    split: tuple[str, ...] = ()
    seed: int = 0
    test_fraction: float = 0.5
    train_videos: str | None = None
    backbones: tuple[str, ...] = ("all",)
    weights: str = "official"
    engine: str = "auto"
    precision: str = "auto"
    device: str = "auto"
    decoder: str = "pyav"
    cluster: str = "local"
    workers: int | tuple[int, int] | None = None  # the least and the most
    slurm: tuple[str, ...] = ()
    tls_ca_file: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    fused: Literal["auto", "link", "copy", "none"] = "auto"
    strict: bool = False
    replace: bool = False
    retry_failed: bool = False
    dry_run: bool = False
    origin: str = ""  # where the videos are that ``root`` only looks like (see remote)

    @property
    def worker_range(self) -> tuple[int, int] | None:
        """The least and the most workers."""
        return (self.workers, self.workers) if isinstance(self.workers, int) else self.workers

    @property
    def on_this_machine(self) -> bool:
        """Whether the workers are processes of this machine, started by this command."""
        return self.cluster in LOCAL


def check_options(options: Options) -> None:
    """Raise UsageError for what can be told before anything is looked at."""
    if options.store.rstrip("/").endswith(".zarr"):
        raise UsageError(
            f"--store {options.store}: give the folder that holds the store, and --name its name"
        )
    if is_object_url(options.store) and options.fused == "link":
        raise UsageError("--fused link: an object store has no links; copy (the default) or none")
    here, cluster = options.on_this_machine, options.cluster
    if options.worker_range and not here and cluster != "slurm":
        raise UsageError("--workers: a running cluster has its own; add some with `dask worker`")
    if here and options.worker_range and len(set(options.worker_range)) > 1:
        raise UsageError(
            "--workers MIN:MAX goes with --cluster slurm; on this machine give one number"
        )
    if options.slurm and cluster != "slurm":
        raise UsageError("--slurm goes with --cluster slurm")
    if here and (options.tls_ca_file or options.tls_cert or options.tls_key):
        raise UsageError(
            f"--tls-...: goes with --cluster tls://...; with {cluster} all stays on this machine"
        )
    if cluster == "cuda" and options.device == "cpu":
        raise UsageError("--cluster cuda computes on GPUs: leave out --device cpu")
    if options.decoder == "decord" and importlib.util.find_spec("decord") is None:
        raise UsageError("--decoder decord: it is not installed; pip install decord")


def wanted_arrays(names: Sequence[str]) -> tuple[dict[str, BackboneSpec], list[str]]:
    """``--backbones`` -> (the networks by array, fused arrays); a fused one brings its parts along.

    Raises:
        UsageError: an unknown name.
    """
    wanted: list[str] = []
    for name in names:
        wanted += list(schema.FEATURES) if name == "all" else [name]
    parts: set[str] = set()
    others: dict[str, BackboneSpec] = {}
    for name in wanted:
        if name in schema.FEATURES:
            parts.update(schema.parts_of(name))
        elif name.startswith("timm:"):
            spec = spec_of(name)
            others[spec.name] = spec
        else:
            raise UsageError(
                f"--backbones {name!r}: choose from {', '.join(schema.FEATURES)}, all, "
                "or timm:<model>"
            )
    if not parts and not others:
        raise UsageError(f"--backbones is empty: choose from {', '.join(schema.FEATURES)}, or all")
    ours = {name: spec_of(name) for name in schema.BACKBONES if name in parts}
    return {**ours, **others}, [name for name in schema.FUSED if name in wanted]


def store_path(options: Options) -> str:
    """The store of ``options``: ``<--store>/<name>.zarr``."""
    if not options.store:
        raise UsageError("--store is empty; give a folder, for example ./features")
    return f"{options.store.rstrip('/')}/{store_name(options)}.zarr"


def store_name(options: Options) -> str:
    """``--name``, else the folder's own name for ``folder``, else the dataset's.

    Raises:
        UsageError: a name that is no plain file name.
    """
    own = options.root.resolve().name if options.dataset == "folder" else options.dataset
    return plain_name(options.name or own)


def plain_name(name: str) -> str:
    """A store's name as it is.

    Raises:
        UsageError: it is no plain file name.
    """
    if not name or name.startswith(".") or "/" in name or "\\" in name:
        raise UsageError(f"--name {name!r}: give the store a plain name, without / and not .hidden")
    return name


def absolute(weights: str) -> str:
    """Workers run in other folders, so a file or folder is named from the root."""
    return weights if weights in ("official", "random") else str(Path(weights).resolve())
