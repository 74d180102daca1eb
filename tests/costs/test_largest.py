"""The largest size within a budget, on a cost model whose constants are given."""

import pytest

import anyres.costs.largest as largest
from anyres.costs.fit import Constants, CostModel, Counts
from anyres.costs.largest import Sizer, describe_largest_size, largest_size
from anyres.costs.largest_config import LargestSizeConfig, Limits
from anyres.models.config import ViTARConfig
from anyres.models.vitar import ViTAR

SECONDS = {"call": 2e-3, "levels": 1e-5, "pixels": 3e-9, "stem": 2e-9, "merger": 4e-9, "trunk": 1e-9, "attention": 0}
BYTES = {"call": 0.05, "tokens": 2.0, "pieces": 1.5, "cells": 4.0, "gathered": 1.0, "trunk": 9.0, "completed": 0.5}
SETTINGS = {"patch_size": 4, "grid": (3, 3), "width": 24, "depth": 1, "heads": 2, "num_classes": 3}


def costs_of(config):
    return CostModel(Counts(config, 4, 200), Constants(SECONDS, BYTES, 1.2))


@pytest.fixture
def model(monkeypatch):
    monkeypatch.setattr(largest, "calibration", lambda model, **options: costs_of(model.config))
    return ViTAR(ViTARConfig(**SETTINGS))


def sizer(limits, batch=1, **changes):
    return Sizer(costs=costs_of(ViTARConfig(**SETTINGS | changes)), limits=limits, batch=batch)


BUDGETS = [Limits(milliseconds=9), Limits(gigabytes=0.0005), Limits(30, 0.0009), Limits(None, 0.004), Limits(11, 1)]


@pytest.mark.parametrize("changes", [{}, {"learned_levels": 1}, {"merger": "none"}, {"grid_shape": "aspect"}])
@pytest.mark.parametrize("limits", BUDGETS, ids=str)
@pytest.mark.parametrize(("aspect", "batch"), [(1.0, 1), (2.3, 1), (0.2, 3)])
def test_it_is_the_largest_of_all(limits, aspect, batch, changes):
    found = sizer(limits, batch, **changes)
    best = found.largest(aspect, 4)
    ratio = max(aspect, 1 / aspect)
    tried = [(4 * steps, 4 * max(1, round(steps / ratio))) for steps in range(1, 400)]
    tried = [(short, long) if aspect >= 1 else (long, short) for long, short in tried]
    fitting = [size for size in tried if found.fits(size)]
    assert fitting[-1] == best and best != tried[-1]


def test_memory_may_fall_where_pieces_begin_and_the_larger_size_is_found():
    costs = costs_of(ViTARConfig(**SETTINGS))
    whole, pieces = (1, 56, 56), (1, 60, 60)  # 196 and 225 patches; a piece has 200
    assert costs.bytes_at_most(whole) > costs.bytes_at_most(pieces)
    found = sizer(Limits(gigabytes=costs.bytes_at_most(pieces) / 1e9))
    assert not found.fits((56, 56)) and min(found.largest(1.0, 4)) >= 60


@pytest.mark.parametrize(("aspect", "gigabytes"), [(3000.0, 0.003), (0.0005, 0.001), (300.0, 0.006)])
def test_extreme_aspects_are_exact_and_take_few_steps(aspect, gigabytes, monkeypatch):
    found, tried = sizer(Limits(gigabytes=gigabytes)), []
    fits = Sizer.fits
    monkeypatch.setattr(Sizer, "fits", lambda self, size: tried.append(size) or fits(self, size))
    best = found.largest(aspect, 4)
    assert len(tried) < 800
    steps, ratio = max(best) // 4, max(aspect, 1 / aspect)
    assert best[:: -1 if aspect < 1 else 1] == (4 * max(1, round(steps / ratio)), 4 * steps)
    for longer in range(steps + 1, steps + 3000, 7):
        size = (4 * max(1, round(longer / ratio)), 4 * longer)
        assert not fits(found, size[::-1] if aspect < 1 else size)
    assert fits(found, best)


def test_all_sizes_are_tried_where_that_is_quick():
    fitting = {3, 500, 1200, 1201, 1990}
    found = sizer(Limits(gigabytes=1))
    assert found._down_from(2000, fitting.__contains__, 2048) == 1990
    assert found._down_from(1980, fitting.__contains__, 2048) == 1201
    assert found._down_from(499, fitting.__contains__, 2048) == 3
    assert found._down_from(2, fitting.__contains__, 2048) == 0
    assert found._down_from(10**6, lambda n: n < 700_000 or n == 700_020, 34) == 700_020


