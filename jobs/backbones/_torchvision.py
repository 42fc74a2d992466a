"""torchvision and timm, imported so that they also work beside a CPU build of torch.

torchvision's wheel on PyPI is built for CUDA. Beside a torch without CUDA its compiled operators
cannot load, and then ``import torchvision`` itself fails: it attaches Python implementations to
``torchvision::nms`` and ``torchvision::qnms``, which nobody has declared ("operator
torchvision::nms does not exist"). Declaring the two is enough: no network here calls a compiled
operator. Where the operators load, nothing is declared and nothing changes.

Whatever needs torchvision, timm or pytorchvideo (which imports torchvision) takes it from here.
"""

from __future__ import annotations

import importlib.util
import sys
import warnings
from importlib.machinery import PathFinder

import torch

__all__ = ["timm", "torchvision"]


def _operators_load() -> bool:
    package = importlib.util.find_spec("torchvision")
    if package is None:
        return True  # not installed: let the import below say so
    compiled = PathFinder.find_spec("_C", package.submodule_search_locations)
    if compiled is None or compiled.origin is None:
        return False
    try:
        torch.ops.load_library(compiled.origin)
    except OSError:
        return False
    return True


_declared: torch.library.Library | None = None  # the declarations live as long as this object
if "torchvision" not in sys.modules and not _operators_load():
    _declared = torch.library.Library("torchvision", "FRAGMENT")
    for _operator in ("nms", "qnms"):
        _declared.define(f"{_operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

with warnings.catch_warnings():
    # what the packages say of their own insides, whoever imports them
    warnings.simplefilter("ignore")
    import timm
    import torchvision
    import torchvision.transforms.functional
