"""Preparing images against encoding them: JPEG file -> decoded -> resized -> normalised, and ViTAR on the result.

    python benchmarks/preprocessing.py [--out benchmarks/results/preprocessing.json]

One thread prepares and one thread encodes, alternately, so the ratio is how many encoding threads one preparing thread
keeps busy. Medians of many images with minimum and maximum.
"""

import argparse
import io
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter

import anyres
from anyres.data.decode import read_image
from anyres.data.transforms import eval_transform

STORED = ((480, 640), (1365, 2048), (3000, 4000))
SIDES = (224, 448, 1120)


def photograph(height: int, width: int) -> bytes:
    """A JPEG of quality 90 with structure at all scales, as a photograph has."""
    random = np.random.default_rng(0)
    layers = np.zeros((height, width, 3), np.float32)
    for scale in (1, 4, 16, 64, 256):
        noise = random.integers(0, 256, (-(-height // scale), -(-width // scale), 3), dtype=np.uint8)
        layers += np.asarray(Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)) * (scale**0.5)
    layers = 255 * (layers - layers.min()) / np.ptp(layers)
    file = io.BytesIO()
    Image.fromarray(layers.astype(np.uint8)).filter(ImageFilter.GaussianBlur(1)).save(file, "JPEG", quality=90)
    return file.getvalue()


def seconds(function: Callable[[], object], times: int) -> list[float]:
    found = []
    for _ in range(times):
        start = time.perf_counter()
        function()
        found.append(time.perf_counter() - start)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "preprocessing.json")
    parser.add_argument("--runs", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(1)
    models = {
        name: anyres.create_model(name).eval().bfloat16() for name in ("vitar_small_patch16", "vitar_base_patch16")
    }
    rows = []
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        for height, width in STORED:
            path = Path(folder) / f"{height}x{width}.jpg"
            path.write_bytes(photograph(height, width))
            for side in (side for side in SIDES if side <= height):
                transform = eval_transform((side, side), (0.5,) * 3, (0.5,) * 3)
                images = torch.randn(1, 3, side, side).bfloat16()
                prepare = [lambda path=path, transform=transform: transform(read_image(path))]
                encode = [lambda model=model, images=images: model(images) for model in models.values()]
                ways = dict(zip(["prepare", *models], [*prepare, *encode], strict=True))
                taken: dict[str, list[float]] = {name: [] for name in ways}
                for _ in range(options.runs):
                    for name, way in ways.items():
                        taken[name] += seconds(way, 1)
                medians = {name: statistics.median(times) for name, times in taken.items()}
                spread = {name: [min(times), max(times)] for name, times in taken.items()}
                rows.append({"stored": [height, width], "side": side, "seconds": medians, "spread": spread})
                shown = ", ".join(f"{name} {1000 * value:.0f} ms" for name, value in medians.items())
                print(f"{height}x{width} JPEG to {side}: {shown}", flush=True)
    machine = {"processor": platform.processor() or platform.machine(), "threads": 1, "precision": "bfloat16"}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")
    print(options.out)


if __name__ == "__main__":
    main()
