"""``fs-submit datasets``: the facts about each dataset, on a page."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from jobs.datasets import DATASETS, Dataset

__all__ = ["as_plain", "text"]


def as_plain() -> list[dict[str, Any]]:
    """One dict a dataset, ready for JSON."""
    return [
        {
            "name": known.name,
            "title": known.title,
            "where": list(known.where),
            "size": known.size,
            "licence": known.licence,
            "citation": known.citation,
            "layout": known.layout,
            "ground_truth": known.truth,
            "published": asdict(known.counts) if known.counts else None,
            "splits": split_names(known),
        }
        for known in DATASETS.values()
    ]


def split_names(known: Dataset) -> list[str]:
    """The splits that can be asked for by name."""
    return ["official", *known.splits]


def text() -> str:
    """The same for people."""
    return "\n\n".join(_text(known) for known in DATASETS.values())


def _text(known: Dataset) -> str:
    rows = [("get it", line) for line in known.where]
    rows += [("size", known.size), ("licence", known.licence), ("cite", known.citation)]
    if (counts := known.counts) is not None:
        frames = f", {counts.testing_frames:,} testing frames" if counts.testing_frames else ""
        anomalous = f", {counts.anomalous_frames:,} anomalous" if counts.anomalous_frames else ""
        videos = f"{counts.training} to train, {counts.testing} to test"
        rows.append(("videos", videos + frames + anomalous))
    rows += [("truth", known.truth), ("splits", ", ".join(split_names(known)))]
    lines = [f"{known.name}: {known.title}"]
    before = ""
    for name, value in rows:
        if value:
            lines.append(f"  {'' if name == before else name:<8} {value}")
            before = name
    return "\n".join([*lines, "  layout", *(f"  {line}" for line in known.layout.splitlines())])
