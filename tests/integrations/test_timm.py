"""timm's registry: what timm's own generic tests of models ask for, and equality with ours.

| expectation of timm's tests | here |
|---|---|
| forward, no NaN | `test_answers_are_ours` |
| backward, a gradient for every parameter | `test_every_parameter_has_a_gradient` |
| checkpointing changes nothing | `test_checkpointing_changes_nothing` |
| default_cfg: classifier and first_conv exist, input size | `test_default_configs` |
| num_features, head_hidden_size, reset_classifier, forward_head(pre_logits) | `test_classifier` |
| forward_intermediates, pruning, feature_info | `test_intermediates`, `test_maps` |
| group_matcher, no_weight_decay | `test_layers_and_decay` |
| set_input_size | absent: every size is taken as it is |
| TorchScript, FX | do not apply: the graph depends on the size, as with timm's NaFlexViT |
"""

import copy

import pytest
import timm
import torch
from timm.data import Mixup
from timm.loss import SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2, param_groups_layer_decay
from timm.utils import ModelEmaV3

import anyres
import anyres.integrations.timm
from anyres.integrations.timm import TimmViTAR
from anyres.models.presets import CLASSIFIERS

SMALL = {"width": 24, "depth": 3, "heads": 2, "patch_size": 8, "grid": (3, 3), "num_classes": 5}
KINDS = [
    "anyres_tiny_patch16",
    "anyres_small_conv16",
    "vitar_tiny_patch16",
    "deit_tiny_patch16",
    "resformer_tiny_patch16",
]


def make(name, **options):
    """Small, and with noise on every parameter, so that nothing is hidden by a zero."""
    torch.manual_seed(0)
    model = timm.create_model(name, **{**SMALL, **options})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model.eval()


def images(height=37, width=53, channels=3):
    return torch.randn(2, channels, height, width, generator=torch.Generator().manual_seed(1))


def test_every_classifier_is_registered():
    assert set(CLASSIFIERS) <= set(timm.list_models())
    assert timm.list_models("anyres_*") == sorted(name for name in CLASSIFIERS if name.startswith("anyres"))


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_default_configs(name):
    with torch.device("meta"):
        model = timm.create_model(name)
    names, config = dict(model.named_parameters()), model.default_cfg
    assert f"{config['classifier']}.weight" in names and f"{config['first_conv']}.weight" in names
    assert names[f"{config['first_conv']}.weight"].shape[1] in (3, 3 * 16**2)
    assert config["input_size"] == (3, 224, 224) and config["mean"] == model.config.mean
    assert config["num_classes"] == model.num_classes == 1000 and config["architecture"] == name
    assert timm.data.resolve_model_data_config(model)["std"] == model.config.std
    assert not hasattr(model, "set_input_size")


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("size", [(24, 24), (37, 53), (8, 91), (120, 48)])
def test_answers_are_ours(name, size):
    theirs = make(name)
    ours = anyres.create_model(name, **SMALL).eval()
    ours.load_state_dict(theirs.state_dict())
    batch = images(*size)
    with torch.inference_mode():
        found = theirs(batch)
        assert torch.equal(found, ours(batch)) and found.shape == (2, 5) and found.isfinite().all()
        features = ours.forward_features(batch)
        tokens = theirs.forward_features(batch)
        assert torch.equal(tokens, torch.cat([features.prefix, features.tokens.flatten(1, 2)], 1))
        listed = theirs([batch[0], batch[1, :, :20]])
        torch.testing.assert_close(listed, ours([batch[0], batch[1, :, :20]]))
    with pytest.raises(ValueError, match="for a list of sizes call the model itself"):
        theirs.forward_features([batch[0], batch[1, :, :20]])


@pytest.mark.parametrize("name", KINDS)
def test_every_parameter_has_a_gradient(name):
    model = make(name).train()
    model(images(61, 40)).mean().backward()
    assert not [key for key, value in model.named_parameters() if value.grad is None]


