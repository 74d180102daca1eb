"""When does an upgrade pay: an old ViT of one size with an adapter, against the same ViT by every other way.

    python benchmarks/upgrade.py [--seeds 2] [--steps 3000] [--tuning 400] [--jobs 2] [--folder upgrade]
        [--out benchmarks/results/upgrade.json] [--image docs/images/upgrade.png]

A small plain ViT of timm learns glyphs at 48 pixels alone. Then it is used at 48 to 384 pixels: as it is on resized
images, with interpolated positions, and on tiles of 48 pixels whose logits are averaged; fine-tuned for some steps in
each of these ways; and upgraded (`anyres.upgrade`), with the adapter alone or all of it fine-tuned at 96 and 192 px.
Two rows get more or fewer steps, so that they cost as many multiply-accumulates as the adapter's. A run that is
finished is not made again.
"""

import argparse
import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import timm
import torch
import torch.nn.functional as F
from small_runs import learn, read_scenes, seed_all, top1, training_batch
from torch import Tensor, nn

import anyres
from anyres.costs.cost import macs_by_part
from anyres.data.synthetic import write_glyphs
from anyres.files import read_json, write_json
from anyres.models.architectures import get_config
from anyres.models.config import ViTARConfig
from anyres.models.upgraded import UpgradedViT
from anyres.processes import run_side_by_side

matplotlib.use("Agg")
import matplotlib.pyplot as plt

OWN, TUNED, MEASURED = 48, (96, 192), (48, 96, 144, 192, 288, 384)
"""Sides in pixels: of the old model, of fine-tuning what takes any size, and of measuring."""
BATCH, RATE, TUNING_RATE, ADAPTER_RATE = 32, 1.2e-3, 3e-4, 1.2e-3

LARGE = (0.5, 0.85)
SETS: dict[str, dict[str, Any]] = {
    "ordinary": {"glyph_height": LARGE},
    "middle": {"glyph_height": (0.18, 0.3), "training_heights": (LARGE, (0.15, 0.4), LARGE)},
    "detail": {"glyph_height": (0.1, 0.16), "training_heights": (LARGE, (0.1, 0.4), LARGE)},
}
ROWS = {
    "resized": "the old ViT, every image resized to 48 px",
    "interpolated": "the old ViT, interpolated positions",
    "tiles": "the old ViT, tiles of 48 px, averaged",
    "resized, tuned": "fine-tuned at 48 px, resized",
    "tiles, tuned": "the same, tiles",
    "resized, equal cost": "fine-tuned at 48 px for as much work as the adapter, resized",
    "interpolated, tuned": "fine-tuned at 96 and 192 px, interpolated positions",
    "interpolated, equal cost": "the same for as much work as the adapter",
    "adapter": "upgraded, the adapter alone fine-tuned at 96 and 192 px",
    "upgraded, all": "upgraded, all of it fine-tuned",
}


@dataclass(frozen=True)
class Job:
    """One old model and everything that is made of it."""

    set: str
    seed: int
    steps: int
    tuning: int
    folder: Path

    @property
    def result(self) -> Path:
        return self.folder / f"{self.set}-seed{self.seed}-{self.steps}-{self.tuning}.json"


