"""Every variant of every study can be configured and built, at sizes and costs that can be compared."""

from dataclasses import replace

import pytest
import torch

from anyres.ablation import STUDIES, AblateConfig
from anyres.ablation.budget import CLASSES, equal_cost_steps, is_trained, largest_side
from anyres.ablation.plan import TIERS, plan_jobs
from anyres.costs.cost import macs_by_part
from anyres.models.architectures import create_model, get_config
from anyres.recipes import expected_macs
from anyres.recipes.hours import drawn_sizes
from anyres.training import TrainConfig

ALL = [(study.name, variant.name) for study in STUDIES.values() for variant in study.variants]


def job_of(study, variant, folder, **changes):
    config = AblateConfig(study=study, out=folder, quick=True, only=(variant,), **changes)
    [job, *others] = plan_jobs(config, STUDIES[study])
    own = [{"data": o.training.data, "out": o.training.out, "init": o.training.init} for o in others]
    assert all(replace(job.training, **o) == other.training for o, other in zip(own, others, strict=True))
    return job


@pytest.mark.parametrize(("study", "variant"), ALL)
def test_every_variant_can_be_built(study, variant, tmp_path):
    training = job_of(study, variant, tmp_path).training
    training.check()
    overrides = training.model_options
    stem = "patch" if study == "mae" else "conv"  # pre-training hides cells, which convolutions would see
    assert (overrides["width"], overrides["depth"], overrides["patch_size"], overrides["stem"]) == (96, 4, 8, stem)
    with torch.device("meta"):
        model = create_model(training.model, num_classes=10, **overrides)
    assert sum(parameter.numel() for parameter in model.parameters()) > 300_000
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", STUDIES)
def test_each_study_is_named_by_what_it_holds(name):
    study = STUDIES[name]
    assert study.name == name
    names = [variant.name for variant in study.variants]
    assert len(set(names)) == len(names) and all("/" not in name and " " not in name for name in names)
    rows = {variant.paper for variant in study.variants if variant.paper}
    assert rows == ({"ViTAR-S"} if name in ("extrapolation", "held") else set(study.table.rows))
    assert set(study.landmarks) <= set(study.table.resolutions)
    settings = {
        (
            v.model,
            repr(sorted(v.options.items())),
            v.start,
            v.step_share,
            v.equal_steps,
            repr(sorted(v.training.items())),
        )
        for v in study.variants
    }
    assert len(settings) == len(names)  # no variant twice


@pytest.mark.parametrize("name", STUDIES)
def test_images_are_stored_larger_than_they_are_measured(name, tmp_path):
    jobs = plan_jobs(AblateConfig(study=name, out=tmp_path), STUDIES[name])
    assert len(jobs) == len({job.training.out for job in jobs})
    if name != "held":
        assert len(jobs) == 3 * 2 * len(STUDIES[name].variants)
    for job in jobs:
        stored = {f"{job.set}{tier.suffix}": tier.side for tier in TIERS}
        sizes = [int(size) for sweep in job.sweeps for size in sweep.sizes]
        assert {24, 32, 48, 64, 96, 128, 192, 256, 384, 4 * largest_side(job.training)} <= set(sizes)
        assert len(set(sizes)) == len(sizes)
        for sweep in job.sweeps:
            assert max(int(size) for size in sweep.sizes) / sweep.crop_ratio <= stored[sweep.data[0].name]
    assert [job.seed for job in jobs] == sorted(job.seed for job in jobs)


def test_studies_at_equal_cost(tmp_path):
    jobs = {job.variant: job.training for job in plan_jobs(
        AblateConfig(study="extrapolation", quick=True, out=tmp_path), STUDIES["extrapolation"])}  # fmt: skip
    budget = jobs["paper"].steps * expected_macs(jobs["paper"], CLASSES, "plain")
    for name, training in jobs.items():
        assert training.steps * expected_macs(training, CLASSES, "plain") == pytest.approx(budget, rel=1e-3), name
        assert training.warmup_steps == training.steps // 20
    assert jobs["paper"].steps == 1500 > jobs["extra-1"].steps > jobs["extra-2"].steps > jobs["heavy-tail"].steps
    others = plan_jobs(AblateConfig(study="positions", quick=True, out=tmp_path), STUDIES["positions"])
    assert {job.training.steps for job in others} == {1500}


