"""Subsets are balanced, nested and without repetition, whatever the labels."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from nnlab.datasets.arrays import most
from nnlab.datasets.sampling import balanced, fold, plain, stratified

LABELS = st.lists(st.integers(0, 5), min_size=1, max_size=80)
SEEDS = st.integers(0, 2**63 - 1)


def generator(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


@given(LABELS, SEEDS)
def test_every_prefix_of_a_balanced_draw_is_balanced(labels: list[int], seed: int) -> None:
    classes = set(labels)
    size = len(classes) * min(labels.count(label) for label in classes)
    drawn = balanced(np.array(labels), size, generator(seed)).tolist()
    assert len(drawn) == size
    assert len(set(drawn)) == size
    for end in range(size + 1):
        counts = Counter(labels[index] for index in drawn[:end])
        per_class = [counts[label] for label in classes]
        assert max(per_class) - min(per_class) <= 1


@given(LABELS, SEEDS, st.data())
def test_a_smaller_draw_is_a_prefix_of_a_larger_one(
    labels: list[int], seed: int, data: st.DataObject
) -> None:
    classes = set(labels)
    size = data.draw(st.integers(0, len(classes) * min(map(labels.count, classes))))
    smaller = data.draw(st.integers(0, size))
    array = np.array(labels)
    large = balanced(array, size, generator(seed))
    assert balanced(array, smaller, generator(seed)).tolist() == large[:smaller].tolist()
    whole = plain(len(labels), len(labels), generator(seed))
    assert plain(len(labels), smaller, generator(seed)).tolist() == whole[:smaller].tolist()


@given(st.lists(st.integers(0, 2**15 - 1), min_size=1, max_size=80) | LABELS, SEEDS)
def test_a_balanced_draw_deals_out_the_shuffled_examples_of_each_class(
    labels: list[int], seed: int
) -> None:
    random = generator(seed)
    shuffled = random.permutation(len(labels)).tolist()
    members = [[i for i in shuffled if labels[i] == label] for label in sorted(set(labels))]
    rounds = min(map(len, members))
    keys = random.random((rounds, len(members))).tolist()
    expected = []
    for turn in range(rounds):
        for which in sorted(range(len(members)), key=lambda which: keys[turn][which]):
            expected.append(members[which][turn])
    assert balanced(np.array(labels), len(expected), generator(seed)).tolist() == expected


@given(LABELS, SEEDS)
def test_too_large_a_draw_is_refused(labels: list[int], seed: int) -> None:
    classes = set(labels)
    limit = len(classes) * min(map(labels.count, classes))
    with pytest.raises(ValueError, match=f"size={limit + 1} .* to {limit} "):
        balanced(np.array(labels), limit + 1, generator(seed))
    with pytest.raises(ValueError, match=f"size={len(labels) + 1} .* to {len(labels)} "):
        plain(len(labels), len(labels) + 1, generator(seed))
    with pytest.raises(ValueError, match="size=-1 "):
        balanced(np.array(labels), -1, generator(seed))


@given(st.integers(0, 50), SEEDS)
def test_a_plain_draw_of_everything_is_a_permutation(count: int, seed: int) -> None:
    assert sorted(plain(count, count, generator(seed)).tolist()) == list(range(count))


def test_every_example_and_every_order_of_classes_comes_up() -> None:
    labels = np.array([0, 1, 0, 1, 0, 1])
    draws = {tuple(balanced(labels, 2, generator(seed)).tolist()) for seed in range(500)}
    # 3 x 3 pairs of one zero and one one, each in both orders.
    assert draws == {(a, b) for a in range(6) for b in range(6) if (a - b) % 2 == 1}


def test_the_order_of_classes_changes_from_round_to_round() -> None:
    labels = np.arange(1000) % 10
    rounds = labels[balanced(labels, 1000, generator(0))].reshape(100, 10)
    assert (np.sort(rounds, axis=1) == np.arange(10)).all()
    assert len({tuple(row) for row in rounds.tolist()}) > 90


def test_other_seeds_draw_other_examples() -> None:
    labels = np.arange(1000) % 10
    draws = [balanced(labels, 100, generator(seed)).tolist() for seed in (0, 1)]
    assert draws[0] != draws[1]


@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), SEEDS, st.data())
def test_most_can_always_be_drawn_after_another_draw(
    counts: list[int], seed: int, data: st.DataObject
) -> None:
    assume(min(counts) > 0)
    labels = np.repeat(np.arange(len(counts)), counts)
    taken = data.draw(st.integers(0, most(counts, 0, even=True)))
    first = balanced(labels, taken, generator(seed))
    rest = sorted(set(range(len(labels))) - set(first.tolist()))
    left = np.array(rest, np.int64)
    assert len(left) == most(counts, taken, even=False)
    size = most(counts, taken, even=True)
    assert size >= 0
    if size > 0:
        assert len(balanced(labels[left], size, generator(seed + 1))) == size
    if taken % len(counts) == 0:  # then no draw could be larger
        rarest = min(Counter(labels[left].tolist())[label] for label in range(len(counts)))
        assert size == len(counts) * rarest


@pytest.mark.parametrize("back", [False, True])
def test_every_stratified_draw_has_the_classes_in_their_proportions(back: bool) -> None:
    counts = np.array([50, 30, 15, 5])
    labels = np.repeat(np.arange(4), counts)
    whole = stratified(labels, 100, generator(0), back)
    assert sorted(whole.tolist()) == list(range(100))
    for size in range(101):
        drawn = stratified(labels, size, generator(0), back)
        assert drawn.tolist() == whole[:size].tolist()
        expected = size * counts / 100
        # The examples of a class are evenly spaced, so at most one more or less than its share.
        assert np.abs(np.bincount(labels[drawn], minlength=4) - expected).max() <= 1
    ends = stratified(labels, 40, generator(0), not back)
    assert whole[::-1][:40].tolist() == ends.tolist()


@given(LABELS, st.integers(2, 6), SEEDS)
def test_folds_have_each_example_once_and_each_class_alike(
    labels: list[int], folds: int, seed: int
) -> None:
    array = np.array(labels)
    dealt = [fold(array, number, folds, generator(seed)).tolist() for number in range(folds)]
    assert sorted(index for each in dealt for index in each) == list(range(len(labels)))
    assert max(map(len, dealt)) - min(map(len, dealt)) <= 1
    for label in set(labels):
        counts = [sum(labels[index] == label for index in each) for each in dealt]
        assert max(counts) - min(counts) <= 1
