"""``fs-submit import`` and ``export``: features that other people's code made, or reads."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Literal

import click

from jobs.cli_option import option, storage_options

__all__ = ["export", "import_"]

_PATH = click.Path(path_type=Path)


@click.command("import")
@click.argument("folder", type=_PATH)
@option(
    "--format",
    "format_",
    type=click.Choice(["rtfm"]),
    default="rtfm",
    help="A .npy a video, in .list files.",
)
@option(
    "--list",
    "lists",
    multiple=True,
    help="A .list (train=FILE, test=FILE, or by its name), or a CSV: video,split,label,frames.",
)
@option("--gt", type=_PATH, help=".npy of the frame labels of the test videos, in that order.")
@option("--frames", type=_PATH, help="A CSV with video,frames: how long the videos are.")
@option("--store", default="features", help="Folder (or URL) that holds NAME.zarr.")
@option("--name", help="Name of the store.  [the dataset's]")
@storage_options
@option("--dataset", help="Which dataset they are of.  [the folder's own name]")
@option("--array", default="rtfm", help="Name of the array: imported_ARRAY.")
@option("--made-by", default="", help="What made them, for people.")
@option("--suffix", default="", help="Ending of the files' names that is not the video's: _i3d.")
@option(
    "--order",
    type=click.Choice(["clip,crop,channel", "crop,clip,channel", "clip,channel"]),
    help="Order of the axes.  [seen from all files]",
)
@option("--our-crops", is_flag=True, help="The ten crops are ours, in the order of `crop`.")
@option("--segments", type=click.IntRange(min=1), help="Each file is so many averaged spans.")
@option(
    "--abnormal-first",
    type=click.IntRange(min=1),
    help="So many videos at the start of the training list are abnormal, the rest normal.",
)
@option("--split-name", help="Name of the split that the lists make.  [the list's]")
def import_(
    folder: Path,
    format_: Literal["rtfm"],
    store: str,
    name: str | None,
    dataset: str | None,
    array: str,
    **given: Any,
) -> None:
    """Put features that others made into a store: .npy of (T, 10, C), (10, T, C) or (T, C).

    Safe to stop and to run again. What is not known of them stays unknown.
    """
    from featurestore.exchange import Given, import_features
    from jobs.options import plain_name
    from jobs.progress import Counted

    dataset = dataset or folder.resolve().name
    url = f"{store.rstrip('/')}/{plain_name(name or dataset)}.zarr"
    array = f"imported_{array.removeprefix('imported_')}"
    lines = import_features(
        Given(folder, **given), url, dataset=dataset, array=array, progress=Counted("imported")
    )
    for line in lines:
        click.echo(line)


@click.command("export")
@click.argument("folder", type=_PATH)
@option(
    "--format",
    "format_",
    type=click.Choice(["rtfm"]),
    default="rtfm",
    help="A .npy a video, .list files, gt.npy.",
)
@option("--store", default="features", help="Folder (or URL) of stores, or one store.")
@option("--name", "dataset", help="The store of this name.  [the only one there]")
@storage_options
@option("--array", help="Which features.  [the only ones there]")
@option("--split", help="Which split.  [the only one there]")
@option(
    "--convention",
    type=click.Choice(["ceil", "floor"]),
    default="ceil",
    help="Frames that count: all, in whole clips (ceil), or those of whole clips only (floor).",
)
def export(
    folder: Path,
    format_: Literal["rtfm"],
    store: str,
    dataset: str | None,
    array: str | None,
    split: str | None,
    convention: Literal["floor", "ceil"],
) -> None:
    """Write a store's features into the new FOLDER for code like RTFM's: .npy, .list, gt.npy.

    Exit code: 0 all well, 1 stopped by an error, 3 videos without all features were left out.
    """
    from featurestore.export import export_features
    from jobs.progress import Counted
    from jobs.splitting import the_store

    made = export_features(
        the_store(store, dataset),
        folder,
        array=array,
        split=split,
        convention=convention,
        progress=Counted("exported"),
    )
    for line in made.lines:
        click.echo(line)
    sys.exit(3 if made.left_out else 0)
