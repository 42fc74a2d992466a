"""``fs-submit bench``: parses, calls, prints."""

from __future__ import annotations

import json
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from featurestore.errors import FeatureStoreError
from jobs.cli_option import option

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jobs.bench import Bench, Parts
    from jobs.specs import BackboneSpec

__all__ = ["bench"]


@click.command()
@option("--backbones", default="all", help="Some of the nine, by comma; all; or timm:MODEL.")
@option("--engine", default="auto", type=click.Choice(["auto", "openvino", "torch"]))
@option(
    "--precision",
    default="auto",
    type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
)
@option("--device", default="auto", type=click.Choice(["auto", "cpu", "cuda"]))
@option("--weights", default="random", help="random ones take as long as official ones.")
@option("--dataset", help="Tell how long this one takes, and decode its frames.")
@option("--root", type=click.Path(path_type=Path), help="Where it lies.  [./data/DATASET]")
@option("--json", "as_json", is_flag=True, help="For machines.")
def bench(
    backbones: str, dataset: str | None, root: Path | None, as_json: bool, **rest: Any
) -> None:
    """What this machine reaches, in about a minute (longer where networks are converted first).

    Each network on two crops (on CUDA on those of four clips), with what is chosen by default or
    asked for: clips of ten crops a second, the share of the machine's matrix rate, and where the
    time goes. Run it with nothing else running. Writes no store.
    """
    from jobs.options import wanted_arrays

    specs, _ = wanted_arrays([b for b in backbones.replace(",", " ").split() if b])
    if root is not None and dataset is None:
        dataset = "folder"
    began = time.monotonic()
    # Progress to stderr: what is asked for is all that stdout gets
    asked = {**rest, "dataset": dataset, "root": root, "say": partial(click.echo, err=True)}
    found = on_a_worker(specs, asked)
    if as_json:
        click.echo(json.dumps(as_plain(found), indent=2))
    else:
        click.echo(text(found, dataset))
        click.echo(f"measured in {time.monotonic() - began:.0f} s")


def on_a_worker(specs: Mapping[str, BackboneSpec], asked: dict[str, Any]) -> Bench:
    """``jobs.bench.bench`` in a process like those that extract, whose memory is not this one's."""
    from distributed import KilledWorker

    from jobs import engines
    from jobs.bench import bench as measure
    from jobs.cluster import connect

    device = engines.choose(*(asked[what] for what in ("engine", "precision", "device"))).device
    with connect("local", 1, device) as client:
        try:
            found: Bench = client.submit(measure, specs, **asked).result()
        except KilledWorker:
            raise FeatureStoreError(
                "the process that measured was ended, most likely for want of memory; name fewer "
                "--backbones"
            ) from None
    return found


def as_plain(found: Bench) -> dict[str, Any]:
    """Ready for JSON."""
    from jobs import engines, processor

    def row(parts: Parts) -> dict[str, float]:
        return {
            "clips_per_second": found.clips_per_second(parts),
            "fraction_of_matrix_rate": found.fraction(parts),
            "decode_seconds": parts.decode,
            "crops_seconds": parts.crops,
            "networks_seconds": parts.networks,
            "writing_seconds": parts.writing,
        }

    def plain(choice: engines.Choice) -> dict[str, str]:
        return {"engine": choice.engine, "precision": choice.precision, "device": choice.device}

    return {
        "processor": processor.name(),
        "chosen": plain(found.choice),
        "default": plain(found.default),
        "why": engines.why(found.default),
        "workers": found.workers,
        "threads": found.threads,
        "matrix_gflops": found.matrix,
        "frames": found.frames,
        "weights": found.weights,
        "backbones": {name: row(parts) for name, parts in found.backbones.items()},
        "together": row(found.whole),
        "dataset_clips": found.clips,
        "dataset_seconds": found.seconds_left(),
    }


def text(found: Bench, dataset: str | None) -> str:
    """The same for people."""
    from jobs import engines, processor
    from jobs.making import choice_text
    from jobs.progress import duration

    default = f"{choice_text(found.default)} ({engines.why(found.default)})"
    asked = "" if found.choice == found.default else f"measured: {choice_text(found.choice)}\n"
    lines = [
        f"{processor.name()}: {found.workers} worker(s) of {found.threads} thread(s)",
        f"{asked}the default here: {default}",
        f"a worker's matrix product: {found.matrix:.0f} GFLOP/s; frames: {found.frames}; "
        f"weights: {found.weights}",
        "",
    ]
    rows = dict(found.backbones)
    if len(rows) > 1:
        rows["all together"] = found.whole
    width = max(15, 1 + max(map(len, rows)))
    lines.append(
        f"{'ten-crop clips':<{width}}{'clips/s':>9}{'of matrix rate':>16}"
        f"{'decode':>9}{'crops':>8}{'networks':>10}{'writing':>9}"
    )
    for name, parts in rows.items():
        total = parts.decode + parts.crops + parts.networks + parts.writing
        lines.append(
            f"{name:<{width}}{found.clips_per_second(parts):>9.3g}{found.fraction(parts):>16.2f}"
            f"{parts.decode / total:>9.1%}{parts.crops / total:>8.1%}"
            f"{parts.networks / total:>10.1%}{parts.writing / total:>9.1%}"
        )
    if (seconds := found.seconds_left()) is not None:
        names = ", ".join(found.backbones)
        lines.append(f"{dataset}: about {found.clips} clips, {duration(seconds)} with {names}")
    return "\n".join(lines)
