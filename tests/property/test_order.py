"""The order of samples, held to what it promises for any sizes."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from itertools import accumulate, count, islice, pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from runyard_trainer.context import World
from runyard_trainer.data.order import Order, Part, Sample, count_epoch, permute

keys = st.integers(0, 2**64 - 1)
fractions = st.sampled_from([0.0, 0.01, 0.05, 0.1, 1 / 3, 0.5, 0.9, 0.95])


@st.composite
def orders(draw: st.DrawFn) -> Order:
    fraction = draw(fractions)
    return Order(
        num_train=draw(st.integers(1, 50)),
        num_replay=draw(st.integers(1, 20)),
        replay_fraction=fraction,
        batch=draw(st.integers(1, 24)),
        seed=draw(st.integers(0, 2**31 - 1)),
    )


@given(n=st.integers(1, 3000), key=keys)
def test_permute_is_a_bijection(n: int, key: int) -> None:
    assert sorted(permute(i, n, key) for i in range(n)) == list(range(n))


@given(index=st.integers(0, 10**12 - 1), key=keys)
def test_permute_stays_within_a_huge_range(index: int, key: int) -> None:
    assert 0 <= permute(index, 10**12, key) < 10**12


def test_permute_moves_neighbours_apart_and_depends_on_the_key() -> None:
    n = 10_000
    shuffled = [permute(i, n, key=1) for i in range(n)]
    mean_distance = sum(abs(a - b) for a, b in pairwise(shuffled)) / (n - 1)
    assert mean_distance == pytest.approx(n / 3, rel=0.05)
    assert sum(permute(i, n, key=2) == shuffled[i] for i in range(n)) < 10


def test_permute_refuses_an_index_out_of_range() -> None:
    with pytest.raises(ValueError, match=r"index 5 is not in range\(5\)"):
        permute(5, 5, key=0)


@given(order=orders(), size=st.integers(1, 8), micro_batch=st.integers(1, 5), step=st.integers(0, 10**9))
def test_any_world_trains_on_the_same_samples_of_a_step_each_once(
    order: Order, size: int, micro_batch: int, step: int
) -> None:
    by_rank = [order.places(step, World(rank, size, 0, 1), micro_batch) for rank in range(size)]
    assert len({len(micro_steps) for micro_steps in by_rank}) == 1
    in_order = [
        place.sample for micro_steps in zip(*by_rank, strict=True) for micro_step in micro_steps for place in micro_step
    ]
    want = [order.sample(step, i) for i in range(order.batch)]
    assert in_order[: order.batch] == want
    assert in_order[order.batch :] == [None] * (len(in_order) - order.batch)
    assert len(in_order) - order.batch < size * micro_batch


@given(order=orders(), num_steps=st.integers(1, 40))
def test_the_share_of_replay_is_exact_within_one_at_every_step(order: Order, num_steps: int) -> None:
    samples = [order.sample(step, i) for step in range(num_steps) for i in range(order.batch)]
    for end in range(0, len(samples) + 1, order.batch):
        replayed = sum(sample.stream == "replay" for sample in samples[:end])
        assert 0 <= end * Fraction(repr(order.replay_fraction)) - replayed < 1


def test_the_share_of_replay_does_not_drift_in_a_long_run() -> None:
    order = Order(num_train=1000, num_replay=1000, replay_fraction=0.1, batch=1000, seed=0)
    for step in (10**9, 10**15):
        replayed = sum(order.sample(step, i).stream == "replay" for i in range(1000))
        assert replayed == 100


@given(order=orders())
def test_every_epoch_reads_each_sequence_once_and_in_another_order(order: Order) -> None:
    samples = (order.sample(step, i) for step in count() for i in range(order.batch))
    train = list(islice((sample.index for sample in samples if sample.stream == "train"), 2 * order.num_train))
    assert Counter(train) == Counter(dict.fromkeys(range(order.num_train), 2))
    assert sorted(train[: order.num_train]) == list(range(order.num_train))


def test_epochs_are_shuffled_anew_and_seeds_differ() -> None:
    def epoch(seed: int, number: int) -> list[Sample]:
        order = Order(num_train=100, num_replay=0, replay_fraction=0.0, batch=100, seed=seed)
        return [order.sample(number, i) for i in range(100)]

    assert epoch(0, 0) == epoch(0, 0)
    assert epoch(0, 0) != epoch(0, 1)
    assert epoch(0, 0) != epoch(1, 0)


# -------------------------------------------------------------------------------------------------------------- weights

weights = st.sampled_from([0.1, 1 / 3, 0.5, 0.7, 1.0, 2.0, 2.5, 100.0])
parts = st.lists(st.builds(Part, st.integers(0, 12), weights), min_size=1, max_size=5).filter(
    lambda made: any(part.size for part in made)
)


@st.composite
def weighted_orders(draw: st.DrawFn) -> Order:
    drawn = tuple(draw(parts))
    num_train = sum(part.size for part in drawn)
    return replace(draw(orders()), num_train=num_train, parts=drawn)


def part_of(order: Order, index: int) -> int:
    ends = list(accumulate(part.size for part in order.parts))
    return bisect_right(ends, index)


def trained(order: Order, num_samples: int) -> list[int]:
    samples = (order.sample(step, i) for step in count() for i in range(order.batch))
    return list(islice((sample.index for sample in samples if sample.stream == "train"), num_samples))


@given(order=weighted_orders(), num_samples=st.integers(1, 600))
def test_each_source_has_its_share_at_every_sample(order: Order, num_samples: int) -> None:
    total = count_epoch(order.parts)
    counts = [0] * len(order.parts)
    for end, index in enumerate(trained(order, num_samples), 1):
        counts[part_of(order, index)] += 1
        for part, found in zip(order.parts, counts, strict=True):
            assert abs(found - end * part.share / total) < len(order.parts)


@given(order=weighted_orders(), num_samples=st.integers(1, 600))
def test_no_sample_comes_again_before_all_others_of_its_source_have_come(order: Order, num_samples: int) -> None:
    times: Counter[int] = Counter()
    for index in trained(order, num_samples):
        number = part_of(order, index)
        times[index] += 1
        start = sum(part.size for part in order.parts[:number])
        siblings = [times[sibling] for sibling in range(start, start + order.parts[number].size)]
        assert max(siblings) - min(siblings) <= 1


@given(order=weighted_orders(), size=st.integers(1, 8), micro_batch=st.integers(1, 5), step=st.integers(0, 10**12))
def test_weights_or_not_any_world_trains_on_the_same_samples(
    order: Order, size: int, micro_batch: int, step: int
) -> None:
    by_rank = [order.places(step, World(rank, size, 0, 1), micro_batch) for rank in range(size)]
    found = {place.number: place.sample for micro_steps in by_rank for places in micro_steps for place in places}
    assert [found[i] for i in range(order.batch)] == [order.sample(step, i) for i in range(order.batch)]
    assert all(sample is None for number, sample in found.items() if number >= order.batch)


@given(order=orders(), step=st.integers(0, 10**9))
def test_one_part_is_the_order_without_parts(order: Order, step: int) -> None:
    whole = replace(order, parts=(Part(order.num_train),))
    assert [whole.sample(step, i) for i in range(order.batch)] == [order.sample(step, i) for i in range(order.batch)]


def test_half_a_source_is_trained_on_in_an_epoch_and_the_other_half_in_the_next() -> None:
    order = Order(120, 0, 0.0, batch=10, seed=4, parts=(Part(20, 2.0), Part(100, 0.5)))
    assert count_epoch(order.parts) == 90
    epochs = [trained(order, 180)[:90], trained(order, 180)[90:]]
    for epoch in epochs:
        assert Counter(index for index in epoch if index < 20) == Counter(dict.fromkeys(range(20), 2))
        assert len({index for index in epoch if index >= 20}) == 50
    assert {index for epoch in epochs for index in epoch} == set(range(120))


@pytest.mark.parametrize(
    "wrong",
    [
        {"num_train": 0},
        {"batch": 0},
        {"replay_fraction": 1.0},
        {"replay_fraction": 0.1, "num_replay": 0},
        {"parts": (Part(4), Part(5))},
    ],
)
def test_an_order_over_nothing_is_refused(wrong: dict[str, Any]) -> None:
    fine: dict[str, Any] = {"num_train": 10, "num_replay": 10, "replay_fraction": 0.0, "batch": 4, "seed": 0}
    with pytest.raises(ValueError, match="Order"):
        Order(**(fine | wrong))
