import math
import random
from collections import Counter

import pytest

from anyres.data.schedule import EverySize, ResolutionSchedule
from anyres.sizes import SideRange


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


def test_ranges_and_sizes_share_the_weights():
    entries = [(8, 8), SideRange(20, 40), (99, 50)]
    counts = Counter(ResolutionSchedule(entries, 0, [2, 1, 1]).size_at(step) for step in range(2000))
    assert 900 < counts[(8, 8)] < 1100 and 430 < counts[(99, 50)] < 570
    assert sum(counts.values()) - counts[(8, 8)] - counts[(99, 50)] > 430


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
