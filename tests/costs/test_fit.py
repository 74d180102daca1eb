"""The closed form of latency and memory, on costs that follow it exactly."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from anyres.costs.calibrate import calibration_shapes
from anyres.costs.fit import Constants, CostModel, Counts, fit, non_negative_least_squares
from anyres.models.architectures import get_config
from anyres.models.config import ViTARConfig

SECONDS = {"call": 2e-3, "levels": 1e-4, "pixels": 3e-9, "stem": 2e-11, "merger": 4e-11, "trunk": 1e-11, "attention": 0}
BYTES = {"call": 3.0, "tokens": 2.0, "pieces": 1.5, "cells": 4.0, "gathered": 1.0, "trunk": 9.0, "completed": 0.5}
TINY = ViTARConfig(patch_size=4, grid=(3, 5), width=24, depth=2, heads=2, num_classes=3)
SIZES = st.integers(1, 400)


def true_costs(config=TINY, positions=300, reserve=1.0):
    return CostModel(Counts(config, 4, positions), Constants(SECONDS, BYTES, reserve))


@pytest.mark.parametrize("config", [TINY, get_config("anyres_small_patch16"), get_config("deit_tiny_patch16")])
def test_what_follows_the_form_is_predicted_exactly(config):
    costs = true_costs(config, 2000)
    shapes = calibration_shapes(costs.counts)
    seconds = {shape: costs.milliseconds(shape) / 1e3 for shape in shapes}
    found = fit(costs.counts, seconds, {shape: costs.bytes(shape) for shape in shapes})
    for shape in [*shapes, (1, 333, 777), (3, 64, 50), (1, 3000, 2999), (2, 1, 1)]:
        assert found.milliseconds(shape) == pytest.approx(costs.milliseconds(shape), rel=1e-6), shape
        assert found.bytes(shape) == pytest.approx(costs.bytes(shape), rel=1e-6), shape


@pytest.mark.parametrize("seed", range(20))
def test_least_squares_without_negatives_meets_the_conditions_of_optimality(seed):
    random = np.random.default_rng(seed)
    matrix, values = random.normal(size=(9, 4)), random.normal(size=9)
    x = non_negative_least_squares(matrix, values)
    slope = matrix.T @ (matrix @ x - values)
    assert (x >= 0).all() and (slope > -1e-9).all() and slope @ x == pytest.approx(0, abs=1e-9)


def test_least_squares_with_an_unknown_that_never_counts():
    matrix = np.array([[1.0, 0.0, 2e9], [3.0, 0.0, 1e9], [1.0, 0.0, 5e9]])
    x = np.array([2.0, 0.0, 3e-9])
    assert non_negative_least_squares(matrix, matrix @ x) == pytest.approx(x)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"merger": "none"},
        {"learned_levels": 1},
        {"cells": "balanced"},
        {"grid_shape": "aspect", "position": "none"},
        {"merger": "pyramid"},
        {"merger": "pyramid", "cells": "2x2"},
        {"merger": "pyramid", "grid_shape": "aspect"},
        {"grid_shape": "aspect", "grid": (2, 2), "window": 2, "global_blocks": ()},
    ],
    ids=str,
)
@settings(max_examples=60)
@given(height=SIZES, width=SIZES, more=st.integers(1, 40), batch=st.integers(1, 3))
def test_the_lower_bound_grows_with_the_image_and_is_one(changes, height, width, more, batch):
    costs = true_costs(replace(TINY, **changes), reserve=1.3)
    for larger in ((height + more, width), (height, width + more)):
        small, large = costs.least((batch, height, width)), costs.least((batch, *larger))
        assert small[0] <= large[0] * (1 + 1e-12) and small[1] <= large[1]
    shape = (batch, height, width)
    assert small[0] <= costs.milliseconds(shape) and small[1] <= costs.bytes_at_most(shape)
    if changes in ({}, {"merger": "none"}, {"merger": "pyramid"}):
        assert costs.milliseconds((batch, *larger)) >= costs.milliseconds(shape) * (1 - 1e-12)


@pytest.mark.parametrize("merger", ["grid_attention", "pyramid", "concat", "average"])
def test_no_term_of_the_lower_bound_falls_where_the_grid_follows_the_image(merger):
    """Exhaustively: the terms themselves fall, also the number of levels, by 1 where the final grid gets a row more."""
    config = replace(TINY, merger=merger, grid=(4, 4), grid_shape="aspect")
    counts = Counts(config, 4, 50)
    terms = {(rows, cols): counts.seconds((1, 4 * rows, 4 * cols)) for rows in range(1, 23) for cols in range(1, 23)}
    least = {(rows, cols): counts.least_seconds((1, 4 * rows, 4 * cols)) for rows, cols in terms}
    fallen = set()
    for (rows, cols), found in least.items():
        assert all(found[name] <= terms[rows, cols][name] * (1 + 1e-12) for name in found)
        for larger in ((rows + 1, cols), (rows, cols + 1)):
            if larger in least:
                assert all(found[name] <= least[larger][name] for name in found)
                fallen |= {name for name, count in terms[rows, cols].items() if count > terms[larger][name]}
    assert {"levels", "trunk", "attention"} <= fallen


def test_memory_of_pieces_does_not_grow_except_for_the_image():
    costs = true_costs()
    beyond = [costs.bytes((1, side, side)) - costs.counts.image_bytes((1, side, side)) for side in (120, 240, 480, 960)]
    whole = costs.bytes((1, 96, 96)) - costs.counts.image_bytes((1, 96, 96))  # twice a piece, just not cut
    assert max(beyond) < 1.5 * whole


def test_the_reserve_covers_what_was_measured():
    costs = true_costs()
    shapes = calibration_shapes(costs.counts)
    noise = dict(zip(shapes, itertools.cycle([1.0, 1.2, 0.9, 1.05]), strict=False))
    image = {shape: costs.counts.image_bytes(shape) for shape in shapes}
    peaks = {shape: image[shape] + (costs.bytes(shape) - image[shape]) * noise[shape] for shape in shapes}
    found = fit(costs.counts, {shape: costs.milliseconds(shape) / 1e3 for shape in shapes}, peaks)
    assert found.constants.reserve > 1.05
    assert all(found.bytes_at_most(shape) > peaks[shape] for shape in shapes)
    assert all(found.bytes_at_most(shape) > found.bytes(shape) for shape in shapes)


def test_small_images_may_show_no_memory_at_all():
    """A peak of nothing, where the allocator held enough already, is no division by zero."""
    counts = Counts(get_config("vitar_tiny_patch16"), 4, 3000)
    shapes = [(1, side, side) for side in (16, 32, 224, 448, 896, 1344)]
    found = fit(counts, dict.fromkeys(shapes, 0.01), {shape: 0.0 if shape[1] < 100 else 3e7 for shape in shapes})
    assert 0 < found.bytes((1, 448, 448)) < 1e9
