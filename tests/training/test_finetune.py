"""Runs that start from weights: what they start with, what they learn, and what makes them another run."""

import copy
import dataclasses
import shutil

import pytest
import timm
import torch
from safetensors.torch import load_file

import anyres
from anyres.data.folder import ImageFolder
from anyres.models.architectures import get_config
from anyres.models.vitar import ViTAR
from anyres.models.weights.files import load, save
from anyres.training import train
from anyres.training.classification.task import ClassificationTask
from anyres.training.optim import make_optimizer
from anyres.training.trainer import Trainer

CPU = torch.device("cpu")
SMALL = {"patch_size": 4, "grid": (3, 3), "width": 16, "depth": 2, "heads": 2}
QUIET = {"mixup": 0.0, "cutmix": 0.0}


@pytest.fixture
def mae(tmp_path):
    """The folder of a pre-trained model."""
    small = {"decoder_width": 8, "decoder_depth": 1, "decoder_heads": 2}
    torch.manual_seed(5)
    model = anyres.create_model("mae_vitar_tiny_patch16", **SMALL, **small)
    save(tmp_path / "mae", model, name="mae_vitar_tiny_patch16", training_sizes=[(12, 12)])
    return tmp_path / "mae"


def encoder_of(folder):
    weights = load_file(folder / "model.safetensors")
    return {k.removeprefix("backbone."): v for k, v in weights.items() if k.startswith("backbone.")}


def below_head(model):
    return {name: value for name, value in model.state_dict().items() if not name.startswith("head.")}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_fine_tuning_starts_with_the_encoder_and_the_seeds_own_head(make_config, mae, capsys):
    task = ClassificationTask(make_config(init=mae))
    assert same(below_head(task.model), encoder_of(mae))
    assert torch.equal(task.model.head.weight, ClassificationTask(make_config()).model.head.weight)
    text = capsys.readouterr().err
    assert f"Starting from {mae}: blocks, merger, norm, position, stem. Fresh: head. Left out: decoder." in text


def test_a_vit_starts_a_vitar_with_a_fresh_merger(make_config, tmp_path, capsys):
    vit = ViTAR(get_config("deit_tiny_patch16", **SMALL, num_classes=2))
    save(tmp_path / "vit", vit, name=None, classes=["a", "b"], training_sizes=[(12, 12)])
    started, drawn = ClassificationTask(make_config(init=tmp_path / "vit")), ClassificationTask(make_config())
    assert torch.equal(started.model.trunk.blocks[0].mlp.fc1.weight, vit.trunk.blocks[0].mlp.fc1.weight)
    assert same(started.model.merger.state_dict(), drawn.model.merger.state_dict())
    assert "Fresh: merger, head. Left out: head, prefix." in capsys.readouterr().err
    with pytest.raises(ValueError, match="lacks merger, which would stay as drawn"):
        ClassificationTask(make_config(init=tmp_path / "vit", linear_probe=True))


def test_the_model_that_is_meant_of_a_file_is_said_aloud(make_config, mae, tmp_path, capsys):
    vit = timm.create_model("vit_tiny_patch16_224", img_size=12, patch_size=4, embed_dim=16, depth=2, num_heads=2)
    state = {f"module.{name}": value for name, value in vit.state_dict().items()}
    torch.save({"model": state, "model_ema": state}, tmp_path / "both.pth")
    options = {"model": "deit_tiny_patch16", "model_options": SMALL, "init": tmp_path / "both.pth"}
    with pytest.raises(
        ValueError, match="several models: model.module, model_ema.module; give one of them as --init-key"
    ):
        ClassificationTask(make_config(**options))
    ClassificationTask(make_config(**options, init_key="model_ema"))
    assert f"Starting from {tmp_path / 'both.pth'} (its model_ema.module): blocks, " in capsys.readouterr().err
    with pytest.raises(ValueError, match="init_key"):
        make_config(init_key="model").check()


