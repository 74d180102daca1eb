"""ViTAR-B/16 against timm's ViT-B/16, batch 1, and both against a measured matrix-product ceiling, in one run.

    python benchmarks/forward.py [--quick] [--threads 2] [--out benchmarks/results/forward.json]

The two models of a size run alternately (A B A B ...), after a warm-up of each. Times are medians with minimum and
maximum; the ratio is the median over the pairs. The ceiling is a 3136x768x3072 product in the same precision, measured
before each size; a model's share of it is its executed multiply-accumulates x 2 / time / ceiling. Takes about ten
minutes on two cores.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import timm
import torch

import anyres

AGAINST_TIMM = (224, 448, 896, 1120)
ALONE = (1792, 2240, 2800, 3360, 4032)


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
def compare(
    side: int, dtype: torch.dtype, ours: torch.nn.Module, theirs: torch.nn.Module | None, budget: float
) -> dict:
    image = torch.randn(1, 3, side, side, dtype=dtype)
    peak = ceiling(dtype)
    first = seconds(lambda: ours(image)) + (seconds(lambda: theirs(image)) if theirs is not None else 0)
    pairs = max(3, min(40, int(budget / first)))
    mine, others = [], []
    for _ in range(pairs):
        mine.append(seconds(lambda: ours(image)))
        if theirs is not None:
            others.append(seconds(lambda: theirs(image)))
    macs = anyres.cost(ours, (side, side), "plain").macs
    row = {"side": side, "precision": str(dtype).removeprefix("torch."), "runs": pairs, "vitar": spread(mine)}
    row |= {"gmacs": macs / 1e9, "ceiling_gflops": peak / 1e9, "share": 2 * macs / statistics.median(mine) / peak}
    if theirs is not None:
        row["timm"] = spread(others)
        row["ratio"] = spread([other / own for own, other in zip(mine, others, strict=True)])
    return row


def show(row: dict) -> str:
    own = row["vitar"]
    text = (
        f"{row['precision']:>9} {row['side']:>5} px  vitar {own['median']:.3f} s ({own['min']:.3f} to {own['max']:.3f})"
    )
    text += f"  share of ceiling {row['share']:.2f}"
    if "timm" in row:
        ratio = row["ratio"]
        text += f"  timm {row['timm']['median']:.3f} s"
        text += f"  timm/vitar {ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})"
    return text


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
        ours = anyres.create_model("vitar_base_patch16").eval().to(dtype)
        theirs = timm.create_model("vit_base_patch16_224", dynamic_img_size=True).eval().to(dtype)
        for side in against + alone:
            rows.append(compare(side, dtype, ours, theirs if side in against else None, budget=options.seconds))
            print(show(rows[-1]), flush=True)
    machine = {"processor": platform.processor() or platform.machine(), "threads": options.threads}
    machine |= {"torch": torch.__version__, "timm": timm.__version__}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")
    print(options.out)


if __name__ == "__main__":
    main()
