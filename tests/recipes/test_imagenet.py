"""ImageNet recipes: possible settings, hours that follow from the formula, and docstrings that agree with both."""

import re
from dataclasses import replace

import pytest

from anyres.recipes import RecipeConfig, describe, recipe, training_hours
from anyres.recipes.imagenet import BASE_RATE, RECIPES, SMALL_RATE


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_possible_and_their_docstrings_true(tmp_path, name):
    run = RECIPES[name](tmp_path, tmp_path / "run")
    run.check()
    assert run.model == f"{name.removesuffix('_far')}_patch16"
    text = re.sub(r"\s+", " ", RECIPES[name].__doc__)
    assert f"`anyres recipe {name} --data DIR --out RUN" in text
    formula, hours = re.search(r"Time: (3 \* .*?) / 3600 = (\d+) hours", text).groups()
    formula = re.sub(r"\((.*?)\)e9", r"(\1) * 1e9", formula).replace(" MACs", "").replace(" images", "")
    shown = eval(formula) / 3600  # nothing but numbers, by the pattern above
    assert shown == pytest.approx(int(hours), abs=0.7)
    rate = BASE_RATE if "base" in name else SMALL_RATE
    assert training_hours(run, rate) == pytest.approx(int(hours), abs=0.7)


def test_the_papers_differ_as_they_say(tmp_path):
    runs = {name: function(tmp_path, tmp_path / "run") for name, function in RECIPES.items()}
    assert {run.batch_size for run in runs.values()} == {1024} and {run.repeats for run in runs.values()} == {3}
    assert {name: run.steps // 1251 for name, run in runs.items() if run.steps != 300 * 1251} == {"resformer_base": 200}
    assert runs["resformer_base"].lr == 1.6e-3 and runs["resformer_base"].model_options == {"drop_path_rate": 0.2}
    assert {name for name, run in runs.items() if run.replicas} == {"resformer_small", "resformer_base"}
    assert {run.lr for name, run in runs.items() if name != "resformer_base"} == {1e-3}
    assert runs["vitar_base"].parsed_sizes() == [(side, side) for side in (224, 448, 672, 896, 1120)]
    far = replace(runs["vitar_base"], sizes=runs["vitar_base_far"].sizes, size_weights=(1, 1, 1, 1, 1, 0.25))
    assert runs["vitar_base_far"].parsed_sizes()[-1] == (2976, 2976)
    options = {"drop_path_rate": 0.1, "position": "conditional", "placement": "trunk"}
    assert runs["vitar_base_far"] == replace(far, model_options=options)
    ours = replace(runs["vitar_small"], model="anyres_small_patch16", aspect=(0.5, 2.0))
    assert runs["anyres_base"].model_settings(1000).full_levels == 3  # all that the largest training size merges
    assert runs["anyres_small"] == ours and runs["anyres_base"] == replace(ours, model="anyres_base_patch16")


def test_a_recipe_as_a_command(tmp_path):
    config = RecipeConfig(name="deit_small", data=tmp_path, out=tmp_path / "run", accumulate=3, macs_per_second=29e12)
    run = recipe(config)
    assert (run.accumulate, run.num_workers, run.model) == (3, 16, "deit_small_patch16")
    text = describe(config)
    assert "79.8 % top-1" in text and text.endswith("= 51 hours.")
    with pytest.raises(ValueError, match="Did you mean 'deit_small'"):
        RecipeConfig(name="deit_smal", data=tmp_path, out=tmp_path)
    with pytest.raises(ValueError, match="accumulate is 2000"):
        recipe(replace(config, accumulate=2000))