def test_layer_decay_in_the_first_step(plain, mae):
    """AdamW's first step moves a weight by its learning rate, whatever the gradient."""
    config = plain(init=mae, layer_decay=0.5, warmup_steps=0, lr=1e-3, weight_decay=0.0, clip_grad=None, ema=None)
    task = ClassificationTask(config)
    before = {name: value.clone() for name, value in task.model.state_dict().items()}
    Trainer(config, task, CPU).update(next(task.batches(0, 1)))
    moved = {name: (value - before[name]).abs().max().item() for name, value in task.model.state_dict().items()}
    expected = {
        "head": 1,
        "trunk.norm": 1 / 2,
        "trunk.blocks.1": 1 / 2,
        "trunk.blocks.0": 1 / 4,
        "merger": 1 / 8,
        "stem": 1 / 16,
    }
    for part, scale in expected.items():
        largest = max(step for name, step in moved.items() if name.startswith(part + "."))
        assert largest == pytest.approx(1e-3 * scale, rel=0.02), part


def test_a_run_goes_on_without_the_weights_it_started_from(make_config, mae, tmp_path):
    straight = train(make_config(init=mae, out=tmp_path / "straight")).run
    broken = make_config(init=mae, out=tmp_path / "broken")
    with pytest.raises(Stopped):
        train(broken, _Stopping(broken))
    shutil.rmtree(mae)
    assert train(broken).finished
    weights = [load_file(run / "model.safetensors") for run in (straight, broken.out)]
    assert same(*weights)
    assert train(broken).finished  # and when there is nothing left to do
    with pytest.raises(ValueError, match="mae does not exist; weights to start from are"):
        train(make_config(init=mae, out=tmp_path / "new"))


class Stopped(Exception):
    """In place of a power cut."""


class _Stopping(ClassificationTask):
    def batches(self, start, stop):
        for batch in super().batches(start, stop):
            if batch.step == 3:
                raise Stopped
            yield batch


def test_other_weights_under_the_same_name_are_another_run(make_config, mae, tmp_path):
    config = make_config(init=mae, steps=2, warmup_steps=0)
    train(config)
    assert train(config).finished
    for other in (None, mae):
        shutil.copytree(mae, tmp_path / "copy", dirs_exist_ok=True)
        if other is not None:
            model = anyres.create_model("vitar_tiny_patch16", **SMALL, num_classes=2)
            save(mae, model, name=None, classes=["a", "b"], training_sizes=[(12, 12)])
        with pytest.raises(ValueError, match="other settings .*init: "):
            train(make_config(init=other, steps=2, warmup_steps=0))
    assert train(make_config(init=tmp_path / "copy", steps=2, warmup_steps=0)).finished  # moved


def test_a_probe_learns_its_head_on_the_features_of_evaluation(plain, mae):
    config = plain(init=mae, linear_probe=True, weight_decay=0.0, **QUIET)
    task = ClassificationTask(config)
    optimizer = make_optimizer(task.model, config)
    learned = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert learned == {id(task.model.head.weight), id(task.model.head.bias)}
    task.model.train()
    prepared = task.prepare(next(task.batches(0, 1)), CPU)
    loss = task.loss(prepared, slice(0, 4))
    loss.backward()
    reference = get_config("vitar_tiny_patch16", **SMALL, num_classes=0)
    frozen = ViTAR(reference).eval()
    frozen.load_state_dict(encoder_of(mae))
    with torch.no_grad():
        pooled = frozen(prepared.views[0].images)
    head = torch.nn.Linear(16, 3)
    head.load_state_dict(task.model.head.state_dict())
    expected = torch.nn.functional.cross_entropy(head(pooled), prepared.targets)
    expected.backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(task.model.head.weight.grad, head.weight.grad)
    assert all(p.grad is None for name, p in task.model.named_parameters() if not name.startswith("head."))


