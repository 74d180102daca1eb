"""Learning rates and parameter groups against formulas written out by hand."""

import math

import pytest
import torch

from anyres.models.architectures import create_model
from anyres.training.classification.task import ClassificationTask
from anyres.training.detection.config import DetectionConfig
from anyres.training.optim import WARMUP_START, current_lr, gradient_norm, make_optimizer, make_schedule
from anyres.training.segmentation.config import SegmentationConfig

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


@pytest.mark.parametrize(("power", "lowest"), [(1.0, 0.0), (0.9, 0.01), (2.0, 0.05)])
def test_poly_is_mmsegmentations(make_config, power, lowest):
    """Its PolyLR, by steps, begins where the linear warm-up ends: (1 - share) ** power between eta_min and lr."""
    begin, end = 7, 50
    found = rates(make_config(steps=end, warmup_steps=begin, lr=0.2, min_lr=lowest, lr_schedule="poly", lr_power=power))
    value = 0.2
    for step in range(begin, end):  # its own form, from one step to the next
        assert found[step] == pytest.approx(value)
        value = (value - lowest) * (1 - 1 / (end - begin - (step - begin))) ** power + lowest
        closed = lowest + (0.2 - lowest) * (1 - (step + 1 - begin) / (end - begin)) ** power
        assert value == pytest.approx(closed)
    assert found[end] == pytest.approx(lowest) == value
    assert found[:begin] == pytest.approx([0.0002 + (0.2 - 0.0002) * step / begin for step in range(begin)])


@pytest.mark.parametrize("warmup", [0, 4])
def test_drops_come_after_so_many_steps_as_torchs(make_config, warmup):
    """The oracle is torch's MultiStepLR, which counts the steps that are done."""
    drops = (9, 10, 17)
    found = rates(make_config(steps=20, warmup_steps=warmup, lr=0.2, lr_schedule="step", lr_drops=drops))
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.2)
    torchs = torch.optim.lr_scheduler.MultiStepLR(optimizer, list(drops), gamma=0.1)
    for step in range(21):
        if step >= warmup:
            assert found[step] == pytest.approx(torchs.get_last_lr()[0]), step
        optimizer.step()
        torchs.step()
    assert found[8] == 0.2 and found[9] == pytest.approx(0.02) and found[20] == pytest.approx(0.0002)


@pytest.mark.parametrize("kind", ["poly", "step"])
def test_other_schedules_need_no_history_either(make_config, kind):
    config = make_config(steps=50, warmup_steps=10, lr_schedule=kind, lr_drops=(20, 40) if kind == "step" else ())
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=config.lr)
    schedule = make_schedule(optimizer, config)
    for step in (45, 33):
        schedule.step_update(step)
        assert current_lr(optimizer) == rates(config)[step]


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
    expected = {
        "head": 1.0,
        "trunk.norm": 0.5,
        "trunk.blocks.1": 0.5,
        "trunk.blocks.0": 0.25,
        "merger": 0.125,
        "position": 1 / 16,
    }
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
    assert {"position.table", "trunk.prefix"} <= kept
    assert decayed == {name for name, p in model.named_parameters() if p.ndim > 1} - model.no_weight_decay()


def test_gradient_norm_with_and_without_clipping(make_config):
    model = ClassificationTask(make_config()).model
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 0.1)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert gradient_norm(model, None).item() == pytest.approx(0.1 * count**0.5, rel=1e-5)
    assert gradient_norm(model, 0.5).item() == pytest.approx(0.1 * count**0.5, rel=1e-5)
    assert gradient_norm(model, None).item() == pytest.approx(0.5, rel=1e-4)


def dense(name, **changes):
    small = {k: v for k, v in TINY.items() if k != "num_classes"} | {"depth": 3, "num_classes": 3}
    heads = {"channels": 8, "box_features": 8} if name.startswith("mask") else {"head_channels": 8, "taps": (0, 1, 2)}
    heads |= {} if name.startswith("mask") else {"scales": (4, 2, 1), "auxiliary_channels": 8}
    return create_model(name, **(small | heads | changes))


@pytest.mark.parametrize("changes", [{}, {"cells": "2x2"}, {"merger": "none", "position": "learned"}])
@pytest.mark.parametrize("name", ["upernet_vitar_small_patch16", "mask_rcnn_vitar_small_patch16"])
def test_dense_models_decay_as_beit_and_vitdet_with_a_slot_for_the_merger(tmp_path, name, changes):
    """decay ** (depth + 1 - layer): the stem and positions are layer 0, block i is layer i + 1, all above depth + 1.

    The merger stands between stem and first block, so it moves the stem down by one.
    """
    model, kind = dense(name, **changes), SegmentationConfig if name.startswith("upernet") else DetectionConfig
    config = kind(data=tmp_path, out=tmp_path, layer_decay=0.7)
    scales, start = scale_of(model, make_optimizer(model, config)), len("backbone.")
    start += len("backbone.") * (kind is DetectionConfig)
    assert scales.keys() == {name for name, _ in model.named_parameters()}
    backbone = "backbone.backbone." if kind is DetectionConfig else "backbone."
    below, parts = int("merger" not in changes), set()
    for name, scale in scales.items():
        own = name[start:].removeprefix("trunk.").split(".")
        part = own[0] if name.startswith(backbone) else "above"
        if part == "blocks":
            layer = int(own[1]) + 1
        else:
            layer = {"above": 4, "norm": 3, "merger": 0, "stem": -below, "position": -below}[part]
        assert scale == pytest.approx(0.7 ** (3 + 1 - layer)), name
        parts.add(part)
    assert parts == {"above", "norm", "stem", "position", "blocks"} | ({"merger"} if below else set())


def test_without_layer_decay_all_of_a_dense_model_learns_alike(tmp_path):
    model = dense("upernet_vitar_small_patch16")
    groups = make_optimizer(model, SegmentationConfig(data=tmp_path, out=tmp_path, lr=0.1)).param_groups
    assert {group["lr"] for group in groups} == {0.1} and all("lr_scale" not in group for group in groups)


def test_where_the_prefix_stands_among_the_parameters_moves_the_norm_by_a_rounding_at_most(make_config):
    """Before the trunk was a module the prefix tokens came first; runs of before differ in nothing but this sum."""
    model = create_model("deit_tiny_patch16", **(TINY | {"depth": 8}))
    model(torch.randn(4, 3, 24, 20)).logsumexp(1).mean().backward()
    named = sorted(model.named_parameters(), key=lambda pair: pair[0] != "trunk.prefix")
    assert named[0][0] == "trunk.prefix"
    first = torch.nn.utils.get_total_norm([parameter.grad for _, parameter in named])
    torch.testing.assert_close(gradient_norm(model, None), first, rtol=2e-7, atol=0)
