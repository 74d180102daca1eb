"""Detectors: true strides, the reference's heads, training and evaluation, weights on disk, and what is refused."""

import pytest
import torch
from torchvision.models.detection import maskrcnn_resnet50_fpn_v2
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import roi_align
from torchvision.transforms.v2 import functional

from anyres.models.architectures import DETECTOR, backbone_of
from anyres.models.detector import Detector
from anyres.models.detector_config import DetectorConfig
from anyres.models.presets import DETECTORS
from anyres.models.vitar import ViTAR
from anyres.models.weights.files import load, save

SMALL = {
    "width": 16, "depth": 2, "heads": 2, "grid": (4, 4), "channels": 16, "box_features": 16, "num_classes": 3,
    "anchor_sizes": (8, 16, 32, 64, 128), "train_proposals": 40, "test_proposals": 20, "rpn_samples": 32,
    "roi_samples": 16, "min_size": 64, "max_size": 96, "drop_path_rate": 0.0, "jitter": 0.0,
}  # fmt: skip


def small(**changes):
    return Detector(DETECTOR.get_config("mask_rcnn_vitar_small_patch16", **(SMALL | changes)))


def target(boxes, labels, size):
    masks = torch.zeros((len(boxes), *size), dtype=torch.uint8)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes, strict=True):
        mask[y0:y1, x0:x1] = 1
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return {"boxes": boxes, "labels": torch.tensor(labels, dtype=torch.int64), "masks": masks}


@pytest.mark.parametrize(
    ("changes", "grid"),
    [
        ({}, (6, 4)),
        ({"cells": "2x2"}, (3, 2)),
        ({"merger": "none"}, (6, 4)),
        ({"cells": "2x2", "merger": "pyramid"}, (3, 2)),
    ],
)
def test_maps_have_the_strides_that_anchors_and_regions_assume(changes, grid):
    model = small(**changes)
    tokens = []
    model.backbone.pyramid.register_forward_pre_hook(lambda _, given: tokens.append(given[0]))
    maps = model.backbone(torch.rand(2, 3, 96, 64))
    assert tokens[0].shape == (2, 16, *grid)
    assert [tuple(each.shape) for each in maps.values()] == [
        (2, 16, 24, 16), (2, 16, 12, 8), (2, 16, 6, 4), (2, 16, 3, 2), (2, 16, 2, 1)
    ]  # fmt: skip
    assert torch.equal(maps["4"], maps["3"][:, :, ::2, ::2])


def test_anchors_are_torchvisions_where_strides_divide_and_true_elsewhere():
    model = small()
    generator = AnchorGenerator(tuple((size,) for size in SMALL["anchor_sizes"]), ((0.5, 1.0, 2.0),) * 5)
    for size, alike in (((64, 128), True), ((96, 160), False)):
        batch = ImageList(torch.zeros(1, 3, *size), [size])
        maps = list(model.backbone(batch.tensors).values())
        (ours,), (theirs,) = model.rpn.anchor_generator(batch, maps), generator(batch, maps)
        assert torch.equal(ours, theirs) == alike
        last = ours[-3 * maps[-1].shape[2] * maps[-1].shape[3] :].view(*maps[-1].shape[2:], 3, 4)
        centres = (last[..., :2] + last[..., 2:]) / 2  # x, y
        assert torch.equal(centres[0, :, 0, 0], 64.0 * torch.arange(maps[-1].shape[3]))
        assert torch.equal(centres[:, 0, 0, 1], 64.0 * torch.arange(maps[-1].shape[2]))


def test_regions_are_cut_out_at_the_true_scale_whatever_image_comes_first():
    model = small().eval()
    model.set_size(20, 20)
    with torch.no_grad():
        model([torch.rand(3, 20, 20)])  # torchvision would take a padded 20x20 for a scale of 1
    for pool, side in ((model.roi_heads.box_roi_pool, 7), (model.roi_heads.mask_roi_pool, 14)):
        maps = {str(level): torch.rand(1, 4, 64 >> level, 64 >> level) for level in range(4)}
        boxes = torch.tensor([[3.0, 5.0, 40.0, 60.0], [0.0, 0.0, 230.0, 240.0]])
        found = pool(maps, [boxes], [(256, 256)])
        for box, cut, level in zip(boxes, found, (0, 2), strict=True):  # FPN: sides of 224 belong to stride 16
            wanted = roi_align(maps[str(level)], [box[None]], side, 1 / (4 << level), sampling_ratio=2)
            assert torch.equal(cut, wanted[0])


