"""What tools for models do to linear layers acts in every named model: LoRA, dynamic quantisation, pieces of images."""

import copy
import warnings

import pytest
import torch
from torch import nn

import anyres
from anyres.layers.pieces import merge_in_pieces, pixels_of
from anyres.models.architectures import backbone_of
from anyres.models.detector import Detector
from anyres.models.mae import MaskedAutoencoder
from anyres.models.presets import AUTOENCODERS, CLASSIFIERS, DETECTORS, SEGMENTERS
from anyres.models.segmenter import Segmenter

SMALL = {"patch_size": 4, "grid": (3, 3), "width": 32, "heads": 2, "depth": 2}
ABOVE = {
    "mae": {"decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2},
    "upernet": {"head_channels": 8, "auxiliary_channels": 6, "taps": (0, 1), "scales": (2, 1), "auxiliary_tap": 1},
    "unmerge": {"head_channels": 8, "neighbours": True},
    "mask": {"channels": 16, "box_features": 16, "num_classes": 3, "min_size": 64, "max_size": 96},
}
VARIANTS = {
    "tome": {"merger": "none", "tome": 3, "position": "learned"},
    "rotary": {"position": "rotary"},
    "relative bias": {"position": "relative_bias"},
    "concat": {"merger": "concat"},
    "pyramid": {"merger": "pyramid"},
    "all of grid attention": {"start": "mean", "scale_query": True, "learned_levels": 2},
    "zeros": {"padding": "zeros"},
}
NAMES = [*CLASSIFIERS, *AUTOENCODERS, *SEGMENTERS, *DETECTORS]
each_model = pytest.mark.parametrize("name", [*NAMES, *VARIANTS])


def make(name, **more):
    """A tiny model of that name, or of that variant, in which nothing is zero."""
    torch.manual_seed(0)
    options = SMALL | ABOVE.get(name.split("_")[0], {})
    if name in DETECTORS:
        options |= {"patch_size": 16}
    if name in VARIANTS:
        name, options = "vitar_tiny_patch16", options | VARIANTS[name]
    model = anyres.create_model(name, **options, **more)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return (model if isinstance(model, Detector) else model.double()).eval()


@torch.no_grad()
def outputs(model):
    """All that a model gives for some images, as one list of numbers."""
    torch.manual_seed(1)
    images = torch.rand(2, 3, 33, 46, dtype=torch.float64).to(backbone_of(model).dtype)
    if isinstance(model, MaskedAutoencoder):
        keys = torch.tensor([1, 2])
        found = [model(images, keys), model.reconstruct(images, keys).output]
    elif isinstance(model, Segmenter):
        found = [model(images)]
    elif isinstance(model, Detector):
        images = torch.rand(1, 3, 64, 96)
        assert len(model([images[0]])) == 1
        regions = model.roi_heads.box_head(torch.rand(4, 16, 7, 7))
        found = [*model.backbone(images).values(), *model.roi_heads.box_predictor(regions)]
    else:
        features = model.forward_features(images)
        found = [model(images), features.tokens, model([image[:, : 9 + i] for i, image in enumerate(images)])]
    return torch.cat([each.flatten().double() for each in found])


class LowRank(nn.Module):
    """LoRA with nothing at zero."""

    def __init__(self, base):
        super().__init__()
        self.base = base
        self.down = nn.Linear(base.in_features, 2, bias=False, dtype=base.weight.dtype)
        self.up = nn.Linear(2, base.out_features, bias=False, dtype=base.weight.dtype)

    def forward(self, x):
        return self.base(x) + self.up(self.down(x))


def with_low_rank(model):
    """The model with LoRA on every linear layer, and one whose weights have the products added."""
    whole = copy.deepcopy(model)
    layers = [name for name, module in model.named_modules() if type(module) is nn.Linear]
    for name in layers:
        parent, _, own = name.rpartition(".")
        beside = LowRank(model.get_submodule(name))
        setattr(model.get_submodule(parent), own, beside)
        with torch.no_grad():
            whole.get_submodule(name).weight.add_(beside.up.weight @ beside.down.weight)
    assert len(layers) > 4
    return model, whole


@each_model
def test_low_rank_layers_act_as_the_product_added_to_the_weights(name):
    model = make(name)
    before = outputs(model)
    wrapped, whole = (outputs(each) for each in with_low_rank(model))
    torch.testing.assert_close(wrapped, whole, rtol=1e-4, atol=1e-4)
    assert (wrapped - before).norm() > 1e-2 * before.norm()


@each_model
def test_a_dynamically_quantised_model_is_near_the_model(name):
    model = make(name).float()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that torch moves it elsewhere
        quantised = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    assert not any(type(module) is nn.Linear for module in quantised.modules())
    expected, found = outputs(model), outputs(quantised)
    assert 0 < (found - expected).norm() < 0.1 * expected.norm()


@pytest.mark.parametrize("name", ["vitar_tiny_patch16", "all of grid attention", "zeros", "concat", "pyramid"])
def test_low_rank_layers_act_in_pieces_and_learn_there(name):
    wrapped, whole = with_low_rank(make(name))
    images, keys = torch.rand(1, 3, 61, 90, dtype=torch.float64), torch.tensor([3])
    with torch.no_grad():
        merging = wrapped.pieces(61, 90, positions=40)
        found = merge_in_pieces(merging, lambda regions: (pixels_of(images, region) for region in regions))
        torch.testing.assert_close(found, whole.grid_tokens(images), rtol=1e-5, atol=1e-5)
    gradients = []
    for pieces in (False, True):
        wrapped.train().set_grad_pieces(pieces)
        wrapped.zero_grad()
        wrapped(images, keys).square().sum().backward()
        gradients.append({name: each.grad.clone() for name, each in wrapped.merger.named_parameters()})
    assert any("kv.up" in name or "reduction.up" in name for name in gradients[0])
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize("name", ["upernet_vitar_small_patch16", "mae_vitar_tiny_patch16", "vitar_tiny_patch16"])
def test_hooks_on_keys_and_values_are_called(name):
    model, calls = make(name), []
    backbone_of(model).merger.block.kv.register_forward_hook(lambda *given: calls.append(1))
    outputs(model)
    assert calls
