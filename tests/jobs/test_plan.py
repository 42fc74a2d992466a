"""Tasks cover what is missing exactly once, inside blocks; the queue survives deaths of workers."""

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from featurestore.clips import clip_starts
from jobs.plan import MAX_DEATHS, MAX_QUARANTINED, Task, TaskQueue, make_tasks

NAMES = ("r3d", "s3d")


def tables(lengths):
    video = np.concatenate([np.full(len(clip_starts(n)), i) for i, n in enumerate(lengths)])
    start = np.concatenate([clip_starts(n) for n in lengths])
    return video, start, [(f"v{i}", f"/data/v{i}.mp4", n) for i, n in enumerate(lengths)]


@given(st.data())
def test_tasks_cover_what_is_missing_exactly_once(data):
    lengths = data.draw(st.lists(st.integers(1, 120), min_size=1, max_size=8))
    video, start, videos = tables(lengths)
    n = len(video)
    missing = {
        name: np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)), bool)
        for name in NAMES
    }
    block, most = data.draw(st.sampled_from([1, 4, 32])), data.draw(st.integers(1, 40))
    tasks = make_tasks(missing, video, start, videos, block=block, clips_per_task=most)
    seen = {name: np.zeros(n, int) for name in NAMES}
    for task in tasks:
        assert task.clips <= most
        for segment in task.segments:
            clips = np.arange(segment.first, segment.first + len(segment.starts))
            assert (clips // block == task.block).all()
            assert (video[clips] == segment.video).all()
            assert tuple(start[clips]) == segment.starts
            assert segment.frames == lengths[segment.video]
            for name in task.backbones:
                seen[name][clips] += 1
    for name in NAMES:
        np.testing.assert_array_equal(seen[name], missing[name].astype(int))


def queue_of(lengths, block=4, most=2):
    video, start, videos = tables(lengths)
    missing = {"r3d": np.ones(len(video), bool)}
    return TaskQueue(make_tasks(missing, video, start, videos, block=block, clips_per_task=most))


def test_a_block_has_one_writer_at_a_time():
    waiting = queue_of([16 * 8])  # two blocks of two tasks
    first, second = waiting.next(), waiting.next()
    assert {first.block, second.block} == {0, 1}
    assert waiting.next() is None
    waiting.finished(second)
    assert waiting.next(prefer=1).block == 1
    assert waiting.next() is None
    waiting.finished(first)
    assert waiting.next().block == 0
    assert len(waiting) == 0


def work_off(waiting: TaskQueue, killers: set[int], at_once: int = 4) -> tuple[set[int], set[int]]:
    """Run everything; a task with a killer in it takes down the one beside it, too."""
    done: set[int] = set()
    given_up: set[int] = set()
    running: list[Task] = []
    for _ in range(10_000):
        while len(running) < at_once and (task := waiting.next()):
            running.append(task)
        if not running:
            return done, given_up
        assert sum(t.quarantined for t in running) <= 1
        if any(s.video in killers for s in running[0].segments):
            pair, running = running[:2], running[2:]  # the running and the waiting one of a worker
            for task in pair:
                for segment in waiting.died(task, begun=task is pair[0]):
                    given_up |= {segment.video}
                    waiting.drop(segment.video)
        else:
            task = running.pop(0)
            waiting.finished(task)
            done |= {s.video for s in task.segments}
    raise AssertionError("never ends")


# The fourth waits in quarantine beside one killer after another that is not yet known for one.
@example([17, 49, 1, 17, 1], {0, 2, 4})
@given(
    st.lists(st.integers(1, 80), min_size=1, max_size=12),
    st.sets(st.integers(0, 11), max_size=3),
)
def test_only_the_video_that_kills_is_given_up(lengths, killers):
    killers = {k for k in killers if k < len(lengths)}
    done, given_up = work_off(queue_of(lengths), killers)
    assert given_up == killers
    assert done >= set(range(len(lengths))) - killers


def test_a_video_is_given_up_after_three_deaths():
    waiting = queue_of([16])
    for death in range(1, MAX_DEATHS + 1):
        task = waiting.next()
        assert task.quarantined == (death > 1)
        assert bool(waiting.died(task, begun=1)) == (death == MAX_DEATHS)
    assert waiting.next() is None


def test_a_video_that_only_waited_on_workers_that_died_is_not_given_up():
    waiting = queue_of([16])
    for _ in range(MAX_QUARANTINED):  # the first is not in quarantine
        assert not waiting.died(waiting.next(), begun=0)
    again = waiting.next()
    waiting.returned(again)
    waiting.finished(waiting.next())
    assert len(waiting) == 0
    waiting.returned(again)
    assert waiting.died(waiting.next(), begun=0) == list(again.segments)  # but not for ever
