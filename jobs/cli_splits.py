"""``fs-submit split``: splits of a store that is there, beside those it has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from jobs.cli_option import option, random_split_options, storage_options

__all__ = ["split"]

_STORE = {"default": "features", "help": "Folder (or URL) of stores, or one store."}


@click.group()
def split() -> None:
    """Who trains and who tests: add splits to a store, and list them. Nothing is extracted."""


@split.command()
@option("--store", **_STORE)
@option("--name", "dataset", help="The store of this name.  [the only one there]")
@storage_options
@option(
    "--split",
    "texts",
    multiple=True,
    required=True,
    help="official, a named one, random:K, or a CSV (FILE or NAME=FILE): video,split,label.",
)
@option("--root", type=click.Path(path_type=Path), help="Where the dataset lies, for official.")
@random_split_options
@click.option("--replace", is_flag=True, help="Replace splits of these names.")
def add(store: str, dataset: str | None, texts: tuple[str, ...], **settings: Any) -> None:
    """Add splits to a store."""
    from jobs.splitting import add

    for line in add(store, dataset, texts, **settings):
        click.echo(line)


@split.command("list")
@option("--store", **_STORE)
@option("--name", "dataset", help="Only the store of this name.")
@storage_options
@click.option("--json", "as_json", is_flag=True, help="For machines.")
def list_(store: str, dataset: str | None, as_json: bool) -> None:
    """The splits of each store: videos to train and to test, by label, and where it is from."""
    from jobs.splitting import collect, text

    found = collect(store, dataset)
    click.echo(json.dumps(found, indent=2) if as_json else text(found))
