"""``fs-submit split``: adds splits to a store that is there, and lists those it has."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from featurestore.errors import UsageError
from featurestore.lock import locked
from featurestore.store import open_store
from jobs.status import stores_in

__all__ = ["add", "collect", "text"]


def add(
    folder: str,
    name: str | None,
    texts: Sequence[str],
    *,
    root: Path | None = None,
    replace: bool = False,
    **drawn: Any,
) -> list[str]:
    """Add the splits that ``texts`` name to a store; returns lines for people.

    Raises:
        FeatureStoreError: no such store or split, or one that does not fit; nothing is written.
    """
    # Half a second of decoders and MATLAB readers, which listing splits does without.
    from jobs import datasets, labelling

    url = the_store(folder, name)
    with locked(url):
        store = open_store(url, "a")
        root = root or Path("data") / store.dataset
        wanted = labelling.asked(texts, store.dataset, root, **drawn)
        plan = labelling.prepare(
            wanted,
            store,
            labelling.rows_of(store) if wanted.official else {},
            dataset=store.dataset,
            root=root,
            sources=datasets.scan(store.dataset, root) if wanted.official else (),
            replace=replace,
        )
        remarks = labelling.record(store, plan, replace=replace)
        store.commit()
    added = [split.name for split in plan.splits] or (["labels"] if plan.truths else [])
    said = f"added {', '.join(added)}" if added else "has them already"
    return [*remarks, f"{url}: {said}"]


def the_store(folder: str, name: str | None) -> str:
    """The one store that is meant.

    Raises:
        StoreNotFound: there is none.
        UsageError: there are several.
    """
    urls = stores_in(folder, name)
    if len(urls) > 1:
        raise UsageError(
            f"{folder} has {len(urls)} stores: {', '.join(Path(url).stem for url in urls)}; "
            "say which with --name"
        )
    return urls[0]


def collect(folder: str, name: str | None = None) -> list[dict[str, Any]]:
    """One dict a split, ready for JSON: its store, name, source, and videos by half and label."""
    found = []
    for url in stores_in(folder, name):
        store = open_store(url)
        for split, halves in store.label_counts()["splits"].items():
            source = store.split(split).source
            found.append({"store": url, "split": split, "source": source, **halves})
    return found


def text(found: Sequence[dict[str, Any]]) -> str:
    """The same as a table for people."""
    if not found:
        return "no splits yet: fs-submit split add"
    lines: list[str] = []
    store = None
    for one in found:
        if one["store"] != store:
            store = one["store"]
            lines.append(f"{store}:")
        halves = [f"{_half(one[half])} to {half}" for half in ("train", "test")]
        lines.append(f"  {one['split']:<14} {'; '.join(halves)}  ({one['source']})")
    return "\n".join(lines)


def _half(counts: dict[str, int]) -> str:
    return " + ".join(f"{count} {name}" for name, count in counts.items()) or "none"
