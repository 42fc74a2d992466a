"""Some clips of a class, in an order that does not depend on how a store is laid out."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from detector.moments import Floats
from detector.rows import Rows, spans
from detector.videos import Videos

Mask = npt.NDArray[np.bool_]


def blocks_of(rows: Rows, mask: Mask) -> Iterator[Floats]:
    """The rows (n, d) of a mask (n,), block by block."""
    for span in spans(rows.shape[0]):
        if mask[span].any():
            yield np.asarray(rows[span], np.float64)[mask[span]]


def reference_clips(rows: Rows, videos: Videos, mask: Mask, most: int) -> Floats:
    """At most so many rows of a mask, evenly spread over the videos in the order of names."""
    begins, ends = videos.bounds[:-1], videos.bounds[1:]
    in_order = np.concatenate([np.arange(begins[v], ends[v]) for v in videos.in_order])
    wanted = in_order[mask[in_order]]
    if len(wanted) > most:
        wanted = wanted[np.linspace(0, len(wanted) - 1, most).round().astype(np.int64)]
    place = np.full(rows.shape[0], -1)
    place[wanted] = np.arange(len(wanted))
    found = np.empty((len(wanted), rows.shape[1]))
    for span in spans(rows.shape[0]):
        own = place[span]
        if (own >= 0).any():
            found[own[own >= 0]] = rows[span][own >= 0]
    return found