def main() -> None:
    here = Path(__file__).parent
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=3000, help="of the old model")
    parser.add_argument("--tuning", type=int, default=400, help="steps of fine-tuning")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, each on one core")
    parser.add_argument("--folder", type=Path, default=Path("upgrade"), help="for images and runs")
    parser.add_argument("--out", type=Path, default=here / "results" / "upgrade.json")
    parser.add_argument("--image", type=Path, default=here.parent / "docs" / "images" / "upgrade.png")
    options = parser.parse_args()
    for name, settings in SETS.items():
        common: dict[str, Any] = {"aspect": (1.0, 1.0), "seed": 1, **settings}
        write_glyphs(options.folder / "data" / name, train=2000, val=0, size=240, **common)
        write_glyphs(options.folder / "data" / f"{name}-large", train=0, val=300, size=440, **common)
    jobs = [Job(name, seed, options.steps, options.tuning, options.folder)
            for seed in range(options.seeds) for name in SETS]  # fmt: skip
    run_side_by_side(
        run, [job for job in jobs if not job.result.exists()], options.jobs, name=lambda job: job.result.stem,
        follow=lambda running, done: None, remedy="The same command makes what is missing",
    )  # fmt: skip
    found = {name: [read_json(job.result, "a run", keys=(), remedy="delete it") for job in jobs if job.set == name]
             for name in SETS}  # fmt: skip
    settings = {"steps": options.steps, "tuning": options.tuning, "own": OWN, "tuned": TUNED, "images": 300}
    write_json(options.out, {**settings, "sets": found})
    draw(found, options.image)
    print(table(found))


def run(job: Job) -> None:
    """Trains, fine-tunes and measures; writes row -> {"top1": by side, "macs": by side, "steps", "training_macs"}."""
    torch.set_num_threads(1)
    seed_all(job.seed)
    scenes = read_scenes(job.folder / "data" / job.set / "train")
    validation = read_scenes(job.folder / "data" / f"{job.set}-large" / "val")
    old = timm.models.VisionTransformer(
        img_size=OWN, patch_size=8, embed_dim=96, depth=4, num_heads=3, num_classes=10, dynamic_img_size=True
    )
    settings = anyres.upgrade(old).config

    def tuned(model: nn.Module, sides: Sequence[int], steps: int, rate: float) -> nn.Module:
        draw = np.random.default_rng(job.seed)
        learn(
            model.train(),
            lambda step: training_batch(scenes, (side := int(draw.choice(sides)), side), settings, draw, BATCH),
            steps, rate,
        )  # fmt: skip
        return model.eval()

    tuned(old, (OWN,), job.steps, RATE)
    ours = {name: anyres.upgrade(old, full_levels=2) for name in ("adapter", "upgraded, all")}
    ours["adapter"].freeze_vit()
    for name, model in ours.items():
        tuned(model, TUNED, job.tuning, ADAPTER_RATE if name == "adapter" else TUNING_RATE)
    work = {name: np.mean([cost(side) for side in TUNED]) for name, cost in costs(ours["adapter"]).items()}
    steps = {name: round(job.tuning * work["any"] / work[name]) for name in ("resized", "interpolated")}
    resized = tuned(copy.deepcopy(old), (OWN,), job.tuning, TUNING_RATE)
    longer = tuned(copy.deepcopy(old), (OWN,), steps["resized"], TUNING_RATE)
    grown = tuned(copy.deepcopy(old), TUNED, job.tuning, TUNING_RATE)
    shorter = tuned(copy.deepcopy(old), TUNED, steps["interpolated"], TUNING_RATE)
    rows: dict[str, tuple[nn.Module, str, int]] = {
        "resized": (old, "resized", 0), "interpolated": (old, "interpolated", 0), "tiles": (old, "tiles", 0),
        "resized, tuned": (resized, "resized", job.tuning), "tiles, tuned": (resized, "tiles", job.tuning),
        "resized, equal cost": (longer, "resized", steps["resized"]),
        "interpolated, tuned": (grown, "interpolated", job.tuning),
        "interpolated, equal cost": (shorter, "interpolated", steps["interpolated"]),
        **{name: (model, "any", job.tuning) for name, model in ours.items()},
    }  # fmt: skip
    ways: dict[str, Callable[[nn.Module], Callable[[Tensor], Tensor]]] = {
        "resized": lambda model: lambda images: model(F.interpolate(images, OWN, mode="bicubic", antialias=True)),
        "interpolated": lambda model: model,
        "tiles": lambda model: lambda images: by_tiles(model, images),
        "any": lambda model: model,
    }
    result = {}
    for name, (model, way, count) in rows.items():
        cost, training = costs(ours["adapter"])[way], "resized" if way == "tiles" else way
        result[name] = {
            "top1": {side: top1(ways[way](model), validation, (side, side), settings) for side in MEASURED},
            "macs": {side: cost(side) for side in MEASURED}, "steps": count, "training_macs": count * work[training],
        }  # fmt: skip
    write_json(job.result, result)


