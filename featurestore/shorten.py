"""Videos that turned out to have fewer good frames than their files announced."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from featurestore.blocks import read_clips, runs, write_clips
from featurestore.catalog import NewVideo
from featurestore.clips import CLIP_FRAMES
from featurestore.labels import UNKNOWN, Truth
from featurestore.schema import DONE
from featurestore.store import Store


def shorten(store: Store, good_frames: Mapping[int, int]) -> dict[int, int]:
    """Gives damaged videos (row -> good frames, at least 1) a row of their true length.

    The new row supersedes the old one at the next commit and keeps the features of the clips that
    both have: all but the last one, which ends with the good frames and is missing; and what is
    known of its frames. Returns new row -> old row. The caller holds the lock and commits; until
    then nothing has changed.

    Raises StoreUnreadable or StoreUnwritable.
    """
    videos = store.videos()
    old = [videos[row] for row in sorted(good_frames)]
    new = [
        NewVideo(
            name=v.name,
            path=v.path,
            frames=good_frames[v.index],
            fps=v.fps,
            width=v.width,
            height=v.height,
            sha256=v.sha256,
            size=v.size,
            mtime=v.mtime,
            state=v.state,
            reason=v.reason,
        )
        for v in old
    ]
    first = store.clips
    labels = {v.name: store.frame_labels(v.index)[: good_frames[v.index]] for v in old}
    rows = store.append(new)
    store.set_truth(
        Truth(name, UNKNOWN, frames, "the longer row")
        for name, frames in labels.items()
        if (frames != UNKNOWN).any()
    )
    for before, after in zip(old, new, strict=True):
        same = after.frames // CLIP_FRAMES
        for backbone in store.backbones:
            done = store.status(backbone)[before.clip_offset : before.clip_offset + same] == DONE
            kept = first + np.flatnonzero(done)
            for run in runs(kept, store.block):
                at = before.clip_offset + run.start - first
                values = read_clips(store.url, backbone, at, len(run))
                write_clips(store.url, backbone, run.start, values)
            store.mark(backbone, kept, DONE)
        first += after.clip_count
    return {row: video.index for row, video in zip(rows, old, strict=True)}
