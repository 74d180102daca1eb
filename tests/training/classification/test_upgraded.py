"""Training what `anyres upgrade` wrote: all of it, or the adapter alone; resumed as if never stopped."""

import dataclasses
import shutil

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

import anyres
from anyres.models.upgraded import UpgradedViT
from anyres.training import train
from anyres.training.classification.task import ClassificationTask
from anyres.training.trainer import Trainer


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


@pytest.fixture
def make(plain, start):
    """`make(**changes)`: a run of 6 steps that starts from the upgraded ViT."""

    def config(**changes):
        own = {"init": start, "model": "anyres_tiny_patch16", "model_options": {}, "sizes": ("12", "24"), "steps": 6}
        return plain(**{**own, "lr": 1e-2, **changes})

    return config


@pytest.mark.parametrize(
    ("what", "parts"), [("adapter", {"merger", "head"}), ("all", {"merger", "head", "stem", "position", "trunk"})]
)
def test_what_is_to_be_trained_is_trained(what, parts, make, start, capsys):
    config = make(train=what)
    assert train(config).finished
    assert changed(config.out, start) == parts
    model, info = anyres.load(config.out)
    assert info.name is None and len(info.classes) == model.num_classes == 3 and model.config.full_levels == 1
    assert "Fresh: head" in capsys.readouterr().err


@pytest.mark.parametrize("known", [{"classes": []}, {"extra": {"class_folders": []}}])
def test_a_head_for_the_same_classes_is_kept(known, make, start, plain, tmp_path, capsys):
    model, _ = anyres.load(start)
    names = ClassificationTask(make()).folder.classes
    model.reset_classifier(len(names))
    torch.nn.init.normal_(model.head.bias)
    kind = next(iter(known))
    told = {"classes": [*"xyz"], kind: list(names) if kind == "classes" else {"class_folders": list(names)}}
    anyres.save(tmp_path / "same", model, name=None, training_sizes=[(12, 12)], **told)
    capsys.readouterr()
    begun = ClassificationTask(make(init=tmp_path / "same")).model
    assert torch.equal(begun.head.weight, model.head.weight) and torch.equal(begun.head.bias, model.head.bias)
    told[kind] = list(names)[::-1] if kind == "classes" else {"class_folders": list(names)[::-1]}
    anyres.save(tmp_path / "turned", model, name=None, training_sizes=[(12, 12)], **told)
    assert torch.equal(ClassificationTask(make(init=tmp_path / "turned")).model.head.bias, model.head.bias.flip(0))
    said = capsys.readouterr().err
    assert "Fresh" not in said and "Left out" not in said and "head" in said
    anyres.save(tmp_path / "other", model, name=None, classes=[*"xyz"], training_sizes=[(12, 12)])
    assert not torch.equal(ClassificationTask(make(init=tmp_path / "other")).model.head.weight, model.head.weight)


def test_a_probe_reads_the_old_features(make, start):
    config = make(linear_probe=True)
    train(config)
    assert changed(config.out, start) == {"head"} and anyres.load(config.out)[0].config.full_levels is None


@pytest.mark.parametrize("what", ["adapter", "all"])
def test_a_run_that_died_goes_on_without_what_it_started_from(what, make, start, tmp_path, monkeypatch):
    whole = make(train=what)
    train(whole)
    died = dataclasses.replace(whole, out=tmp_path / "died", checkpoint_every=2)
    update = Trainer.update

    def dying(self, batch):
        if self.step == 3:
            raise KeyboardInterrupt
        return update(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "update", dying)
        with pytest.raises(KeyboardInterrupt):
            train(died)
    shutil.move(start, tmp_path / "elsewhere")
    assert train(died).finished and train(died).finished  # the second finds a finished run
    one, other = (anyres.load(each.out)[0] for each in (whole, died))
    assert one.config == other.config
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in one.state_dict().items())


def test_what_cannot_be_trained_so_is_refused(plain, make, start, tmp_path):
    with pytest.raises(ValueError, match="unknown train 'some'"):
        make(train="some").check()
    with pytest.raises(ValueError, match="allowed: init, the folder that it wrote"):
        plain(train="adapter").check()
    with pytest.raises(ValueError, match="have no effect, because the model is that of .*start; leave them out"):
        ClassificationTask(make(model_options={"width": 16}))
    with pytest.raises(ValueError, match="model is 'vitar_tiny_patch16' but has no effect, because it is that of"):
        ClassificationTask(make(model="vitar_tiny_patch16"))
    model = anyres.create_model("vitar_tiny_patch16", num_classes=0, width=16, depth=1, heads=2)
    anyres.save(tmp_path / "other", model, name=None, training_sizes=[(12, 12)])
    with pytest.raises(ValueError, match="is nothing that `anyres upgrade` wrote"):
        ClassificationTask(make(init=tmp_path / "other", train="adapter"))
    upgraded = anyres.load(start)[0]
    upgraded.config = dataclasses.replace(upgraded.config, base_filter="bicubic")
    anyres.save(tmp_path / "bicubic", upgraded, name=None, classes=[*"abcde"], training_sizes=[(12, 12)])
    with pytest.raises(ValueError, match="grad_pieces is set, but base_filter of .* is 'bicubic'"):
        ClassificationTask(make(init=tmp_path / "bicubic", grad_pieces=True))
