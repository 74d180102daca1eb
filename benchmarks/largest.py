"""How well latency and memory are predicted, and whether a memory budget is kept, in one run.

    python benchmarks/largest.py [--threads 2] [--recalibrate] [--out benchmarks/results/largest.json]

Calibrates ViTAR-B/16 (or uses what this machine has remembered), then measures random sizes of all aspects, sides of
any number of pixels, that were not used for calibration: the median latency of several passes in turns, and the peak
memory of a fresh process. Then random choices: a small model, aspect, batch and memory budget are drawn, the largest
size is asked for, and its pass is measured. Latencies mean something on a quiet machine only. Takes about fifteen
minutes on two cores.
"""

import argparse
import json
import math
import platform
import random
import statistics
from collections import defaultdict
from pathlib import Path

import torch
from tqdm import tqdm

import anyres
from anyres.costs.calibrate import calibration, calibration_shapes
from anyres.costs.largest import Sizer
from anyres.costs.largest_config import Limits
from anyres.costs.probe import Shape, peak_bytes
from anyres.costs.timing import latency

SMALL_MODELS = ("vitar_tiny_patch16", "vitar_small_patch16", "vitar_small_conv16", "deit_tiny_patch16")
PIXELS = (150**2, 2800**2)  # of random sizes
GIGABYTES = (0.03, 0.4)  # of random budgets


def between(draw: random.Random, low: float, high: float) -> float:
    """Evenly on a scale of ratios."""
    return math.exp(draw.uniform(math.log(low), math.log(high)))


def random_size(draw: random.Random) -> tuple[int, int]:
    pixels, aspect = between(draw, *PIXELS), between(draw, 1 / 3, 3)
    return round(math.sqrt(pixels / aspect)), round(math.sqrt(pixels * aspect))


@torch.inference_mode()
def median_seconds(model: anyres.ViTAR, shapes: list[Shape], rounds: int) -> dict[Shape, float]:
    found = defaultdict(list)
    for shape in tqdm(shapes * rounds, desc="latency"):
        batch, height, width = shape
        images = torch.rand(batch, 3, height, width)
        found[shape].append(latency(lambda images=images: model(images), 3, 1, 2.0).p50 / 1e3)
    return {shape: statistics.median(times) for shape, times in found.items()}


def within(ratios: list[float], share: float) -> float:
    return sum(abs(ratio - 1) <= share for ratio in ratios) / len(ratios)


def predictions(model: anyres.ViTAR, count: int, options: argparse.Namespace, draw: random.Random) -> dict:
    """Predicted and measured latency and memory of random sizes."""
    costs = calibration(model, recalibrate=options.recalibrate)
    used = set(calibration_shapes(costs.counts))
    shapes = [shape for shape in ((1, *random_size(draw)) for _ in range(count)) if shape not in used]
    seconds = median_seconds(model, shapes, options.rounds)
    rows = []
    for shape, peak in zip(shapes, tqdm(peak_bytes(model, shapes), desc="memory", total=len(shapes)), strict=True):
        times = {"milliseconds": 1e3 * seconds[shape], "predicted_milliseconds": costs.milliseconds(shape)}
        memory = {"bytes": peak, "predicted_bytes": costs.bytes(shape), "bytes_at_most": costs.bytes_at_most(shape)}
        rows.append({"size": shape[1:], **times, **memory})
    by_time = [row["predicted_milliseconds"] / row["milliseconds"] for row in rows]
    by_memory = [row["predicted_bytes"] / row["bytes"] for row in rows]
    return {
        "latency_within_15_percent": within(by_time, 0.15),
        "memory_within_10_percent": within(by_memory, 0.1),
        "above_bound": sum(row["bytes"] > row["bytes_at_most"] for row in rows),
        "rows": rows,
    }


def choices(count: int, options: argparse.Namespace, draw: random.Random) -> dict:
    """The largest sizes for random memory budgets, and the memory that they really take."""
    models = {name: anyres.create_model(name).eval() for name in SMALL_MODELS}
    asked: dict[str, list] = defaultdict(list)
    for _ in range(count):
        name, batch = draw.choice(SMALL_MODELS), draw.choice((1, 1, 1, 2, 4))
        costs = calibration(models[name], recalibrate=options.recalibrate and not asked[name])
        gigabytes, aspect = between(draw, *GIGABYTES), between(draw, 1 / 3, 3)
        sizer = Sizer(costs=costs, limits=Limits(gigabytes=gigabytes), batch=batch)
        asked[name].append((gigabytes, (batch, *sizer.largest(aspect, 16))))
    rows = []
    for name, entries in asked.items():
        peaks = peak_bytes(models[name], [shape for _, shape in entries])
        for (gigabytes, shape), peak in zip(entries, tqdm(peaks, desc=name, total=len(entries)), strict=True):
            rows.append({"model": name, "gigabytes": gigabytes, "shape": shape, "measured_gigabytes": peak / 1e9})
    shares = [row["measured_gigabytes"] / row["gigabytes"] for row in rows]
    exceeded = sum(share > 1 for share in shares)
    return {"count": len(rows), "exceeded": exceeded, "median_share_used": statistics.median(shares), "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vitar_base_patch16", help="whose predictions are measured")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--sizes", type=int, default=40, help="random sizes to predict")
    parser.add_argument("--choices", type=int, default=200, help="random memory budgets")
    parser.add_argument("--rounds", type=int, default=3, help="turns in which latencies are measured")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--recalibrate", action="store_true", help="measure this machine again")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "largest.json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    draw = random.Random(options.seed)
    chosen = choices(options.choices, options, draw) if options.choices else None
    predicted = None
    if options.sizes:
        predicted = predictions(anyres.create_model(options.model).eval(), options.sizes, options, draw)
    machine = {"processor": platform.processor() or platform.machine(), "threads": options.threads}
    record = {"machine": machine | {"torch": torch.__version__}, "model": options.model}
    record |= {"predictions": predicted, "choices": chosen}
    for part in filter(None, (predicted, chosen)):
        print({key: value for key, value in part.items() if key != "rows"})
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(record, indent=1) + "\n")
    print(options.out)


if __name__ == "__main__":
    main()
