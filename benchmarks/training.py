"""Training steps of ViTAR-S with the paper's merger and with the pyramid, DeiT-S and ResFormer-S over their own sizes,
and DeiT-S against timm's, in one run.

    python benchmarks/training.py [--seconds 600] [--batch 4] [--threads 2] [--device cpu] [--out FILE]

A step is the training engine's (`Trainer.update`) on random images that are already in memory: forward pass under
autocast (bfloat16 where the processor computes in it), cross-entropy, backward pass, gradient norm, AdamW. Three
comparisons, each of whose members run in turn (A B C A B C ...) after a warm-up of each:

- timm: our DeiT-S, timm's `deit_small_patch16_224` as it comes, and with our engine's choice of attention, at 224;
- schedules: both mergers at 224 ... 1120 (one step at each), DeiT-S at 224, ResFormer-S with replicas at 224, 160, 128;
- same size: all four at one size. A rival whose attention matrices would not fit into --gigabytes is left out.

Times are medians with minimum and maximum. A ratio is a model's images per second over those of the first of its
comparison, the median over the rounds; "predicted" is the ratio that the counted multiply-accumulates give.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data.mixup import mixup_target
from timm.loss import SoftTargetCrossEntropy

import anyres
from anyres.costs.cost import macs_by_part
from anyres.data.loader import Batch, View
from anyres.data.schedule import EverySize
from anyres.devices import fast_precision, resolve_device
from anyres.models.architectures import get_config
from anyres.training import TrainConfig
from anyres.training.classification.task import ClassificationTask, PreparedViews
from anyres.training.trainer import Trainer

VITAR, PYRAMID = "vitar_small_patch16", "anyres_small_patch16"
DEIT, RESFORMER = "deit_small_patch16", "resformer_small_patch16"
SIZES = (224, 448, 672, 896, 1120)
REPLICAS = (224, 160, 128)
CLASSES = 1000

Steps = dict[str, Callable[[], object]]


class RandomImages(ClassificationTask):
    """Classification of images that no folder holds."""

    def __init__(self, config: TrainConfig, model: torch.nn.Module) -> None:
        self.config, self.model, self.criterion = config, model, SoftTargetCrossEntropy()

    def prepare(self, batch: Batch, device: torch.device) -> PreparedViews:
        return PreparedViews((batch, *batch.replicas), mixup_target(batch.labels, CLASSES, smoothing=0.1))


class TimmImages(RandomImages):
    """The same with a model of timm's."""

    def loss(self, prepared: PreparedViews, rows: slice) -> torch.Tensor:
        return self.criterion(self.model(prepared.views[0].images[rows]).float(), prepared.targets[rows])


