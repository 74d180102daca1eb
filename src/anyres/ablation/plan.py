"""From a study to its runs: folders, training and measuring of each, all checked before any work."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, get_args

from anyres.ablation.budget import CLASSES, equal_cost_steps, largest_side
from anyres.ablation.config import AblateConfig, SetName
from anyres.ablation.study import TRAINING, Study, Variant
from anyres.costs.cost import macs_by_part
from anyres.data.glyph_scenes import DIGITS, LETTERS
from anyres.data.synthetic import write_detail, write_fine, write_glyphs
from anyres.errors import unknown
from anyres.evaluation.rows import size_label
from anyres.evaluation.sweep import SweepConfig
from anyres.files import read_json
from anyres.models.weights.record import WEIGHTS
from anyres.recipes import SMALL_MODEL, DemoConfig, demo_training
from anyres.settings import differences
from anyres.training.checkpoint import NAME
from anyres.training.classification.config import TrainConfig
from anyres.training.config import changed_settings
from anyres.training.image_config import ImageRunConfig
from anyres.training.pretraining.config import PretrainConfig
from anyres.training.run_folder import SETTINGS

CROP_RATIO = 0.875
ORDINARY_HEIGHT = (0.5, 0.85)  # of a glyph, as a part of the image's


@dataclass(frozen=True, kw_only=True)
class Tier:
    """The scenes of a set drawn at one scale, for the sizes that this is large enough for and smaller ones are not."""

    suffix: str
    """Of the folder's name."""
    side: int
    """Least side of the stored images, in pixels."""
    images: int | None = None
    """The first so many validation scenes; all by default."""

    @property
    def largest(self) -> int:
        """The largest size that a centre crop leaves."""
        return int(self.side * CROP_RATIO)


# An evaluation at 384, at 1024 and at 3072 pixels. Images of the last have twelve million pixels, so they are few, and
# none is larger than it has to be.
NEAR, FAR, FARTHER = TIERS = (
    Tier(suffix="", side=440),
    Tier(suffix="-far", side=1171),
    Tier(suffix="-farther", side=3511, images=40),
)
_REMEDY = "delete it to have it made again"
_OTHERWISE = "Give that one to go on with it, or another out for a new study; finished results stay as they are"

IMAGES = "images.json"
"""How many images the runs of a study were trained and measured on, beside them: the images may be deleted."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run: a variant trained on a set with a seed, then measured."""

    set: SetName
    variant: str
    seed: int
    training: TrainConfig | PretrainConfig
    sweeps: tuple[SweepConfig, ...]
    """Near sizes, and those further away on the same scenes drawn larger; none for a pre-training."""
    start: Job | None = None
    """The pre-training, or the run on another set, that it starts from."""

    @property
    def label(self) -> str:
        return f"{self.set}/{self.variant}/seed{self.seed}"

    @property
    def failure(self) -> Path:
        """The file that says why the run has no result, and with what settings."""
        return self.training.out.with_name(f"seed{self.seed}.failed.json")

    def is_finished(self) -> bool:
        """Trained and measured, or failed for good; without its folder a run is made again."""
        measured = all(sweep.out.exists() for sweep in self.sweeps)
        return self.failure.exists() or (measured and (self.training.out / WEIGHTS).exists())


def plan_jobs(config: AblateConfig, study: Study) -> list[Job]:
    """The runs that are asked for: seed by seed, so that every variant has its first result early.

    Raises ValueError for a variant that does not exist or cannot be, or a size that the stored images do not reach.
    """
    names = [variant.name for variant in study.variants]
    for name in config.only:
        if name not in names:
            raise unknown(f"variant of {study.name}", name, names)
    chosen = [name for name in names if not config.only or name in config.only]
    counts = {
        (part, name): study.seed_count(config, study.variant(name), part)
        for part in study.set_names(config)
        for name in chosen
    }
    most = max(counts.values())
    return make_jobs(config, study, [(*run, seed) for seed in range(most) for run in counts if seed < counts[run]])


def jobs_on_disk(config: AblateConfig, study: Study) -> list[Job]:
    """The runs of this study's variants in its folder, as this configuration would make them."""
    found = []
    for set_name in get_args(SetName):
        for variant in study.variants:
            folder = config.folder / "runs" / set_name / variant.name
            names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
            matches = [re.fullmatch(r"seed(\d+)(\.failed\.json)?", name) for name in names]  # some lack a folder
            found += [(set_name, variant.name, seed) for seed in sorted({int(m[1]) for m in matches if m})]
    return make_jobs(config, study, found)


