"""Images of mixed sizes and aspect ratios: ViTAR-B/16 against timm's NaFlexViT-B/16 at the same pixels, in one run.

    python benchmarks/mixed.py [--sides 224 896 1120] [--rounds 3] [--out benchmarks/results/mixed.json]

A set is eight images with the aspect ratios of photographs, screens and documents, each with about side x side pixels.
ViTAR takes them as one list. NaFlexViT takes them as its own loaders would give them, one batch padded to the longest
sequence with a mask, and one by one without any padding; the faster of the two is compared. Both run alternately.
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
from timm.data.naflex_transforms import patchify_image

import anyres

ASPECTS = (1.0, 4 / 3, 3 / 4, 3 / 2, 2 / 3, 16 / 9, 9 / 16, 21 / 29.7)


def make_set(side: int, dtype: torch.dtype) -> list[torch.Tensor]:
    """Whole patches, so that both models see the same pixels."""
    sizes = [(round(side / a**0.5 / 16) * 16, round(side * a**0.5 / 16) * 16) for a in ASPECTS]
    return [torch.randn(3, height, width, dtype=dtype) for height, width in sizes]


def padded(images: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    """One batch of NaFlexViT: (B, N, 3 * 16 * 16) patches, their coordinates and which are real."""
    found = [patchify_image(image, (16, 16)) for image in images]
    longest = max(len(patches) for patches, _, _ in found)
    batch = {
        "patches": torch.zeros(len(found), longest, found[0][0].shape[-1], dtype=images[0].dtype),
        "patch_coord": torch.zeros(len(found), longest, 2, dtype=torch.long),
        "patch_valid": torch.zeros(len(found), longest, dtype=torch.bool),
    }
    for index, (patches, coord, valid) in enumerate(found):
        batch["patches"][index, : len(patches)] = patches
        batch["patch_coord"][index, : len(patches)] = coord
        batch["patch_valid"][index, : len(patches)] = valid
    return batch


def seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


@torch.inference_mode()
def compare(side: int, rounds: int, ours: torch.nn.Module, theirs: torch.nn.Module, dtype: torch.dtype) -> dict:
    images = make_set(side, dtype)
    batch, singles = padded(images), [padded([image]) for image in images]
    ways = {
        "vitar": lambda: ours(images),
        "naflexvit, padded": lambda: theirs(batch),
        "naflexvit, one by one": lambda: [theirs(single) for single in singles],
    }
    for way in ways.values():
        way()
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            times[name].append(seconds(way))
    best = min((name for name in ways if name != "vitar"), key=lambda name: statistics.median(times[name]))
    ratios = [other / own for own, other in zip(times["vitar"], times[best], strict=True)]
    speeds = {name: len(images) / statistics.median(taken) for name, taken in times.items()}
    return {
        "side": side, "sizes": [list(image.shape[1:]) for image in images], "images_per_second": speeds,
        "compared": best, "ratio": {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", type=int, nargs="+", default=(224, 896, 1120))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "mixed.json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    dtype = torch.bfloat16
    ours = anyres.create_model("vitar_base_patch16", num_classes=0).eval().to(dtype)
    theirs = timm.create_model("naflexvit_base_patch16_gap", num_classes=0).eval().to(dtype)
    rows = []
    for side in options.sides:
        rows.append(compare(side, options.rounds, ours, theirs, dtype))
        row = rows[-1]
        speeds = ", ".join(f"{name} {speed:.2f}" for name, speed in row["images_per_second"].items())
        ratio = row["ratio"]
        print(
            f"{side}: images/s {speeds}; {ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})", flush=True
        )
    machine = {"processor": platform.processor() or platform.machine(), "threads": options.threads}
    machine |= {"torch": torch.__version__, "timm": timm.__version__, "precision": "bfloat16"}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")
    print(options.out)


if __name__ == "__main__":
    main()
