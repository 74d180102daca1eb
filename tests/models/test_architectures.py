"""The table of architectures: names, what they make, and where the ViTAR of each kind of model is."""

from dataclasses import fields
from typing import get_args

import pytest
import torch
from torch import nn

import anyres
from anyres.models.architectures import (
    ARCHITECTURES,
    DETECTOR,
    SEGMENTER,
    VITAR,
    architecture_of,
    backbone_of,
    create_model,
    get_config,
)
from anyres.models.config import ViTARConfig
from anyres.models.presets import (
    AUTOENCODERS,
    CLASSIFIERS,
    DETECTORS,
    SEGMENTERS,
    AutoencoderName,
    DetectorName,
    SegmenterName,
)
from anyres.models.vitar import ViTAR

ONE_OF_EACH = [next(iter(each.presets)) for each in ARCHITECTURES.values() if each.presets]


def test_unknown_model_suggests_the_nearest():
    with pytest.raises(ValueError, match="Did you mean 'vitar_small_patch16'"):
        anyres.create_model("vitar_smal_patch16")
    assert anyres.list_models("deit*") == ["deit_tiny_patch16", "deit_small_patch16", "deit_base_patch16"]
    assert anyres.list_models() == [*CLASSIFIERS, *AUTOENCODERS, *SEGMENTERS, *DETECTORS]


def test_one_kind_knows_its_own_names_alone():
    with pytest.raises(ValueError, match="unknown model to segment with 'vitar_tiny_patch16'.*Allowed: upernet"):
        SEGMENTER.get_config("vitar_tiny_patch16")
    with pytest.raises(ValueError, match="unknown option of mask_rcnn_vitar_base_patch16 'dept'. Did you mean 'depth'"):
        DETECTOR.get_config("mask_rcnn_vitar_base_patch16", dept=1)
    with pytest.raises(ValueError, match="unknown option of upernet_vitar_base_patch16 'masks'"):
        get_config("upernet_vitar_base_patch16", masks=False)
    assert VITAR.get_config("vitar_tiny_patch16") == get_config("vitar_tiny_patch16")


def test_type_checkers_are_told_the_same_names():
    assert list(get_args(AutoencoderName)) == list(AUTOENCODERS)
    assert list(get_args(SegmenterName)) == list(SEGMENTERS)
    assert list(get_args(DetectorName)) == list(DETECTORS)


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_every_kind_of_model_is_made_from_the_table(name):
    with torch.device("meta"):
        model = create_model(name.removesuffix("_patch16"), depth=12, patch_size=8)
    architecture = architecture_of(model)
    assert type(model) is architecture.model and architecture_of(model.config) is architecture
    assert type(model).__module__ == architecture.module and name in architecture.presets
    backbone = backbone_of(model)
    assert type(backbone) is ViTAR and backbone.config == backbone_of(model.config)
    assert backbone.config.patch_size == 8
    above = {field.name for field in fields(architecture.config)} - {field.name for field in fields(ViTARConfig)}
    assert ("backbone" in above) == (backbone is not model)


def test_what_is_no_model_of_ours_is_refused():
    with pytest.raises(ValueError, match="Linear is no model of anyres; allowed: UpgradedViT, ViTAR, Masked"):
        backbone_of(nn.Linear(1, 1))


@pytest.mark.parametrize(
    "name", ["vitar_base", "mae_vit_large", "mask_rcnn_vitar_small", "upernet_vitar_base", "unmerge_vitar_small"]
)
def test_names_without_the_patch_size(name):
    with torch.device("meta"):
        short, full = anyres.create_model(name), anyres.create_model(f"{name}_patch16")
    assert type(short) is type(full) and short.config == full.config


def test_unknown_names_are_answered_with_those_of_every_task():
    with pytest.raises(ValueError, match="Did you mean 'mask_rcnn_vitar_small_patch16'.*upernet_vitar_small_patch16"):
        anyres.create_model("mask_rcnn_vitar_smal")
