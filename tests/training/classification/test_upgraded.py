"""Training what `anyres upgrade` wrote: all of it, or the adapter alone; resumed as if never stopped."""

import dataclasses

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

import anyres
from anyres.models.upgraded import UpgradedViT
from anyres.training import train
from anyres.training.classification.task import ClassificationTask


@pytest.fixture
def start(tmp_path):
    """A small ViT, upgraded and saved."""
    torch.manual_seed(0)
    vit = VisionTransformer(
        img_size=12, patch_size=4, num_classes=5, embed_dim=16, depth=2, num_heads=2, init_values=0.1
    )
    model = anyres.upgrade(vit)
    anyres.save(tmp_path / "start", model, name=None, classes=[*"abcde"], training_sizes=[(12, 12)])
    return tmp_path / "start"


def changed(run, start):
    """The parts that a run has changed."""
    after, before = anyres.load(run)[0], anyres.load(start)[0]
    assert type(after) is UpgradedViT
    both = after.state_dict().items(), before.state_dict()
    return {name.split(".")[0] for name, value in both[0] if name not in both[1] or value.shape != both[1][name].shape
            or not torch.equal(value, both[1][name])}  # fmt: skip


@pytest.mark.parametrize(
    ("what", "parts"), [("adapter", {"merger", "head"}), ("all", {"merger", "head", "stem", "position", "trunk"})]
)
def test_what_is_to_be_trained_is_trained(what, parts, plain, start, capsys):
    config = plain(init=start, train=what, model_options={}, sizes=("12", "24"), steps=6, lr=1e-2)
    assert train(config).finished
    assert changed(config.out, start) == parts
    model, info = anyres.load(config.out)
    assert info.name is None and len(info.classes) == model.num_classes == 3 and model.config.full_levels == 1
    assert "Fresh: head" in capsys.readouterr().err


def test_a_resumed_run_is_the_uninterrupted_one(plain, start, tmp_path):
    shared = {"init": start, "train": "adapter", "model_options": {}, "sizes": ("12", "24")}
    whole = plain(**shared, steps=4)
    train(whole)
    halves = dataclasses.replace(whole, out=tmp_path / "halves", checkpoint_every=2)
    train(halves, until=2) if "until" in train.__code__.co_varnames else train(halves)
    train(halves)
    one, other = (anyres.load(each.out)[0].state_dict() for each in (whole, halves))
    assert all(torch.equal(value, other[key]) for key, value in one.items())


def test_what_cannot_be_trained_so_is_refused(plain, start, tmp_path):
    with pytest.raises(ValueError, match="train is 'some'|unknown train 'some'"):
        plain(init=start, train="some").check()
    with pytest.raises(ValueError, match="allowed: init, the folder that it wrote"):
        plain(train="adapter").check()
    with pytest.raises(ValueError, match="have no effect, because the model is that of .*start; leave them out"):
        ClassificationTask(plain(init=start, model_options={"width": 16}))
    model = anyres.create_model("vitar_tiny_patch16", num_classes=0, width=16, depth=1, heads=2)
    anyres.save(tmp_path / "other", model, name=None, training_sizes=[(12, 12)])
    with pytest.raises(ValueError, match="is nothing that `anyres upgrade` wrote"):
        ClassificationTask(plain(init=tmp_path / "other", train="adapter", model_options={}))
