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
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

import anyres
from anyres.data.augment import TrainAugment
from anyres.data.folder import ImageFolder
from anyres.data.synthetic import write_glyphs
from anyres.data.transforms import eval_transform, train_transform
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
    for seed in (random.seed, np.random.seed, torch.manual_seed):  # transforms draw from all three
        seed(job.seed)
    model = anyres.create_model(
        "vitar_tiny_patch16", num_classes=10, **{**SMALL_MODEL, "grid": (4, 4), **VARIANTS[job.name]}
    )
    assert isinstance(model, anyres.ViTAR)
    train(model, job)
    write_json(job.result, measure(model.eval(), job.folder))


def train(model: anyres.ViTAR, job: Job) -> None:
    """Steps of one shape and area each; AdamW, a cosine after a short warm-up."""
    images = {name: _read(scenes(job.folder, name) / "train") for name in ASPECTS}
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.99), weight_decay=0.05)
    warmup = max(job.steps // 20, 1)
    rate = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warmup, 0.5 + 0.5 * math.cos(math.pi * step / job.steps))
    )
    mild = TrainAugment(
        scale=(0.8, 1.0), ratio=(0.9, 1.1), hflip=0.0, auto_augment=None, erasing=0.0, interpolation="bilinear"
    )
    draw = np.random.default_rng(job.seed)
    for step in range(job.steps):
        name = "1:1" if step < job.steps // 3 else draw.choice(list(ASPECTS))
        pictures, labels = images[name]
        size = size_of(int(draw.choice(TRAINED, p=(0.25, 0.25, 0.5))), ASPECTS[name])
        transform = train_transform(size, mild, model.config.mean, model.config.std)
        chosen = draw.choice(len(pictures), BATCH, replace=False)
        logits = model(torch.stack([transform(pictures[index]) for index in chosen]))
        nn.functional.cross_entropy(logits, labels[chosen]).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        rate.step()


def _read(folder: Path) -> tuple[list[Image.Image], Tensor]:
    found = ImageFolder(folder)
    return [Image.open(path).convert("RGB") for path in found.paths], torch.tensor(found.labels)


@torch.inference_mode()
def measure(model: anyres.ViTAR, folder: Path) -> dict[str, float]:
    """See `run`. From 192 on the scenes are enlarged: large glyphs lose nothing by it."""
    top1 = {}
    for name, aspect in ASPECTS.items():
        pictures, labels = _read(scenes(folder, name) / "val")
        for side in SIDES:
            transform = eval_transform(size_of(side, aspect), model.config.mean, model.config.std)
            batches = torch.stack([transform(picture) for picture in pictures]).split(20)
            answers = torch.cat([model(batch).argmax(1) for batch in batches])
            top1[f"{name} at {side}"] = 100 * (answers == labels).float().mean().item()
    return top1


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
