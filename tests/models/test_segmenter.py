"""Segmenters: the heads are those of transformers, sizes are the images' own, and configurations say what is wrong."""

import pytest
import torch
from timm.optim import param_groups_weight_decay
from transformers import UperNetConfig
from transformers.models.upernet import modeling_upernet as theirs

from anyres.layers.upernet import FCNHead, UperNetHead
from anyres.models.architectures import SEGMENTER
from anyres.models.presets import SEGMENTERS
from anyres.models.segmenter import Segmenter
from anyres.models.weights.files import load, save

TINY = {
    "patch_size": 4, "grid": (3, 3), "width": 16, "depth": 4, "heads": 2, "taps": (0, 1, 2, 3), "num_classes": 5,
    "head_channels": 8, "auxiliary_channels": 6,
}  # fmt: skip


def tiny(**changes):
    return Segmenter(SEGMENTER.get_config("upernet_vitar_small_patch16", **(TINY | changes)))


def shake(module):
    """Parameters and running statistics that are all different from their first values."""
    for name, value in module.state_dict().items():
        if value.is_floating_point():
            value.uniform_(0.5, 1.5) if "var" in name else value.normal_(std=0.3)
    return module


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("sizes", [((12, 20), (6, 10), (3, 5), (2, 3)), ((7, 5), (7, 5), (4, 9))])
def test_the_heads_are_those_of_transformers(sizes, training):
    widths = [6, 10, 7, 9][: len(sizes)]
    settings = UperNetConfig(hidden_size=8, auxiliary_channels=5, num_labels=4, auxiliary_num_convs=1)
    pairs = [
        (theirs.UperNetHead(settings, widths), UperNetHead(widths, 8, 4)),
        (theirs.UperNetFCNHead(settings, widths), FCNHead(widths[2], 5, 4)),
    ]
    maps = [torch.randn(2, width, *size) for width, size in zip(widths, sizes, strict=True)]
    for (reference, ours), given in zip(pairs, (maps, maps[2]), strict=True):
        ours.load_state_dict(shake(reference).state_dict())
        found, expected = ours.train(training)(given), reference.train(training)(maps)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        for name, value in reference.state_dict().items():  # running statistics too
            torch.testing.assert_close(ours.state_dict()[name], value, msg=name)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"cells": "2x2"},
        {"cells": "2x2", "scales": (8, 4, 2, 1)},
        {"merger": "pyramid"},
        {"cells": "2x2", "merger": "pyramid"},
    ],
    ids=str,
)
@pytest.mark.parametrize("size", [(13, 21), (4, 4), (1, 7), (24, 16)])
def test_what_completes_the_last_cells_is_cut_off(changes, size):
    model, images = shake(tiny(**changes)).eval(), torch.randn(2, 3, *size)
    assert model.config.stride == (8 if "cells" in changes else 4)
    with torch.no_grad():
        found = model(images)
        assert found.shape == (2, 5, *size)
        whole = [-(-side // 4) * 4 for side in size]  # of patches, as the backbone completes them itself
        more = [side - own for side, own in zip(whole, size, strict=True)]
        padded = torch.nn.functional.pad(images, (0, more[1], 0, more[0]), mode="replicate")
        torch.testing.assert_close(found, model(padded)[..., : size[0], : size[1]], rtol=1e-4, atol=1e-5)


def test_a_shifted_object_is_found_where_it_is():
    """The logits are those of the head's finest map, each over its own pixels: read back by averaging, they are it."""
    model = shake(tiny(scales=(2, 1, 0.5, 0.5))).eval()  # finest stride of 2 pixels
    images, seen = torch.randn(1, 3, 14, 11), []
    model.head.register_forward_hook(lambda module, args, output: seen.append(output))
    with torch.no_grad():
        found = model(images)
    finest = seen[0]  # (1, 5, 8, 6)
    assert finest.shape[-2:] == (8, 6)
    # bilinear at twice the size: the four pixels of a place are 9:3:3:1 mixtures, whose mean leaves an inner place
    # with 9/16 of itself, 3/32 of each neighbour beside it and 1/64 of each across the corner
    kernel = torch.tensor([[1.0, 6, 1], [6, 36, 6], [1, 6, 1]])[None, None].expand(5, 1, 3, 3) / 64
    expected = torch.nn.functional.conv2d(finest, kernel, groups=5)[..., :5, :4]
    means = torch.nn.functional.avg_pool2d(found[..., 2:12, 2:10], 2)
    torch.testing.assert_close(means, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("merger", ["grid_attention", "pyramid"])
def test_each_image_of_a_list_gives_what_it_gives_alone(merger):
    model = shake(tiny(cells="2x2", merger=merger)).eval()
    images = [torch.randn(3, *size) for size in ((13, 9), (8, 8), (13, 9), (1, 30))]
    with torch.no_grad():
        together = model(images)
        for found, image in zip(together, images, strict=True):
            torch.testing.assert_close(found, model(image[None])[0], rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="list of images is given in training"):
        model.train()(images)


def test_training_gives_both_heads_and_gradients_everywhere():
    model = tiny(drop_path_rate=0.0)
    logits, auxiliary = model.forward_training(torch.randn(2, 3, 13, 21))
    assert logits.shape == auxiliary.shape == (2, 5, 13, 21)
    (logits.square().mean() + auxiliary.square().mean()).backward()
    without = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert without == {"backbone.trunk.norm.weight", "backbone.trunk.norm.bias"}
    assert tiny(auxiliary_channels=0).forward_training(torch.randn(2, 3, 8, 8))[1] is None


def test_a_saved_segmenter_is_the_same(tmp_path):
    model = shake(tiny(cells="2x2", merger="average")).eval()
    save(tmp_path, model, name="x", classes="abcde", training_sizes=[(8, 9)], extra={"steps": 3})
    again, info = load(tmp_path, Segmenter)
    assert again.config == model.config and info.classes == tuple("abcde") and info.extra == {"steps": 3}
    images = torch.randn(2, 3, 9, 14)
    with torch.no_grad():
        assert torch.equal(again(images), model(images))


def test_initialisation_does_not_need_the_memory_first():
    with torch.device("meta"):
        model = tiny()
    usual = shake(tiny())
    for each in (shake(model.to_empty(device="cpu")), usual):
        torch.manual_seed(3)
        each.init_weights()
    for name, value in model.state_dict().items():
        assert torch.equal(value, usual.state_dict()[name]) and value.isfinite().all(), name
    assert model.no_weight_decay() == {"backbone.position.table"}


def test_the_named_models_have_the_sizes_of_their_parts():
    """Matrices alone: backbone, merger, pyramid of three transposed convolutions, head and auxiliary head."""
    for name, d in (("upernet_vitar_small_patch16", 384), ("upernet_vitar_base_patch16", 768)):
        config = SEGMENTERS[name]
        with torch.device("meta"):
            model = Segmenter(config)
        count = sum(parameter.numel() for parameter in model.parameters())
        trunk = 12 * 12 * d**2 + 12 * d**2 + 16 * 16 * 3 * d + 14 * 14 * d
        pyramid = 3 * 4 * d**2
        head = 3 * d * 512 + 3 * 9 * 512**2 + 4 * d * 512 + 9 * (d + 4 * 512) * 512 + 9 * 4 * 512**2 + 512 * 150
        expected = trunk + pyramid + head + 9 * d * 256 + 256 * 150
        assert count == pytest.approx(expected, rel=2e-3), name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"taps": (2, 5, 8, 11)}, r"from 0 to 3; usual: \(0, 1, 2, 3\)"),
        ({"taps": (0, 2, 1, 3)}, "rising numbers"),
        ({"taps": 3}, "taps is 3; give a tuple"),
        ({"taps": (1, 2, 3)}, r"scales are .* for 3 taps"),
        ({"scales": (4, 2, 1, "a")}, r"scales are .*; allowed: powers of two"),
        ({"scales": (4, 2, 1, 0.6)}, "scale is 0.6; .*nearest: 0.5"),
        ({"scales": (1, 2, 4, 8)}, "largest scale first"),
        ({"auxiliary_tap": 4}, "auxiliary_tap is 4; allowed: 0 to 3"),
        ({"auxiliary_channels": 0, "auxiliary_tap": 1}, "auxiliary_tap=1 has no effect"),
        ({"num_classes": 1}, "num_classes is 1; it must be a whole number from 2"),
        ({"cells": "halving"}, "cells are 'halving', whose grid does not keep"),
        ({"in_channels": 4}, "in_channels is 4"),
        ({"head_chanels": 4}, "unknown option .*Did you mean 'head_channels'"),
        ({"heads": 3}, "heads is 3"),
    ],
)
def test_impossible_configurations_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        SEGMENTER.get_config("upernet_vitar_small_patch16", **(TINY | changes))


