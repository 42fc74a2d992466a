"""What every engine offers: networks that turn crops into features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeAlias

from jobs.specs import BackboneSpec

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

__all__ = ["Choice", "Crops", "Network", "Pending", "check_crops"]

Crops: TypeAlias = "Tensor | Sequence[Tensor]"
"""(N, 3, 16, h, w) uint8, or N of (3, 16, h, w), views of larger frames perhaps."""

Pending: TypeAlias = "Callable[[], tuple[np.ndarray, float]]"
"""Waits for features, (N, channels) float32; returns them and the moment when the last were there,
in seconds of ``time.perf_counter``."""


@dataclass(frozen=True)
class Choice:
    """Which engine runs a network, in which arithmetic, where.

    Attributes:
        engine: ``openvino`` or ``torch``.
        precision: ``float32``, ``bfloat16`` or ``float16``.
        device: ``cpu`` or ``cuda``.
        note: why it is not what one would expect; "" when it is.
    """

    engine: str
    precision: str
    device: str
    note: str = field(default="", compare=False)


class Network(Protocol):
    """A network on a device, ready to run. Not to be shared by threads.

    Attributes:
        versions: of the packages that have a part in the numbers, by name.
    """

    spec: BackboneSpec
    engine: str
    precision: str
    device: str
    versions: dict[str, str]

    def start(self, crops: Crops) -> Pending:
        """Begin with ``crops``, any number N of them; call what is returned for their features.

        Returns while the last crops may still be at work, so that others can follow at once. Until
        their features are there, nobody may change the crops.
        Normalising happens inside. The same crops give the same numbers, each time.

        Raises:
            ValueError: crops of another shape or dtype.
        """
        ...

    def features(self, crops: Crops) -> np.ndarray:
        """The features of ``crops``, (N, channels) float32; raises what ``start`` does."""
        ...


def check_crops(spec: BackboneSpec, crops: Crops) -> None:
    """Raise ``ValueError`` unless ``crops`` are what ``spec`` takes."""
    import torch

    size = spec.preprocessing.crop
    expected = (3, spec.preprocessing.frames, size, size)
    if isinstance(crops, torch.Tensor):
        found = [(tuple(crops.shape[1:]), crops.dtype)]
    else:
        found = [(tuple(crop.shape), crop.dtype) for crop in crops]
    for shape, dtype in found:
        if shape != expected or dtype != torch.uint8:
            raise ValueError(
                f"{spec.name}: expected crops ({', '.join(map(str, expected))}) uint8, got "
                f"{shape} {dtype}"
            )
