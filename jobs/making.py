"""How features are going to be made: engine, weights, versions; and what the store says of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from featurestore.errors import UsageError
from jobs.options import Options
from jobs.progress import Download
from jobs.specs import BackboneSpec
from jobs.summary import Say

if TYPE_CHECKING:
    from distributed import Client

    from jobs.backbones import Weights
    from jobs.engines import Choice

__all__ = ["checked_weights", "chosen", "provenance", "versions_of"]


def chosen(options: Options, client: Client | None, say: Say) -> Choice:
    """Engine, precision and device: of this machine, or of the workers of a running cluster."""
    from jobs import engines

    asked = (options.engine, options.precision, options.device)
    if client is None:
        choice = engines.choose(*asked)
    else:
        on_workers = client.run(engines.choose, *asked)
        choice = next(iter(on_workers.values()))
        for worker, other in on_workers.items():
            if other != choice:
                raise UsageError(
                    f"the workers differ: {worker} would run {other.engine} {other.precision} on "
                    f"{other.device}, another one {choice.engine} {choice.precision} on "
                    f"{choice.device}; give --engine, --precision and --device"
                )
    if choice.note:
        say(choice.note)
    return choice


def versions_of(
    client: Client | None, specs: Mapping[str, BackboneSpec], choice: Choice
) -> dict[str, dict[str, str]]:
    """Backbone -> versions of the packages that have a part in its numbers, where it will run."""
    from jobs import engines

    if client is None:
        return {name: engines.versions(spec, choice) for name, spec in specs.items()}
    found: dict[str, dict[str, str]] = {}
    for name, spec in specs.items():
        on_workers = client.run(engines.versions, spec, choice)
        one = next(iter(on_workers))
        found[name] = on_workers[one]
        for other, there in on_workers.items():
            if there != found[name]:
                raise UsageError(f"{other} has {there}, {one} {found[name]}; install the same")
    return found


def checked_weights(
    specs: Mapping[str, BackboneSpec], options: Options, say: Say
) -> dict[str, Weights]:
    """Backbone -> its weights, found or fetched, and checked against the network."""
    from jobs import backbones

    found = backbones.resolve_all(specs.values(), options.weights, progress=Download())
    for name, spec in specs.items():
        backbones.check(spec, found[name])
    if options.weights == "random":
        say("RANDOM WEIGHTS: these features mean nothing; they only show that everything works")
    return found


def provenance(
    spec: BackboneSpec, digest: str, choice: Choice, versions: Mapping[str, str]
) -> dict[str, Any]:
    """The attributes that say how the array of ``spec`` is made; what differs never mixes."""
    return {
        "model": spec.model,
        "preprocessing": {k: list(v) if isinstance(v, tuple) else v
                          for k, v in asdict(spec.preprocessing).items()},
        "weights": digest,
        "engine": choice.engine,
        "precision": choice.precision,
        "versions": dict(versions),
    }  # fmt: skip
