import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyres.data.schedule import ResolutionSchedule, key, parse_size


def test_key_is_stable_across_versions_and_machines():
    assert [key(), key(0), key(1, 2, 3)] == [8147104208329303767, 3395948882924712079, 2815951366043869177]


@given(st.lists(st.integers(-(2**70), 2**70), max_size=4), st.lists(st.integers(-(2**70), 2**70), max_size=4))
def test_key_is_63_bits_and_tells_parts_apart(first, second):
    assert 0 <= key(*first) < 2**63
    assert (key(*first) == key(*second)) == (first == second)


def test_key_depends_on_order_number_and_sign_of_parts():
    assert len({key(1, 2), key(2, 1), key(1), key(1, 0), key(0, 1), key(-1), key(1 << 64), key(1, 1)}) == 8


@pytest.mark.parametrize(
    ("given_", "size"),
    [("224", (224, 224)), (224, (224, 224)), ("224x320", (224, 320)), (" 1X7 ", (1, 7)), ((3, 5), (3, 5))],
)
def test_parse_size_is_height_by_width(given_, size):
    assert parse_size(given_) == size


@pytest.mark.parametrize("bad", ["", "x", "0", "-4", "2x3x4", "224x", "big", 2.5, True, (), (1, 2, 3), None])
def test_parse_size_names_what_was_given(bad):
    with pytest.raises(ValueError, match="224x320") as caught:
        parse_size(bad)
    assert repr(bad) in str(caught.value)


def test_size_is_a_function_of_seed_and_step_alone():
    sizes = [(56, 56), (112, 112), (168, 200)]
    steps = list(range(50))
    forward = [ResolutionSchedule(sizes, 3).size_at(step) for step in steps]
    random.shuffle(steps)
    one = ResolutionSchedule(sizes, 3)
    assert {step: one.size_at(step) for step in steps} == dict(enumerate(forward))
    assert forward != [ResolutionSchedule(sizes, 4).size_at(step) for step in range(50)]


def test_sizes_are_uniform_unless_weighted():
    sizes = [(8, 8), (16, 16), (24, 24)]
    counts = Counter(ResolutionSchedule(sizes, 0).size_at(step) for step in range(3000))
    assert all(900 < counts[size] < 1100 for size in sizes)
    counts = Counter(ResolutionSchedule(sizes, 0, [1, 0, 3]).size_at(step) for step in range(3000))
    assert counts[(16, 16)] == 0 and 2100 < counts[(24, 24)] < 2400


@pytest.mark.parametrize(
    ("sizes", "weights"), [([], None), ([(8, 8)], [1, 2]), ([(8, 8)], [0]), ([(8, 8)], [-1]), ([(0, 8)], None)]
)
def test_bad_schedules(sizes, weights):
    with pytest.raises(ValueError):
        ResolutionSchedule(sizes, 0, weights)
