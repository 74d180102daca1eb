"""Pre-training steps of ViTAR as a masked auto-encoder over the sizes of its schedule, against four others.

    python benchmarks/mae.py [--model base] [--seconds 600] [--batch 4] [--threads 2] [--device cpu] [--out FILE]

A step is the training engine's (`Trainer.update`) on random images that are already in memory, with new masks every
time, as in `benchmarks/training.py`. The others: the pyramid merger in the place of the paper's, which sees images at
1, 2, 4 ... times the final grid (at 672 and 1120 pixels thus the same, 896), ViTAR trained with labels, ViTAR that
hides random patches instead of cells (masking "patches"), and a plain ViT that learns as MAE does (mae_vit_*). In one
run all of them take turns at all sizes, round by round, after a warm-up of each. The plain ViT is measured only where a
step is expected to take less than --longest seconds (from its products, at the rate of ViTAR's step at the smallest
size) and where its attention matrices fit into --gigabytes.

Times are medians with minimum and maximum. A ratio is a model's images per second over those of ViTAR's pre-training,
the median over the rounds; "predicted" is the ratio that the counted multiply-accumulates give, three times those of
the forward pass for a step. AdamW's own share of a step depends on the weights alone, not on the images, and is large
for a few images; so it is measured too, and every ratio is also given without it, as for a large batch. At the end,
what a step of ViTAR's pre-training costs at each size and in the mean over all of them, in steps at the smallest size;
goal for the mean: at most 2.
"""

import argparse
import json
import platform
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
import torch
from training import SIZES, Bench, Steps, row, show, spread

from anyres.costs.cost import macs_by_part, mae_macs_by_part
from anyres.models.architectures import AUTOENCODER, get_config
from anyres.models.mae import MaskedAutoencoder
from anyres.models.mae_config import MAEConfig
from anyres.recipes.hours import FORWARD_AND_BACKWARD
from anyres.training import PretrainConfig
from anyres.training.pretraining.task import PretrainTask
from anyres.training.trainer import Trainer

GOAL = 2.0

Times = dict[tuple[str, int], list[float]]
"""Seconds of a member's step at a size, round by round; those of its optimiser alone at size 0."""


class RandomMasked(PretrainTask):
    """Masked auto-encoding of images that no folder holds."""

    def __init__(self, config: PretrainConfig, model: torch.nn.Module) -> None:
        self.config, self.model = config, model


