"""Recipes of detection and segmentation: the controls' numbers, hours that are true, and one run after the other."""

import re
from dataclasses import replace

import pytest

from anyres import cli
from anyres.costs.cost import cost
from anyres.data.augment import MultiScale
from anyres.models.architectures import create_model
from anyres.models.weights.files import save
from anyres.models.weights.initial import read_initial
from anyres.recipes import RECIPES, RecipeConfig, describe, expected_macs, recipe, table, training_hours
from anyres.recipes.dense import RECIPES as DENSE, STARTS, ade20k, ade20k_mae, coco_large_jitter, coco_multi_scale
from anyres.recipes.hours import drawn_sizes
from anyres.recipes.imagenet import BASE_RATE, SMALL_RATE
from anyres.training import engine
from anyres.training.detection.config import DetectionConfig
from anyres.training.pretraining.config import PretrainConfig
from anyres.training.segmentation.config import SegmentationConfig

TINY = {"patch_size": 16, "grid": (3, 3), "width": 16, "depth": 12, "heads": 2}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """All recipes; nothing is read."""
    folder = tmp_path_factory.mktemp("recipes")
    return {name: function(folder, folder / "run", folder / "start") for name, function in DENSE.items()}


def settings(run):
    return run.model_settings()


def told_hours():
    text = "".join(function.__doc__ for function in (coco_multi_scale, coco_large_jitter, ade20k, ade20k_mae))
    return dict(re.findall(r"^ +(\w+) +([\d.]+) hours, ", text, re.MULTILINE))


def check_hours(name, run):
    told, rate = told_hours()[name], BASE_RATE if "base" in name else SMALL_RATE
    assert training_hours(run, rate) == pytest.approx(float(told), abs=0.06 if "." in told else 0.7)


def test_every_recipe_is_possible_and_told(runs):
    assert told_hours().keys() == runs.keys() == STARTS.keys()
    for name, run in runs.items():
        run.check()
        assert name in RECIPES and STARTS[name] in RECIPES and STARTS[name] not in DENSE


