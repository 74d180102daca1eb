"""What training costs: predicted multiply-accumulates against counting every draw, and hours by hand."""

import itertools

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from anyres.costs.cost import macs_by_part, mae_macs_by_part
from anyres.data.schedule import EverySize
from anyres.layers.cells import cell_sum, to_patches
from anyres.layers.visible import merge_visible
from anyres.models.architectures import AUTOENCODER, create_model, get_config
from anyres.recipes import expected_macs, training_hours
from anyres.recipes.hours import drawn_sizes
from anyres.sizes import size_text
from anyres.training import PretrainConfig, TrainConfig


def config(**changes):
    options = {"patch_size": 8, "grid": (2, 3), "width": 24, "depth": 1, "heads": 2}
    given = {"data": "data", "out": "out", "model": "vitar_tiny_patch16", "model_options": options}
    given |= {"sizes": ("16", "40x56"), "steps": 100}
    return TrainConfig(**(given | {"warmup_steps": 5, "batch_size": 4} | changes))


def pretraining(changed=None, **changes):
    options = {"patch_size": 8, "grid": (2, 2), "width": 24, "depth": 1, "heads": 2}
    options |= {"decoder_width": 16, "decoder_heads": 2, **(changed or {})}
    given = {"data": "data", "out": "out", "model": "mae_vitar_tiny_patch16", "model_options": options}
    given |= {"sizes": ("16", "40x56"), "steps": 100}
    return PretrainConfig(**(given | {"warmup_steps": 5, "batch_size": 4} | changes))


def counted(function, *arguments):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        function(*arguments)
    return counter.get_total_flops() / 2


@pytest.mark.parametrize("extra", [0, 1, 3])
def test_expected_macs_is_the_mean_over_all_draws(extra):
    """Every size with its weight, every draw of extra passes, each counted by torch on the model itself."""
    run = config(model_options={**config().model_options, "extra_passes": extra}, size_weights=(1.0, 3.0))
    with torch.device("meta"):  # where attention is matrix products that torch can count
        model = create_model(run.model, num_classes=7, **run.model_options).eval()
    total = 0.0
    for weight, (height, width) in zip((0.25, 0.75), run.parsed_sizes(), strict=True):
        image, plan = torch.empty(1, 3, height, width, device="meta"), model.plan(height, width)
        tokens = torch.empty(1, *plan.size, 24, device="meta")
        ends = [(0, 1)] * (len(plan.levels) - 1) + [tuple(range(extra + 1))]
        draws = list(itertools.product(*ends)) if extra else [(0,) * len(plan.levels)]
        costs = [counted(model.merger, tokens, plan.with_extra_passes(draw)) for draw in draws]
        rest = counted(model, image) - counted(model.merger, tokens, plan)
        total += weight * (rest + sum(costs) / len(costs))
    assert expected_macs(run, 7) == pytest.approx(total, rel=1e-12)


@pytest.mark.parametrize(
    "changes",
    [
        {"size_weights": (1.0, 0.2)},
        {"sizes": ("16-90",)},
        {"sizes": ("32", "16-60"), "size_weights": (1.0, 3.0), "aspect": (0.5, 3.0)},
        {"sizes": ("16", "23x71", "40"), "replicas": True},
    ],
)
def test_expected_macs_is_what_the_schedule_draws(changes):
    run = config(**changes)
    schedule, model = run.schedule(), get_config(run.model, num_classes=7, **run.model_options)
    steps = 1 if isinstance(schedule, EverySize) else 4000
    sizes = [size for step in range(steps) for size in schedule.sizes_at(step)]
    costs = {size: sum(macs_by_part(model, size).values()) for size in set(sizes)}
    assert expected_macs(run, 7) == pytest.approx(sum(costs[size] for size in sizes) / steps, rel=0.02)
    whole = sum(share for share, _ in drawn_sizes(run))
    assert whole == pytest.approx(3 if run.replicas else 1)