def test_the_heads_are_those_of_the_reference_with_layer_norms():
    with torch.device("meta"):
        reference = maskrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None, num_classes=81)
        model = Detector(DETECTOR.get_config("mask_rcnn_vitar_base_patch16"))
    for part in ("rpn", "roi_heads"):
        wanted = {name: value.shape for name, value in getattr(reference, part).named_parameters()}
        assert {name: value.shape for name, value in getattr(model, part).named_parameters()} == wanted
    assert not any("running" in name for name in model.state_dict())


@pytest.mark.parametrize(("name", "millions"), [("small", 46.2), ("base", 117.9)])
def test_presets(name, millions):
    with torch.device("meta"):
        model = Detector(DETECTOR.get_config(f"mask_rcnn_vitar_{name}_patch16"))
    assert sum(each.numel() for each in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.1)
    kinds = {"anyres", "vitar"}
    assert set(DETECTORS) == {f"mask_rcnn_{kind}_{size}_patch16" for kind in kinds for size in ("small", "base")}
    assert model.config.stride == 16 and backbone_of(model).config.num_classes == 0


@pytest.mark.parametrize("changes", [{}, {"cells": "2x2"}, {"masks": False}, {"cells": "2x2", "merger": "pyramid"}])
def test_training_gives_losses_for_every_parameter_also_without_objects(changes):
    model, images = small(**changes).train(), [torch.rand(3, 64, 64), torch.rand(3, 50, 70)]
    targets = [target([(3, 4, 30, 40), (5, 30, 64, 64)], [2, 3], (64, 64)), target([], [], (50, 70))]
    losses = model(images, targets)
    sum(losses.values()).backward()
    assert len(losses) == (5 if model.config.masks else 4)
    assert all(each.grad is not None and each.grad.isfinite().all() for each in model.parameters())
    nothing = model(images, [target([], [], (64, 64)), target([], [], (50, 70))])
    assert all(value.isfinite() for value in nothing.values())
    assert nothing["loss_box_reg"] == nothing["loss_rpn_box_reg"] == nothing.get("loss_mask", 0) == 0
    assert len(targets[0]["boxes"]) == 2 and torch.equal(targets[0]["boxes"][0], torch.tensor([3.0, 4, 30, 40]))


def test_in_evaluation_images_are_resized_and_found_boxes_are_in_their_own_pixels():
    model = small(score_threshold=0.0).eval()
    image = torch.rand(3, 40, 30)
    larger = functional.resize(image, [80, 60], antialias=True)
    with torch.no_grad():
        model.set_size(60, 80)
        (small_image,), (large_image,) = model([image]), model([larger])
        twice = model([image, image])
    assert len(small_image["scores"]) > 5
    assert torch.allclose(small_image["scores"], large_image["scores"], atol=1e-4)
    assert torch.allclose(2 * small_image["boxes"], large_image["boxes"], atol=1e-3)
    assert small_image["masks"].shape[1:] == (1, 40, 30) and large_image["masks"].shape[1:] == (1, 80, 60)
    assert small_image["masks"].min() >= 0 and small_image["masks"].max() <= 1
    for each in twice:
        assert torch.allclose(each["boxes"], small_image["boxes"], atol=1e-3)
    with torch.no_grad():
        model.set_size(64, 96)
        (flat,) = model([torch.rand(3, 3, 200)])
    assert (flat["boxes"][:, 2] <= 200).all() and (flat["boxes"][:, 3] <= 3).all()


