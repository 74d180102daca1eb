import math
import random
from collections import Counter

import pytest
from hypothesis import given, strategies as st

from anyres.data.schedule import EverySize, ResolutionSchedule
from anyres.seeds import key
from anyres.sizes import SideRange, parse_entry, parse_size, stretched


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


def test_entries_are_sizes_or_ranges():
    assert parse_entry("224x320") == (224, 320) and parse_entry(7) == (7, 7)
    assert parse_entry("32-96") == parse_entry(" 32 - 96 ") == SideRange(32, 96)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("96-32", "'96-32' as a range.*nearest: 32-96$"),
        ("32-32", "nearest: 32$"),
        ("0-32", "nearest: 1-32$"),
        ("a-b", "'a-b' as a range of sizes.*such as 32-96$"),
        ("32-", "such as 32-96$"),
        ("1-2-3", "such as 32-96$"),
        ("32x48-96", "such as 32-96$"),
        ("-32", "'-32' as a size"),
    ],
)
def test_ranges_out_of_order_name_the_nearest(bad, message):
    with pytest.raises(ValueError, match=message):
        parse_entry(bad)


def test_ranges_are_log_uniform_over_every_whole_number():
    schedule = ResolutionSchedule([SideRange(3, 11)], 5)
    count = 6000
    found = Counter(schedule.size_at(step) for step in range(count))
    assert set(found) == {(side, side) for side in range(3, 12)}
    for side in range(3, 12):
        expected = count * math.log((side + 1) / side) / math.log(12 / 3)
        assert abs(found[(side, side)] - expected) < 4 * expected**0.5
    assert [schedule.size_at(step) for step in (7, 3)] == [schedule.size_at(step) for step in (7, 3)]
    assert [schedule.size_at(step) for step in range(9)] != [
        ResolutionSchedule([SideRange(3, 11)], 6).size_at(step) for step in range(9)
    ]


@given(st.integers(1, 5000), st.integers(1, 5000), st.floats(0, 1))
def test_ranges_keep_their_ends(low, more, draw):
    side, other = SideRange(low, low + more).at(draw)
    assert side == other and low <= side <= low + more
    assert SideRange(low, low + more).at(0.0) == (low, low)
    assert SideRange(low, low + more).at(math.nextafter(1, 0)) == (low + more, low + more)


def test_ranges_and_sizes_share_the_weights():
    entries = [(8, 8), SideRange(20, 40), (99, 50)]
    counts = Counter(ResolutionSchedule(entries, 0, [2, 1, 1]).size_at(step) for step in range(2000))
    assert 900 < counts[(8, 8)] < 1100 and 430 < counts[(99, 50)] < 570
    assert sum(counts.values()) - counts[(8, 8)] - counts[(99, 50)] > 430


@given(st.integers(1, 4000), st.integers(1, 4000), st.floats(0.05, 20))
def test_stretching_multiplies_the_aspect_and_keeps_the_area(height, width, factor):
    tall, wide = stretched((height, width), factor)
    assert tall == max(1, round(height / factor**0.5)) and wide == max(1, round(width * factor**0.5))
    assert stretched((height, width), 1.0) == (height, width)


def test_aspects_are_log_uniform_and_leave_size_draws_alone():
    sizes, steps = [(500, 500), (300, 900)], range(2000)
    plain = ResolutionSchedule(sizes, 3)
    varied = ResolutionSchedule(sizes, 3, aspect=(0.5, 4))
    logs = []
    for step in steps:
        (height, width), (tall, wide) = plain.size_at(step), varied.size_at(step)
        assert abs(tall * wide / (height * width) - 1) < 0.01
        logs.append(math.log2(wide / tall * height / width))
    assert -1.01 < min(logs) < -0.98 and 1.98 < max(logs) < 2.01
    for low in (-1, 0, 1):
        assert 590 < sum(low <= value < low + 1 for value in logs) < 740
    assert varied.size_at(11) == ResolutionSchedule(sizes, 3, aspect=(0.5, 4)).size_at(11)


@pytest.mark.parametrize(
    ("aspect", "message"),
    [((2, 0.5), "aspect is 2 0.5;.*nearest: 0.5 2$"), ((0, 1), "above 0"), ((1, math.inf), "above 0"),
     ((math.nan, 1), "above 0"), ((-1, 1), "above 0")],
)  # fmt: skip
def test_bad_aspects(aspect, message):
    with pytest.raises(ValueError, match=message):
        ResolutionSchedule([(8, 8)], 0, aspect=aspect)


@pytest.mark.parametrize(
    ("entries", "weights", "aspect"),
    [
        ([(16, 20), (12, 12)], None, (1, 1)),
        ([(1, 1), (2, 9)], [1, 0], (0.3, 3)),
        ([SideRange(5, 31), (30, 7)], None, (0.2, 0.9)),
        ([SideRange(5, 31)], None, (1.5, 6)),
    ],
)
def test_no_step_is_larger_than_the_largest_side(entries, weights, aspect):
    schedule = ResolutionSchedule(entries, 2, weights, aspect)
    largest = max(max(schedule.size_at(step)) for step in range(3000))
    assert 0.93 * schedule.largest_side() <= largest <= schedule.largest_side()


def test_every_size_is_in_every_step_the_largest_area_first():
    schedule = EverySize([(9, 9), (2, 60), (16, 4)])
    assert schedule.sizes_at(5) == ((2, 60), (9, 9), (16, 4)) == schedule.sizes_at(0)
    assert schedule.size_at(5) == (2, 60) and schedule.largest_side() == 60
    for bad in ([(9, 9)], [(9, 9), (9, 9)], []):
        with pytest.raises(ValueError, match="at least two sizes"):
            EverySize(bad)