@pytest.mark.parametrize(
    "name",
    [
        "mask_rcnn_vitar_base_lsj",
        "upernet_vitar_small",
        "upernet_anyres_base_2x2",
        "upernet_vitar_base_2x2",
        "upernet_deit_small",
    ],
)
def test_hours_are_true(runs, name):
    check_hours(name, runs[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", list(DENSE))
def test_all_hours_are_true(runs, name):
    check_hours(name, runs[name])


def test_coco_is_vit_adapters_three_times_twelve_epochs(runs):
    """mmdetection's schedule_3x of batches of 16 of 117 266 images; everything but the backbone is alike."""
    run, epoch = runs["mask_rcnn_vitar_small"], -(-117_266 // 16)
    assert (run.steps, run.lr_drops, run.lr_schedule) == (36 * epoch, (27 * epoch, 33 * epoch), "step")
    assert (run.batch_size, run.lr, run.weight_decay, run.warmup_steps) == (16, 1e-4, 0.05, 500)
    assert (run.layer_decay, run.augmentation, run.betas) == (None, MultiScale(), (0.9, 0.999))
    assert (settings(run).min_size, settings(run).max_size) == (800, 1333)
    for name, other in runs.items():
        if name.startswith("mask_rcnn") and not name.endswith("lsj"):
            assert replace(other, model=run.model, model_options={}) == run
            backbone = settings(other).backbone
            assert backbone.drop_path_rate == 0.1 and backbone.width == (384 if "small" in name else 768)
            assert settings(other).stride == (32 if name.endswith("2x2") else 16)
            assert backbone.window == (14 if "vitdet" in name else 0)
            merger = {"vitar": "grid_attention", "anyres": "pyramid"}.get(name.split("_")[2], "none")
            assert backbone.merger == merger
    assert settings(runs["mask_rcnn_vitdet_base"]).backbone.whole_blocks == (2, 5, 8, 11)


def test_large_jitter_is_vitdets(runs):
    """100 epochs of 118 000 images in batches of 64, by detectron2's configuration."""
    run = runs["mask_rcnn_vitar_base_lsj"]
    assert (run.steps, run.lr_drops, run.warmup_steps) == (184_375, (163_889, 177_546), 250)
    assert (run.batch_size, run.lr, run.weight_decay, run.layer_decay) == (64, 1e-4, 0.1, 0.7)
    assert run.parsed_sizes() == [(1024, 1024)] and run.augmentation.scale == (0.1, 2.0)


def test_ade20k_is_mmsegmentations(runs):
    run, base = runs["upernet_vitar_small"], runs["upernet_vitar_base"]
    assert (run.steps, base.steps, run.lr_schedule, run.lr_power, run.min_lr) == (80_000, 160_000, "poly", 1.0, 0.0)
    assert (run.batch_size, run.lr, run.weight_decay, run.warmup_steps) == (16, 6e-5, 0.01, 1500)
    assert (run.num_classes, run.reduce_zero_label, run.auxiliary_weight, run.accumulate) == (150, True, 0.4, 1)
    for name, other in runs.items():
        if name.startswith("upernet") and not name.endswith("mae"):
            kind, size = "anyres" if "anyres" in name else "vitar", "small" if "small" in name else "base"
            assert replace(other, model_options={}, model=f"upernet_vitar_{size}_patch16") == (
                run if size == "small" else base
            )
            assert other.model == f"upernet_{kind}_{size}_patch16"
            assert settings(other).taps == (2, 5, 8, 11)
    deit = settings(runs["upernet_deit_base"])
    assert (deit.scales, deit.auxiliary_tap, deit.backbone.prefix_tokens) == ((1, 1, 1, 1), 3, 1)
    mae = runs["upernet_vit_base_mae"]
    assert (mae.lr, mae.weight_decay, mae.layer_decay, mae.steps) == (1e-4, 0.05, 0.65, 160_000)
    assert (settings(mae).taps, settings(mae).head_channels) == ((3, 5, 7, 11), 768)


@pytest.mark.parametrize("name", list(DENSE))
def test_a_recipe_starts_from_the_run_that_is_named(runs, tmp_path, name):
    """A shrunken model of that recipe is saved; of the backbone nothing then starts fresh, but windows may differ."""
    before = RECIPES[STARTS[name]](tmp_path, tmp_path / "run")
    if isinstance(before, PretrainConfig):
        model = create_model(before.model, **replace(before, model_options=TINY).model_options)
        save(tmp_path, model, name=None, training_sizes=[(48, 48)])
    else:
        before = replace(before, model_options={**before.model_options, **TINY})
        model = create_model(before.model, num_classes=2, **before.model_options)
        save(tmp_path, model, name=None, classes=["a", "b"], training_sizes=[(48, 48)])
    run = runs[name]
    found = read_initial(tmp_path, settings(replace(run, model_options={**run.model_options, **TINY})).backbone)
    assert found.fresh == () and set(found.differing) <= {"cells", "grid_shape", "window"}
    without_class_token = isinstance(run, DetectionConfig) and STARTS[name].startswith("deit")
    assert found.left_out == (
        ("decoder",) if isinstance(before, PretrainConfig) else ("head", "prefix") if without_class_token else ("head",)
    )


def test_macs_of_segmentation_are_those_of_the_model():
    run = SegmentationConfig(
        data="data", out="out", num_classes=7, 
        model_options={"width": 16, "heads": 2, "head_channels": 8, "grid": (3, 3)},
        sizes=("64", "48x96"), size_weights=(1, 3), steps=10, batch_size=2,
    )  # fmt: skip
    model = create_model(run.model, num_classes=7, **run.model_options)
    one, other = (cost(model, size, memory=False).macs for size in ((64, 64), (48, 96)))
    assert expected_macs(run) == pytest.approx((one + 3 * other) / 4)
    assert training_hours(run, 1e9) == pytest.approx(3 * (one + 3 * other) / 4 * 20 / 1e9 / 3600)


def test_macs_of_detection_are_those_of_the_heads_in_training_at_the_sizes_of_coco():
    options = {"width": 16, "heads": 2, "depth": 1, "channels": 8, "box_features": 8, "grid": (3, 3), "roi_samples": 12}
    few = MultiScale(shortest=96, spacing=24, most=128)
    run = DetectionConfig(
        data="data", out="out", model_options=options, sizes=("144x170",), augmentation=few, steps=10, batch_size=2
    )
    sizes = [(96, 128), (120, 128), (128, 128)]  # of 96x128, 120x160 and, held by the longer side, 128x170
    assert list(drawn_sizes(run)) == [(pytest.approx(1 / 3), size) for size in sizes]
    model = create_model(run.model, **run.model_options, test_proposals=12, detections=3)
    macs = [cost(model, size, memory=False).macs for size in sizes]
    assert expected_macs(run) == pytest.approx(sum(macs) / 3)
    assert expected_macs(replace(run, model_options={**options, "test_proposals": 77})) == expected_macs(run)
    jitter = replace(run, augmentation=DetectionConfig(data="data", out="out").augmentation, sizes=("96",))
    assert expected_macs(jitter) == cost(model, (96, 96), memory=False).macs


def test_a_recipe_as_a_command(tmp_path, capsys):
    given = {"data": tmp_path, "out": tmp_path / "run"}
    config = RecipeConfig(name="upernet_deit_small", init=tmp_path, accumulate=2, macs_per_second=29e12, **given)
    assert (recipe(config).accumulate, recipe(config).init) == (2, tmp_path)
    text = describe(config)
    assert text.startswith("upernet_deit_small: UperNet on ADE20K") and "1.3e6 images / 2.9e+13" in text
    for name, before in (("mask_rcnn_vit_base", "deit_base"), ("upernet_vit_base_mae", "mae_vit_base")):
        with pytest.raises(ValueError, match=f"{name} fine-tunes, and there is no init.*`anyres recipe {before}`"):
            RecipeConfig(name=name, **given)
    with pytest.raises(ValueError, match="recipe upernet_vitar_base needs data and out; to see what it is, show"):
        RecipeConfig(name="upernet_vitar_base", init=tmp_path)
    shown = ["recipe", "upernet_vitar_base", "--show"]
    for more in ([], ["--data", str(tmp_path), "--out", str(tmp_path / "run"), "--init", str(tmp_path)]):
        assert cli.main([*shown, *more]) == 0
        assert capsys.readouterr().out.rstrip().endswith("= 36 hours.")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name, kind", [("mask_rcnn_resformer_small", DetectionConfig), ("upernet_vitar_small", SegmentationConfig)]
)
def test_the_command_runs_each_kind(tmp_path, monkeypatch, name, kind):
    class Done:
        finished = False

    started = []
    monkeypatch.setattr(table, "describe", lambda config: "")
    monkeypatch.setattr(engine, "train", lambda run: started.append(run) or Done)
    arguments = ["recipe", name, "--data", str(tmp_path), "--out", str(tmp_path / "run"), "--init", str(tmp_path)]
    assert cli.main([*arguments, "--device", "cpu"]) == 130
    (run,) = started
    assert type(run) is kind and run.device == "cpu" and run.init == tmp_path
