"""Images larger than memory under dense tasks: peak memory against the budget, and speed, of `anyres predict`.

    python benchmarks/dense_huge.py [--side 12288] [--kinds ...] [--out FILE]

A tiled TIFF of noise and rectangles is looked at by windows of 512 pixels by a small segmenter of 5 classes, one of
150 (on two rows of windows of the same width) and a small detector, untrained. Every row is a process of its own: its
peak resident memory (getrusage) after a prediction less that before it, the model being loaded and called once. Linux
only: there it is in kilobytes.
"""

import argparse
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import tifffile
import torch

from anyres.models.architectures import DETECTOR, SEGMENTER
from anyres.models.detector import Detector
from anyres.models.segmenter import Segmenter
from anyres.models.weights.files import save
from anyres.predict.config import DetectConfig, SegmentConfig
from anyres.predict.detect import find_objects
from anyres.predict.segment import segment

TILE, WINDOW = 256, 512
SMALL = {"width": 64, "heads": 4, "patch_size": 32, "grid": 8, "cells": "1x1"}
BUDGETS = {"segmentation, 5 classes": "500MB", "segmentation, 150 classes": "2GB", "detection": "500MB"}
KINDS = tuple(BUDGETS)


def write_tiff(path: Path, height: int, width: int) -> None:
    def tiles():
        random = np.random.default_rng(0)
        for _ in range(height // TILE * width // TILE):
            tile = np.broadcast_to(random.integers(0, 200, 3, np.uint8), (TILE, TILE, 3)).copy()
            tile[60:160, 40:200] = random.integers(0, 255, 3, np.uint8)
            yield tile + random.integers(0, 9, tile.shape, np.uint8)

    options = {"tile": (TILE, TILE), "photometric": "rgb", "compression": "zlib"}
    tifffile.imwrite(path, tiles(), shape=(height, width, 3), dtype=np.uint8, **options)


def save_models(folder: Path) -> None:
    torch.manual_seed(0)
    for kind in KINDS[:2]:
        count = 5 if kind == KINDS[0] else 150
        head = {"num_classes": count, "head_channels": 32, "auxiliary_channels": 0, "taps": (0, 1, 2, 3), "depth": 4}
        model = Segmenter(SEGMENTER.get_config("upernet_vitar_small_patch16", **SMALL, **head))
        names = [str(label) for label in range(count)]
        save(folder / kind, model, name=None, classes=names, training_sizes=[(WINDOW, WINDOW)])
    head = {"num_classes": 5, "channels": 32, "box_features": 64, "min_size": WINDOW, "max_size": WINDOW, "depth": 4}
    detector = Detector(DETECTOR.get_config("mask_rcnn_vitar_small_patch16", **SMALL, **head, test_proposals=100))
    names, ids = [str(label) for label in range(5)], list(range(5))
    sizes = [(WINDOW, WINDOW)]
    save(folder / KINDS[2], detector, name=None, classes=names, training_sizes=sizes, extra={"category_ids": ids})


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(kind: str, budget: str, image: Path, folder: Path) -> dict:
    """One row, in a process of its own."""
    torch.set_num_threads(1)
    small = folder / "small.tif"
    write_tiff(small, TILE, TILE)
    settings = {"run": folder / kind, "memory_budget": budget, "device": "cpu"}

    def run(path: Path) -> dict:
        out = folder / f"{kind} {path.stem}"
        if kind == KINDS[2]:
            return find_objects(DetectConfig(inputs=(path,), out=out, **settings, threshold=0.2), progress=False)[0]
        return segment(SegmentConfig(inputs=(path,), out=out, **settings), progress=False)[0]

    run(small)  # what libraries allocate once
    before, start = peak(), time.perf_counter()
    entry = run(image)
    seconds = time.perf_counter() - start
    size = entry["height"] * entry["width"]
    return {
        "kind": kind, "height": entry["height"], "width": entry["width"], "budget": budget, "window": entry["window"],
        "peak_megabytes": (peak() - before) / 1e6, "before_megabytes": before / 1e6, "seconds": seconds,
        "megapixels_per_second": size / 1e6 / seconds, "objects": entry.get("objects"),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=12288, help=f"a multiple of {TILE}")
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "dense_huge.json")
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        kind, budget, image, folder = options.one
        print(json.dumps(measure(kind, budget, Path(image), Path(folder))))
        return
    machine = {"processor": platform.processor() or platform.machine(), "threads": 1, "torch": torch.__version__}
    rows: list[dict] = []
    with tempfile.TemporaryDirectory() as name:
        save_models(Path(name))
        for kind in options.kinds:
            image = Path(name) / "huge.tif"
            write_tiff(image, 2 * WINDOW if kind == KINDS[1] else options.side, options.side)
            command = [sys.executable, __file__, "--one", kind, BUDGETS[kind], str(image), name]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            rows.append(json.loads(done.stdout))
            print(rows[-1], flush=True)
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")
    print(options.out)


if __name__ == "__main__":
    main()
