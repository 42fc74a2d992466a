"""What an extraction says before its work starts and when it has ended, and what is missing."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from featurestore import blocks, labelled, schema
from featurestore.clips import clip_count
from featurestore.errors import UnreadableVideo
from featurestore.store import Store
from jobs.estimate import clip_cost
from jobs.intake import Intake
from jobs.progress import Progress, duration, size
from jobs.specs import BackboneSpec
from jobs.video import Source, about_frames, stat_source

__all__ = ["EXIT_OK", "EXIT_SOME_FAILED", "Say", "about_clips", "announce", "finish", "missing"]

EXIT_OK, EXIT_SOME_FAILED = 0, 3

Say = Callable[[str], None]


def missing(
    store: Store, rows: Collection[int], parts: Sequence[str], *, retry_failed: bool = False
) -> dict[str, npt.NDArray[np.bool_]]:
    """Backbone -> bool (clips,): the clips of the videos ``rows`` that are not computed yet."""
    clip_video, _ = store.clip_table()
    ours = np.isin(clip_video, list(rows)) & store.live()
    return {
        n: blocks.missing(store.status(n), ours, retry_failed=retry_failed)
        if n in store.backbones
        else ours
        for n in parts
    }


def about_clips(sources: Sequence[Source]) -> dict[Path, int]:
    """About how many clips each video has, by its path, from the headers; shows progress."""
    progress = Progress(len(sources), len(sources), noun="videos looked at")
    found: dict[Path, int] = {}
    for source in sources:
        try:
            found[source.path] = clip_count(about_frames(source.path))
        except UnreadableVideo:
            found[source.path] = 0  # counted and explained when it is indexed
        progress.at(len(found), len(found))
        progress.show_after(1.0)
    return found


def announce(
    sources: Sequence[Source],
    intake: Intake,
    store: Store | None,
    about: Mapping[Path, int],
    specs: Mapping[str, BackboneSpec],
    rate: float,
    say: Say,
    *,
    retry_failed: bool = False,
) -> None:
    """Say how many videos, clips and bytes there are and about how long what is missing takes.

    ``about`` is ``about_clips`` of at least the new ones, ``rate`` the GFLOP/s expected.
    """
    cost = clip_cost(specs)
    new = sum(about[s.path] for s in intake.new)
    work = new * sum(cost.values())
    clips = left = new
    if store is not None:
        todo = missing(store, intake.known.keys(), list(specs), retry_failed=retry_failed)
        work += sum(int(mask.sum()) * cost[name] for name, mask in todo.items())
        left += int(np.logical_or.reduce(list(todo.values())).sum())
        videos = store.videos()
        clips += sum(videos[row].clip_count for row in intake.known)
    total = size(sum(_bytes(s) for s in sources))
    say(
        f"{len(sources)} videos, about {clips} clips, {total}; "
        f"new: {len(intake.new) - len(intake.replaced)} videos, replaced: {len(intake.replaced)}"
    )
    say(
        f"to compute: about {left} clips with {', '.join(specs)}; about {duration(work / rate)} "
        f"on a machine like this ({rate:.0f} GFLOP/s expected of the networks)"
    )


def finish(store: Store, known: Collection[int], parts: Sequence[str], url: str, say: Say) -> int:
    """Say what the store holds now, and how to open it; the exit code tells whether all is well."""
    videos = [v for v in store.videos() if v.index in known]
    bad = [v for v in videos if v.state in ("failed", "damaged")]
    done = min(int(((store.status(n) == schema.DONE) & store.live()).sum()) for n in parts)
    say(f"{url}: {done} clips with {', '.join((*store.backbones, *store.fused_arrays))}")
    say(labelled.summary(store.label_counts()))
    say(f"open it with: xarray.open_zarr({url!r})")
    if bad:
        say(f"{len(bad)} of {len(videos)} videos failed or are damaged: fs-submit status says why; "
            "--retry-failed tries the failed ones again")  # fmt: skip
    return EXIT_SOME_FAILED if bad else EXIT_OK


def _bytes(source: Source) -> int:
    try:
        return stat_source(source.path)[0]
    except UnreadableVideo:
        return 0
