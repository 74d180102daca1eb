"""COCO 2017 and ADE20K as the papers train on them: Mask R-CNN and UperNet on ViTAR, ours, ViT, ViTDet and ResFormer.

All start from weights (`--init`): the run folder of the recipe that `STARTS` names, or for the controls published
weights of DeiT and MAE. The settings are those of the configurations that the ViTAR paper's sections 4.2 and 4.3 point
to: of ViT-Adapter on mmdetection, of ViTDet on detectron2, of mmsegmentation.

Hours are those of one RTX 3090 by the formula and at the rates of `recipes/imagenet.py`, which are rates of DeiT: that
pyramids and heads sustain as much is assumed, not measured, and pooling of regions, suppression of double boxes,
upsampling and padding are not counted (`hours.expected_macs`). Memory was not measured; --accumulate makes the pieces
smaller. None of these runs has been carried out with this code. On small sets of our own: docs/results.md.

Where these runs differ from the authors':
- one process and one device; bfloat16 for float32 or float16; the warm-up begins at a thousandth of the learning rate;
- Mask R-CNN has ViTDet's heads with layer norms (torchvision's second version) on a simple feature pyramid. The papers'
  rows of ViT have a feature pyramid network on four blocks and plain heads, and leave open what ViTAR's have;
- padding belongs to the image, as it does not in mmdetection, where boxes end at the image;
- images without objects are shown as well, so an epoch of 7330 steps is 1 % short of all images;
- UperNet on ViTAR and ResFormer: taps at blocks 3, 6, 9, 12 (the default) and BEiT's pyramid relative to the map's
  stride, which the ViTAR paper leaves open;
- the class token of ViT is left out under Mask R-CNN, as in ViT-Adapter; ResFormer and all of UperNet's keep it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from anyres.data.augment import MultiScale
from anyres.training.detection.config import DetectionConfig
from anyres.training.segmentation.config import SegmentationConfig

STEPS_PER_EPOCH = 7330  # of 16 images: the 117 266 of train2017 that have objects

_VIT: Mapping[str, Any] = {"merger": "none", "position": "learned", "interpolation": "bicubic"}
_RESFORMER: Mapping[str, Any] = {"merger": "none", "position": "global_local", "prefix_tokens": 1}
_OF_DETECTION: Mapping[str, Mapping[str, Any]] = {
    "anyres_{}_2x2": {}, "vitar_{}": {}, "vitar_{}_2x2": {"cells": "2x2"}, "vit_{}": _VIT,
    "vitdet_{}": {**_VIT, "window": 14}, "resformer_{}": _RESFORMER,
}  # fmt: skip
_OF_SEGMENTATION: Mapping[str, Mapping[str, Any]] = {
    "anyres_{}_2x2": {}, "vitar_{}": {}, "vitar_{}_2x2": {"cells": "2x2"}, "resformer_{}": _RESFORMER,
    "deit_{}": {**_VIT, "prefix_tokens": 1, "scales": (1, 1, 1, 1), "auxiliary_tap": 3},
}  # fmt: skip


def coco_multi_scale(data: Path, out: Path, init: Path, *, model: str, options: Mapping[str, Any]) -> DetectionConfig:
    """Mask R-CNN on COCO 2017, 36 epochs at many scales ("3x"), from a backbone trained on ImageNet-1k.

    Batches of 16, AdamW at 1e-4, a tenth after epochs 27 and 33, weight decay 0.05, warm-up of 500 steps, drop path
    0.1. ViTAR's grid has one token for each patch of 16 pixels, or with *_2x2 for four of them, as ours; vitdet keeps
    attention in windows of 14 but for four blocks, vit does not.

    Command: `anyres recipe NAME --init RUN --data COCO --out DETECTOR`, with COCO/annotations/instances_train2017.json,
    COCO/train2017 and the same for val. RUN is that of `anyres recipe vitar_small`, vitar_base, anyres_*, deit_*,
    resformer_*.

    Hours on one RTX 3090, and the papers' AP of boxes and masks (ViTAR, tables 2 and 3; those of ViT and ViTDet from
    ViT-Adapter, with windows and another pyramid):

    mask_rcnn_anyres_small_2x2   57 hours, not in the papers
    mask_rcnn_anyres_base_2x2    48 hours, not in the papers
    mask_rcnn_vitar_small        77 hours, 46.9 and 41.2
    mask_rcnn_vitar_base         90 hours, 48.3 and 42.5
    mask_rcnn_vitar_small_2x2    57 hours, not in the paper
    mask_rcnn_vitar_base_2x2     48 hours, 47.9 and 42.1
    mask_rcnn_vit_small          77 hours, 44.0 and 39.9
    mask_rcnn_vit_base           87 hours, 45.8 and 41.3
    mask_rcnn_vitdet_small       69 hours, 44.5 and 40.1
    mask_rcnn_vitdet_base        77 hours, 46.3 and 41.6
    mask_rcnn_resformer_small    77 hours, 46.4 and 40.7
    mask_rcnn_resformer_base     88 hours, 47.6 and 41.9

    Open: at which sizes ViTAR's were trained, of which the paper says no more than that it is a single one; here as
    the controls.
    """
    return DetectionConfig(
        data=data, out=out, init=init, model=f"mask_rcnn_{model}_patch16", model_options=options,
        sizes=("800x1333",), augmentation=MultiScale(), steps=36 * STEPS_PER_EPOCH, lr_schedule="step",
        lr_drops=(27 * STEPS_PER_EPOCH, 33 * STEPS_PER_EPOCH), warmup_steps=500, batch_size=16, accumulate=8, lr=1e-4,
        weight_decay=0.05, precision="bfloat16", num_workers=16, checkpoint_every=1000,
        validate_every=3 * STEPS_PER_EPOCH, log_every=50,
    )  # fmt: skip


def coco_large_jitter(data: Path, out: Path, init: Path) -> DetectionConfig:
    """Mask R-CNN on COCO 2017 with ViTAR-B as ViTDet trains: 100 epochs with large-scale jitter at 1024 pixels.

    Batches of 64, AdamW at 1e-4, a tenth after steps 163889 and 177546 of 184375, weight decay 0.1, layer decay 0.7,
    warm-up of 250 steps, drop path 0.1; from masked auto-encoding.

    Command: `anyres recipe mask_rcnn_vitar_base_lsj --init RUN --data COCO --out DETECTOR`, data as for the other
    recipes of Mask R-CNN. RUN is that of `anyres recipe mae_vitar_base`.

    Hours on one RTX 3090, and ViTDet's AP of boxes and masks with ViT-B and MAE (arXiv 2203.16527):

    mask_rcnn_vitar_base_lsj    474 hours, 51.6 and 45.9

    Open: no paper trains ViTAR so. Attention is global, ViTDet's in windows but for four blocks.
    """
    return DetectionConfig(
        data=data, out=out, init=init, model="mask_rcnn_vitar_base_patch16", sizes=("1024",), steps=184_375,
        lr_schedule="step", lr_drops=(163_889, 177_546), layer_decay=0.7, batch_size=64, accumulate=32, lr=1e-4,
        weight_decay=0.1, warmup_steps=250, precision="bfloat16", num_workers=16, checkpoint_every=1000,
        validate_every=20_000, log_every=50,
    )  # fmt: skip


def ade20k(data: Path, out: Path, init: Path, *, model: str, options: Mapping[str, Any]) -> SegmentationConfig:
    """UperNet on ADE20K at 512 pixels, 80 000 steps (small) or 160 000 (base), from a backbone trained on ImageNet-1k.

    Batches of 16, AdamW at 6e-5 falling to 0 on a straight line ("poly", power 1) after 1500 steps of warm-up, weight
    decay 0.01, drop path 0.1, mmsegmentation's augmentation. With *_2x2 the maps have strides of 8 to 64.

    Command: `anyres recipe NAME --init RUN --data ADEChallengeData2016 --out SEGMENTER`. RUN is that of `anyres recipe
    vitar_small`, vitar_base, deit_*, resformer_*. Then `anyres evaluate --run SEGMENTER --data ADEChallengeData2016`,
    and the same with --multi-scale. The heads normalise over a piece: --accumulate makes that fewer images.

    Hours on one RTX 3090, and the papers' mIoU at one and at several scales (ViTAR, tables 4 and 5; those of DeiT are
    mmsegmentation's):

    upernet_anyres_small_2x2    4.5 hours, not in the papers
    upernet_anyres_base_2x2     8.7 hours, not in the papers
    upernet_vitar_small          18 hours, 47.0 and 48.1
    upernet_vitar_base           36 hours, 49.0 and 49.9
    upernet_vitar_small_2x2     4.5 hours, 46.4 and 47.5
    upernet_vitar_base_2x2      8.7 hours, 48.6 and 49.4
    upernet_resformer_small      18 hours, 46.3 and 47.5
    upernet_resformer_base       35 hours, 48.3 and 49.3
    upernet_deit_small          4.5 hours, 43.0 and 43.8
    upernet_deit_base            14 hours, 45.4 and 47.2

    Open: pyramid and head of the paper. With 2x2 cells it halves the cost of all, which maps of the same strides could
    not; so they are coarser here.
    """
    steps = 80_000 if model.endswith("small") else 160_000
    return _ade20k(data, out, init, f"upernet_{model}_patch16", options, steps)


def ade20k_mae(data: Path, out: Path, init: Path) -> SegmentationConfig:
    """UperNet on ADE20K with ViT-B from masked auto-encoding, at 512 pixels, 160 000 steps: mmsegmentation's.

    As `ade20k` but for AdamW at 1e-4, weight decay 0.05, layer decay 0.65, taps at blocks 4, 6, 8 and 12 and a head of
    768 channels.

    Command: `anyres recipe upernet_vit_base_mae --init RUN --data ADEChallengeData2016 --out SEGMENTER`. RUN is that of
    `anyres recipe mae_vit_base`, or MAE's published weights. Then `anyres evaluate --window 512`: the authors look
    through windows that overlap by half, ours overlap by a third.

    Hours on one RTX 3090, and mmsegmentation's mIoU at one and at several scales, after 1600 epochs of pre-training:

    upernet_vit_base_mae         63 hours, 48.1 and 48.7

    Open: positions stay sin-cos and fixed here; the authors' learn, with a relative bias in every block.
    """
    options = {"merger": "none", "position": "sincos", "prefix_tokens": 1, "taps": (3, 5, 7, 11), "head_channels": 768}
    run = _ade20k(data, out, init, "upernet_vitar_base_patch16", options, 160_000)
    return replace(run, lr=1e-4, weight_decay=0.05, layer_decay=0.65)


def _ade20k(
    data: Path, out: Path, init: Path, model: str, options: Mapping[str, Any], steps: int
) -> SegmentationConfig:
    """What both share. SegmentationConfig's own defaults are mmsegmentation's: decay, augmentation, auxiliary loss."""
    return SegmentationConfig(
        data=data, out=out, init=init, model=model, model_options=options, num_classes=150, reduce_zero_label=True,
        sizes=("512",), steps=steps, lr_schedule="poly", lr_power=1.0, lr=6e-5, weight_decay=0.01, warmup_steps=1500,
        batch_size=16, precision="bfloat16", num_workers=16, checkpoint_every=1000, validate_every=16_000, log_every=50,
    )  # fmt: skip


def _model(name: str, size: str) -> str:
    """The backbone in the names of models: all but ours are ViTARs with other options."""
    return f"{'anyres' if name.startswith('anyres') else 'vitar'}_{size}"


_SIZES = ("small", "base")
RECIPES: dict[str, Callable[[Path, Path, Path], DetectionConfig | SegmentationConfig]] = {
    **{
        f"mask_rcnn_{name.format(size)}": partial(coco_multi_scale, model=_model(name, size), options=options)
        for name, options in _OF_DETECTION.items()
        for size in _SIZES
    },
    "mask_rcnn_vitar_base_lsj": coco_large_jitter,
    **{
        f"upernet_{name.format(size)}": partial(ade20k, model=_model(name, size), options=options)
        for name, options in _OF_SEGMENTATION.items()
        for size in _SIZES
    },
    "upernet_vit_base_mae": ade20k_mae,
}


def _start(name: str) -> str:
    backbone, size = name.removeprefix("mask_rcnn_").removeprefix("upernet_").removesuffix("_2x2").split("_")
    return f"{'deit' if backbone in ('vit', 'vitdet') else backbone}_{size}"


_FROM_MAE = {"mask_rcnn_vitar_base_lsj": "mae_vitar_base", "upernet_vit_base_mae": "mae_vit_base"}
STARTS: dict[str, str] = {name: _FROM_MAE.get(name) or _start(name) for name in RECIPES}
"""The recipe whose run each starts from."""
