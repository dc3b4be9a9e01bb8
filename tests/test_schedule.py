"""Which run trains next, and on how many cores: by hand, and whatever order epochs end in."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from nnlab.schedule import Training, Turns

LARGE, SMALL = 100, 1  # threads among which runs are worth dividing


class Epochs:
    """A run of so many epochs that cost as much each, as far as a turn sees it."""

    def __init__(self, epochs: int, most: int) -> None:
        self.left = epochs
        self.most = most
        self.threads = self.concurrent = 1
        self.run: Any = SimpleNamespace(threads=1)

    def cost(self) -> float:
        return self.left

    def most_threads(self) -> int:
        return self.most


def turns(runs: list[Epochs], workers: int, cores: int) -> Turns:
    runs = sorted(runs, key=lambda run: -run.left)
    trainings = [Training(place, [run]) for place, run in enumerate(runs)]  # type: ignore[list-item]
    return Turns(trainings, workers, cores, lambda group: iter(()))


def task(training: Training) -> Epochs:
    return training.group[0]  # type: ignore[return-value]


def simulate(
    runs: list[Epochs], workers: int, cores: int, choose: Any = lambda count: 0
) -> list[dict[int, int]]:
    """Train an epoch of one of the active runs after another; return who was active on how many
    threads, by the number of the run, before each epoch ended. choose: whose ends, of so many."""
    there, history = turns(runs, workers, cores), []
    active = [first for _ in range(workers) if (first := there.next(None, ended=False))]
    while active:
        history.append({runs.index(task(each)): task(each).run.threads for each in active})
        mine = active.pop(choose(len(active)))
        task(mine).left -= 1
        following = there.next(mine, ended=task(mine).left == 0)
        if following is not None:
            active.append(following)
    return history


def test_a_large_run_has_all_cores_and_a_small_one_a_single_one() -> None:
    assert simulate([Epochs(2, LARGE)], 1, 8) == [{0: 8}, {0: 8}]
    assert simulate([Epochs(2, 3)], 1, 8) == [{0: 3}, {0: 3}]
    assert simulate([Epochs(2, SMALL)], 1, 8) == [{0: 1}, {0: 1}]


def test_large_runs_follow_one_another_and_the_last_has_both_cores() -> None:
    runs = [Epochs(2, LARGE) for _ in range(3)]
    assert simulate(runs, 2, 2) == [
        *({0: 1, 1: 1}, {0: 1, 1: 1}, {0: 1, 1: 1}),  # the first ends with its second epoch,
        {1: 1, 2: 1},
        {2: 1},  # and when the second has ended, the third is in its first epoch
        {2: 2},
    ]


def test_the_last_small_runs_take_turns() -> None:
    runs = [Epochs(3, SMALL) for _ in range(3)]
    history = simulate(runs, 2, 2)
    assert [len(active) for active in history] == [2] * 8 + [1]
    assert {2} <= set(history[2])  # the third begins before the first has ended
    large = [Epochs(3, LARGE) for _ in range(3)]
    assert 2 not in simulate(large, 2, 2)[2]


def test_a_small_run_leaves_its_cores_to_a_large_one() -> None:
    assert simulate([Epochs(1, LARGE), Epochs(1, SMALL)], 2, 8)[0] == {0: 7, 1: 1}
    three = [Epochs(1, LARGE), Epochs(1, 2), Epochs(1, LARGE)]
    assert simulate(three, 3, 7)[0] == {0: 3, 1: 2, 2: 2}


def test_where_memory_is_scarce_few_runs_have_all_cores() -> None:
    runs = [Epochs(1, LARGE) for _ in range(5)]
    assert simulate(runs, 1, 4) == [{each: 4} for each in range(5)]


@given(
    runs=st.lists(st.tuples(st.integers(1, 4), st.sampled_from([1, 2, 3, 100])), max_size=7),
    workers=st.integers(1, 4),
    more=st.integers(0, 4),
    data=st.data(),
)
def test_cores_are_never_given_twice(
    runs: list[tuple[int, int]], workers: int, more: int, data: st.DataObject
) -> None:
    made = [Epochs(*run) for run in runs]
    cores = workers + more
    history = simulate(made, workers, cores, lambda n: data.draw(st.integers(0, n - 1)))
    assert len(history) == sum(epochs for epochs, _ in runs)
    for active in history:
        assert sum(active.values()) <= cores
        assert all(1 <= threads <= made[run].most for run, threads in active.items())
    if history:  # who is alone gets all that it can use with its next epoch
        ((last, threads),) = history[-1].items()
        alone = [active for active in history if set(active) == {last}]
        assert len(alone) == 1 or threads == min(cores, made[last].most)
