"""``fs-submit``: parses, calls, prints. What a command needs is imported when it runs."""

from __future__ import annotations

import signal
import sys
from contextlib import ExitStack
from json import dumps
from pathlib import Path
from typing import Any

import click

from featurestore.errors import FeatureStoreError
from featurestore.place import is_object_url, told
from jobs.cli_bench import bench
from jobs.cli_cluster import cluster, cluster_options
from jobs.cli_datasets import datasets
from jobs.cli_detector import COMMANDS as DETECTOR_COMMANDS
from jobs.cli_exchange import export, import_
from jobs.cli_keeping import COMMANDS as KEEPING_COMMANDS
from jobs.cli_option import option, random_split_options, storage_options
from jobs.cli_splits import split

__all__ = ["main"]


class Names(click.types.StringParamType):
    """Names of videos, which may hold blanks: in the environment they are separated by commas."""

    envvar_list_splitter = ","


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="video-anomaly-feature-store")
def cli() -> None:
    """Features of surveillance videos, clip by clip, in one Zarr store that anyone can open."""


for command in (
    bench, cluster, datasets, split, import_, export, *KEEPING_COMMANDS, *DETECTOR_COMMANDS,
):  # fmt: skip
    cli.add_command(command)


@cli.command()
@option("--dataset", required=True, help="ped2, avenue, ...: see fs-submit datasets.")
@option("--root", help="Folder (or URL, of video files) where it lies.  [./data/DATASET]")
@option("--store", default="features", help="Folder (or URL) that holds NAME.zarr.")
@option("--name", help="Name of the store.  [the dataset's, or the folder's own name]")
@storage_options
@option("--videos", type=Names(), multiple=True, help="Only these: a name or a glob, repeated.")
@option(
    "--labels",
    type=click.Path(path_type=Path),
    help="Ground truth, if it lies elsewhere; of folder a CSV: video,start,end (in frames).",
)
@option(
    "--split",
    multiple=True,
    help="official, a named one, random:K, or a CSV: video,split,label.  [all that are known]",
)
@random_split_options
@option("--backbones", default="all", help="Some of the nine, by comma; all; or timm:MODEL.")
@option("--weights", default="official", help="official, random, a folder of files, or a file.")
@option(
    "--engine",
    default="auto",
    type=click.Choice(["auto", "openvino", "torch"]),
    help="What runs the networks; auto: openvino on CPUs, torch on GPUs.",
)
@option(
    "--precision",
    default="auto",
    type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
    help="Arithmetic of the networks; auto: bfloat16 on CPUs that have it, else float32; float16 "
    "on GPUs; what the store was begun with.",
)
@option(
    "--device",
    default="auto",
    type=click.Choice(["auto", "cpu", "cuda"]),
    help="auto: cuda if there is one.",
)
@option(
    "--decoder",
    default="pyav",
    type=click.Choice(["pyav", "decord"]),
    help="decord reads fewer kinds of files exactly, and refuses the others.",
)
@cluster_options
@option(
    "--fused",
    default="auto",
    type=click.Choice(["auto", "link", "copy", "none"]),
    help="How a new store keeps fused arrays; auto: links where the disk has them.",
)
@option("--strict", is_flag=True, help="A damaged video fails, instead of ending at the damage.")
@option("--replace", is_flag=True, help="Compute again what was made with other settings.")
@option("--retry-failed", is_flag=True, help="Try again what failed before.")
@option("--dry-run", is_flag=True, help="Say what there is to do and how long it takes; stop.")
def extract(
    root: str | None,
    backbones: str,
    videos: tuple[str, ...],
    dataset: str,
    **rest: Any,
) -> None:
    """Compute the features of every clip of a dataset that the store lacks.

    Safe to stop and to run again: what is finished is never computed twice. Exit code: 0 all well,
    1 stopped by an error, 3 finished but some videos failed or are damaged, 130 interrupted.
    """
    from jobs.extract import run
    from jobs.options import Options
    from jobs.remote import mirrored

    with ExitStack() as stack:
        origin = root if root and is_object_url(root) else ""
        options = Options(
            dataset=dataset,
            root=stack.enter_context(mirrored(origin))
            if origin
            else Path(root or f"data/{dataset}"),
            origin=origin.rstrip("/"),
            backbones=tuple(b for b in backbones.replace(",", " ").split() if b),
            videos=videos,
            **rest,
        )
        sys.exit(run(options, say=click.echo))


@cli.command()
@option("--store", default="features", help="Folder (or URL) of stores, or one store.")
@option("--name", help="Only the store of this name.")
@storage_options
@option("--json", is_flag=True, help="For machines.")
def status(store: str, name: str | None, json: bool) -> None:
    """What each store holds: clips done, missing and failed, why, and what made them."""
    from jobs.status import collect, text

    found = collect(store, name)
    click.echo(dumps(found, indent=2) if json else text(found))


def main() -> None:
    """Entry point. Errors meant for the user are one line on stderr and exit code 1."""
    # A batch system's SIGTERM ends a run as Ctrl-C does: finished clips stay marked. Not by way of
    # SIGINT, which a shell's `fs-submit ... &` ignores.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        cli.main(standalone_mode=False)
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        click.echo("\nstopped; run the same command again to go on where it ended", err=True)
        sys.exit(130)
    except FeatureStoreError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)
    except Exception as error:
        # What xarray read for the detector, without us; its text may hold a key.
        if type(error).__module__ != "obstore.exceptions":
            raise
        click.echo(f"error: the object store did not do it: {told(error)}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