def by_tiles(model: nn.Module, images: Tensor) -> Tensor:
    """Logits (B, classes): the mean of those of tiles of the old size."""
    tiles = images.unfold(2, OWN, OWN).unfold(3, OWN, OWN).permute(0, 2, 3, 1, 4, 5)  # (B, rows, cols, C, OWN, OWN)
    logits: Tensor = model(tiles.flatten(0, 2))
    return logits.unflatten(0, (len(images), -1)).mean(1)


def costs(model: UpgradedViT) -> dict[str, Callable[[int], float]]:
    """Way of use -> multiply-accumulates of a square image by its side, forward pass."""

    plain = get_config("deit_tiny_patch16", num_classes=10, patch_size=8, width=96, depth=4, heads=3, grid=(6, 6))

    def of(side: int, config: ViTARConfig = plain) -> float:
        return float(sum(macs_by_part(config, (side, side)).values()))

    return {
        "resized": lambda side: of(OWN),
        "interpolated": of,
        "tiles": lambda side: of(OWN) * (side // OWN) ** 2,
        "any": lambda side: of(side, model.config),
    }


def table(found: dict[str, list[dict[str, Any]]]) -> str:
    """A row for each set and way: mean and both seeds by side, steps and millions of products at 192 px."""
    lines = [
        f"| set | what | steps | MMACs at 192 px | {' | '.join(map(str, MEASURED))} |",
        "|---" * (4 + len(MEASURED)) + "|",
    ]
    for name, seeds in found.items():
        for row, text in ROWS.items():
            of = [seed[row] for seed in seeds]
            values = [[one["top1"][str(side)] for one in of] for side in MEASURED]
            cells = [f"{np.mean(each):.1f} ({min(each):.1f} to {max(each):.1f})" for each in values]
            lines.append(
                f"| {name} | {text} | {of[0]['steps']} | {of[0]['macs']['192'] / 1e6:.0f} | {' | '.join(cells)} |"
            )
    return "\n".join(lines)


_STYLES = {
    "adapter": ("#1f77b4", "o-"), "upgraded, all": ("#1f77b4", "o--"), "resized": ("#555555", "s:"),
    "resized, tuned": ("#555555", "s-"), "tiles": ("#7570b3", "v:"), "tiles, tuned": ("#7570b3", "v-"),
    "interpolated": ("#d95f02", "^:"), "interpolated, tuned": ("#d95f02", "^-"),
    "interpolated, equal cost": ("#d95f02", "^--"),
}  # fmt: skip


def draw(found: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Accuracy against side, a panel for each set; the band is between the seeds."""
    figure, panels = plt.subplots(1, len(found), figsize=(12, 4.6), layout="constrained", sharey=True)
    for axes, (name, seeds) in zip(panels, found.items(), strict=True):
        for row, (colour, style) in _STYLES.items():
            values = np.array([[seed[row]["top1"][str(side)] for side in MEASURED] for seed in seeds])
            axes.plot(MEASURED, values.mean(0), style, color=colour, label=ROWS[row], markersize=4)
            axes.fill_between(MEASURED, values.min(0), values.max(0), color=colour, alpha=0.12, linewidth=0)
        axes.set(title=name, xlabel="side of the image, pixels", xscale="log", ylim=(0, 101))
        axes.set_xticks(MEASURED, [str(side) for side in MEASURED])
        axes.minorticks_off()
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    panels[0].set_ylabel("top-1, %")
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False, fontsize=8
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    main()
