"""What an extraction says before its work starts and when it has ended, and what is missing."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from featurestore import labelled, schema
from featurestore.clips import clip_count
from featurestore.errors import UnreadableVideo
from featurestore.store import Store
from jobs.estimate import clip_cost, matrix_rate
from jobs.intake import Intake
from jobs.progress import duration, size
from jobs.specs import BackboneSpec
from jobs.video import Source, probe, stat_source

__all__ = ["EXIT_OK", "EXIT_SOME_FAILED", "Say", "announce", "finish", "missing"]

EXIT_OK, EXIT_SOME_FAILED = 0, 3

Say = Callable[[str], None]


def missing(
    store: Store, rows: Collection[int], parts: Sequence[str]
) -> dict[str, npt.NDArray[np.bool_]]:
    """Backbone -> bool (clips,): the clips of the videos ``rows`` that are not computed yet."""
    clip_video, _ = store.clip_table()
    ours = np.isin(clip_video, list(rows)) & store.live()
    return {
        n: ours & (store.status(n) == schema.MISSING) if n in store.backbones else ours
        for n in parts
    }


def announce(
    sources: Sequence[Source],
    intake: Intake,
    store: Store | None,
    specs: Mapping[str, BackboneSpec],
    device: str,
    say: Say,
) -> float:
    """Say how many videos, clips and bytes there are and about how long what is missing takes.

    Counts of videos that are new come from their headers. Returns the machine's GFLOP/s.
    """
    cost = clip_cost(specs)
    new = sum(_about_clips(s) for s in intake.new)
    work = new * sum(cost.values())
    clips = left = new
    if store is not None:
        todo = missing(store, intake.known.keys(), list(specs))
        work += sum(int(mask.sum()) * cost[name] for name, mask in todo.items())
        left += int(np.logical_or.reduce(list(todo.values())).sum())
        videos = store.videos()
        clips += sum(videos[row].clip_count for row in intake.known)
    rate = matrix_rate(device)
    total = size(sum(stat_source(s.path)[0] for s in sources))
    say(
        f"{len(sources)} videos, about {clips} clips, {total}; "
        f"new: {len(intake.new) - len(intake.replaced)} videos, replaced: {len(intake.replaced)}"
    )
    say(
        f"to compute: about {left} clips with {', '.join(specs)}; about {duration(work / rate)} "
        f"on a machine like this ({rate:.0f} GFLOP/s expected of the networks)"
    )
    return rate


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


def _about_clips(source: Source) -> int:
    try:
        return clip_count(probe(source.path, exact=False).frames)
    except UnreadableVideo:
        return 0  # counted and explained when it is indexed
