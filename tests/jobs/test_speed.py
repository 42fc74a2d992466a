"""What is said of speed, and what `auto` decides where features are there already."""

import io
import time
from itertools import chain, repeat
from types import SimpleNamespace
from typing import Any

import pytest
from distributed import KilledWorker

from featurestore.errors import UsageError
from jobs import engines, estimate, making, matrix, processor
from jobs.engines import Choice
from jobs.estimate import expected
from jobs.matrix import matrix_rate, torch_rate
from jobs.options import Options
from jobs.progress import Progress


def test_the_matrix_rate_is_one_and_takes_a_moment() -> None:
    matrix_rate(threads=1)  # imports torch
    began = time.process_time()
    rate = matrix_rate(threads=1)
    assert time.process_time() - began < 2
    assert 1 < rate < 10_000  # GFLOP/s of one core: an old one, and one that nobody has built yet


def test_a_product_that_is_held_up_once_does_not_make_the_machine_slow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Small matrices, at which it would stay, have a lower rate."""
    rows: list[int] = []
    times = chain([1.0], repeat(0.001))
    monkeypatch.setattr(matrix, "_seconds", lambda product: next(times))
    matrix._best(lambda size: lambda: rows.append(size))
    assert rows == [1024, 2048, 4096, 8192]


def test_the_matrix_rate_leaves_torchs_threads_alone() -> None:
    import torch

    before = torch.get_num_threads()
    matrix_rate(threads=before + 1)
    assert torch.get_num_threads() == before


def test_the_rate_of_a_local_run_is_the_better_of_torchs_and_numpys(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """torch's by a worker; one that dies meanwhile is the business of the work itself."""

    def measured(work: object, *asked: object, pure: bool) -> SimpleNamespace:
        assert (work, asked[0], asked[2], pure) == (torch_rate, "cpu", processor.cores(), False)
        return SimpleNamespace(result=lambda: 3.0)

    def died() -> float:
        raise KilledWorker("torch_rate", None, 0)

    monkeypatch.setattr(estimate, "numpy_rate", lambda: 5.0)
    monkeypatch.setattr(estimate, "matrix_rate", lambda *asked: 7.0)
    client: Any = SimpleNamespace(submit=measured)
    assert estimate.local_rate(Choice("openvino", "float32", "cpu"), client) == 5.0
    assert estimate.local_rate(Choice("openvino", "bfloat16", "cpu"), client) == 3.0
    client.submit = lambda *asked, pure: SimpleNamespace(result=died)
    assert estimate.local_rate(Choice("openvino", "float32", "cpu"), client) == 7.0


def test_networks_are_expected_to_stay_below_the_matrix_rate() -> None:
    for precision, device in (("float32", "cpu"), ("bfloat16", "cpu"), ("float16", "cuda")):
        assert 0 < expected(Choice("", precision, device), 100.0) < 100


def test_progress_tells_the_share_of_the_matrix_rate() -> None:
    progress = Progress(10, 1000.0, matrix_rate=100.0, stream=io.StringIO())
    assert progress.fraction() == 0
    progress.spent({"decode": 1.0, "crops": 1.0, "networks": 7.0, "writing": 1.0}, cost=560.0)
    progress.at(8, 800.0)
    assert progress.fraction() == pytest.approx(0.8)
    assert progress.text().endswith(
        "(decode 10%, crops 10%, networks 70% at 0.80 of the matrix rate, writing 10%)"
    )


def test_progress_says_nothing_of_a_rate_it_does_not_know() -> None:
    progress = Progress(10, 1000.0, stream=io.StringIO())
    progress.spent({"networks": 7.0}, cost=560.0)
    assert "matrix rate" not in progress.text()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_live_line_never_wraps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    terminal = Terminal()
    progress = Progress(10, 1000.0, matrix_rate=100.0, stream=terminal)
    progress.spent({"decode": 1.0, "networks": 7.0}, cost=560.0)
    progress.show(now=True)
    assert len(terminal.getvalue().removeprefix("\r\x1b[K")) == 39
    progress.end()  # the last one stays, so it is whole
    assert terminal.getvalue().endswith("(decode 12%, networks 88% at 0.80 of the matrix rate)\n")


# -- auto, and a store that was begun


def options(**given: Any) -> Options:
    return Options(dataset="folder", root=None, **given)  # type: ignore[arg-type]


def begun(engine: str, precision: str) -> list[dict[str, str]]:
    return [{"engine": engine, "precision": precision, "weights": "RANDOM(seed=0)"}] * 2


@pytest.fixture
def bfloat16(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(engines, "has_bfloat16", lambda engine: request.param)
    return bool(request.param)


@pytest.mark.parametrize("bfloat16", [True], indirect=True)
def test_a_store_in_float32_goes_on_in_it_where_bfloat16_is_faster(bfloat16: bool) -> None:
    said: list[str] = []
    choice = making.chosen(options(), None, said.append, begun("openvino", "float32"))
    assert choice == Choice("openvino", "float32", "cpu")
    assert said == [
        "going on with openvino float32 on cpu, as the store was begun; a new one would have "
        "openvino bfloat16 on cpu"
    ]


@pytest.mark.parametrize("bfloat16", [False], indirect=True)
def test_what_cannot_run_here_is_left_to_the_stores_refusal(bfloat16: bool) -> None:
    for other in (begun("openvino", "bfloat16"), begun("torch", "float16")):
        choice = making.chosen(options(), None, print, other)
        assert choice == Choice("openvino", "float32", "cpu")


@pytest.mark.parametrize("bfloat16", [True], indirect=True)
def test_what_is_asked_for_is_not_changed(bfloat16: bool) -> None:
    found = begun("openvino", "float32")
    asked = options(precision="bfloat16")
    assert making.chosen(asked, None, print, found).precision == "bfloat16"
    asked = options(engine="torch")
    assert making.chosen(asked, None, print, found) == Choice("torch", "float32", "cpu")
    mixed = begun("torch", "float32") + found
    assert making.chosen(options(), None, print, mixed).precision == "bfloat16"


@pytest.mark.parametrize("bfloat16", [False], indirect=True)
def test_asked_for_what_is_not_here(bfloat16: bool) -> None:
    with pytest.raises(UsageError, match="this processor has no bfloat16; use --precision float32"):
        making.chosen(options(precision="bfloat16"), None, print, begun("openvino", "bfloat16"))