def test_held_reaches_32_times_the_largest_training_size(tmp_path):
    jobs = plan_jobs(AblateConfig(study="held", quick=True, out=tmp_path), STUDIES["held"])
    for job in jobs:
        measured = {int(size): sweep.limit for sweep in job.sweeps for size in sweep.sizes}
        assert min(measured) == 32 // 2 and (measured[384], measured[512], measured[1024]) == (300, 100, 100)
        # where every patch attends to every other only resized images beyond 512 pixels, and none beyond 1024
        model = get_config(job.training.model, num_classes=10, **job.training.model_options)
        costs = [sum(macs_by_part(model, (side, side)).values()) for side in (512, 768)]
        limit = job.sweeps[-1].max_macs
        if job.variant in ("pyramid", "paper", "beyond"):
            assert limit is None and max(measured) == 96 * 32 and measured[1536] == measured[3072] == 40
        else:
            assert costs[0] <= limit < costs[1] and max(measured) == 1024
    steps = {job.variant: job.training.steps for job in jobs}
    assert steps["vit-all-steps"] == steps["resformer-all-steps"] == 1500 > steps["vit"] > steps["resformer"]


def test_only_levels_of_training_are_learned(tmp_path):
    training = job_of("extrapolation", "learned-levels", tmp_path).training
    model = get_config(training.model, **training.model_options)
    levels = [
        sum(not level.is_identity for level in model.plan((height // 8, width // 8)).levels)
        for height, width in training.parsed_sizes()
    ]
    assert model.learned_levels == max(levels)


def test_one_step_in_twenty_is_at_256(tmp_path):
    shares = {size: share for share, size in drawn_sizes(job_of("extrapolation", "heavy-tail", tmp_path).training)}
    assert shares[256, 256] == pytest.approx(0.05, abs=0.005)


def test_rivals_are_trained_on_vitars_sizes_too(tmp_path):
    sizes = {v.name: job_of("table1", v.name, tmp_path).training.sizes for v in STUDIES["table1"].variants}
    assert sizes["deit"] == sizes["vitar"][:1] and sizes["resformer"][-1] == sizes["deit"][0]
    for rival in ("deit-vitar-sizes", "resformer-vitar-sizes", "resformer-vitar-sizes-single"):
        assert sizes[rival] == sizes["vitar"]


# What runs may cost, and what they train at.


def config(**changes):
    options = {"patch_size": 8, "grid": (2, 3), "width": 24, "depth": 1, "heads": 2}
    given = {"data": "data", "out": "out", "model": "vitar_tiny_patch16", "model_options": options}
    given |= {"sizes": ("16", "40x56"), "steps": 100}
    return TrainConfig(**(given | {"warmup_steps": 5, "batch_size": 4} | changes))


def test_steps_of_equal_cost():
    twice = config(sizes=("16", "17"), replicas=True)
    small = replace(twice, sizes=("16",), replicas=False)
    ratio = expected_macs(small, CLASSES) / expected_macs(twice, CLASSES)
    assert ratio < 0.5 and equal_cost_steps(small, twice) == round(100 * ratio)
    assert equal_cost_steps(small, small) == 100
    assert equal_cost_steps(replace(small, steps=2, warmup_steps=0), twice) == 2


def test_which_sizes_count_as_trained():
    run = config(sizes=("16", "24-40", "20x80"))
    assert [side for side in (15, 16, 20, 23, 24, 33, 40, 41, 80) if is_trained(run, side)] == [16, 24, 33, 40]
    assert largest_side(run) == 40 and largest_side(config(sizes=("20x90", "24-40"))) == 42
