"""What importing the package costs: a command that needs no store must not wait for zarr."""

import subprocess
import sys

import pytest

HEAVY = {"zarr", "xarray", "pandas", "dask", "torch", "distributed"}


def loaded(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}\nprint(*sys.modules)"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return set(done.stdout.split())


def test_importing_loads_nothing_heavy() -> None:
    names = "arrays, blocks, catalog, clips, errors, fused, layout, location, lock, schema, store"
    assert not loaded(f"from featurestore import {names}") & HEAVY


@pytest.mark.parametrize("table", ["schema", "clips", "errors", "lock"])
def test_tables_load_no_store(table: str) -> None:
    assert "featurestore.store" not in loaded(f"import featurestore.{table}")


def test_opening_a_store_loads_no_xarray(tmp_path: object) -> None:
    code = (
        "from featurestore.store import create, open_store\n"
        f"store = create({str(tmp_path)!r} + '/x.zarr', dataset='x', block=4)\n"
        "store.add_features('r3d', 512, {})\nstore.commit()\n"
        "open_store(store.url).videos()"
    )
    assert loaded(code) & HEAVY == {"zarr"}
