"""ViTAR-B/16 with the paper's merger and with the pyramid against timm's ViT-B/16, and the share of a measured ceiling.

    python benchmarks/forward.py [--quick] [--threads 2] [--out benchmarks/results/forward.json]

The models of a size run in turn (A B C A B C ...) in one process, after a warm-up of each. Times are medians with
minimum and maximum; ratios are medians over the rounds: timm's time over that of the paper's merger, and the pyramid's
over it. The ceiling is a 3136x768x3072 product in the same precision, measured before each size; the share of it is the
multiply-accumulates of the plain structure (`convention="plain"`) x 2 / time / ceiling. Memory is the most bytes of
tensors alive at once beyond weights and image. Takes about twenty minutes on two cores.
"""

import argparse
import json
import math
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import timm
import torch

import anyres
from anyres.costs.memory import peak_tensor_bytes

AGAINST_TIMM = (224, 448, 896, 1120)
ALONE = (1792, 2240, 2800, 3360, 4032)
BATCHED = (224, 448, 896)
BATCH = 8


def seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def ceiling(dtype: torch.dtype) -> float:
    """Floating-point operations per second of a large matrix product: the best of many, after a warm-up."""
    left, right = torch.randn(3136, 768, dtype=dtype), torch.randn(768, 3072, dtype=dtype)
    best = min(seconds(lambda: left @ right) for _ in range(30))
    return 2 * 3136 * 768 * 3072 / best


def spread(times: list[float]) -> dict[str, float]:
    return {"median": statistics.median(times), "min": min(times), "max": max(times)}


@torch.inference_mode()
def compare(side: int, batch: int, dtype: torch.dtype, models: dict[str, torch.nn.Module], budget: float) -> dict:
    """All models on the same images; "vitar" is what the others are compared with."""
    image = torch.randn(batch, 3, side, side, dtype=dtype)
    peak = ceiling(dtype)
    first = sum(seconds(lambda model=model: model(image)) for model in models.values())  # type: ignore[misc]
    times: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(max(3, min(40, int(budget / first)))):
        for name, model in models.items():
            times[name].append(seconds(lambda model=model: model(image)))  # type: ignore[misc]
    row: dict = {"side": side, "batch": batch, "precision": str(dtype).removeprefix("torch.")}
    row |= {"runs": len(times["vitar"]), "ceiling_gflops": peak / 1e9}
    for name, prefix in (("vitar", ""), ("pyramid", "pyramid_")):
        macs = batch * anyres.cost(models[name], (side, side), "plain", memory=False).macs
        row |= {name: spread(times[name]), f"{prefix}gmacs": macs / 1e9}
        row[f"{prefix}share"] = 2 * macs / statistics.median(times[name]) / peak
        row[f"{prefix}megabytes"] = peak_tensor_bytes(lambda name=name: models[name](image)) / 1e6  # type: ignore[misc]
    pairs = list(zip(times["vitar"], times["pyramid"], strict=True))
    row["pyramid_ratio"] = spread([pyramid / paper for paper, pyramid in pairs])
    if "timm" in models:
        row["timm"], row["timm_megabytes"] = (
            spread(times["timm"]),
            peak_tensor_bytes(lambda: models["timm"](image)) / 1e6,
        )
        row["ratio"] = spread([other / own for own, other in zip(times["vitar"], times["timm"], strict=True)])
    return row


def show(row: dict) -> str:
    own, pyramid = row["vitar"], row["pyramid_ratio"]
    text = f"{row['precision']:>9} {row['batch']} x {row['side']:>4} px"
    text += f"  vitar {own['median']:.3f} s ({own['min']:.3f} to {own['max']:.3f})"
    text += f"  share of ceiling {row['share']:.2f}  {row['megabytes']:.0f} MB"
    text += f"  pyramid/vitar {pyramid['median']:.2f} ({pyramid['min']:.2f} to {pyramid['max']:.2f})"
    text += f"  share {row['pyramid_share']:.2f}  {row['pyramid_megabytes']:.0f} MB"
    if "timm" in row:
        ratio = row["ratio"]
        text += f"  timm {row['timm']['median']:.3f} s"
        text += f"  timm/vitar {ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})"
    return text


def growth(rows: list[dict], precision: str) -> dict[str, float]:
    """Exponents of time and memory against pixels, between the smallest and the largest size measured alone."""
    few = [row for row in rows if row["precision"] == precision and row["batch"] == 1 and row["side"] in ALONE]
    if len(few) < 2:
        return {}
    pixels = 2 * math.log(few[-1]["side"] / few[0]["side"])
    seconds = math.log(few[-1]["vitar"]["median"] / few[0]["vitar"]["median"])
    return {"time": seconds / pixels, "memory": math.log(few[-1]["megabytes"] / few[0]["megabytes"]) / pixels}


def equal_latency(rows: list[dict], precision: str) -> list[dict]:
    """For each size of timm's model the size that ViTAR sees in the same time, interpolated between those measured."""
    single = [row for row in rows if row["precision"] == precision and row["batch"] == 1]
    points = [(math.log(row["vitar"]["median"]), math.log(row["side"])) for row in single]
    found = []
    for row in single:
        wanted = math.log(row["timm"]["median"]) if "timm" in row else math.inf
        for (t0, s0), (t1, s1) in zip(points, points[1:], strict=False):
            if t0 <= wanted <= t1:
                side = math.exp(s0 + (s1 - s0) * (wanted - t0) / (t1 - t0))
                found.append({"timm_side": row["side"], "vitar_side": side, "pixels": (side / row["side"]) ** 2})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the two smallest sizes only")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=15, help="time for each size and precision")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "forward.json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    against, alone = (AGAINST_TIMM[:2], ()) if options.quick else (AGAINST_TIMM, ALONE)
    rows = []
    for dtype in (torch.bfloat16, torch.float32):
        ours = {
            "vitar": anyres.create_model("vitar_base_patch16"),
            "pyramid": anyres.create_model("vitar_base_patch16", merger="pyramid"),
        }
        all_models = ours | {"timm": timm.create_model("vit_base_patch16_224", dynamic_img_size=True)}
        for model in all_models.values():
            model.eval().to(dtype)
        for side in against + alone:
            rows.append(compare(side, 1, dtype, all_models if side in against else ours, options.seconds))
            print(show(rows[-1]), flush=True)
        for side in BATCHED[:2] if options.quick else BATCHED:
            rows.append(compare(side, BATCH, dtype, all_models, options.seconds))
            print(show(rows[-1]), flush=True)
    machine = {"processor": platform.processor() or platform.machine(), "threads": options.threads}
    machine |= {"torch": torch.__version__, "timm": timm.__version__}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    found: dict = {"machine": machine, "rows": rows}
    for precision in ("bfloat16", "float32"):
        found[precision] = {"growth": growth(rows, precision), "equal_latency": equal_latency(rows, precision)}
        print(precision, found[precision])
    options.out.write_text(json.dumps(found, indent=1) + "\n")
    print(options.out)


if __name__ == "__main__":
    main()