class MaskedBench(Bench):
    """Makes trainers of both kinds and batches, and times them."""

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__(options)
        self.precision = options.precision or self.precision
        size = options.model
        self.vitar, self.labels = f"mae_vitar_{size}", f"vitar_{size} with labels"
        self.pyramid = f"mae_anyres_{size}"
        self.patches, self.vit = f"mae_vitar_{size} patches", f"mae_vit_{size}"
        self.configs = {
            self.vitar: AUTOENCODER.get_config(f"mae_vitar_{size}_patch16"),
            self.pyramid: AUTOENCODER.get_config(f"mae_anyres_{size}_patch16"),
            self.labels: get_config(f"vitar_{size}_patch16"),
            self.patches: AUTOENCODER.get_config(f"mae_vitar_{size}_patch16", masking="patches"),
            self.vit: AUTOENCODER.get_config(f"mae_vit_{size}_patch16"),
        }

    def member(self, name: str) -> Trainer:
        """The trainer of a member, which follows from its configuration."""
        model = self.configs[name]
        if not isinstance(model, MAEConfig):
            return self.trainer(f"vitar_{self.options.model}_patch16")
        config = PretrainConfig(
            data=Path(), out=Path(), steps=10**6, batch_size=self.options.batch, precision=self.precision
        )
        return Trainer(config, RandomMasked(config, MaskedAutoencoder(model)), self.device)

    def step(self, trainer: Trainer, *sides: int) -> Callable[[], object]:
        """With keys of its own for every step, from which masks are drawn: cells are not all of one size."""
        batch = self.batch(sides)
        return lambda: trainer.update(replace(batch, keys=batch.keys + len(batch.keys) * trainer.step))

    def gmacs(self, name: str, side: int) -> float:
        """Multiply-accumulates of a step for each image, in 1e9."""
        config, size = self.configs[name], (side, side)
        parts = mae_macs_by_part(config, size) if isinstance(config, MAEConfig) else macs_by_part(config, size)
        return FORWARD_AND_BACKWARD * sum(parts.values()) / 1e9

    def why_left_out(self, side: int, seconds_per_gmac: float) -> str | None:
        """Why the plain ViT is not measured at a size, if it is not."""
        seconds = self.options.batch * self.gmacs(self.vit, side) * seconds_per_gmac
        if seconds > self.options.longest:
            return f"about {seconds:.0f} s a step"
        config = self.configs[self.vit]
        encoder, tokens = config.backbone, (side // config.backbone.patch_size) ** 2
        entries = config.visible(side, side) ** 2 * encoder.heads * encoder.depth
        entries += tokens**2 * config.decoder_heads * config.decoder_depth
        bytes_all = 3 * entries * self.options.batch * (2 if self.precision == "bfloat16" else 4)
        fits = self.device.type == "cuda" or bytes_all < self.options.gigabytes * 1e9  # as in Bench.fits
        return None if fits else f"about {bytes_all / 1e9:.0f} GB of attention matrices"


def measured(bench: MaskedBench, sides: Sequence[int]) -> tuple[Times, dict[int, str]]:
    """All times, and at which sizes the plain ViT was left out and why."""
    trainers = {name: bench.member(name) for name in bench.configs}
    first = bench.step(trainers[bench.vitar], sides[0])
    first()
    rate = bench.timed(first) / bench.options.batch / bench.gmacs(bench.vitar, sides[0])
    left_out = {side: reason for side in sides if (reason := bench.why_left_out(side, rate))}
    members = [(name, side) for side in sides for name in trainers if name != bench.vit or side not in left_out]
    steps: Steps = {f"{name} at {side}": bench.step(trainers[name], side) for name, side in members}
    present = {name: 0 for name, _ in members}
    steps |= {f"{name} at 0": trainers[name].optimizer.step for name in present}
    times = bench.rounds(steps, bench.options.seconds)
    return {(name, side): times[f"{name} at {side}"] for name, side in (*members, *present.items())}, left_out


def rows_at(bench: MaskedBench, times: Times, sides: Sequence[int], left_out: dict[int, str]) -> list[dict[str, Any]]:
    """All members over some sizes, each shown alike, against ViTAR's pre-training."""
    comparison = f"at {sides[0]}" if len(sides) == 1 else "all sizes"
    gmacs = {name: statistics.fmean(bench.gmacs(name, side) for side in sides) for name in bench.configs}
    base, rows = _mean_times(times, bench.vitar, sides), []
    for name in bench.configs:
        if name == bench.vit and (reasons := [left_out[side] for side in sides if side in left_out]):
            predicted = gmacs[bench.vitar] / gmacs[name]
            skipped = reasons[0] if len(sides) == 1 else "not at all sizes"
            rows.append({"comparison": comparison, "model": name, "predicted": predicted, "skipped": skipped})
            continue
        own = _mean_times(times, name, sides)
        found = row(comparison, name, own, base, bench.options.batch, gmacs[name], gmacs[bench.vitar])
        found["gmacs_per_second"] = found["images_per_second"] * gmacs[name]
        found["optimizer_seconds"] = spread(times[name, 0])
        found["ratio_without_optimizer"] = spread(
            _ratios(_without(times, bench.vitar, base), _without(times, name, own))
        )
        rows.append(found)
    return rows


def costs(bench: MaskedBench, times: Times, sides: Sequence[int]) -> list[dict[str, Any]]:
    """ViTAR's pre-training at each size and in the mean over all, in steps at the smallest."""
    base, first = times[bench.vitar, sides[0]], bench.gmacs(bench.vitar, sides[0])
    found = []
    for of in (*((side,) for side in sides[1:]), tuple(sides)):
        own = _mean_times(times, bench.vitar, of)
        found.append(
            {
                "sizes": list(of), "in_steps_at": sides[0], "predicted": _mean_gmacs(bench, of) / first,
                "cost": spread(_ratios(own, base)),
                "cost_without_optimizer": spread(
                    _ratios(_without(times, bench.vitar, own), _without(times, bench.vitar, base))
                ),
            }
        )  # fmt: skip
    return found


def _without(times: Times, name: str, steps: Sequence[float]) -> list[float]:
    """A member's steps without its optimiser."""
    return [step - optimizer for step, optimizer in zip(steps, times[name, 0], strict=True)]


def _ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    return [a / b for a, b in zip(above, below, strict=True)]


def _mean_times(times: Times, name: str, sides: Sequence[int]) -> list[float]:
    return [statistics.fmean(found) for found in zip(*(times[name, side] for side in sides), strict=True)]


def _mean_gmacs(bench: MaskedBench, sides: Sequence[int]) -> float:
    return statistics.fmean(bench.gmacs(bench.vitar, side) for side in sides)


def show_row(found: dict[str, Any]) -> str:
    without = found.get("ratio_without_optimizer")
    return show(found) + (f"; without the optimiser {without['median']:.2f}" if without else "")


def show_cost(found: dict[str, Any]) -> str:
    cost, sizes = found["cost"], found["sizes"]
    what = f"at {sizes[0]}" if len(sizes) == 1 else f"in the mean over {', '.join(map(str, sizes))}"
    goal = "" if len(sizes) == 1 else f"; goal: at most {GOAL:g}"
    return (
        f"a step {what} costs {cost['median']:.2f} ({cost['min']:.2f} to {cost['max']:.2f}) steps at "
        f"{found['in_steps_at']}, {found['cost_without_optimizer']['median']:.2f} without the optimiser, predicted "
        f"{found['predicted']:.2f}{goal}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="base", choices=("tiny", "small", "base", "large"))
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), help="sides of square images in pixels")
    parser.add_argument("--seconds", type=float, default=600, help="time for all, warm-ups not counted")
    parser.add_argument("--batch", type=int, default=4, help="images per step")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:N or auto")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), help="by default the faster one")
    parser.add_argument("--longest", type=float, default=20, help="seconds that a step of the plain ViT may take")
    parser.add_argument("--gigabytes", type=float, default=8, help="memory for the plain ViT's attention matrices")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "mae.json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    sides = sorted(set(options.sizes))
    bench = MaskedBench(options)
    times, left_out = measured(bench, sides)
    rows = [found for side in sides for found in rows_at(bench, times, [side], left_out)]
    rows += rows_at(bench, times, sides, left_out) if len(sides) > 1 else []
    found = costs(bench, times, sides) if len(sides) > 1 else []
    print("\n".join([*map(show_row, rows), *map(show_cost, found)]))
    name = torch.cuda.get_device_name(bench.device) if bench.device.type == "cuda" else platform.processor()
    machine = {"processor": name or platform.machine(), "threads": options.threads, "precision": bench.precision}
    machine |= {"batch": options.batch, "torch": torch.__version__, "timm": timm.__version__}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    record = {"machine": machine, "rows": rows, "costs": found, "goal": GOAL}
    options.out.write_text(json.dumps(record, indent=1) + "\n")
    print(options.out)


if __name__ == "__main__":
    main()
