"""Training from replicas, for any model: the loss by a plain loop, and what the run records."""

import pytest
import torch
from torch.nn import functional as F

from anyres.models.vitar import ViTAR
from anyres.models.weights.files import load
from anyres.training import train
from anyres.training.classification.task import ClassificationTask
from anyres.training.runlog import STEPS, VALIDATIONS, read_rows

CPU = torch.device("cpu")
SIZES = ("9x17", "16x23", "13")
MODELS = ["vitar_tiny_patch16", "deit_tiny_patch16", "resformer_tiny_patch16"]
OPTIONS = {"patch_size": 4, "width": 16, "depth": 2, "heads": 2}


def options(model):
    return OPTIONS if model.startswith("resformer") else {**OPTIONS, "grid": (3, 3)}


def replicated(make, **changes):
    return make(sizes=SIZES, replicas=True, **({"consistency": 1.0} | changes))


@pytest.mark.parametrize("model", MODELS)
def test_loss_equals_a_plain_loop(plain, model):
    task = ClassificationTask(replicated(plain, consistency=0.7, model=model, model_options=options(model)))
    task.model.eval()
    prepared = task.prepare(next(task.batches(0, 1)), CPU)
    assert [tuple(view.images.shape[2:]) for view in prepared.views] == [(16, 23), (13, 13), (9, 17)]
    for rows in (slice(0, 4), slice(1, 3)):
        total, teacher = 0.0, None
        for view in prepared.views:
            features = task.model.forward_features(view.images[rows])
            pooled = features.prefix[:, 0] if task.model.config.pool == "token" else features.tokens.mean((1, 2))
            total += F.cross_entropy(task.model.head(pooled), prepared.targets[rows])
            if teacher is not None:
                white = (teacher - teacher.mean(1, keepdim=True)) / (
                    teacher.var(1, correction=0, keepdim=True) + 1e-6
                ).sqrt()
                gap = (pooled - white).abs()
                total += 0.7 * torch.where(gap < 1, gap**2 / 2, gap - 0.5).mean()
            teacher = pooled
        torch.testing.assert_close(task.loss(prepared, rows), total / 3)


def test_jitter_follows_the_keys_of_each_replica(make_config):
    task = ClassificationTask(replicated(make_config, model_options={**OPTIONS, "grid": (3, 3)}))
    task.model.train()
    prepared = task.prepare(next(task.batches(0, 1)), CPU)
    one, other = task.loss(prepared, slice(0, 4)), task.loss(prepared, slice(0, 4))
    assert torch.equal(one, other)
    moved = [
        type(view)(images=view.images, keys=view.keys + (number == 2)) for number, view in enumerate(prepared.views)
    ]
    assert not torch.equal(one, task.loss(type(prepared)(tuple(moved), prepared.targets), slice(0, 4)))


@pytest.mark.parametrize("model", MODELS)
def test_runs_of_every_model_record_the_largest_size_and_validate_at_all(make_config, model):
    config = replicated(make_config, model=model, model_options=options(model), steps=2, warmup_steps=1)
    train(config)
    assert [row["size"] for row in read_rows(config.out / STEPS)] == [[16, 23]] * 2
    assert [row["size"] for row in read_rows(config.out / VALIDATIONS)] == [[9, 17], [16, 23], [13, 13]]
    assert load(config.out, ViTAR)[1].training_sizes == ((9, 17), (16, 23), (13, 13))


def test_consistency_changes_what_is_learned_and_replicas_alone_do_not_need_it(make_config, tmp_path):
    losses = [
        train(replicated(make_config, consistency=weight, out=tmp_path / str(weight), steps=3)).loss
        for weight in (0.0, 1.0)
    ]
    assert losses[0] < losses[1]


def test_replicas_learn(plain):
    result = train(replicated(plain, steps=40, batch_size=8, lr=3e-3, ema=None, mixup=0.0, cutmix=0.0))
    assert all(row["top1"] == 100.0 for row in result.validation)
