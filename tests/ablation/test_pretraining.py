"""Studies whose variants start from a pre-training: each is run once, and known again."""

import json
from dataclasses import replace

import pytest

from anyres.ablation import STUDIES, AblateConfig, Study, ablate, runner
from anyres.ablation.plan import plan_jobs, starting_jobs
from anyres.ablation.study import Pretraining
from anyres.models.mae import MaskedAutoencoder
from anyres.models.weights.files import load
from anyres.training import PretrainConfig

SHAPE = {"width": 24, "depth": 1, "grid": (2, 2)}


@pytest.fixture
def study(tiny, variant) -> Study:
    sizes = {"sizes": ("16", "24"), "size_weights": None, "batch_size": 4, "cache": False}
    return replace(
        tiny,
        pretrainings={"cells": Pretraining(model="mae_vitar_tiny_patch16", options=SHAPE, training=sizes)},
        variants=(
            variant("tuned", paper="adaptive token merger", layer_decay=0.75),
            variant("half", label_share=0.5),
            variant("fresh", paper="average pooling"),
        ),
    )


def started(study: Study) -> Study:
    tuned, half, fresh = study.variants
    return replace(study, variants=(replace(tuned, start="cells"), replace(half, start="cells", panel="half"), fresh))


def test_one_pretraining_serves_all_variants_that_start_from_it(study, settings, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "write_page", lambda result, folder: result)
    ablate(settings(tmp_path), started(study))
    run = tmp_path / "mergers" / "pretraining" / "ordinary" / "cells" / "seed0"
    model, info = load(run, MaskedAutoencoder)
    assert info.extra["steps"] == 24 and model.config.backbone.width == 24
    assert (run / "reconstructions" / "step-000024.png").is_file()
    data = json.loads((tmp_path / "mergers" / "ablation.json").read_text())
    assert [v["name"] for v in data["variants"]] == ["tuned", "half", "fresh"]
    assert [v["panel"] for v in data["variants"]] == ["", "half", ""]
    settings_of = {
        name: json.loads((tmp_path / f"mergers/runs/ordinary/{name}/seed0/train.json").read_text())
        for name in ("tuned", "half", "fresh")
    }
    assert [settings_of[name]["init"] for name in settings_of] == [str(run), str(run), None]
    written = (run / "model.safetensors").stat().st_mtime_ns
    ablate(settings(tmp_path), started(study))
    assert (run / "model.safetensors").stat().st_mtime_ns == written
    other = replace(study.pretrainings["cells"], options={**SHAPE, "mask_ratio": 0.6})
    with pytest.raises(ValueError, match="another configuration .*model_options.mask_ratio: 0.5 there, 0.6 here"):
        ablate(settings(tmp_path), replace(started(study), pretrainings={"cells": other}))


def test_what_starts_from_a_failed_pretraining_fails_too_and_the_others_go_on(study, settings, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "write_page", lambda result, folder: result)
    genuine = runner.train

    def diverge(config):
        if isinstance(config, PretrainConfig):
            raise FloatingPointError("the loss is nan at step 3")
        return genuine(config)

    monkeypatch.setattr(runner, "train", diverge)
    ablate(settings(tmp_path), started(study))
    data = json.loads((tmp_path / "mergers" / "ablation.json").read_text())
    assert {row["variant"] for row in data["rows"]} == {"fresh"}
    assert [(entry["run"], entry["error"]) for entry in data["failed"]] == [
        (f"ordinary/{name}/seed0", "ordinary/pretraining-cells/seed0 failed") for name in ("tuned", "half")
    ]


def test_an_impossible_pretraining_is_refused_before_any_work(study, settings, tmp_path):
    wrong = {"cells": replace(study.pretrainings["cells"], options={"stem": "conv"})}
    with pytest.raises(ValueError, match="pre-training cells of tiny: stem is"):
        ablate(settings(tmp_path), replace(started(study), pretrainings=wrong))
    assert not list(tmp_path.iterdir())


def test_the_study_of_table_6(tmp_path):
    config = AblateConfig(study="mae", out=tmp_path, quick=True)
    jobs = plan_jobs(config, STUDIES["mae"])
    first = starting_jobs(jobs)
    assert {job.variant for job in first} == {f"pretraining-{name}" for name in STUDIES["mae"].pretrainings}
    assert {job.training.steps for job in first} == {6000}
    by_name = {job.variant: job for job in jobs}
    for percent, steps in ((1, 300), (10, 600), (100, 1500)):
        for name in ("vitar-mae", "vitar-sincos-mae", "vit-mae", "anyres-mae", "vitar", "anyres", "vit"):
            job = by_name[f"{name}-{percent}"]
            assert (job.training.label_share, job.training.steps) == (percent / 100, steps)
            assert (job.start is not None) == ("mae" in name) == (job.training.init is not None)
    assert by_name["vitar-long-10"].training.steps == 6000 + 600
    with pytest.raises(ValueError, match="hidden cells would be seen"):
        AblateConfig(study="mae", out=tmp_path, stem="conv")
    sizes = {job.training.sizes for job in jobs if "vitar" in job.variant}
    assert sizes == {("48", "64", "96")} and by_name["vit-mae-1"].training.sizes == ("48",)


def test_a_set_begins_with_the_weights_of_the_run_on_another(study, settings, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "write_page", lambda result, folder: result)
    begins = replace(study, variants=study.variants[:1], begins_on={"detail": "ordinary"})
    ablate(settings(tmp_path, sets=("detail",)), begins)
    first, later = (tmp_path / "mergers" / "runs" / name / "tuned" / "seed0" for name in ("ordinary", "detail"))
    assert [json.loads((run / "train.json").read_text())["init"] for run in (first, later)] == [None, str(first)]
    data = json.loads((tmp_path / "mergers" / "ablation.json").read_text())
    assert {row["set"] for row in data["rows"]} == {"ordinary", "detail"}
    assert data["settings"]["runs on detail"] == "begin with the weights of those on ordinary"
    written = [(run / "model.safetensors").stat().st_mtime_ns for run in (first, later)]
    ablate(settings(tmp_path, sets=("detail", "ordinary")), begins)
    assert [(run / "model.safetensors").stat().st_mtime_ns for run in (first, later)] == written
    with pytest.raises(ValueError, match="another configuration .*it has begun with the weights of another"):
        ablate(settings(tmp_path, sets=("detail",)), replace(begins, begins_on={}))