def test_a_probe_computes_its_loss_in_the_mode_that_the_model_is_in(make_config, mae):
    """Whoever sets training mode, as the engine does in every step, gets features of evaluation."""
    config = make_config(init=mae, linear_probe=True, model_options=SMALL)
    trainer = Trainer(config, ClassificationTask(config), CPU)
    trainer.update(next(trainer.task.batches(0, 1)))
    model, batch = trainer.model, next(trainer.task.batches(1, 2))
    assert [name for name, module in model.named_modules() if module.training] == ["head"]
    for mode in (True, False):
        for each in (model, copy.deepcopy(model)):
            each.train(mode)
            assert {name for name, module in each.named_modules() if module.training} == ({"head"} if mode else set())
        modes = [module.training for module in model.modules()]
        loss = trainer.task.loss(trainer.task.prepare(batch, CPU), slice(0, 4))
        assert loss.requires_grad and [module.training for module in model.modules()] == modes
        trainer.validate(trainer.final_model())
        assert [module.training for module in model.modules()] == modes


def test_frozen_features_thaw():
    model = anyres.create_model("vitar_tiny_patch16", **SMALL, num_classes=2).train()
    model.freeze_features()
    assert not model.trunk.training and model.head.training
    assert {name for name, each in model.named_parameters() if each.requires_grad} == {"head.weight", "head.bias"}
    model.freeze_features(False)
    assert model.train().trunk.training and all(each.requires_grad for each in model.parameters())


@pytest.mark.parametrize("changes", [{}, {"ema": None, "replicas": True, "accumulate": 2}])
def test_a_probe_leaves_the_rest_as_it_was(plain, mae, changes):
    result = train(plain(init=mae, linear_probe=True, **changes))
    model, _ = load(result.run, ViTAR)
    assert same(below_head(model), encoder_of(mae))
    fresh = ClassificationTask(plain()).model
    assert not torch.equal(model.head.weight, fresh.head.weight)
    assert len(result.validation) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"linear_probe": True}, "linear_probe without init would be a probe of random features"),
        ({"init_resize": True}, "init_resize is True but has no effect, because there is no init"),
        ({"linear_probe": True, "init": "mae", "layer_decay": 0.7}, "layer_decay is 0.7 .*trains the head alone"),
        ({"linear_probe": True, "init": "mae", "grad_checkpointing": True}, "grad_checkpointing is True .*head alone"),
        ({"linear_probe": True, "init": "mae", "grad_pieces": True}, "grad_pieces is True .*head alone"),
        (
            {"linear_probe": True, "init": "mae", "replicas": True, "consistency": 1.0},
            "consistency is 1.0 .*head alone",
        ),
        (
            {"linear_probe": True, "init": "mae", "model_options": {"drop_path_rate": 0.1}},
            "model option drop_path_rate is 0.1 but has no effect.*head alone",
        ),
        ({"linear_probe": True, "init": "mae", "model_options": {"jitter": 0.25}}, "model option jitter is 0.25"),
        ({"label_share": 0.0}, "label_share is 0.0; allowed: above 0 up to 1"),
        ({"label_share": 10}, "label_share is 10; allowed: above 0 up to 1"),
    ],
)
def test_settings_without_effect_are_refused(make_config, changes, message):
    with pytest.raises(ValueError, match=message):
        make_config(**changes).check()


def test_another_grid_needs_the_word_resize(make_config, mae):
    other = {"patch_size": 4, "grid": (2, 5), "width": 16, "depth": 2, "heads": 2}
    with pytest.raises(ValueError, match="--model-options grid=3x3, or --init-resize"):
        ClassificationTask(make_config(init=mae, model_options=other))
    task = ClassificationTask(make_config(init=mae, model_options=other, init_resize=True))
    assert task.model.position.table.shape == (2, 5, 16)