def test_a_plain_vit_is_a_backbone_too():
    model = tiny(merger="none", cells=None, position="learned", prefix_tokens=1).eval()
    assert model.config.stride == 4 and model(torch.randn(1, 3, 9, 5)).shape == (1, 5, 9, 5)
    with pytest.raises(ValueError, match="Did you mean 'upernet_vitar_small_patch16'"):
        SEGMENTER.get_config("upernet_vitar_smal_patch16")


UNMERGE = {
    "patch_size": 4, "grid": (3, 3), "width": 16, "depth": 2, "heads": 2, "num_classes": 5, "head_channels": 8,
}  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"neighbours": True, "skip": False},
        {"decoder": "bilinear"},
        {"cells": "2x2"},
        {"merger": "none", "position": "learned"},
        {"merger": "average"},
        {"padding": "zeros"},
        {"merger": "pyramid"},
        {"merger": "pyramid", "grid_shape": "aspect", "neighbours": True},
        {"merger": "pyramid", "cells": "2x2", "decoder": "bilinear"},
        {"grid_shape": "aspect"},
        {"grid_shape": "aspect", "merger": "concat", "neighbours": True},
    ],
    ids=str,
)
def test_the_grid_carried_back_labels_images_of_any_size_as_they_would_be_alone(changes):
    torch.manual_seed(0)
    model = shake(Segmenter(SEGMENTER.get_config("unmerge_vitar_small_patch16", **(UNMERGE | changes)))).eval()
    images = [torch.randn(3, *size) for size in ((3, 2), (29, 53), (97, 31), (29, 53))]
    for image, found in zip(images, model(images), strict=True):
        assert found.shape == (5, *image.shape[1:])
        torch.testing.assert_close(found, model(image[None])[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("changes", [{}, {"merger": "pyramid"}, {"merger": "pyramid", "cells": "2x2"}], ids=str)
def test_what_completes_the_last_patch_changes_no_other_pixel_of_a_segmenter_by_patches(changes):
    torch.manual_seed(0)
    model = shake(Segmenter(SEGMENTER.get_config("unmerge_vitar_small_patch16", **(UNMERGE | changes)))).eval()
    image = torch.randn(1, 3, 30, 41)
    # 8x11 patches; cells of 2x2 need one more column of them
    completed = torch.nn.functional.pad(image, (0, 7 if "cells" in changes else 3, 0, 2), mode="replicate")
    torch.testing.assert_close(model(completed)[..., :30, :41], model(image), rtol=1e-4, atol=1e-4)


def test_an_image_that_a_pyramid_enlarges_is_labelled_at_its_own_pixels():
    torch.manual_seed(0)
    model = shake(Segmenter(SEGMENTER.get_config("unmerge_vitar_small_patch16", **UNMERGE, merger="pyramid"))).eval()
    image = torch.randn(1, 3, 7, 10)  # 2x3 patches, of which the rows are too few
    found = torch.nn.functional.interpolate(image, (12, 10), mode="bilinear")
    whole = torch.nn.functional.interpolate(model(found), (7, 10), mode="bilinear")  # a logit for every pixel
    torch.testing.assert_close(model(image), whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("merger", ["grid_attention", "pyramid"])
@pytest.mark.parametrize("size", [(4, 4), (23, 45)])
def test_training_gives_every_parameter_of_the_way_back_a_gradient(size, merger):
    options = UNMERGE | {"neighbours": True, "merger": merger}
    model = Segmenter(SEGMENTER.get_config("unmerge_vitar_small_patch16", **options)).train()
    logits, auxiliary = model.forward_training(torch.randn(2, 3, *size))
    assert auxiliary is None
    logits.square().sum().backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_gains_rates_and_positions_do_not_decay():
    model = Segmenter(SEGMENTER.get_config("unmerge_vitar_small_patch16", **UNMERGE, neighbours=True))
    still = {model.unmerge.gain, model.unmerge.neighbours.decay, model.backbone.position.table}
    (fixed,) = (
        set(group["params"])
        for group in param_groups_weight_decay(model, 0.1, no_weight_decay_list=model.no_weight_decay())
        if not group["weight_decay"]
    )
    assert still <= fixed


@pytest.mark.parametrize(
    "name, changes, message",
    [
        ("unmerge", {"taps": (0, 1, 2, 3)}, r'taps=\(0, 1, 2, 3\) has no effect because decoder is "unmerge"'),
        ("unmerge", {"auxiliary_channels": 9}, 'auxiliary_channels=9 has no effect because decoder is "unmerge"'),
        ("unmerge", {"decoder": "bilinear", "neighbours": True}, 'neighbours=True has no effect .* "bilinear"'),
        ("upernet", {"skip": False}, 'skip=False has no effect because decoder is "upernet"'),
        ("upernet", {"decoder": "unmrge"}, "unmrge"),
        ("upernet", {"neighbours": 1}, "neighbours is 1; allowed: True, False"),
        ("upernet", {"cells": "halving"}, 'other cells need decoder="unmerge"'),
    ],
)
def test_decoders_say_what_has_no_effect(name, changes, message):
    with pytest.raises(ValueError, match=message):
        SEGMENTER.get_config(f"{name}_vitar_small_patch16", **changes)


def test_a_segmenter_by_patches_comes_back_from_disk(tmp_path):
    model = shake(Segmenter(SEGMENTER.get_config("unmerge_vitar_small_patch16", **UNMERGE, neighbours=True))).eval()
    save(tmp_path, model, name=None, classes="abcde", training_sizes=[(8, 8)])
    image = torch.randn(1, 3, 17, 23)
    assert torch.equal(load(tmp_path, Segmenter)[0](image), model(image))
