"""Recipes of masked auto-encoding: MAE's numbers, docstrings that agree with them, and one run after the other."""

import math
import re
from dataclasses import replace
from typing import get_args

import pytest

from anyres import cli
from anyres.costs.cost import macs_by_part, mae_macs_by_part
from anyres.models.architectures import AUTOENCODER, create_model, get_config
from anyres.models.weights.files import save
from anyres.models.weights.initial import read_initial
from anyres.recipes import RECIPES, RecipeConfig, describe, expected_macs, recipe, training_hours
from anyres.recipes.imagenet import BASE_RATE
from anyres.recipes.mae import FINE_TUNING, PRETRAINING, STARTS
from anyres.recipes.table import Name
from anyres.training import PretrainConfig, TrainConfig, engine
from anyres.training.optim import make_optimizer

SIDES = (224, 448, 672, 896, 1120)
TINY = {"patch_size": 4, "grid": (3, 3), "width": 16, "depth": 3, "heads": 2}
TINY_DECODER = {"decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2}


def runs(folder):
    """All recipes of MAE, the fine-tuning ones from a folder that is not there: nothing is read."""
    found = {name: function(folder, folder / "run") for name, function in PRETRAINING.items()}
    return found | {
        name: function(folder, folder / "run", folder / "pretrained") for name, function in FINE_TUNING.items()
    }


@pytest.mark.parametrize("name", [*PRETRAINING, *FINE_TUNING])
def test_docstrings_are_true(tmp_path, name):
    run = runs(tmp_path)[name]
    run.check()
    text = re.sub(r"\s+", " ", RECIPES[name].__doc__)
    start = "--init RUN --data DIR --out FINE" if name in FINE_TUNING else "--data DIR --out RUN"
    assert f"`anyres recipe {name} {start}`" in text
    formula, hours = re.search(r"Time: (3 \* .*?) / 3600 = (\d+) hours", text).groups()
    formula = re.sub(r"\((.*?)\)e9", r"(\1) * 1e9", formula).replace(" MACs", "").replace(" images", "")
    assert eval(formula) / 3600 == pytest.approx(int(hours), abs=0.7)  # nothing but numbers, by the pattern above
    assert training_hours(run, BASE_RATE) == pytest.approx(int(hours), abs=0.7)


def test_pretraining_is_maes(tmp_path):
    """MAE, table 8: 1.5e-4 for every 256 images, 40 epochs of warm-up, a cosine to 0; 1 281 167 images an epoch."""
    vitar, vit = (runs(tmp_path)[name] for name in ("mae_vitar_base", "mae_vit_base"))
    assert (vitar.batch_size, vitar.betas, vitar.weight_decay) == (4096, (0.9, 0.95), 0.05)
    assert vitar.lr == pytest.approx(2.4e-3) and vitar.min_lr == 0
    assert vitar.steps == 300 * (1_281_167 // 4096) == 93_600
    assert vitar.warmup_steps == 40 * (1_281_167 // 4096) == 12_480
    crop = vitar.augmentation
    assert (crop.scale, crop.hflip, crop.interpolation) == ((0.2, 1.0), 0.5, "bicubic")
    assert (crop.auto_augment, crop.erasing, crop.color_jitter) == (None, 0, 0)
    assert vitar.parsed_sizes() == [(side, side) for side in SIDES] and vitar.size_weights is None
    assert (vitar.accumulate, vitar.model_options) == (32, {})
    assert AUTOENCODER.get_config(vitar.model).mask_ratio == AUTOENCODER.get_config(vit.model).mask_ratio == 0.75
    assert vit == replace(vitar, model="mae_vit_base_patch16", sizes=("224",), steps=800 * 312)
    ours = runs(tmp_path)["mae_anyres_base"]
    assert ours.model_settings().backbone.full_levels == 2 and ours.aspect == (0.5, 2.0)
    assert replace(ours, model=vitar.model, sizes=vitar.sizes, aspect=(1, 1)) == vitar
    seen = AUTOENCODER.get_config(ours.model).seen
    assert ours.parsed_sizes() == [seen(side, side) for side in (224, 448, 896)] and seen(672, 672) == (896, 896)


def test_fine_tuning_is_maes(tmp_path):
    """MAE, table 9: 5e-4 for every 256 images, layer decay 0.65, drop path 0.1."""
    vitar, vit = (runs(tmp_path)[name] for name in ("vitar_base_mae", "vit_base_mae"))
    assert (vitar.batch_size, vitar.betas, vitar.weight_decay, vitar.repeats) == (1024, (0.9, 0.999), 0.05, 1)
    assert (vitar.lr, vitar.min_lr, vitar.layer_decay) == (5e-4 * 1024 / 256, 1e-6, 0.65)
    assert (vitar.steps, vitar.warmup_steps) == (100 * 1251, 5 * 1251)
    assert (vitar.mixup, vitar.cutmix, vitar.smoothing, vitar.clip_grad) == (0.8, 1.0, 0.1, None)
    assert (vitar.augmentation.auto_augment, vitar.augmentation.erasing) == ("rand-m9-mstd0.5-inc1", 0.25)
    assert vitar.init == tmp_path / "pretrained" and not vitar.linear_probe
    assert vitar.parsed_sizes() == runs(tmp_path)["mae_vitar_base"].parsed_sizes()
    assert get_config(vitar.model, **vitar.model_options).pool == "mean"
    options = {"drop_path_rate": 0.1, "position": "sincos", "pool": "mean"}
    assert vit == replace(vitar, model="deit_base_patch16", model_options=options, sizes=("224",))


def test_hours_are_those_of_the_formula(tmp_path):
    found = runs(tmp_path)
    images = {"mae_vitar_base": 300 * 312 * 4096, "vitar_base_mae": 100 * 1251 * 1024}
    macs = {
        "mae_vitar_base": [
            mae_macs_by_part(AUTOENCODER.get_config("mae_vitar_base_patch16"), (side, side)) for side in SIDES
        ],
        "vitar_base_mae": [macs_by_part(get_config("vitar_base_patch16"), (side, side)) for side in SIDES],
    }
    for name, sizes in macs.items():
        mean = sum(sum(parts.values()) for parts in sizes) / 5
        assert expected_macs(found[name]) == pytest.approx(mean)
        assert training_hours(found[name], 1e12) == pytest.approx(3 * mean * images[name] / 1e12 / 3600)


@pytest.mark.parametrize("before, after", [(before, after) for after, before in STARTS.items()])
def test_fine_tuning_starts_from_what_pretraining_leaves(tmp_path, before, after):
    """Nothing but the head starts fresh, nothing but the decoder is left out."""
    pretraining, fine_tuning = (runs(tmp_path)[name] for name in (before, after))
    pretraining = replace(pretraining, model_options={**pretraining.model_options, **TINY, **TINY_DECODER})
    fine_tuning = replace(fine_tuning, model_options={**fine_tuning.model_options, **TINY})
    model = create_model(pretraining.model, **pretraining.model_options)
    save(tmp_path / "pretrained", model, name=pretraining.model, training_sizes=pretraining.parsed_sizes())
    found = read_initial(fine_tuning.init, get_config(fine_tuning.model, **fine_tuning.model_options))
    assert (found.fresh, found.left_out) == ((), ("decoder",))


def test_layers_learn_as_the_docstring_says(tmp_path):
    layers = {}
    for name in ("vitar_base_mae", "vit_base_mae"):
        run = runs(tmp_path)[name]
        run = replace(run, model_options={**run.model_options, **TINY})
        model = create_model(run.model, num_classes=3, **run.model_options)
        names = {id(parameter): key for key, parameter in model.named_parameters()}
        for group in make_optimizer(model, run).param_groups:
            layers |= {(name, names[id(parameter)]): math.log(group["lr_scale"], 0.65) for parameter in group["params"]}
    found = {key: round(layer, 6) for key, layer in layers.items()}
    for name in ("vitar_base_mae", "vit_base_mae"):
        assert found[name, "head.weight"] == 0 and found[name, "trunk.norm.weight"] == 1
        assert [found[name, f"trunk.blocks.{block}.attn.qkv.weight"] for block in range(3)] == [3, 2, 1]
    assert found["vit_base_mae", "stem.proj.weight"] == 4
    assert found["vitar_base_mae", "stem.proj.weight"] == found["vitar_base_mae", "position.table"] == 5
    assert found["vitar_base_mae", "merger.block.q.weight"] == 4


def test_bad_input(tmp_path):
    given = {"data": tmp_path, "out": tmp_path / "run"}
    for name, before in (("vitar_base_mae", "mae_vitar_base"), ("vit_base_mae", "mae_vit_base")):
        with pytest.raises(ValueError, match=f"{name} fine-tunes, and there is no init.*`anyres recipe {before}`"):
            RecipeConfig(name=name, **given)
    for name in ("mae_vitar_base", "vitar_small"):
        with pytest.raises(
            ValueError, match=f"init is .*{name} starts from random.*anyres_base_mae, vitar_base_mae, vit_base_mae"
        ):
            RecipeConfig(name=name, init=tmp_path, **given)
    with pytest.raises(ValueError, match="Did you mean 'mae_vitar_base'"):
        RecipeConfig(name="mae_vitar_bas", **given)
    with pytest.raises(ValueError, match="accumulate is 5000 for a batch of 4096"):
        recipe(RecipeConfig(name="mae_vitar_base", accumulate=5000, **given))


def test_the_command_offers_every_recipe():
    assert set(get_args(Name)) == set(RECIPES)


def test_a_recipe_has_pieces_of_its_own(tmp_path):
    given = {"data": tmp_path, "out": tmp_path / "run"}
    assert recipe(RecipeConfig(name="mae_vitar_base", **given)).accumulate == 32
    assert recipe(RecipeConfig(name="vitar_base_mae", init=tmp_path, **given)).accumulate == 8
    changed = recipe(RecipeConfig(name="mae_vitar_base", accumulate=64, num_workers=3, **given))
    assert (changed.accumulate, changed.num_workers) == (64, 3)


def test_showing_says_the_hours_and_starts_nothing(tmp_path, capsys):
    given = ["--data", str(tmp_path), "--out", str(tmp_path / "run"), "--show"]
    assert cli.main(["recipe", "mae_vitar_base", *given]) == 0
    assert capsys.readouterr().out.rstrip().endswith("= 178 hours.")
    assert cli.main(["recipe", "vitar_base_mae", *given, "--init", str(tmp_path), "--macs-per-second", "4.12e13"]) == 0
    out = capsys.readouterr().out
    assert "83.5 at 1120" in out and out.rstrip().endswith("= 65 hours.")
    assert list(tmp_path.iterdir()) == []
    shown = RecipeConfig(name="mae_vit_base", data=tmp_path, out=tmp_path, macs_per_second=1e12)
    assert describe(shown).endswith("3 * 9.70e9 MACs * 1022.4e6 images / 1e+12 / 3600 = 8263 hours.")


@pytest.mark.parametrize("name, kind", [("mae_vit_base", PretrainConfig), ("vit_base_mae", TrainConfig)])
def test_the_command_runs_each_kind(tmp_path, monkeypatch, name, kind):
    class Done:
        finished = False

    started = []
    monkeypatch.setattr(engine, "train", lambda run: started.append(run) or Done)
    init = ["--init", str(tmp_path)] if kind is TrainConfig else []
    arguments = ["recipe", name, "--data", str(tmp_path), "--out", str(tmp_path / "run"), "--device", "cpu", *init]
    assert cli.main(arguments) == 130
    (run,) = started
    assert type(run) is kind and run.device == "cpu"