def test_a_share_of_the_labels(make_config, data, write_data, tmp_path):
    whole = ImageFolder(data / "train")
    assert whole.share(1.0, 3).paths == whole.paths and whole.share(1.0, 3).labels == whole.labels
    many = ImageFolder(write_data(tmp_path / "many", train=20, val=1) / "train")
    tenth, half = many.share(0.1, 3), many.share(0.5, 3)
    assert tenth.labels == [0, 0, 1, 1, 2, 2] and len(half) == 30 and half.paths == sorted(half.paths)
    assert set(tenth.paths) < set(half.paths) < set(many.paths)
    assert many.share(0.1, 3).paths == tenth.paths != many.share(0.1, 4).paths
    assert [many.classes[label] for label in tenth.labels] == [path.parent.name for path in tenth.paths]
    assert many.share(1e-6, 3).labels == [0, 1, 2]
    assert len({folder.digest() for folder in (tenth, half, many)}) == 3
    for fraction in (0.0, 1.5):
        with pytest.raises(ValueError, match="above 0 up to 1"):
            many.share(fraction, 0)


def test_an_epoch_is_over_the_share(make_config, data, tmp_path):
    task = ClassificationTask(make_config(label_share=0.4, batch_size=6, mixup=0.0, cutmix=0.0))
    assert len(task.folder) == 6 and len(task.validation) == 9
    for batch in task.batches(0, 3):  # every batch is an epoch
        assert sorted(batch.labels.tolist()) == [0, 0, 1, 1, 2, 2]
    assert task.identity() != ClassificationTask(make_config(label_share=0.8)).identity()
    other = make_config(
        label_share=0.4, sizes=("16",), batch_size=2, lr=0.1, model="deit_tiny_patch16", model_options={}
    )
    assert ClassificationTask(other).folder.paths == task.folder.paths


def test_a_pyramid_starts_from_the_encoder_of_one(make_config, tmp_path, capsys):
    ours = SMALL | {"merger": "pyramid", "grid_shape": "aspect", "position": "rotary"}
    decoder = {"decoder_width": 8, "decoder_depth": 1, "decoder_heads": 2}
    model = anyres.create_model("mae_vitar_tiny_patch16", **ours, full_levels=1, **decoder)
    save(tmp_path / "mae", model, name=None, training_sizes=[(12, 12)])
    for linear_probe in (False, True):  # whose largest size merges once too
        config = make_config(init=tmp_path / "mae", model_options=ours, steps=3, linear_probe=linear_probe)
        assert same(below_head(ClassificationTask(config).model), encoder_of(tmp_path / "mae"))
        shutil.rmtree(train(config).run)
        assert "Not as there" not in capsys.readouterr().err
    alike = "Give --model-options merger=pyramid grid_shape=aspect"
    with pytest.raises(ValueError, match=f"merger is pyramid there and grid_attention in the model; .* {alike}"):
        rotary = SMALL | {"position": "rotary"}
        ClassificationTask(make_config(init=tmp_path / "mae", model_options=rotary, linear_probe=True))


def test_settings_that_no_tensor_tells_of_are_named(plain, tmp_path, capsys):
    theirs = SMALL | {"mean": (0.5,) * 3, "std": (0.5,) * 3, "cells": "balanced"}
    model = anyres.create_model("mae_vitar_tiny_patch16", **theirs, decoder_width=8, decoder_depth=1, decoder_heads=2)
    save(tmp_path / "mae", model, name=None, training_sizes=[(12, 12)])
    alike = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "cells": "balanced"}
    given = "--model-options mean=0.5,0.5,0.5 std=0.5,0.5,0.5 cells=balanced"
    told = (
        "mean is 0.5,0.5,0.5 there and 0.485,0.456,0.406 in the model; std is .*; cells is balanced there and halving"
    )
    with pytest.raises(ValueError, match=f"{told} in the model. Give {given}"):
        ClassificationTask(plain(init=tmp_path / "mae", linear_probe=True))
    capsys.readouterr()
    ClassificationTask(plain(init=tmp_path / "mae"))
    text = capsys.readouterr().err
    assert "Not as there: mean is 0.5,0.5,0.5 there and" in text and f"{given}." in text
    config = plain(init=tmp_path / "mae", linear_probe=True)
    config = dataclasses.replace(config, model_options={**config.model_options, **alike})
    assert below_head(ClassificationTask(config).model).keys() == encoder_of(tmp_path / "mae").keys()
    assert "Not as there" not in capsys.readouterr().err
