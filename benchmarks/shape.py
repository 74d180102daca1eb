"""Does accuracy hold at every shape: final grids of one shape against grids that follow the image (`grid_shape`).

    python benchmarks/shape.py [--seeds 3] [--folder shape] [--out benchmarks/results/shape.json]

Small models learn large glyphs on squares that every training step squashes to an aspect between 1:4 and 4:1. They are
measured on the same scenes drawn at 1:4, 1:2, 1:1, 2:1 and 4:1, at sizes of equal area. A run that is finished is not
made again. Eight runs, 25 minutes on two cores.
"""

import argparse
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from anyres.data.synthetic import write_glyphs
from anyres.evaluation.sweep import SweepConfig, sweep
from anyres.files import read_json, write_json
from anyres.processes import run_side_by_side
from anyres.recipes import SMALL_MODEL, DemoConfig, demo_training
from anyres.training.classification.config import TrainConfig
from anyres.training.engine import train

ASPECTS = {"1:4": 0.25, "1:2": 0.5, "1:1": 1.0, "2:1": 2.0, "4:1": 4.0}
"""Width : height."""
SIDES = (64, 96, 192, 384)
"""Of the squares; the others have as many pixels."""
TRAINED = 96

_PYRAMID = {"merger": "pyramid", "full_levels": 2, "position": "rotary"}
VARIANTS: dict[str, dict[str, Any]] = {
    "pyramid-fixed": {**_PYRAMID, "grid_shape": "fixed"},
    "pyramid-aspect": {**_PYRAMID, "grid_shape": "aspect"},
    "paper-fixed": {"grid_shape": "fixed"},
    "paper-aspect": {"grid_shape": "aspect"},
}
ONE_SEED = ("paper-fixed", "paper-aspect")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="of the pyramid merger; the paper's has one")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, each on one core")
    parser.add_argument("--folder", type=Path, default=Path("shape"), help="for images and runs")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "shape.json")
    options = parser.parse_args()
    write_images(options.folder / "data")
    runs = [(seed, name) for seed in range(options.seeds) for name in VARIANTS if not (seed and name in ONE_SEED)]
    jobs = [training(options.folder, name, seed, options.steps) for seed, name in runs]
    run_side_by_side(
        train_and_measure, jobs, options.jobs, name=lambda job: "/".join(job.out.parts[-2:]),
        follow=lambda running, done: None, remedy="The same command goes on from the last checkpoints",
    )  # fmt: skip
    found: dict[str, list[dict[str, float]]] = {name: [] for name in VARIANTS}
    for (_, name), job in zip(runs, jobs, strict=True):
        found[name].append(accuracies(job))
    write_json(options.out, {"steps": options.steps, "trained_to": TRAINED, "images": 300, "top1": found})
    print(table(found))


def write_images(folder: Path) -> None:
    """The training images, all square, and the validation scenes at every aspect."""
    scenes: dict[str, Any] = {"size": 440, "glyph_height": (0.5, 0.85), "seed": 1}
    write_glyphs(folder / "train", train=4000, val=300, aspect=(1, 1), **scenes)
    for name, aspect in ASPECTS.items():
        write_glyphs(folder / name.replace(":", "x"), train=0, val=300, aspect=(aspect, aspect), **scenes)


def training(folder: Path, name: str, seed: int, steps: int) -> TrainConfig:
    """The demo's recipe with the shapes and the model of a variant."""
    base = demo_training(DemoConfig(out=folder), "vitar")
    return replace(
        base, data=folder / "data" / "train", out=folder / "runs" / name / f"seed{seed}", seed=seed, steps=steps,
        warmup_steps=steps // 20, aspect=(0.25, 4.0), model_options={**SMALL_MODEL, "grid": (4, 4), **VARIANTS[name]},
    )  # fmt: skip


def train_and_measure(job: TrainConfig) -> None:
    """One run and its sweeps, or what is left of them."""
    train(job)
    for name, aspect in ASPECTS.items():
        sweep(_measured(job, name, aspect))


def _measured(job: TrainConfig, name: str, aspect: float) -> SweepConfig:
    data = job.data.with_name(name.replace(":", "x"))
    sizes = [(round(side / math.sqrt(aspect)), round(side * math.sqrt(aspect))) for side in SIDES]
    return SweepConfig(
        runs=(job.out,), data=(data,), sizes=tuple(f"{height}x{width}" for height, width in sizes),
        out=job.out.with_name(f"{job.out.name}-{data.name}.json"), resize_to=("none",), latency_runs=1, threads=1,
        examples=0, progress=False,
    )  # fmt: skip


def accuracies(job: TrainConfig) -> dict[str, float]:
    """ "ASPECT at SIDE" -> top-1 in per cent."""
    found: dict[str, float] = {}
    for name, aspect in ASPECTS.items():
        rows = read_json(_measured(job, name, aspect).out, "a sweep", keys=("rows",), remedy="delete it")["rows"]
        by_area = sorted(rows, key=lambda row: row["size"][0] * row["size"][1])
        found |= {f"{name} at {side}": row["top1"] for side, row in zip(SIDES, by_area, strict=True)}
    return found


def table(found: dict[str, list[dict[str, float]]]) -> str:
    """Mean and spread over the seeds, a row for each variant and size, a column for each aspect."""
    lines = [f"| merger, grid | pixels | {' | '.join(ASPECTS)} |", "|---" * (2 + len(ASPECTS)) + "|"]
    for name, seeds in found.items():
        for side in SIDES:
            values = [np.array([seed[f"{aspect} at {side}"] for seed in seeds]) for aspect in ASPECTS]
            cells = [f"{each.mean():.1f} ({each.min():.1f} to {each.max():.1f})" for each in values]
            lines.append(f"| {name} | {side}² | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