def test_a_set_is_reduced_only_where_it_must_be(model):
    sizes = [(40, 40), (300, 900), (900, 300), (7, 3), (2000, 2000)]
    found = largest_size(model, milliseconds=12, sizes=sizes)
    limit = sizer(Limits(milliseconds=12))
    for (height, width), (new_height, new_width) in zip(sizes, found, strict=True):
        assert limit.fits((new_height, new_width))
        if limit.fits((height, width)):
            assert (new_height, new_width) == (height, width)
        else:
            assert new_height < height and new_width < width
            assert abs(new_width - new_height * width / height) <= max(1, width / height)
            long = max(new_height, new_width) + 1
            next_size = [max(1, round(long * side / max(height, width))) for side in (height, width)]
            assert not limit.fits(tuple(next_size))
    assert found[0] == (40, 40) and found[3] == (7, 3) and found[1] == found[2][::-1]


def test_sides_are_multiples_and_the_batch_counts(model):
    one = largest_size(model, 12)
    assert one[0] == one[1] and one[0] % 4 == 0
    pixel = largest_size(model, 12, multiple=1)
    assert one[0] <= pixel[0] < one[0] + 4
    assert largest_size(model, 12, multiple=32)[0] % 32 == 0
    assert largest_size(model, 12, batch=4)[0] < one[0]
    assert largest_size(model, 12, "1000GB") == one
    wide = largest_size(model, 12, aspect=3.0)
    assert wide[1] == pytest.approx(3 * wide[0], abs=8)


def test_a_budget_that_nothing_fits_says_what_would(model):
    with pytest.raises(ValueError, match=r"nothing fits 0.5 ms: the smallest size, 4x4 pixels needs") as error:
        largest_size(model, 0.5)
    words = str(error.value).split()
    enough = float(words[words.index("ms", words.index("needs")) - 1])
    assert largest_size(model, enough) >= (4, 4)
    with pytest.raises(ValueError, match="nothing fits"):
        largest_size(model, memory_budget="1KB", sizes=[(224, 224)])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "no budget given; allowed: milliseconds, memory_budget, or both"),
        ({"milliseconds": 0}, "milliseconds is 0"),
        ({"memory_budget": "infGB"}, "cannot read 'infGB' as memory"),
        ({"memory_budget": "-1GB"}, "cannot read '-1GB' as memory"),
        ({"milliseconds": 5, "batch": 0}, "batch is 0"),
        ({"milliseconds": 5, "aspect": 0}, "aspect is 0"),
        ({"milliseconds": 5, "aspect": float("nan")}, "aspect is nan"),
        ({"milliseconds": 5, "multiple": 0}, "multiple is 0"),
        ({"milliseconds": 5, "multiple": 2**18 + 1}, "multiple is 262145; allowed: 1 to 262144"),
        ({"milliseconds": 5, "sizes": [(0, 4)]}, "0x4"),
        ({"milliseconds": 5, "sizes": [(9, 4)], "multiple": 4}, "no effect"),
        ({"milliseconds": 5, "sizes": [(9, 4)], "aspect": 2.0}, "no effect"),
        ({"milliseconds": 5, "device": "cpuu"}, "cpu"),
    ],
)
def test_bad_settings_are_named(model, options, words):
    with pytest.raises(ValueError, match=words):
        largest_size(model, **options)


def test_the_command_prints_a_table(model, monkeypatch):
    monkeypatch.setattr(largest, "create_model", lambda name: model)
    config = LargestSizeConfig(model="tiny", milliseconds=12, device="cpu", aspect=1.5)
    text = describe_largest_size(config, progress=False)
    height, width = largest_size(model, 12, aspect=1.5)
    assert text.startswith(f"{height}x{width} pixels") and "12 ms" in text
    rows = [line.split() for line in text.splitlines()[3:]]
    by_size = {row[0]: row for row in rows}
    assert by_size[f"{height}x{width}"][-1] == "fits" and rows[-1][-1] != "fits" and len(rows) == 7
    assert float(by_size[f"{height}x{width}"][1]) == pytest.approx(
        costs_of(model.config).milliseconds((1, height, width)), abs=0.06
    )


@pytest.mark.parametrize(
    "options", [{"milliseconds": 1}, {"model": "a", "run": "b", "milliseconds": 1}, {"model": "a"},
                {"model": "a", "milliseconds": 1, "threads": 0}, {"model": "a", "milliseconds": 1, "aspect": 0.0},
                {"model": "a", "milliseconds": 1, "multiple": -3}, {"model": "a", "milliseconds": 1, "batch": 0},
                {"model": "a", "memory_budget": "1"}, {"model": "a", "memory_budget": 1}],
)  # fmt: skip
def test_a_bad_command_is_refused_before_anything_is_loaded(options):
    with pytest.raises(ValueError, match="allowed"):
        LargestSizeConfig(**options)


@pytest.mark.parametrize(("aspect", "multiple"), [(0.0, 16), (-1.0, 16), (float("inf"), 16), (1.0, 0), (1.0, -16)])
def test_a_sizer_refuses_impossible_shapes(aspect, multiple):
    with pytest.raises(ValueError, match=r"(aspect|multiple) is .*; allowed"):
        sizer(Limits(1)).largest(aspect, multiple)