def make_jobs(config: AblateConfig, study: Study, which: Iterable[tuple[SetName, str, int]]) -> list[Job]:
    """The runs of these (set, variant, seed)."""
    base = _base_training(config, study)
    trainings = {v.name: variant_training(base, config, study, v) for v in study.variants}
    sizes = study_sizes(study, list(trainings.values()))

    def make(set_name: SetName, name: str, seed: int) -> Job:
        run = config.folder / "runs" / set_name / name / f"seed{seed}"
        training = replace(trainings[name], data=data_folder(config, set_name), out=run, seed=seed)
        sweeps = _sweeps(config, study, study.variant(name), training, sizes, set_name)
        before, start = None, study.variant(name).start
        if start is not None:  # the pre-training of its own seed and set
            before = _pretraining(config, study, base, start, set_name, seed)
        elif set_name in study.begins_on:
            before = make(study.begins_on[set_name], name, seed)
        if before is not None:
            training = replace(training, init=before.training.out)
        return Job(set=set_name, variant=name, seed=seed, training=training, sweeps=sweeps, start=before)

    return [make(*each) for each in which]


def starting_jobs(jobs: Sequence[Job]) -> list[Job]:
    """The runs that others start from, each once."""
    return list({job.start.training.out: job.start for job in jobs if job.start is not None}.values())


