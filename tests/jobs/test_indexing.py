"""Rows of new videos: as many as there are, in their order, however many go to Dask at a time."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from jobs import indexing
from jobs.remote import Origin
from jobs.video import Source


class AtOnce:
    """A client whose workers are done before it returns."""

    def submit(self, work: Callable[..., Any], *given: Any, pure: bool) -> Future[Any]:
        assert not pure
        done: Future[Any] = Future()
        done.set_result(work(*given))
        return done


class Completed:
    """Dask's ``as_completed`` for these: the last added comes first."""

    def __init__(self, futures: list[Future[Any]]) -> None:
        self.futures = futures

    def add(self, future: Future[Any]) -> None:
        self.futures.append(future)

    def __iter__(self) -> Iterator[Future[Any]]:
        while self.futures:
            yield self.futures.pop()


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 9])
def test_more_videos_than_are_given_to_dask_at_a_time(
    count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first that had to wait was once left out, and the command ended in a KeyError."""
    monkeypatch.setattr(indexing, "IN_FLIGHT", 3)
    monkeypatch.setattr(indexing, "as_completed", Completed)
    sources = [Source(f"v{i}", tmp_path / f"v{i}.mp4", "file") for i in range(count)]
    rows = indexing.index_all(AtOnce(), sources, Origin(tmp_path, ""), strict=False)  # type: ignore
    assert [row.name for row in rows] == [source.name for source in sources]
    assert all(row.state == "failed" for row in rows)  # there are no such files
