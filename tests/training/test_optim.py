"""Learning rates and parameter groups against formulas written out by hand."""

import math

import pytest
import torch

from anyres.models.presets import create_model
from anyres.training.optim import WARMUP_START, current_lr, gradient_norm, make_optimizer, make_schedule
from anyres.training.task import ClassificationTask

TINY = {"patch_size": 4, "grid": (3, 3), "width": 16, "depth": 2, "heads": 2, "num_classes": 3}


def rates(config):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=config.lr)
    schedule = make_schedule(optimizer, config)
    found = []
    for step in range(config.steps + 1):
        schedule.step_update(step)
        found.append(current_lr(optimizer))
    return found


def test_learning_rate_curve(make_config):
    config = make_config(steps=50, warmup_steps=10, lr=0.2, min_lr=0.01)
    found = rates(config)
    for step in range(10):
        start = 0.2 * WARMUP_START
        assert found[step] == pytest.approx(start + (0.2 - start) * step / 10)
    for step in range(10, 51):
        assert found[step] == pytest.approx(0.01 + 0.19 * (1 + math.cos(math.pi * (step - 10) / 40)) / 2)
    assert (found[0], found[10], found[50]) == pytest.approx((0.0002, 0.2, 0.01))


def test_without_warmup_the_first_step_has_the_full_rate(make_config):
    assert rates(make_config(warmup_steps=0, lr=0.2))[0] == 0.2


def test_the_schedule_needs_no_history(make_config):
    config = make_config(steps=50, warmup_steps=10)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=config.lr)
    schedule = make_schedule(optimizer, config)
    schedule.step_update(33)
    assert current_lr(optimizer) == rates(config)[33]


def scale_of(model, optimizer):
    groups = {id(parameter): group for group in optimizer.param_groups for parameter in group["params"]}
    return {name: groups[id(parameter)]["lr_scale"] for name, parameter in model.named_parameters()}


def test_layer_decay_gives_the_merger_a_slot_of_its_own(make_config):
    model = create_model("vitar_tiny_patch16", **TINY)
    scales = scale_of(model, make_optimizer(model, make_config(layer_decay=0.5)))
    expected = {"head": 1.0, "norm": 0.5, "blocks.1": 0.5, "blocks.0": 0.25, "merger": 0.125, "position": 1 / 16}
    for prefix, scale in (expected | {"stem": 1 / 16}).items():
        found = {value for name, value in scales.items() if name.startswith(prefix)}
        assert found == {scale}, prefix


def test_layer_decay_reaches_the_learning_rates(make_config):
    config = make_config(layer_decay=0.5, warmup_steps=0)
    model = create_model("vitar_tiny_patch16", **TINY)
    optimizer = make_optimizer(model, config)
    make_schedule(optimizer, config).step_update(0)
    assert {group["lr"] for group in optimizer.param_groups} == {
        config.lr * scale for scale in scale_of(model, optimizer).values()
    }
    assert current_lr(optimizer) == pytest.approx(config.lr)


@pytest.mark.parametrize("layer_decay", [None, 0.7])
def test_only_matrices_decay(make_config, layer_decay):
    model = create_model("vitar_tiny_patch16", **TINY, prefix_tokens=1)
    optimizer = make_optimizer(model, make_config(layer_decay=layer_decay, weight_decay=0.3))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed = {names[id(p)] for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]}
    kept = set(names.values()) - decayed
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0, 0.3}
    assert {"position.table", "prefix"} <= kept
    assert decayed == {name for name, p in model.named_parameters() if p.ndim > 1} - model.no_weight_decay()


def test_gradient_norm_with_and_without_clipping(make_config):
    model = ClassificationTask(make_config()).model
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 0.1)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert gradient_norm(model, None).item() == pytest.approx(0.1 * count**0.5, rel=1e-5)
    assert gradient_norm(model, 0.5).item() == pytest.approx(0.1 * count**0.5, rel=1e-5)
    assert gradient_norm(model, None).item() == pytest.approx(0.5, rel=1e-4)
