"""Settings: what is refused, with which words, and what two runs may differ in."""

import dataclasses
import inspect
import json
import re
from pathlib import Path

import pytest
import tyro

from anyres.cli.model_options import REGISTRY
from anyres.data.augment import TrainAugment
from anyres.settings import differences
from anyres.training.classification.config import TrainConfig
from anyres.training.config import RunConfig, changed_settings, operational
from anyres.training.detection.config import DetectionConfig
from anyres.training.model_options import options_as_text, parse_options
from anyres.training.pretraining.config import PretrainConfig
from anyres.training.records.config import RecordsConfig
from anyres.training.segmentation.config import SegmentationConfig

KINDS = [TrainConfig, PretrainConfig, RecordsConfig, SegmentationConfig, DetectionConfig]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sizes": ()}, "sizes is empty"),
        ({"sizes": ("large",)}, "large"),
        ({"sizes": ("0",)}, "0"),
        ({"sizes": ("224", "224x224")}, "sizes names 224x224 twice"),
        ({"sizes": ("32-96", "48", "32-96")}, "sizes names 32-96 twice"),
        ({"sizes": ("96-32",)}, "'96-32' as a range.*nearest: 32-96"),
        ({"sizes": ("a-b",)}, "'a-b' as a range"),
        ({"aspect": (2.0, 0.5)}, "aspect is 2.0 0.5.*nearest: 0.5 2.0"),
        ({"replicas": True, "sizes": ("32-96", "16")}, "range 32-96, but replicas need fixed sizes; nearest: 32 96"),
        ({"replicas": True, "sizes": ("32",)}, "replicas at the one size 32 .*two sizes or more"),
        ({"replicas": True, "size_weights": (1.0, 2.0)}, r"size_weights is \(1.0, 2.0\) but has no effect.*at None"),
        ({"replicas": True, "aspect": (0.5, 2.0)}, "aspect is .* no effect, because replicas"),
        ({"consistency": 1.0}, "consistency is 1.0 but has no effect, because there are no replicas; leave it at 0.0"),
        ({"replicas": True, "consistency": -1.0}, "consistency is -1.0; allowed: from 0"),
        ({"repeats": 0}, "repeats is 0; allowed: whole numbers from 1 up"),
        ({"size_weights": (1.0,)}, "weights has 1 entries for 2 sizes"),
        ({"steps": 0}, "steps is 0; allowed: whole numbers from 1 up; nearest: 1"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"batch_size": 7}, "batch_size is 7.*even.*nearest: 8"),
        ({"accumulate": 5}, "accumulate is 5 for a batch of 4"),
        ({"warmup_steps": 6}, "warmup_steps is 6 of 6 steps; allowed: 0 to 5; nearest: 5"),
        ({"lr": 0.0}, "lr is 0.0; allowed: above 0; the default is 0.001"),
        ({"lr": float("nan")}, "lr is nan"),
        ({"lr": None}, "lr is None"),
        ({"min_lr": 1.0}, "min_lr is 1, above lr"),
        ({"lr_schedule": "linear"}, "lr_schedule 'linear'.*cosine"),
        ({"lr_power": 0.9}, "lr_power is 0.9 but has no effect, because lr_schedule is 'cosine'; leave it at 1.0"),
        ({"lr_schedule": "poly", "lr_power": 0.0}, "lr_power is 0.0; allowed: above 0"),
        ({"lr_drops": (4,)}, r"lr_drops is \(4,\) but has no effect, because lr_schedule is 'cosine'"),
        ({"lr_schedule": "step"}, r"lr_drops is \(\) with lr_schedule .step.; allowed: .*from 3 .* to 5; usual: 4 5"),
        ({"lr_schedule": "step", "lr_drops": (5, 4)}, "allowed: rising whole numbers from 3"),
        ({"lr_schedule": "step", "lr_drops": (4, 4)}, "allowed: rising whole numbers"),
        ({"lr_schedule": "step", "lr_drops": (2,)}, "rising whole numbers from 3 .after the warm-up"),
        ({"lr_schedule": "step", "lr_drops": (6,)}, "rising whole numbers from 3 .* to 5"),
        ({"lr_schedule": "step", "lr_drops": (4,), "min_lr": 1e-4}, "min_lr is 0.0001 but has no effect.*'step'"),
        ({"betas": (0.9, 1.0)}, "betas is 1.0; allowed: from 0 to below 1"),
        ({"layer_decay": 1.5}, "layer_decay is 1.5; allowed: above 0 up to 1"),
        ({"ema": 1.0}, "ema is 1.0"),
        ({"smoothing": 1.0}, "smoothing is 1.0"),
        ({"mixup": -0.1}, "mixup is -0.1"),
        ({"mixup": 0.0, "mixup_switch_prob": 0.9}, "mixup_switch_prob is 0.9 but has no effect.*mixup is 0"),
        ({"mixup_prob": 0.0, "mixup_switch_prob": 0.9}, "no effect, because mixup_prob is 0"),
        ({"mixup_prob": 0.0, "mixup": 0.3}, "mixup is 0.3 but has no effect, because mixup_prob is 0"),
        ({"mixup_prob": 0.0, "cutmix": 0.3}, "cutmix is 0.3 but has no effect, because mixup_prob is 0"),
        ({"sizes": ("32",), "size_weights": (5.0,)}, "no effect, because there is one size"),
        (
            {"mixup": 0.0, "cutmix": 0.0, "mixup_prob": 0.5},
            "mixup_prob is 0.5 but has no effect, because mixup and cutmix",
        ),
        ({"ema": None, "save_ema": False}, "save_ema is False but has no effect.*without ema; leave it at True"),
        ({"cache_bytes": 10**9}, "cache_bytes is 1000000000 but has no effect, because there is no cache"),
        ({"precision": "float16"}, "precision 'float16'.*bfloat16"),
        ({"device": "gpu"}, "unknown device 'gpu'.*Allowed: auto, cpu"),
        ({"threads": 0}, "threads is 0"),
        ({"model": "vitar_tiny_patch61"}, "Did you mean 'vitar_tiny_patch16'"),
        ({"model_options": {"widht": 32}}, "'widht'.*Did you mean 'width'"),
        ({"model_options": ("width=32",)}, r"model_options is \('width=32',\); allowed: a mapping"),
        ({"model_options": {"num_classes": 5}}, "num_classes.*data folder"),
        ({"model_options": {"heads": 5}}, "heads is 5, which does not divide"),
    ],
)
def test_impossible_settings_are_refused_by_name(make_config, changes, message):
    with pytest.raises(ValueError, match=message):
        make_config(**changes).check()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"batch_size": 7, "mixup_prob": 0.0},
        {"batch_size": 1, "mixup": 0.0, "cutmix": 0.0},
        {"cache": True, "cache_bytes": 10**9},
        {"save_ema": False},
        {"sizes": ("32-96", "96", "40-64"), "aspect": (0.5, 2.0), "size_weights": (1.0, 2.0, 0.0)},
        {"replicas": True},
        {"replicas": True, "consistency": 0.5, "repeats": 3},
        {"lr_schedule": "poly", "lr_power": 0.9, "min_lr": 1e-4},
        {"lr_schedule": "step", "lr_drops": (3, 5)},
    ],
)
def test_possible_settings_pass(make_config, changes):
    make_config(**changes).check()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("grid=7x5", {"grid": (7, 5)}),
        ("grid=7", {"grid": (7, 7)}),
        ("width=96", {"width": 96}),
        ("drop_path_rate=0.1", {"drop_path_rate": 0.1}),
        ("cells=2x2", {"cells": "2x2"}),
        ("position=none", {"position": "none"}),
        ("last_pass=False", {"last_pass": False}),
        ("mean=0.5,0.4,0.3", {"mean": (0.5, 0.4, 0.3)}),
    ],
)
def test_model_options_are_read_and_written(option, value):
    assert parse_options([option]) == value
    assert parse_options(options_as_text(value)) == value