class Bench:
    """Makes trainers and batches, and times them."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.device = resolve_device(options.device)
        self.precision = "bfloat16" if self.device.type == "cuda" else fast_precision()

    def config(self, name: str, consistency: float = 0.0) -> TrainConfig:
        return TrainConfig(
            data=Path(), out=Path(), model=name, steps=10**6, batch_size=self.options.batch, accumulate=1,
            precision=self.precision, replicas=consistency > 0, consistency=consistency,
        )  # fmt: skip

    def trainer(self, name: str, consistency: float = 0.0) -> Trainer:
        config = self.config(name, consistency)
        model = anyres.create_model(name, num_classes=CLASSES, drop_path_rate=0.1)
        return Trainer(config, RandomImages(config, model), self.device)

    def timm_trainer(self, plain_attention: bool) -> Trainer:
        """timm's model under the same engine, which on a CPU turns fused attention off; here only if asked to."""
        model = timm.create_model("deit_small_patch16_224", num_classes=CLASSES, drop_path_rate=0.1)
        fused = {module: module.fused_attn for module in model.modules() if hasattr(module, "fused_attn")}
        config = self.config(DEIT)
        trainer = Trainer(config, TimmImages(config, model), self.device)
        if not plain_attention:
            for module, choice in fused.items():
                module.fused_attn = choice
        return trainer

    def batch(self, sides: Sequence[int]) -> Batch:
        """Random images at each of the sizes, on the device."""
        count = self.options.batch
        views = [
            View(
                images=torch.randn(count, 3, side, side, device=self.device),
                keys=torch.arange(count, device=self.device),
            )
            for side in sides
        ]
        return Batch(
            step=0, size=(sides[0], sides[0]), images=views[0].images, keys=views[0].keys, skipped=[],
            labels=torch.arange(count, device=self.device), replicas=tuple(views[1:]),
        )  # fmt: skip

    def step(self, trainer: Trainer, *sides: int) -> Callable[[], object]:
        batch = self.batch(sides)
        return lambda: trainer.update(batch)

    def rounds(self, steps: Steps, seconds: float) -> dict[str, list[float]]:
        """Seconds of each step, round by round: a warm-up, then three rounds or as many as the time allows."""
        for step in steps.values():
            self.timed(step)
        times: dict[str, list[float]] = {name: [] for name in steps}
        start = time.perf_counter()
        while len(next(iter(times.values()))) < 3 or time.perf_counter() - start < seconds:
            for name, step in steps.items():
                times[name].append(self.timed(step))
        return times

    def timed(self, step: Callable[[], object]) -> float:
        self.synchronize()
        start = time.perf_counter()
        step()
        self.synchronize()
        return time.perf_counter() - start

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def fits(self, name: str, side: int) -> bool:
        """Whether about three copies of every attention matrix fit; fused attention on a GPU keeps none."""
        config = get_config(name)
        entries = (side // config.patch_size) ** 4 * config.heads * config.depth * self.options.batch
        bytes_each = 2 if self.precision == "bfloat16" else 4
        return self.device.type == "cuda" or 3 * entries * bytes_each < self.options.gigabytes * 1e9


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def macs(name: str, *sides: int) -> float:
    """Forward multiply-accumulates of one image at all of the sizes, in 1e9."""
    return sum(sum(macs_by_part(get_config(name), (side, side)).values()) for side in sides) / 1e9


def row(
    comparison: str, name: str, times: list[float], base: list[float], images: int, gmacs: float, of: float
) -> dict:
    """One member of a comparison: its images/s, and base time / own time as measured and as predicted."""
    return {
        "comparison": comparison, "model": name, "rounds": len(times), "gmacs": gmacs, "seconds": spread(times),
        "images_per_second": images / statistics.median(times),
        "ratio": spread([first / own for first, own in zip(base, times, strict=True)]), "predicted": of / gmacs,
    }  # fmt: skip


def against_timm(bench: Bench, seconds: float) -> list[dict[str, Any]]:
    trainers = {
        "anyres": bench.trainer(DEIT), "timm as it comes": bench.timm_trainer(False),
        "timm, attention as ours": bench.timm_trainer(True),
    }  # fmt: skip
    times = bench.rounds({name: bench.step(trainer, 224) for name, trainer in trainers.items()}, seconds)
    count, cost = bench.options.batch, macs(DEIT, 224)
    return [row("deit_small at 224", name, own, times["anyres"], count, cost, cost) for name, own in times.items()]


def schedules(bench: Bench, seconds: float) -> list[dict[str, Any]]:
    """Per image, as each paper trains: the rate of a merger is that of all its sizes drawn alike."""
    sides = SIZES[: bench.options.sizes]
    vitar, pyramid = bench.trainer(VITAR), bench.trainer(PYRAMID)
    resformer = bench.trainer(RESFORMER, consistency=1.0)
    steps: Steps = {}
    for side in sides:
        steps |= {f"{VITAR} {side}": bench.step(vitar, side), f"{PYRAMID} {side}": bench.step(pyramid, side)}
    steps |= {DEIT: bench.step(bench.trainer(DEIT), 224)}
    replicas = [size[0] for size in EverySize([(side, side) for side in REPLICAS]).sizes_at(0)]
    steps |= {RESFORMER: bench.step(resformer, *replicas)}
    times = bench.rounds(steps, seconds)
    mean, ours = (
        [statistics.fmean(found) for found in zip(*(times[f"{name} {side}"] for side in sides), strict=True)]
        for name in (VITAR, PYRAMID)
    )
    count, cost = bench.options.batch, macs(VITAR, *sides) / len(sides)
    return [
        row("own schedule", VITAR, mean, mean, count, cost, cost),
        row("own schedule", PYRAMID, ours, mean, count, macs(PYRAMID, *sides) / len(sides), cost),
        row("own schedule", DEIT, times[DEIT], mean, count, macs(DEIT, 224), cost),
        row("own schedule", RESFORMER, times[RESFORMER], mean, count, macs(RESFORMER, *REPLICAS), cost),
    ]


def same_size(bench: Bench, side: int, seconds: float) -> list[dict[str, Any]]:
    names = [VITAR, PYRAMID, *(name for name in (DEIT, RESFORMER) if bench.fits(name, side))]
    times = bench.rounds({name: bench.step(bench.trainer(name), side) for name in names}, seconds)
    count, cost = bench.options.batch, macs(VITAR, side)
    found = [row(f"at {side}", name, times[name], times[VITAR], count, macs(name, side), cost) for name in names]
    left_out = [name for name in (DEIT, RESFORMER) if name not in names]
    return found + [
        {"comparison": f"at {side}", "model": name, "predicted": cost / macs(name, side), "skipped": "memory"}
        for name in left_out
    ]


def show(row: dict[str, Any]) -> str:
    start = f"{row['comparison']:<18} {row['model']:<24}"
    if "skipped" in row:
        return f"{start} left out ({row['skipped']}); predicted ratio {row['predicted']:.2f}"
    ratio, times = row["ratio"], row["seconds"]
    return (
        f"{start} {row['images_per_second']:7.2f} images/s  step {times['median']:.3f} s ({times['min']:.3f} to "
        f"{times['max']:.3f})  ratio {ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f}), "
        f"predicted {row['predicted']:.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600, help="time for all, warm-ups not counted")
    parser.add_argument(
        "--sizes", type=int, default=len(SIZES), choices=range(1, len(SIZES) + 1), help="only the first"
    )
    parser.add_argument("--batch", type=int, default=4, help="images per step")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:N or auto")
    parser.add_argument("--gigabytes", type=float, default=8, help="memory for the rivals' attention matrices")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "training.json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    bench = Bench(options)
    share = options.seconds / (4 + options.sizes)  # two for each of the first two comparisons, one for each size
    rows = []
    jobs = [lambda: against_timm(bench, 2 * share), lambda: schedules(bench, 2 * share)]
    jobs += [lambda side=side: same_size(bench, side, share) for side in SIZES[: options.sizes]]
    for job in jobs:
        rows += (found := job())
        print("\n".join(map(show, found)), flush=True)
    name = torch.cuda.get_device_name(bench.device) if bench.device.type == "cuda" else platform.processor()
    machine = {"processor": name or platform.machine(), "threads": options.threads, "precision": bench.precision}
    machine |= {"batch": options.batch, "torch": torch.__version__, "timm": timm.__version__}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")
    print(options.out)


if __name__ == "__main__":
    main()