def test_an_image_among_others_gives_what_it_gives_alone():
    model = small(score_threshold=0.0).eval()
    images = [torch.rand(3, *size) for size in ((64, 64), (64, 128), (61, 64), (1, 90), (64, 64))]
    with torch.no_grad():
        together, alone = model(images), [model([image])[0] for image in images]
    for one, other in zip(together, alone, strict=True):
        assert len(one["scores"]) == len(other["scores"]) > 5
        torch.testing.assert_close(one["scores"], other["scores"], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(one["boxes"], other["boxes"], rtol=1e-3, atol=1e-2)


def test_in_bfloat16_boxes_keep_the_precision_of_float32():
    model = small(score_threshold=0.0).eval()
    model.set_size(256, 256)
    image = torch.rand(3, 256, 256)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        maps = list(model.backbone(image[None]).values())
        (anchors,) = model.rpn.anchor_generator(ImageList(image[None], [(256, 256)]), maps)
        (found,) = model([image])
    assert anchors.dtype == found["boxes"].dtype == torch.float32
    assert len(found["boxes"]) > 5 and (found["boxes"] != found["boxes"].bfloat16()).float().mean() > 0.5


def test_a_saved_detector_is_the_same(tmp_path):
    model = small(masks=False, mean=(0.1, 0.2, 0.3)).eval()
    ids = (3, 7, 90)
    save(
        tmp_path,
        model,
        name="x",
        classes=("a", "b", "c"),
        training_sizes=[(64, 96)],
        extra={"n": 1, "category_ids": ids},
    )
    again, info = load(tmp_path, Detector)
    assert again.config == model.config and info.extra == {"n": 1, "category_ids": [3, 7, 90]}
    assert info.classes == ("a", "b", "c") and info.training_sizes == ((64, 96),)
    image = torch.rand(3, 50, 61)
    with torch.no_grad():
        (one,), (other,) = model([image]), again([image])
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    with pytest.raises(
        ValueError, match="holds a Detector, needed is a ViTAR; it finds objects: anyres predict, anyres evaluate"
    ):
        load(tmp_path, ViTAR)
    with pytest.raises(ValueError, match="holds no saved model"):
        load(tmp_path / "nowhere", Detector)


def test_positions_do_not_decay_and_recomputing_gives_the_same_gradients():
    model = small().train()
    assert model.no_weight_decay() == {"backbone.backbone.position.table"}
    targets, gradients = [target([(3, 4, 30, 40)], [2], (64, 64))], []
    image = torch.rand(3, 64, 64)
    for recompute in (False, True):
        model.set_grad_checkpointing(recompute)
        model.zero_grad()
        torch.manual_seed(3)
        sum(model([image], targets).values()).backward()
        gradients.append(backbone_of(model).stem.proj.weight.grad.clone())
    assert torch.allclose(*gradients, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cells": "halving"}, "cells are 'halving', whose grid does not keep the image's shape"),
        ({"patch_size": 14}, "patch_size is 14, which gives a map of stride 14"),
        ({"anchor_sizes": (8, 16)}, r"anchor_sizes is \(8, 16\); give 5 whole numbers"),
        ({"anchor_sizes": 8}, "anchor_sizes is 8; give 5"),
        ({"num_classes": 0}, "num_classes is 0; it must be a whole number from 1"),
        ({"min_size": 100}, "min_size is 100, above max_size 96"),
        ({"masks": "no"}, "masks is 'no'; allowed: True, False"),
        ({"nms_threshold": 1.5}, "nms_threshold is 1.5; it must be a number from 0 to 1"),
        ({"chanels": 8}, "chanels.*Did you mean 'channels'"),
        ({"in_channels": 4, "mean": (0.5,) * 4, "std": (0.5,) * 4}, "in_channels is 4"),
    ],
)
def test_impossible_configurations(changes, message):
    with pytest.raises(ValueError, match=message):
        small(**changes)


def test_unknown_names():
    with pytest.raises(ValueError, match="unknown detector 'mask_rcnn_vitar_smal'.*mask_rcnn_vitar_small_patch16"):
        DETECTOR.get_config("mask_rcnn_vitar_smal")
    assert isinstance(DETECTOR.get_config("mask_rcnn_vitar_base_patch16", merger="none"), DetectorConfig)


def test_images_and_targets_that_do_not_fit():
    model, image, good = small(), torch.rand(3, 64, 64), target([(3, 4, 30, 40)], [3], (64, 64))
    cases = [
        (None, "none targets are given for 1 images"),
        ([good, good], "2 targets are given for 1 images"),
        ([{name: good[name] for name in ("boxes", "labels")}], "a target lacks masks"),
        ([good | {"masks": good["masks"][:, 1:]}], r"masks are \(1, 63, 64\); needed for the image: \(1, 64, 64\)"),
        ([good | {"boxes": good["boxes"][0]}], r"boxes are \(4,\)"),
        ([good | {"boxes": torch.tensor([[3.0, 4, 3, 40]])}], r"a box is \[3.0, 4.0, 3.0, 40.0\]; needed .* x0 < x1"),
        ([good | {"labels": torch.tensor([4])}], r"labels are \[4\]; allowed: 1 to num_classes, 3"),
        ([good | {"labels": torch.tensor([0])}], r"labels are \[0\]"),
    ]
    for targets, message in cases:
        with pytest.raises(ValueError, match=message):
            model.train()([image], targets)
    for images, message in (([], "no images"), ([image[0]], "are expected|is expected"), ([image.byte()], "uint8")):
        with pytest.raises(ValueError, match=message):
            model.eval()(images)
    with pytest.raises(ValueError, match=r"weights are torch.bfloat16; allowed: model.float\(\), then torch.autocast"):
        small().eval().bfloat16()([image.bfloat16()])
    with pytest.raises(ValueError, match="1 <= min_size <= max_size"):
        model.set_size(9, 8)