def test_text_that_is_no_model_option_is_refused():
    with pytest.raises(ValueError, match="'width' has no '='"):
        parse_options(["grid=3", "width"])
    with pytest.raises(ValueError, match="'width' is given 2 times"):
        parse_options(["width=32", "grid=3", "width=64"])


def test_sizes_to_validate_are_those_of_training_and_the_ends_of_ranges(make_config):
    config = make_config(sizes=("32-96", "24x10", "96"), aspect=(0.5, 2.0))
    assert config.parsed_sizes() == [(32, 32), (96, 96), (24, 10)]
    assert make_config(sizes=("9", "30x2", "8"), replicas=True).schedule().sizes_at(3) == ((9, 9), (8, 8), (30, 2))


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
    always |= {"tensorboard", "progress"}
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


def parsed(*arguments):
    return tyro.cli(TrainConfig, registry=REGISTRY, args=["--data", "data", "--out", "out", *arguments])


def test_model_options_on_the_command_line(capsys):
    assert parsed("--model-options", "patch_size=8", "grid=7", "--seed", "3").model_options == {
        "patch_size": 8, "grid": (7, 7),
    }  # fmt: skip
    assert parsed("--model-options").model_options == parsed().model_options == {}
    for given, message in ((["width"], "'width' has no '='"), (["width=3", "width=4"], "'width' is given 2 times")):
        with pytest.raises(SystemExit):
            parsed("--model-options", *given)
        assert message in re.sub(r"[\s│]+", " ", capsys.readouterr().err)


def test_the_command_line_gives_the_same_settings(make_config):
    config = make_config(sizes=("13", "16x23"), betas=(0.8, 0.9), layer_decay=0.5, data=Path("data"), out=Path("out"))
    given = ["--sizes", "13", "16x23", "--betas", "0.8", "0.9", "--layer-decay", "0.5", "--no-progress"]
    found = parsed(*given, "--augmentation.hflip", "0.25")
    assert (found.sizes, found.betas, found.layer_decay) == (config.sizes, config.betas, config.layer_decay)
    assert (found.augmentation.hflip, found.progress, found.out) == (0.25, False, config.out)
    found = parsed("--sizes", "32-96", "200", "--aspect", "0.5", "2.0")
    assert (found.sizes, found.aspect) == (("32-96", "200"), (0.5, 2.0))
    assert parsed("--sizes", "13", "16x23", "--replicas", "--consistency", "1").consistency == 1.0
