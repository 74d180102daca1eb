"""Which images share a call of the model, and what their planning holds for in memory."""

import math

import numpy as np
import pytest
from hypothesis import given, strategies as st

from anyres.predict.inputs import as_inputs
from anyres.predict.plan import Rules, groups, plan

SIZES = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), max_size=12)


@given(SIZES, st.integers(1, 5), st.integers(1, 200))
def test_every_image_is_in_one_group_of_as_many_as_are_allowed(sizes, most, limit):
    costs = [height * width for height, width in sizes]
    found = list(groups(sizes, most, costs, limit))
    order = [index for group in found for index in group]
    assert sorted(order) == list(range(len(sizes))) and [sizes[i] for i in order] == sorted(sizes)
    for group in found:
        assert 1 <= len(group) <= most and (len(group) == 1 or sum(costs[i] for i in group) <= limit)
    for group, other in zip(found, found[1:], strict=False):  # none is closed without need
        assert len(group) == most or sum(costs[i] for i in [*group, other[0]]) > limit


class Needs:
    """A model that needs a byte for a pixel."""

    def whole(self, size):
        return math.prod(size)

    def windows(self, size, window, at_once):
        return math.prod(window) * at_once

    def usual_window(self):
        return (32, 32)

    def smaller_window(self, part):
        return (round(32 * part), round(32 * part))


@pytest.mark.parametrize(("kept", "at_once"), [(0, 2), (1, 1)])
def test_what_is_kept_of_a_huge_image_counts(kept, at_once):
    image = np.zeros((100, 90, 3), np.uint8)
    budget = 6 * 9000 + 2 * 32 * 32 + 100
    rules = Rules(max_pixels=99, batch_size=None, budget=budget + kept * 8500, kept=kept)
    (item,) = plan(as_inputs(image), rules, Needs())
    assert (item.is_huge, item.window, item.at_once) == (True, (32, 32), at_once)


def test_a_model_without_windows_sees_large_images_as_they_are_or_not_at_all():
    images = as_inputs([np.zeros((9, 9), np.uint8), np.zeros((20, 9), np.uint8)])
    small, large = plan(images, Rules(max_pixels=99, batch_size=4), None)
    assert not small.in_parts and large.by_region and large.window is None and large.in_parts
    small, large = plan(images, Rules(max_pixels=99, batch_size=4, in_parts=False), None)
    assert not small.in_parts and "20x9 pixels are 180" in str(large.error) and not large.is_huge