@pytest.mark.parametrize("name", KINDS)
def test_checkpointing_changes_nothing(name):
    model = make(name)
    again = copy.deepcopy(model)
    again.set_grad_checkpointing()
    for each in (model, again):
        each(images()).square().sum().backward()
    for one, other in zip(model.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


@pytest.mark.parametrize("name", KINDS)
def test_classifier(name):
    model, batch = make(name), images()
    assert model.num_features == model.head_hidden_size == model.embed_dim == 24
    with torch.inference_mode():
        tokens, logits = model.forward_features(batch), model(batch)
        pooled = model.forward_head(tokens, pre_logits=True)
        assert tokens.shape[2] == 24 and pooled.shape == (2, 24)
        assert torch.equal(model.forward_head(tokens), logits)
        assert torch.equal(model.get_classifier()(pooled), logits)
        model.reset_classifier(0)
        assert torch.equal(model(batch), pooled)
        model.reset_classifier(0, "")
        assert torch.equal(model(batch), tokens)
        model.reset_classifier(7, "avg")
        assert model(batch).shape == (2, 7) and model.is_pooled and model.num_classes == 7
        assert timm.create_model(name, **{**SMALL, "num_classes": 0}, global_pool="").eval()(batch).ndim == 3


@pytest.mark.parametrize("name", KINDS)
def test_intermediates(name):
    model, batch = make(name), images()
    with torch.inference_mode():
        final, found = model.forward_intermediates(batch)
        assert torch.equal(final, model.forward_features(batch)) and len(found) == 3
        alone = model.forward_intermediates(batch, [0, 2], norm=True, intermediates_only=True, output_fmt="NLC")
        assert torch.equal(alone[-1], final[:, model.num_prefix_tokens :])
        early, _ = model.forward_intermediates(batch, [0], stop_early=True)
        pruned = copy.deepcopy(model)
        assert pruned.prune_intermediate_layers([1], prune_norm=True) == [1]
        assert len(pruned.trunk.blocks) == 2 and isinstance(pruned.head, torch.nn.Identity)
        (kept,) = pruned.forward_intermediates(batch, [1], intermediates_only=True)
        assert torch.equal(kept, found[1]) and not torch.equal(early, final)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize(("cells", "reduction"), [(None, 8), ("2x2", 16)])
def test_maps(name, cells, reduction):
    if cells and CLASSIFIERS[name].merger == "none":
        pytest.skip("nothing merges")
    model = make(name, features_only=True, **({"cells": cells} if cells else {}))
    assert model.feature_info.channels() == [24] * 3 and model.feature_info.reduction() == [reduction] * 3
    for size in ((48, 64), (31, 90)):
        maps = model(images(*size))
        rows, cols = (-(-side // reduction) for side in size)
        assert [each.shape for each in maps] == [(2, 24, rows, cols)] * 3
    sum(each.square().sum() for each in model.train()(images())).backward()
    assert not [key for key, value in model.named_parameters() if value.grad is None]
    assert len(make(name, features_only=True, out_indices=(0, 2))(images())) == 2


def test_maps_need_a_grid_of_the_images_shape():
    with pytest.raises(ValueError, match=r"cells are 'balanced'; allowed: cells=\"1x1\" \(the default\) or \"2x2\""):
        make("vitar_tiny_patch16", features_only=True, cells="balanced")


@pytest.mark.parametrize("name", KINDS)
def test_layers_and_decay(name):
    model = make(name)
    names = dict(model.named_parameters())
    groups = param_groups_layer_decay(model, 0.05, model.no_weight_decay(), layer_decay=0.5)
    assert sum(len(group["params"]) for group in groups) == len(names) and model.no_weight_decay() <= names.keys()
    scale = {id(value): group["lr_scale"] for group in groups for value in group["params"]}
    order = ["stem.proj.weight", "trunk.blocks.0.norm1.weight", "trunk.blocks.2.norm1.weight", "head.weight"]
    scales = [scale[id(names[key])] for key in order]
    assert scales == sorted(scales) and len(set(scales[:3])) == 3


@pytest.mark.parametrize("channels", [1, 4])
def test_other_channels(channels):
    model = make("anyres_tiny_patch16", in_chans=channels)
    assert model(images(channels=channels)).shape == (2, 5) and len(model.config.mean) == channels


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="unknown option of vitar_tiny_patch16 'widht'.*width"):
        timm.create_model("vitar_tiny_patch16", widht=24)
    with pytest.raises(ValueError, match="global_pool is 'max'; allowed: 'avg', 'token', ''"):
        timm.create_model("vitar_tiny_patch16", global_pool="max", **SMALL)
    with pytest.raises(RuntimeError, match="pretrained"):
        timm.create_model("vitar_tiny_patch16", pretrained=True)


def test_a_training_loop_as_timms_learns():
    """Mixup, soft targets, layer decay, EMA, clipping: two classes of plain colours at alternating sizes."""
    model = timm.create_model("anyres_tiny_patch16", **{**SMALL, "num_classes": 2}, drop_rate=0.1, drop_path_rate=0.1)
    assert isinstance(model, TimmViTAR) and model.head_drop.p == 0.1
    optimizer = create_optimizer_v2(model, "adamw", lr=3e-3, weight_decay=0.05, layer_decay=0.8)
    mixup, criterion = Mixup(mixup_alpha=0.2, num_classes=2, label_smoothing=0.0), SoftTargetCrossEntropy()
    averaged, losses = ModelEmaV3(model, decay=0.8), []
    for step in range(30):
        size = (40, 40) if step % 2 else (24, 57)
        labels = torch.randint(2, (8,))
        batch = (2.0 * labels - 1)[:, None, None, None] + 0.5 * torch.randn(8, 3, *size)
        batch, targets = mixup(batch, labels)
        loss = criterion(model.train()(batch), targets)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        averaged.update(model, step=step)
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
    with torch.inference_mode():
        answers = averaged.module.eval()(torch.tensor([-1.0, 1.0])[:, None, None, None].expand(2, 3, 33, 71))
    assert answers.argmax(1).tolist() == [0, 1]
