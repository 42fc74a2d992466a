"""Cell arrays of MATLAB files, as two datasets keep their ground truth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurestore.errors import DatasetError

__all__ = ["cells"]


def cells(path: Path, name: str) -> list[NDArray[Any]]:
    """The cells of the cell array ``name``, in order.

    Raises:
        DatasetError: the file cannot be read, is of MATLAB's format 7.3, or has no such cells.
    """
    import scipy.io  # a quarter of a second, which `fs-submit datasets` can do without

    try:
        found = scipy.io.loadmat(path, variable_names=[name])[name]
    except NotImplementedError as error:
        raise DatasetError(
            f"{path}: is saved in MATLAB's format 7.3, which is not read; save it again in MATLAB "
            "with save(..., '-v7')"
        ) from error
    except KeyError as error:
        raise DatasetError(f"{path}: holds no {name}; fetch it again") from error
    except Exception as error:  # of a damaged file scipy raises nearly anything
        raise DatasetError(f"{path}: cannot be read ({error}); fetch it again") from error
    if found.dtype != object:
        raise DatasetError(
            f"{path}: {name} should be a cell array, but is {found.dtype} of shape {found.shape}"
        )
    return [np.asarray(cell) for cell in found.ravel()]
