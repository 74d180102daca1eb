"""Settings on disk: what two runs may differ in, and what older versions wrote; every field is explained."""

import dataclasses
import inspect
import json
import re
from pathlib import Path

import pytest
import tyro

from anyres.cli.model_options import REGISTRY
from anyres.data.augment import TrainAugment
from anyres.models.architectures import get_config
from anyres.settings import differences
from anyres.training.classification.config import TrainConfig
from anyres.training.config import RunConfig, changed_settings, operational
from anyres.training.detection.config import DetectionConfig
from anyres.training.pretraining.config import PretrainConfig
from anyres.training.records.config import RecordsConfig
from anyres.training.segmentation.config import SegmentationConfig

KINDS = [TrainConfig, PretrainConfig, RecordsConfig, SegmentationConfig, DetectionConfig]


def test_differences_name_nested_fields_and_pass_over_operational_ones(make_config):
    old = make_config().to_json()
    new = make_config(lr=0.5, out=Path("elsewhere"), threads=2, augmentation=TrainAugment(hflip=0.25))
    told = ["lr: 0.001 there, 0.5 here", "augmentation.hflip: 0.5 there, 0.25 here"]
    assert changed_settings(old, new) == told
    assert differences(old, {**old, "added": 1}) == ["added: 'not set' there, 1 here"]
    assert changed_settings({**old, "added": 1}, make_config()) == ["added: 1 there, 'not set' here"]


def test_fields_that_an_older_version_did_not_know_are_at_their_defaults(make_config):
    old = make_config(lr=0.25).to_json()
    del old["grad_pieces"], old["smoothing"]
    assert changed_settings(old, make_config(lr=0.25)) == []
    assert changed_settings(old, make_config(lr=0.25, grad_pieces=True)) == ["grad_pieces: False there, True here"]


def test_model_options_that_the_first_version_wrote_as_text_are_read(make_config):
    new = make_config(model_options={"grid": (3, 3), "mean": (0.5, 0.5, 0.5), "cells": "balanced"})
    old = new.to_json() | {"model_options": ["cells=balanced", "mean=0.5,0.5,0.5", "grid=3"], "from_records": None}
    assert changed_settings(old, new) == []
    old["model_options"] = ["cells=balanced", "grid=3x4", "width=8"]
    assert changed_settings(old, new) == [
        "model_options.grid: [3, 4] there, [3, 3] here",
        "model_options.width: 8 there, 'not set' here",
        "model_options.mean: 'not set' there, [0.5, 0.5, 0.5] here",
    ]


def test_heads_on_records_were_another_kind_of_run_in_the_first_version(make_config):
    new = RecordsConfig(from_records=Path("records"), out=Path("out"), lr=0.5)
    of_images = {name: value for name, value in make_config().to_json().items() if name not in new.to_json()}
    old = new.to_json() | of_images | {"from_records": "there", "model_options": []}
    assert changed_settings(old, new) == []
    assert changed_settings(old | {"smoothing": 0.0}, new) == ["smoothing: 0.0 there, 0.1 here"]
    assert "model: 'vitar_tiny_patch16' there, 'not set' here" in changed_settings(old | {"from_records": None}, new)
    assert "from_records: 'there' there, 'not set' here" in changed_settings(old, make_config())


def test_settings_survive_json(make_config):
    plain = make_config().to_json()
    assert json.loads(json.dumps(plain)) == plain
    assert plain["sizes"] == ["13", "16x23"]


@pytest.mark.parametrize("kind", KINDS)
def test_operational_fields_are_those_of_carrying_out(kind):
    always = {"out", "threads", "device", "deterministic", "checkpoint_every", "log_every", "validate_every"}
    always |= {"tensorboard", "progress", "shard"}
    of_images = {"data", "num_workers", "cache_bytes", "validate_limit", "strict"}
    own = {
        TrainConfig: {*of_images, "init", "validate_crop_ratio"},
        PretrainConfig: {*of_images, "draw_images"},
        RecordsConfig: {"from_records", "init"},
        SegmentationConfig: {*of_images, "init"},
        DetectionConfig: {*of_images, "init", "draw_images"},
    }
    assert operational(RunConfig) == always and operational(kind) == always | own[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_is_explained_on_the_command_line(kind, capsys):
    with pytest.raises(SystemExit):
        tyro.cli(kind, registry=REGISTRY, args=["--help"])
    text = re.sub(r"\s+", " ", capsys.readouterr().out)
    source = "".join(inspect.getsource(each) for each in kind.__mro__ if dataclasses.is_dataclass(each))
    for field in dataclasses.fields(kind):
        assert re.search(rf'^    {field.name}: [^\n]+\n    """', source, re.M), f"{field.name} has no docstring"
        if field.name != "augmentation":
            assert f"--{field.name.replace('_', '-')}" in text


@pytest.mark.parametrize(
    ("sizes", "levels"),
    [(("224",), 1), (("224", "448"), 1), (("449",), 2), (("96", "896x300"), 2), (("224-1120",), 3), (("4032",), 5)],
)
def test_a_pyramid_counts_fully_the_levels_of_its_training_sizes(sizes, levels, tmp_path):
    shared = {"data": tmp_path, "out": tmp_path / "run", "sizes": sizes}
    settings = TrainConfig(model="anyres_tiny_patch16", **shared).model_settings()
    assert settings == get_config("anyres_tiny_patch16", full_levels=levels)
    restored = PretrainConfig(model="mae_anyres_tiny_patch16", **shared).model_settings().backbone
    assert restored.full_levels is not None and 0 <= levels - restored.full_levels <= 1  # brought to 14 * 2^k first
    for told in (None, 7):
        told_so = TrainConfig(model="anyres_tiny_patch16", model_options={"full_levels": told}, **shared)
        assert told_so.model_settings().full_levels == told
    for others in ({"model": "vitar_tiny_patch16"}, {"model_options": {"cells": "2x2", "grid_shape": "fixed"}}):
        assert TrainConfig(**others, **shared).model_settings().full_levels is None
