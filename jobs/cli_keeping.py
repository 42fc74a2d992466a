"""``fs-submit verify``, ``compact`` and ``copy``: stores kept whole, small, and elsewhere."""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Literal

import click

from featurestore.errors import NotAStore, StoreUnreadable, UsageError
from jobs.cli_option import option, storage_options

if TYPE_CHECKING:
    from featurestore.findings import Findings

__all__ = ["COMMANDS"]

PROBLEMS = 3  # exit code


@click.command()
@option("--store", default="features", help="Folder (or URL) of stores, or one store.")
@option("--name", "dataset", help="Only the store of this name.")
@storage_options
@click.option("--repair", is_flag=True, help="Mark what is broken missing: extract computes it.")
@click.option("--json", "as_json", is_flag=True, help="For machines.")
def verify(store: str, dataset: str | None, repair: bool, as_json: bool) -> None:
    """Read every chunk of each store against its checksum, and say what is wrong and what to do.

    Finds damage, dangling links, leftovers, counts that disagree, and finished clips that are NaN
    or constant. Without --repair nothing is changed. Exit code: 0 all well (or all was repaired),
    1 stopped by an error, 3 there are problems.
    """
    from jobs.status import stores_in

    told = [_verify(url, repair, as_json) for url in stores_in(store, dataset)]
    if as_json:
        click.echo(json.dumps(told, indent=2))
    sys.exit(PROBLEMS if any(one["left"] for one in told) else 0)


def _verify(url: str, repair: bool, as_json: bool) -> dict[str, Any]:
    from featurestore.lock import locked
    from featurestore.mend import mend
    from featurestore.verify import summary
    from featurestore.verify import verify as look
    from jobs.progress import Counted

    progress = Counted("read", sys.stderr, noun="blocks of clips")
    repaired: list[str] = []
    # With --repair nobody may write between the looking and the mending.
    with locked(url) if repair else nullcontext():
        try:
            found = look(url, alone=repair, progress=progress)
        except (NotAStore, StoreUnreadable) as error:
            if not as_json:
                click.echo(f"error: {error}")
            return {"store": url, "error": str(error), "left": True}
        if repair and found.problems:
            repaired = mend(found)
    if not as_json:
        _tell(found, summary(found), repaired)
    problems = [
        {"where": p.where, "what": p.what, "way_out": p.way_out, "mendable": p.mendable}
        for p in found.problems
    ]
    left = any(not (repair and p.mendable) for p in found.problems)
    return {
        "store": url,
        "chunks": found.checked,
        "notes": found.notes,
        "problems": problems,
        "repaired": repaired,
        "left": left,
    }


def _tell(found: Findings, summary: str, repaired: list[str]) -> None:
    click.echo(summary)
    for note in found.notes:
        click.echo(f"  note: {note}")
    for problem in found.problems:
        click.echo(f"  {problem.where}: {problem.what}")
        click.echo(f"    -> {problem.way_out}")
    for line in repaired:
        click.echo(f"  repaired: {line}")


@click.command()
@option("--store", default="features", help="Folder (or URL) of stores, or one store.")
@option("--name", "dataset", help="Only the store of this name.")
def compact(store: str, dataset: str | None) -> None:
    """Drop superseded videos: rows, clips, features, and their places in labels, splits and runs.

    A new store is built beside the old one and put in its place in one step, so that a kill at any
    moment leaves the one or the other. It needs room for both meanwhile, and whoever has the store
    open must open it again.
    """
    from featurestore.copying import compact as drop
    from jobs.progress import Counted, size
    from jobs.status import stores_in

    for url in stores_in(store, dataset):
        progress = Counted("rewritten", sys.stderr, noun="blocks of clips")
        done = drop(url, progress=progress)
        if not done.videos:
            click.echo(f"{url}: no superseded videos, nothing to drop")
        else:
            click.echo(
                f"{url}: {done.videos} superseded videos ({done.clips} clips) dropped; "
                f"{size(done.before)} -> {size(done.after)}"
            )


@click.command("copy")
@click.argument("source")
@click.argument("target")
@storage_options
@option("--backbones", default="all", help="Some of the arrays, by comma; all.")
@option(
    "--fused",
    default="auto",
    type=click.Choice(["auto", "link", "copy", "none"]),
    help="How a new copy keeps fused arrays; auto: links where the disk has them.",
)
def copy_(source: str, target: str, backbones: str, fused: Any) -> None:
    """Copy the store SOURCE to TARGET (a store, NAME.zarr, or a folder), or complete a copy.

    One of them may be on an object store: s3://bucket/folder, gs://, az://. Safe to stop and to run
    again. Tables, labels, splits and runs come along; a fused array brings its parts.
    """
    from featurestore.copying import copy
    from featurestore.place import is_object_url
    from jobs.progress import Counted

    source = source.rstrip("/")
    if not target.rstrip("/").endswith(".zarr"):
        target = f"{target.rstrip('/')}/{source.rsplit('/', 1)[-1]}"
    names = tuple(name for name in backbones.replace(",", " ").split() if name != "all")
    if is_object_url(source) or is_object_url(target):
        _over_the_network(source, target, names, fused)
        return
    done = copy(
        source,
        target,
        names=names,
        fused=fused,
        progress=Counted("copied", sys.stderr, noun="blocks of clips"),
    )
    there = f"; {done.there} were there" if done.there else ""
    click.echo(f"{target}: {done.clips} clips copied ({', '.join(done.arrays)}){there}")


def _over_the_network(source: str, target: str, names: tuple[str, ...], fused: Any) -> None:
    from featurestore.objectlock import locked_there
    from featurestore.objects import download, upload
    from featurestore.place import is_object_url, place_of
    from jobs.progress import Counted

    progress = Counted("copied", sys.stderr, noun="objects")
    if not is_object_url(target):
        done = download(place_of(source), target, names=names, fused_as=fused, progress=progress)
    elif is_object_url(source):
        raise UsageError(f"{source}: copy it to a folder first, and from there to {target}")
    elif fused == "link":
        raise UsageError("--fused link: an object store has no links; copy (the default) or none")
    else:
        place = place_of(target)
        with locked_there(place):
            fused_as: Literal["copy", "none"] = "none" if fused == "none" else "copy"
            done = upload(source, place, names=names, fused_as=fused_as, progress=progress)
    there = f"; {done.there} were there" if done.there else ""
    click.echo(f"{target}: {done.brought} objects copied{there}")


COMMANDS = (verify, compact, copy_)
