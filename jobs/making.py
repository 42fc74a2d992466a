"""How features are going to be made: engine, weights, versions; and what the store says of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from featurestore.errors import UsageError
from jobs.options import Options
from jobs.progress import Download
from jobs.specs import BackboneSpec
from jobs.summary import Say
from jobs.weights import Weights, resolve_all

if TYPE_CHECKING:
    from distributed import Client

    from jobs.engines import Choice

__all__ = ["as_recorded", "checked_weights", "choice_text", "chosen", "provenance", "versions_of"]


def chosen(
    options: Options, client: Client | None, say: Say, begun: Sequence[Mapping[str, Any]] = ()
) -> Choice:
    """Engine, precision and device: of this machine, or of the workers of a running cluster.

    ``begun`` is how the arrays that are there were made. What is left to ``auto`` goes on as they
    were begun, on whatever machine, if that can run here; if not, the store refuses what this
    machine would do (``Store.check_provenance``).
    """
    asked = (options.engine, options.precision, options.device)
    recorded = {(str(made.get("engine")), str(made.get("precision"))) for made in begun}
    if len(recorded) == 1:
        (engine, precision) = next(iter(recorded))
        if options.engine in ("auto", engine) and options.precision in ("auto", precision):
            try:
                choice = _choose(client, engine, precision, options.device)
            except UsageError:
                pass  # not here: what this machine would do is compared with it, and refused
            else:
                if "auto" in asked[:2] and choice != (own := _choose(client, *asked)):
                    say(
                        f"going on with {choice_text(choice)}, as the store was begun; a new one "
                        f"would have {choice_text(own)}"
                    )
                return choice
    choice = _choose(client, *asked)
    if choice.note:
        say(choice.note)
    return choice


def _choose(client: Client | None, engine: str, precision: str, device: str) -> Choice:
    from jobs import engines

    if client is None:
        return engines.choose(engine, precision, device)
    on_workers = client.run(engines.choose, engine, precision, device)
    choice: Choice = next(iter(on_workers.values()))
    for worker, other in on_workers.items():
        if other != choice:
            raise UsageError(
                f"the workers differ: {worker} would run {choice_text(other)}, another one "
                f"{choice_text(choice)}; give --engine, --precision and --device"
            )
    return choice


def choice_text(choice: Choice) -> str:
    """``openvino float32 on cpu``."""
    return f"{choice.engine} {choice.precision} on {choice.device}"


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
    found = resolve_all(specs.values(), options.weights, progress=Download())
    for name, spec in specs.items():
        if found[name].path is not None:  # random ones need no look, and no import of the networks
            from jobs import backbones

            backbones.check(spec, found[name])
    if options.weights == "random":
        say("RANDOM WEIGHTS: these features mean nothing; they only show that everything works")
    return found


def provenance(
    spec: BackboneSpec, digest: str, choice: Choice, versions: Mapping[str, str]
) -> dict[str, Any]:
    """The attributes that say how the array of ``spec`` is made; what differs never mixes."""
    return {
        **_network(spec, digest),
        "engine": choice.engine,
        "precision": choice.precision,
        "versions": dict(versions),
    }


def _network(spec: BackboneSpec, digest: str) -> dict[str, Any]:
    return {
        "model": spec.model,
        "preprocessing": {k: list(v) if isinstance(v, tuple) else v
                          for k, v in asdict(spec.preprocessing).items()},
        "weights": digest,
    }  # fmt: skip


def as_recorded(
    spec: BackboneSpec, digest: str, recorded: Mapping[str, Any], options: Options
) -> dict[str, Any]:
    """``provenance`` without asking a worker: versions, and what is ``auto``, as recorded."""
    asked = {"engine": options.engine, "precision": options.precision}
    given = {key: value for key, value in asked.items() if value != "auto"}
    kept = {key: recorded[key] for key in ("engine", "precision", "versions") if key in recorded}
    return _network(spec, digest) | kept | given
