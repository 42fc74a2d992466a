"""``make demo``: a sample, all nine arrays of it, how to open them, and the table of scores."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from featurestore.errors import FeatureStoreError, WeightsError
from jobs import sample
from jobs.progress import Download, duration, size
from jobs.specs import SPECS

__all__ = ["choose_weights", "main"]

_RANDOM = """
+------------------------------------------------------------------------------+
|  RANDOM WEIGHTS                                                              |
|  The official weights are neither in the cache nor can they be fetched now.  |
|  The demo goes on with networks of random numbers: it shows that everything  |
|  works, but these features MEAN NOTHING. Use none of them for research.      |
|  Run `make demo` again with a network to compute the real ones.              |
+------------------------------------------------------------------------------+
why: {reason}
"""

_DONE = """
Done in {seconds}.

The store:  {store}  ({bytes} on disk, what made it: {fs_submit} status)
The sample: {sample}  (videos, pixel masks, intervals, labels; see its README.txt)

Open it in any Python that has xarray and zarr; it needs none of this project's code:

    import xarray as xr

    ds = xr.open_zarr("{store}")
{arrays}
    ds["swin_i3d"].isel(clip=0).sel(crop="center").values    # one clip, one crop
    ds["video"].values[ds["clip_video"].values]{pad}  # each clip's video
"""


def main(directory: Path = Path(), workers: int | None = None) -> int:
    """Run the demo in ``directory``: ``data/demo`` and ``features/demo.zarr`` appear in it.

    What is there already is not made again, but for the scores. Returns the exit code of the
    extraction.

    Raises:
        FeatureStoreError: with one message for the user.
    """
    began = time.monotonic()
    root = sample.write(directory / "data" / "demo")
    print(f"sample: {len(list(root.iterdir()))} videos in {root}", flush=True)
    weights, trouble = choose_weights()
    if trouble:
        print(_RANDOM.format(reason=trouble), flush=True)

    from jobs.cli_detector import score
    from jobs.extract import run
    from jobs.options import Options, store_path
    from jobs.summary import EXIT_OK

    options = Options(
        dataset="folder",
        root=root,
        store=str(directory / "features"),
        name="demo",
        labels=root.parent / "intervals.csv",
        split=(f"weak={root.parent / 'labels.csv'}",),
        weights=weights,
        workers=workers,
        # Real features may take the place of an earlier demo's random ones, never the reverse.
        replace=weights == "official",
    )
    code = run(options)
    store = Path(store_path(options))
    text = _DONE.format(
        seconds=duration(time.monotonic() - began),
        store=store,
        bytes=size(bytes_on_disk(store)),
        sample=root.parent,
        fs_submit=Path(sys.executable).with_name("fs-submit"),
        arrays=_arrays(store),
        pad=" " * 12,
    )
    print(text, flush=True)
    if code == EXIT_OK:
        print(f"fs-submit score --store {directory / 'features'} --name demo\n", flush=True)
        words = ["--store", str(directory / "features"), "--name", "demo"]
        score.main(words, standalone_mode=False)
    if trouble:
        print("\nRemember: RANDOM WEIGHTS, so the numbers mean nothing.", flush=True)
    return code


def choose_weights() -> tuple[str, WeightsError | None]:
    """``official`` if all are cached or can be fetched, else ``random`` and why.

    Raises:
        WeightsError: a file is not what it should be. That is no reason to go on without.
    """
    from jobs.weights import WeightsUnreachable, resolve_all

    try:
        resolve_all(SPECS.values(), "official", progress=Download())
    except WeightsUnreachable as error:
        return "random", error
    return "official", None


def bytes_on_disk(store: Path) -> int:
    """Bytes of a local store's files; a fused array's chunks are links, which cost nothing."""
    entries = (Path(folder) / name for folder, _, names in os.walk(store) for name in names)
    return sum(path.lstat().st_size for path in entries)


def _arrays(store: Path) -> str:
    """The nine arrays as Python that shows them, read back through xarray."""
    import xarray as xr

    from featurestore import schema

    with xr.open_zarr(store, chunks=None) as ds:
        lines = []
        for name in schema.FEATURES:
            array = ds[name]
            shape = ", ".join(f"{dim}: {length}" for dim, length in array.sizes.items())
            read = f'ds["{name}"]'
            lines.append(f"    {read:<20} # {array.dtype} ({shape})")
    return "\n".join(lines)


if __name__ == "__main__":  # also what keeps spawned workers from running the demo
    # As in jobs.cli: a batch system's SIGTERM ends a run as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        sys.exit(main())
    except FeatureStoreError as problem:
        print(f"error: {problem}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("\nstopped; `make demo` goes on where it ended", file=sys.stderr)
        sys.exit(130)
