"""Does accuracy hold at every shape: final grids of one shape against grids that follow the image (`grid_shape`).

    python benchmarks/shape.py [--seeds 3] [--steps 1500] [--only pyramid-fixed pyramid-aspect]
        [--folder shape] [--out benchmarks/results/shape.json]

Small models learn large glyphs in scenes drawn at 1:4, 1:2, 1:1, 2:1 and 4:1, one shape and one area (that of a square
of 32, 64 or 96 pixels) a step, and are measured on other scenes of each shape at sizes of equal area. Nothing is
squashed. The first third of the steps shows squares alone: with all shapes from the start some models never leave
chance. The loop is here, since a run of the engine has one folder of images for all shapes. A run that is finished is
not made again.
"""

import argparse
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from small_runs import learn, read_scenes, seed_all, top1, training_batch
from torch import Tensor

import anyres
from anyres.data.synthetic import write_glyphs
from anyres.files import read_json, write_json
from anyres.processes import run_side_by_side
from anyres.recipes import SMALL_MODEL
from anyres.sizes import Size

ASPECTS = {"1:4": 0.25, "1:2": 0.5, "1:1": 1.0, "2:1": 2.0, "4:1": 4.0}
"""Width : height."""
TRAINED, SIDES = (32, 64, 96), (64, 96, 192, 384)
"""Sides of squares of as many pixels."""
BATCH, RATE = 64, 1.2e-3

_PYRAMID = {"merger": "pyramid", "full_levels": 2, "position": "rotary"}
VARIANTS: dict[str, dict[str, Any]] = {
    "pyramid-fixed": {**_PYRAMID, "grid_shape": "fixed"},
    "pyramid-aspect": {**_PYRAMID, "grid_shape": "aspect"},
    "paper-fixed": {"grid_shape": "fixed"},
    "paper-aspect": {"grid_shape": "aspect"},
}


@dataclass(frozen=True)
class Job:
    """One run of one variant."""

    name: str
    seed: int
    steps: int
    folder: Path

    @property
    def result(self) -> Path:
        return self.folder / f"{self.name}-seed{self.seed}-{self.steps}.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--only", nargs="+", choices=tuple(VARIANTS), default=tuple(VARIANTS))
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, each on one core")
    parser.add_argument("--folder", type=Path, default=Path("shape"), help="for images and runs")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "shape.json")
    options = parser.parse_args()
    for name, aspect in ASPECTS.items():
        write_glyphs(
            scenes(options.folder, name), train=1600, val=300, size=200, aspect=(aspect, aspect),
            glyph_height=(0.5, 0.85), seed=1,
        )  # fmt: skip
    jobs = [Job(name, seed, options.steps, options.folder) for seed in range(options.seeds) for name in options.only]
    run_side_by_side(
        run, [job for job in jobs if not job.result.exists()], options.jobs, name=lambda job: job.result.stem,
        follow=lambda running, done: None, remedy="The same command makes what is missing",
    )  # fmt: skip
    found = {job.name: [read_json(each.result, "a run", keys=(), remedy="delete it") for each in jobs
                        if each.name == job.name] for job in jobs}  # fmt: skip
    write_json(options.out, {"steps": options.steps, "trained": TRAINED, "images": 300, "top1": found})
    print(table(found))


def scenes(folder: Path, name: str) -> Path:
    return folder / "data" / name.replace(":", "x")


def size_of(side: int, aspect: float) -> Size:
    """(height, width) of as many pixels as a square."""
    return round(side / math.sqrt(aspect)), round(side * math.sqrt(aspect))


def run(job: Job) -> None:
    """Trains a model and writes "ASPECT at SIDE" -> top-1 in per cent."""
    torch.set_num_threads(1)
    seed_all(job.seed)
    model = anyres.create_model(
        "vitar_tiny_patch16", num_classes=10, **{**SMALL_MODEL, "grid": (4, 4), **VARIANTS[job.name]}
    )
    assert isinstance(model, anyres.ViTAR)
    train(model, job)
    write_json(job.result, measure(model.eval(), job.folder))


def train(model: anyres.ViTAR, job: Job) -> None:
    """Steps of one shape and area each."""
    images = {name: read_scenes(scenes(job.folder, name) / "train") for name in ASPECTS}
    draw = np.random.default_rng(job.seed)

    def batch(step: int) -> tuple[Tensor, Tensor]:
        name = "1:1" if step < job.steps // 3 else draw.choice(list(ASPECTS))
        size = size_of(int(draw.choice(TRAINED, p=(0.25, 0.25, 0.5))), ASPECTS[name])
        return training_batch(images[name], size, model.config, draw, BATCH)

    learn(model, batch, job.steps, RATE)


def measure(model: anyres.ViTAR, folder: Path) -> dict[str, float]:
    """See `run`. From 192 on the scenes are enlarged: large glyphs lose nothing by it."""
    found = {}
    for name, aspect in ASPECTS.items():
        validation = read_scenes(scenes(folder, name) / "val")
        for side in SIDES:
            found[f"{name} at {side}"] = top1(model, validation, size_of(side, aspect), model.config)
    return found


def table(found: dict[str, list[dict[str, float]]]) -> str:
    """Mean, worst and best seed, a row for each variant and area, a column for each shape."""
    lines = [f"| merger, grid | pixels | {' | '.join(ASPECTS)} |", "|---" * (2 + len(ASPECTS)) + "|"]
    for name, seeds in found.items():
        for side in SIDES:
            values = [np.array([seed[f"{aspect} at {side}"] for seed in seeds]) for aspect in ASPECTS]
            cells = [f"{each.mean():.1f} ({each.min():.1f} to {each.max():.1f})" for each in values]
            lines.append(f"| {name} | {side}² | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