def test_hours_by_hand():
    run = config(model="deit_tiny_patch16", model_options={}, sizes=("32x48",), steps=50, batch_size=10)
    macs = sum(macs_by_part(get_config("deit_tiny_patch16"), (32, 48)).values())  # with a head for 1000 classes
    assert expected_macs(run) == macs
    assert training_hours(run, 1e9) == pytest.approx(3 * macs * 500 / 1e9 / 3600)
    for rate in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="macs_per_second is .*above 0"):
            training_hours(run, rate)


def test_pretraining_costs_the_mean_over_its_sizes_by_hand():
    run = pretraining(sizes=("16", "40x56", "33"), size_weights=(1.0, 3.0, 4.0), steps=50, batch_size=10)
    model = AUTOENCODER.get_config(run.model, **run.model_options)
    costs = [sum(mae_macs_by_part(model, size).values()) for size in ((16, 16), (40, 56), (33, 33))]
    mean = (costs[0] + 3 * costs[1] + 4 * costs[2]) / 8
    assert expected_macs(run) == expected_macs(run, classes=7) == pytest.approx(mean, rel=1e-12)
    assert training_hours(run, 1e9) == pytest.approx(3 * mean * 500 / 1e9 / 3600)
    with pytest.raises(ValueError, match="macs_per_second is .*above 0"):
        training_hours(run, 0.0)


@pytest.mark.parametrize("masking", ["cells", "patches"])
@pytest.mark.parametrize("learned", [{}, {"learned_levels": 1}])
def test_extra_passes_of_pretraining_cost_the_mean_over_all_masks_and_draws(masking, learned):
    """16 patches in three levels, a quarter visible; masks with equally many cells at each level cost the same."""
    run = pretraining({"masking": masking, "extra_passes": 2, **learned}, sizes=("64x16",))
    model = create_model(run.model, **run.model_options).eval()
    plan, merger = model.backbone.plan(64, 16), model.backbone.merger
    rows, cols = plan.grid if masking == "cells" else plan.size
    sets = list(itertools.combinations(range(rows * cols), rows * cols // 4))
    masks = torch.zeros(len(sets), rows * cols, dtype=torch.bool)
    masks = masks.scatter(1, torch.tensor(sets), True).view(-1, rows, cols)
    masks = to_patches(masks, plan) if masking == "cells" else masks
    seen, cells = masks[..., None].float(), []
    for level in plan.levels:
        seen = cell_sum(seen, level.rows, level.cols)
        cells.append((seen > 0).sum((1, 2, 3)))
    kinds, number = torch.stack(cells, dim=1).unique(dim=0, return_inverse=True)
    draws = list(itertools.product((0, 1), (0, 1), range(3)))
    total = 0.0
    for kind in range(len(kinds)):
        mask = masks[number == kind][:1]
        tokens = torch.rand(int(mask.sum()), 24)
        costs = [counted(merge_visible, merger, tokens, mask, plan.with_extra_passes(draw)) for draw in draws]
        extra = sum(costs) / len(costs) - counted(merge_visible, merger, tokens, mask, plan)
        total += extra * (number == kind).float().mean().item()
    assert len(kinds) == (1 if masking == "cells" else 7)
    without = pretraining({"masking": masking, **learned}, sizes=("64x16",))
    assert expected_macs(run) - expected_macs(without) == pytest.approx(total, rel=1e-4)


def test_extra_passes_of_a_pyramid_are_those_at_the_size_that_it_is_brought_to():
    options = {"merger": "pyramid", "grid_shape": "aspect", "extra_passes": 2}
    run = pretraining(options, sizes=("35x61",))
    seen = AUTOENCODER.get_config(run.model, **run.model_options).seen(35, 61)
    assert seen != (35, 61)
    assert expected_macs(run) == expected_macs(pretraining(options, sizes=(size_text(seen),)))
    assert expected_macs(run) > expected_macs(pretraining(options | {"extra_passes": 0}, sizes=("35x61",)))