def _pretraining(config: AblateConfig, study: Study, base: TrainConfig, name: str, set_name: SetName, seed: int) -> Job:
    """On all the images of a set, for four times as many steps as fine-tuning on all labels takes."""
    chosen = study.pretrainings[name]
    steps = 4 * study.base_steps(config)
    shared: dict[str, Any] = {
        field.name: getattr(base, field.name)
        for field in fields(ImageRunConfig)
        if field.name not in _OWN_OF_PRETRAINING
    }
    settings = shared | {
        "data": data_folder(config, set_name), "out": config.folder / "pretraining" / set_name / name / f"seed{seed}",
        "seed": seed, "model": chosen.model, "steps": steps, "warmup_steps": steps // 20, "draw_images": 4,
        "model_options": {**_shared_options(config, study), **_SMALL_MAE, **chosen.options},
        "lr": 2e-3, "augmentation": replace(base.augmentation, scale=(0.5, 1.0)), "validate_every": max(steps // 4, 1),
    }  # fmt: skip
    training = PretrainConfig(**(settings | dict(chosen.training)))
    try:
        training.check()
    except ValueError as error:
        raise ValueError(f"pre-training {name} of {study.name}: {error}") from error
    return Job(set=set_name, variant=f"pretraining-{name}", seed=seed, training=training, sweeps=())


# A quarter of 36 cells shows too little of a glyph to restore the rest, and where the background is nearly flat,
# normalised targets are mostly its faint shading (docs/log.md).
_SMALL_MAE = {"decoder_width": 64, "decoder_heads": 4, "decoder_depth": 2, "mask_ratio": 0.5, "norm_target": False}
_OWN_OF_PRETRAINING = ("betas", "min_lr")  # MAE's


def _base_training(config: AblateConfig, study: Study) -> TrainConfig:
    """What all runs of a study share: the demo's recipe, without its extra passes."""
    recipe = demo_training(DemoConfig(out=config.out), "vitar")
    own = replace(recipe, steps=study.base_steps(config), precision=config.training_precision, device=config.device)
    return replace(own, progress=False, **{**TRAINING, **study.training})


def variant_training(base: TrainConfig, config: AblateConfig, study: Study, variant: Variant) -> TrainConfig:
    """The training of a variant: seed, data and run folder are still to be set. ValueError if it cannot be."""

    def training(variant: Variant, steps: int) -> TrainConfig:
        options = {**_shared_options(config, study), **variant.options}
        changes: Mapping[str, Any] = {"steps": steps, "warmup_steps": steps // 20, **variant.training}
        return replace(base, model=variant.model, model_options=options, **changes)

    try:
        found = training(variant, max(round(base.steps * variant.step_share), 2))
        found.check()
        if study.equal_cost and not variant.equal_steps:
            found = training(variant, equal_cost_steps(training(study.variants[0], base.steps), found))
        return found
    except ValueError as error:
        raise ValueError(f"variant {variant.name} of {study.name}: {error}") from error


def _shared_options(config: AblateConfig, study: Study) -> dict[str, Any]:
    return {**SMALL_MODEL, "grid": (4, 4), "stem": config.stem_of_models, **study.options}


def study_sizes(study: Study, trainings: Sequence[TrainConfig]) -> tuple[int, ...]:
    """Sides that every variant is measured at: the study's, and four times the largest side of each variant."""
    far = [4 * largest_side(training) for training in trainings]
    # the gap up to the far sizes, which lie apart by variant
    between = [side for side in (512, 768, 1024) if side <= max(far)]
    sizes = sorted({*study.sizes, *study.landmarks.values(), *far, *between})
    largest = TIERS[-1]
    if sizes[-1] > largest.largest:
        raise ValueError(
            f"{study.name} would be measured at {sizes[-1]} pixels; allowed: up to {largest.largest}, four times a "
            f"training size of {largest.largest // 4}, because the images are stored at {largest.side}"
        )
    return tuple(sizes)


def _sweeps(
    config: AblateConfig, study: Study, variant: Variant, training: TrainConfig, sizes: Sequence[int], set_name: SetName
) -> tuple[SweepConfig, ...]:
    run, least = training.out, 0
    found = []
    for tier in TIERS:
        sides = [side for side in sizes if least < side <= tier.largest]
        if sides and (variant.largest is None or variant.largest > least):
            found.append(SweepConfig(
                runs=(run,), data=(data_folder(config, set_name, tier),), sizes=tuple(map(str, sides)),
                out=run.with_name(f"{run.name}{tier.suffix}.json"),
                title=f"{config.study}: {run.parent.name} on {set_name}", crop_ratio=CROP_RATIO,
                limit=images_measured(config, study, tier), max_macs=_most_macs(variant, training), latency_runs=3,
                latency_seconds=1.0, device=config.device, threads=1, examples=0, progress=False,
            ))  # fmt: skip
        least = tier.largest
    return tuple(found)


def _most_macs(variant: Variant, training: TrainConfig) -> float | None:
    """What a row of the variant may cost, for one that gets images as they are up to some size only."""
    if variant.largest is None:
        return None
    settings = training.model_settings(CLASSES)
    return float(sum(macs_by_part(settings, (variant.largest, variant.largest)).values()))


def images_measured(config: AblateConfig, study: Study, tier: Tier) -> int:
    """How many images the sizes of a tier are measured on."""
    most = study.far_images if tier is not NEAR else None
    return min(count for count in (config.val_images, tier.images, most) if count is not None)


def refuse_other_study(config: AblateConfig, jobs: Iterable[Job]) -> None:
    """ValueError if what is on disk of any run was made by another configuration; names the fields that differ."""
    images = config.folder / IMAGES
    if images.exists():
        found = read_json(images, "the numbers of a study's images", remedy=_REMEDY)
        others = differences(found, numbers_of_images(config))
        if others:
            raise ValueError(f"{config.folder} holds runs on other images ({'; '.join(others)}). {_OTHERWISE}")
    for job in jobs:
        run = job.training.out
        changed: list[str] = []
        if (run / SETTINGS).exists() and any((run / name).exists() for name in (NAME, WEIGHTS)):
            found = read_json(run / SETTINGS, "the settings of a run", keys=("sizes",), remedy=_REMEDY)
            changed += changed_settings(found, job.training)
            started = found.get("init") is not None  # where the weights lie is no setting, whether there are any is
            if started != (job.start is not None):
                changed.append(f"it {'has' if started else 'has not'} begun with the weights of another")
        if job.failure.exists():
            found = read_json(job.failure, "the record of a failed run", keys=("error", "training"), remedy=_REMEDY)
            changed += changed_settings(found["training"], job.training)
        for sweep in job.sweeps:
            if sweep.out.exists():
                keys = ("rows", "left_out", "protocol")
                found = read_json(sweep.out, "the JSON of a sweep", keys=keys, remedy=_REMEDY)
                changed += _measured_otherwise(found, sweep)
        if changed:
            raise ValueError(f"{run} was made by another configuration ({'; '.join(changed)}). {_OTHERWISE}")


def numbers_of_images(config: AblateConfig) -> dict[str, Any]:
    """What `IMAGES` holds."""
    return {"train_images": config.train_images, "val_images": config.val_images}


def _measured_otherwise(found: Mapping[str, Any], sweep: SweepConfig) -> list[str]:
    there = {size_label(entry["size"]) for part in ("rows", "left_out") for entry in found[part]}
    old = {"val_images": found["protocol"]["images per set"], "sizes": sorted(there, key=int)}
    return differences(old, {"val_images": sweep.limit, "sizes": sorted(sweep.sizes, key=int)})


# The images.


def data_folder(config: AblateConfig, set_name: SetName, tier: Tier = NEAR) -> Path:
    """Where a set lies: for training and near sizes, or its validation scenes drawn larger."""
    return config.out / "data" / f"{set_name}{tier.suffix}"


def write_sets(config: AblateConfig, jobs: Sequence[Job]) -> None:
    """Writes the sets that unfinished runs need. A set that is there is left as it is; another one is a ValueError."""
    needed = {folder: False for job in jobs for folder in _folders(job)}
    needed |= {folder: True for job in jobs if not job.is_finished() for folder in _folders(job)}
    for folder in sorted(folder for folder, missing in needed.items() if missing or folder.exists()):
        _write_set(config, folder)


def _write_set(config: AblateConfig, folder: Path) -> None:
    [(name, tier)] = [(n, t) for n in get_args(SetName) for t in TIERS if folder.name == f"{n}{t.suffix}"]
    settings: dict[str, Any] = {
        "train": config.train_images if tier is NEAR else 0,
        "val": min(config.val_images, tier.images or config.val_images), "aspect": (1.0, 1.0), "size": tier.side,
        "sizes": "fixed" if tier is FARTHER else "mixed",
        "progress": config.progress, "classes": LETTERS if name.endswith("-letters") else DIGITS,
    }  # fmt: skip
    kind = name.removesuffix("-letters")
    if kind == "ordinary":
        write_glyphs(folder, glyph_height=ORDINARY_HEIGHT, seed=1, **settings)
    else:
        {"detail": write_detail, "fine": write_fine}[kind](folder, **settings)


def _folders(job: Job) -> list[Path]:
    return [job.training.data, *(data for sweep in job.sweeps for data in sweep.data)]
