"""Images larger than memory: peak memory, speed and growth of `anyres.stream`, from 2k x 2k to 64k x 64k and beyond.

    python benchmarks/stream.py [--models vitar_base_patch16 anyres_base_patch16] [--sides 2048 4096 ...] [--runs 1]
        [--huge HEIGHT WIDTH] [--out FILE]

The models take turns at every size, --runs times; the ratio is that of a model's time to the first one's, the median
over the runs.
Every row is a process of its own: it loads the model, warms up, notes its anonymous resident memory, then streams one
image while a thread samples that memory. Sides up to 16384 come from a tiled, uncompressed TIFF on disk, larger ones
from a source that computes its pixels. Linux only: the memory is RssAnon of /proc/self/status.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import torch

import anyres

SIDES = (2048, 4096, 8192, 16384, 32768, 65536)
FROM_DISK = 16384
TILE = 512


class Waves:
    """A source without data: smooth waves with a little texture, a function of the place."""

    def __init__(self, height: int, width: int) -> None:
        self.size = (height, width)

    def read_region(self, y: int, x: int, height: int, width: int) -> np.ndarray:
        rows = np.arange(y, y + height, dtype=np.uint32)[:, None, None]
        cols = np.arange(x, x + width, dtype=np.uint32)[None, :, None]
        channels = np.arange(1, 4, dtype=np.uint32)
        return ((rows * 3 + cols * channels + (rows ^ cols) % 7) // 5 % 256).astype(np.uint8)


def write_tiff(path: Path, side: int) -> None:
    import tifffile

    waves = Waves(side, side)
    tiles = (waves.read_region(y, x, TILE, TILE) for y in range(0, side, TILE) for x in range(0, side, TILE))
    tifffile.imwrite(path, tiles, shape=(side, side, 3), dtype=np.uint8, tile=(TILE, TILE), photometric="rgb")


def resident() -> int:
    """Bytes of anonymous resident memory."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status has no RssAnon")


class Sampler(threading.Thread):
    """The most resident memory, looked at every few milliseconds."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak, self.stop = 0, threading.Event()

    def run(self) -> None:
        while not self.stop.wait(0.005):
            self.peak = max(self.peak, resident())


def measure(options: argparse.Namespace) -> dict:
    """One row, in a process of its own."""
    torch.set_num_threads(options.threads)
    height, width = options.one
    model = anyres.create_model(options.model, num_classes=0).eval().to(getattr(torch, options.precision))
    anyres.stream(model, Waves(64, 64), progress=False)  # what libraries allocate once
    source = options.tiff if options.tiff else Waves(height, width)
    before = resident()
    sampler = Sampler()
    sampler.start()
    start = time.perf_counter()
    features = anyres.stream(model, source, progress=False)
    seconds = time.perf_counter() - start
    sampler.stop.set()
    sampler.join()
    plan = model.plan(height, width)
    return {
        "model": options.model, "height": height, "width": width,
        "source": "tiled TIFF" if options.tiff else "computed",
        "seconds": seconds, "megapixels_per_second": height * width / 1e6 / seconds,
        "peak_megabytes": (sampler.peak - before) / 1e6, "model_megabytes": before / 1e6, "plan": str(plan),
        "gmacs": anyres.cost(model, (height, width), "plain").macs / 1e9 if max(height, width) <= 16384 else None,
        "finite": bool(torch.isfinite(features.pooled).all()),
    }  # fmt: skip


def rows_at(options: argparse.Namespace, height: int, width: int, folder: Path) -> list[dict]:
    """A row of each model, in turn, for each of the runs."""
    command = [sys.executable, __file__, "--one", str(height), str(width)]
    command += ["--precision", options.precision, "--threads", str(options.threads)]
    path = folder / f"{height}.tif"
    if height == width and height <= FROM_DISK:
        write_tiff(path, height)
        command += ["--tiff", str(path)]
    calls = [[*command, "--model", model] for _ in range(options.runs) for model in options.models]
    found = [json.loads(subprocess.run(call, check=True, stdout=subprocess.PIPE, text=True).stdout) for call in calls]
    path.unlink(missing_ok=True)
    return found


def show(rows: list[dict], models: list[str]) -> str:
    """The rows of one size, run by run, a line for each model."""
    lines = []
    for place, model in enumerate(models):
        own, first = rows[place :: len(models)], rows[:: len(models)]
        ratio = statistics.median(row["seconds"] / base["seconds"] for row, base in zip(own, first, strict=True))
        times = [row["seconds"] for row in own]
        lines.append(
            f"{own[0]['height']}x{own[0]['width']} {own[0]['source']} {model}: "
            f"{max(row['peak_megabytes'] for row in own):.0f} MB above the model, {statistics.median(times):.1f} s "
            f"({min(times):.1f} to {max(times):.1f}), ratio {ratio:.2f}, "
            f"{statistics.median(row['megapixels_per_second'] for row in own):.1f} Mpx/s"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["vitar_base_patch16", "anyres_base_patch16"])
    parser.add_argument("--precision", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--sides", type=int, nargs="+", default=SIDES)
    parser.add_argument("--runs", type=int, default=1, help="of every model at every size")
    parser.add_argument("--huge", type=int, nargs=2, help="one more image, HEIGHT WIDTH")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "stream.json")
    parser.add_argument("--model", help=argparse.SUPPRESS)
    parser.add_argument("--one", type=int, nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--tiff", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options)))
        return
    sizes = [(side, side) for side in options.sides] + ([tuple(options.huge)] if options.huge else [])
    machine = {"processor": platform.processor() or platform.machine(), "threads": options.threads}
    machine |= {"torch": torch.__version__, "models": options.models, "precision": options.precision}
    rows: list[dict] = []
    with tempfile.TemporaryDirectory() as folder:
        for height, width in sizes:
            found = rows_at(options, height, width, Path(folder))
            rows += found
            print(show(found, options.models), flush=True)
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")
    print(options.out)


if __name__ == "__main__":
    main()
