"""The demo and the study of the set *detail*: whole runs on generated images."""

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from anyres.data.augment import TrainAugment
from anyres.data.synthetic import write_detail, write_glyphs
from anyres.devices import fast_precision
from anyres.evaluation.journal import sizes_done
from anyres.evaluation.rows import size_label
from anyres.evaluation.sweep import SweepConfig, sweep
from anyres.files import check_folder
from anyres.processes import run_side_by_side
from anyres.recipes.demo_config import DemoConfig
from anyres.sizes import Size, size_text
from anyres.training.classification.config import TrainConfig
from anyres.training.engine import train
from anyres.training.runlog import STEPS, last_row

Kind = Literal["anyres", "vitar", "deit"]
KINDS: tuple[Kind, ...] = ("anyres", "vitar", "deit")

TRAINING_SIZES = ("32", "64", "96")
SWEEP_SIZES = ("24", "32", "48", "64", "96", "128", "192", "256", "384")
FAR_SIZES = ("512", "768", "1024")
STORED_SIDE, FAR_SIDE = 440, 1171  # pixels of a stored short side: evaluations at 384, at 1024, with a centre crop
SMALL_MODEL: Mapping[str, Any] = {"width": 96, "heads": 3, "depth": 4, "patch_size": 8, "stem": "conv"}

# All models learn from the set *detail*, with two large glyphs for each of any height, so that they soon leave chance.
# They are measured on large glyphs, where resizing every image to one size is a good answer, and on small ones, which
# only many pixels show.
LARGE = (0.5, 0.85)
MEASURED = ("large-glyphs", "small-glyphs")

_MILD = TrainAugment(  # digits must be neither mirrored nor cut off
    scale=(0.8, 1.0), ratio=(0.9, 1.1), hflip=0.0, auto_augment=None, erasing=0.0, interpolation="bilinear"
)

TITLE = "Any resolution: our merger, the paper's, and an ordinary ViT"

_REMEDY = "The same command goes on where it was"


def demo(config: DemoConfig) -> Path:
    """The main job in miniature, on real files: data, three models, a sweep of each, a report.

    Command: `make demo`, or `anyres demo`. Hardware: two CPU cores, two trainings at a time. Time and accuracy to
    expect: docs/results.md.

    Returns:
        The report page.
    """
    from anyres.report.report import report

    check_folder("out", config.out)
    _write_data(config)
    runs = {kind: demo_training(config, kind) for kind in KINDS}
    _train(list(runs.values()))
    sweeps = [_sweeping(config, name, [run.out for run in runs.values()]) for name in MEASURED]
    # an ordinary ViT would need minutes for each of these images: every patch of its attends to every other
    far = [runs[kind].out for kind in KINDS if kind != "deit"]
    sweeps += [_sweeping(config, name, far, far=True) for name in MEASURED]
    print("Measuring the models at", ", ".join([*sweeps[0].sizes, *sweeps[-1].sizes]), "pixels ...", flush=True)
    _measure(sweeps)
    return report([one.out for one in sweeps], config.out / "report", TITLE)


def _write_data(config: DemoConfig) -> None:
    train, val, far = (40, 20, 10) if config.short else (4000, 300, 100)
    tiers: tuple[tuple[Path, int, dict[str, Any]], ...] = (
        (config.out / "data", STORED_SIDE, {"train": train, "val": val}),
        (config.out / "data" / "far", FAR_SIDE, {"train": 0, "val": far}),
    )
    for folder, size, numbers in tiers:
        common: dict[str, Any] = {"size": size, "aspect": (1.0, 1.0)}
        write_glyphs(folder / "large-glyphs", glyph_height=LARGE, seed=1, **common, **{**numbers, "train": 0})
        write_detail(folder / "small-glyphs", training_heights=(LARGE, (0.1, 0.4), LARGE), **common, **numbers)


def demo_training(config: DemoConfig, kind: Kind) -> TrainConfig:
    """The pyramid merger and the paper's recipe on all the training sizes, or an ordinary ViT (DeiT) on the smallest,
    each for equally many images."""
    steps = 6 if config.short else 1300
    common = TrainConfig(
        data=config.out / "data" / "small-glyphs", out=config.out / "runs" / kind, steps=steps,
        batch_size=8 if config.short else 64, lr=1.2e-3, min_lr=2.4e-5, warmup_steps=steps // 17, betas=(0.9, 0.99),
        clip_grad=1.0, mixup=0.0, cutmix=0.0, smoothing=0.0, precision=fast_precision(), cache=True, threads=1,
        device="cpu", checkpoint_every=200, validate_limit=200, progress=False,
        augmentation=_MILD,
    )  # fmt: skip
    model = {"anyres": "anyres_tiny_patch16", "vitar": "vitar_tiny_patch16", "deit": "deit_tiny_patch16"}[kind]
    shared = replace(common, model=model, model_options={**SMALL_MODEL, "grid": (4, 4)})
    if kind == "deit":
        return replace(shared, sizes=TRAINING_SIZES[:1])
    return replace(shared, sizes=TRAINING_SIZES, size_weights=(1, 1, 2))


