"""``fs-submit status``: what the stores of a folder hold. Reads tables only; imports no torch."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from featurestore import labelled, schema
from featurestore.disk import reading
from featurestore.errors import FeatureStoreError, StoreNotFound
from featurestore.location import local_path
from featurestore.place import is_object_url, place_of
from featurestore.runs import later_videos, run_names
from featurestore.store import Store, open_store
from jobs.progress import size

__all__ = ["collect", "stores_in", "text"]


def collect(folder: str, name: str | None = None) -> list[dict[str, Any]]:
    """One dict a store, ready for JSON: its videos by state, and each array's clips by status.

    Raises:
        StoreNotFound: no store there.
    """
    urls = stores_in(folder, name)
    if len(urls) == 1:
        return [_describe(urls[0], open_store(urls[0]))]
    return [_described(url) for url in urls]


def stores_in(folder: str, name: str | None = None) -> list[str]:
    """The stores in a folder, or the one of this name; ``folder`` may be a store itself.

    Raises:
        StoreNotFound: no store there.
    """
    if folder.rstrip("/").endswith(".zarr"):
        urls = [folder.rstrip("/")]
    elif name:
        urls = [f"{folder.rstrip('/')}/{name}.zarr"]
    else:
        urls = _listed(folder)
    if not urls:
        raise StoreNotFound(
            f"no store in {folder}: run `fs-submit extract` first, or give its folder with --store"
        )
    return urls


def _listed(folder: str) -> list[str]:
    if not is_object_url(folder):
        return [str(p) for p in sorted(local_path(folder).glob("*.zarr"))]
    place = place_of(folder, folder=True)
    with reading(place):
        return [f"{place}/{name}" for name in sorted(place.names()) if name.endswith(".zarr")]


def _described(url: str) -> dict[str, Any]:
    """One of several: what cannot be opened says why, and the others are told."""
    try:
        return _describe(url, open_store(url))
    except FeatureStoreError as error:
        return {"store": url, "error": str(error)}


def _describe(url: str, store: Store) -> dict[str, Any]:
    videos = store.videos()
    live = store.live()
    by_part = {name: _counts(store.status(name)[live]) for name in store.backbones}
    arrays = {}
    for name in (*store.backbones, *store.fused_arrays):
        parts = schema.parts_of(name)
        counts = by_part[name] if parts == (name,) else _fused_counts(store, parts, live)
        made = {} if parts != (name,) else {"made": store.provenance(name)}
        arrays[name] = {
            **counts, "bytes": store.stored_bytes(name), "parts": list(parts), **made
        }  # fmt: skip
    return {
        "store": url,
        "dataset": store.dataset,
        "videos": dict(Counter(v.state for v in videos)),
        "clips": int(live.sum()),
        "block": store.block,
        **store.label_counts(),
        "arrays": arrays,
        "runs": list(run_names(store.url)),
        "later_videos": {run: len(videos) for run, videos in later_videos(store).items()},
        "problems": [
            {"video": v.name, "state": v.state, "reason": v.reason}
            for v in videos
            if v.state in ("failed", "damaged")
        ],
    }


def _counts(status: np.ndarray) -> dict[str, int]:
    return {
        "done": int((status == schema.DONE).sum()),
        "missing": int((status == schema.MISSING).sum()),
        "failed": int((status == schema.FAILED).sum()),
    }


def _fused_counts(store: Store, parts: tuple[str, ...], live: np.ndarray) -> dict[str, int]:
    """A fused clip is done when all its parts are, and failed when one of them is."""
    rows = np.stack([store.status(p)[live] for p in parts])
    failed = (rows == schema.FAILED).any(axis=0)
    done = (rows == schema.DONE).all(axis=0)
    return _counts(np.where(failed, schema.FAILED, np.where(done, schema.DONE, schema.MISSING)))


def text(found: list[dict[str, Any]]) -> str:
    """The same as a table for people."""
    return "\n\n".join(_text(one) for one in found)


def _text(one: dict[str, Any]) -> str:
    if "error" in one:
        return f"error: {one['error']}"
    states = ", ".join(f"{count} {state}" for state, count in one["videos"].items())
    lines = [f"{one['store']}: {one['dataset']}, videos: {states or 'none'}; {one['clips']} clips"]
    lines.append(f"  {labelled.summary(one)}")
    row = "  {:<14} {:>9} {:>9} {:>9} {:>10}  {}"
    lines.append(row.format("array", "done", "missing", "failed", "on disk", "made by"))
    for name, array in one["arrays"].items():
        made = array.get("made")
        by = _made_by(made) if made else " + ".join(array["parts"])
        lines.append(
            row.format(
                name, array["done"], array["missing"], array["failed"], size(array["bytes"]), by
            )
        )
    if one["runs"]:
        lines.append(f"  runs of scores: {', '.join(one['runs'])}")
    for run, videos in one["later_videos"].items():
        lines.append(f"    {run}: {videos} videos came later and are not scored: fs-submit score")
    if one["problems"]:
        lines.append("  videos that failed or are damaged:")
        lines += [f"    {p['video']}: {p['state']}: {p['reason']}" for p in one["problems"]]
    return "\n".join(lines)


def _made_by(made: dict[str, Any]) -> str:
    if "imported" in made:
        return f"imported ({made['imported']}), made by: {made['made_by']}"
    if not {"model", "weights", "engine", "precision"} <= made.keys():
        return "not known"  # an array that other code wrote
    digest = str(made["weights"])
    shown = digest if digest.startswith("RANDOM") else digest[: len("sha256:") + 12]
    versions = ", ".join(f"{k} {v}" for k, v in made.get("versions", {}).items())
    return f"{made['model']}, weights {shown}, {made['engine']} {made['precision']} ({versions})"
