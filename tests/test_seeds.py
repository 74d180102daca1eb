"""The hash from which every random draw starts, and what draws from it."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from anyres.seeds import key, permutation, seeded


def test_key_is_stable_across_versions_and_machines():
    assert [key(), key(0), key(1, 2, 3)] == [8147104208329303767, 3395948882924712079, 2815951366043869177]


@given(st.lists(st.integers(-(2**70), 2**70), max_size=4), st.lists(st.integers(-(2**70), 2**70), max_size=4))
def test_key_is_63_bits_and_tells_parts_apart(first, second):
    assert 0 <= key(*first) < 2**63
    assert (key(*first) == key(*second)) == (first == second)


def test_key_depends_on_order_number_and_sign_of_parts():
    assert len({key(1, 2), key(2, 1), key(1), key(1, 0), key(0, 1), key(-1), key(1 << 64), key(1, 1)}) == 8


def test_permutations_are_those_of_seed_and_epoch():
    orders = [tuple(permutation(seed, epoch, 11)) for seed in (0, 1) for epoch in (0, 1)]
    assert len(set(orders)) == 4 and all(sorted(order) == list(range(11)) for order in orders)
    assert permutation(1, 0, 11) == list(orders[2])


def test_seeding_is_for_all_generators_and_leaves_no_trace():
    def draw():
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    random.seed(3), np.random.seed(3), torch.manual_seed(3)
    undisturbed = [draw(), draw()]
    random.seed(3), np.random.seed(3), torch.manual_seed(3)
    first = draw()
    with seeded(2**40 + 7):
        inside = draw()
    assert [first, draw()] == undisturbed
    with pytest.raises(OSError), seeded(2**40 + 7):
        assert draw() == inside
        raise OSError
    with seeded(2**40 + 8):
        assert not set(draw()) & set(inside)