def _sweeping(config: DemoConfig, name: str, runs: Sequence[Path], *, far: bool = False) -> SweepConfig:
    sizes = FAR_SIZES if far else SWEEP_SIZES
    data = config.out / "data" / "far" / name if far else config.out / "data" / name
    return SweepConfig(
        runs=tuple(runs), data=(data,), sizes=sizes[:3] if config.short else sizes,
        out=config.out / f"{name}{'-far' if far else ''}.json", threads=1, latency_runs=5, latency_seconds=2.0,
        title=TITLE, progress=False, examples=0 if far else SweepConfig.examples,
    )  # fmt: skip


def learn_detail(out: Path, steps: int = 4000) -> Path:
    """How far the set *detail* is learned: a ViTAR trained at 32, 64 and, mostly, 96 px, measured up to 384.

    Command: `python benchmarks/detail.py`. Hardware: one CPU core. Time and accuracy: docs/results.md.

    Returns:
        The JSON file of the sweep.
    """
    data = write_detail(out / "data" / "detail", train=12000, val=600, size=STORED_SIDE)
    demo_config = demo_training(DemoConfig(out=out), "vitar")
    config = replace(
        demo_config, data=data, out=out / "detail", steps=steps, warmup_steps=100, size_weights=(1, 1, 6),
        model_options={**SMALL_MODEL, "grid": (4, 4)}, progress=True,
    )  # fmt: skip
    train(config)
    measured = SweepConfig(
        runs=(config.out,), data=(data,), sizes=("32", "64", "96", "128", "192", "384"), out=out / "detail.json",
        threads=1, latency_runs=3, title="Detail: the label is a small glyph on a large canvas",
    )  # fmt: skip
    sweep(measured)
    return measured.out


def _train(runs: Sequence[TrainConfig]) -> None:
    """Two of them at a time, each under a progress bar of steps."""
    with ExitStack() as stack:
        bars = [
            stack.enter_context(tqdm(total=run.steps, desc=run.out.name, unit="step", position=place))
            for place, run in enumerate(runs)
        ]

        def follow(*_: object) -> None:
            for bar, run in zip(bars, runs, strict=True):
                _show_steps(bar, run.out / STEPS)

        run_side_by_side(train, runs, 2, name=lambda run: str(run.out), follow=follow, remedy=_REMEDY)


def _show_steps(bar: tqdm, path: Path) -> None:
    """Brings a bar up to the last whole line of a run's log."""
    row = last_row(path)
    if row is not None:
        bar.set_postfix({"loss": f"{row['loss']:.3f}", "size": size_text(row["size"])}, refresh=False)
        bar.update(row["step"] - bar.n)


def _measure(sweeps: Sequence[SweepConfig]) -> None:
    """Two of them at a time, each under a progress bar of the pixels of an image at the sizes that are done."""
    with ExitStack() as stack:
        bars = []
        for place, one in enumerate(sweeps):
            # Not sizes: the largest takes as long as all the others together.
            pixels = sum(math.prod(size) for size in one.parsed_sizes)
            look = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}{postfix}"
            bar = tqdm(total=pixels, desc=f"measure {one.out.stem}", bar_format=look, position=place)
            bars.append(stack.enter_context(bar))

        begun: set[Path] = set()

        def follow(running: Sequence[SweepConfig], _: int) -> None:
            begun.update(one.out for one in running)
            for bar, one in zip(bars, sweeps, strict=True):
                if one.out in begun:
                    _show_sizes(bar, sizes_done(one.out) if one in running else one.parsed_sizes)

        name = lambda one: f"the sweep {one.out}"  # noqa: E731
        run_side_by_side(sweep, sweeps, 2, name=name, follow=follow, remedy=_REMEDY)


def _show_sizes(bar: tqdm, done: Sequence[Size]) -> None:
    if done:
        bar.set_postfix_str(f"{size_label(done[-1])} px done", refresh=False)
    bar.update(sum(math.prod(size) for size in done) - bar.n)
    bar.refresh()  # the time goes on while a size is measured
