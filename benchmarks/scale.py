"""Training by one and by two processes on this machine: images per second, the loader alone, and a restart.

    python benchmarks/scale.py [--model anyres_tiny_patch16] [--sizes 96 160 224] [--steps 40] [--batch-size 16]
        [--out benchmarks/results/scale.json]

One process with one thread and with two, two processes with one thread each (DDP, and FSDP2: `--shard`), all with gloo
on the CPU and the same global batch, take turns three times; figures are medians over steps after the first ten, and
over the turns, with the least and the most of them. The loader alone makes the same batches in one process. A restart
is the time from the start of a command whose run is half done to its first new step.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from anyres.cli import main as anyres
from anyres.files import write_json
from anyres.training import TrainConfig
from anyres.training.runlog import STEPS, read_rows

WAYS = {
    "1 process, 1 thread": (1, 1, False), "1 process, 2 threads": (1, 2, False), "2 processes, DDP": (2, 1, False),
    "2 processes, FSDP2": (2, 1, True),
}  # fmt: skip
FIRST = 10  # steps that do not count


def command(options: argparse.Namespace, data: Path, out: Path, way: str, steps: int) -> list[str]:
    processes, threads, shards = WAYS[way]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"] if processes == 2 else []
    given = [
        sys.executable, *launcher, "-m", "anyres", "train", "--data", str(data), "--out", str(out),
        "--model", options.model,
        "--sizes", *map(str, options.sizes), "--steps", str(steps), "--batch-size", str(options.batch_size),
        "--warmup-steps", "5", "--threads", str(threads), "--device", "cpu", "--no-progress", "--no-tensorboard",
        "--checkpoint-every", "100000", "--validate-limit", "1",
    ]  # fmt: skip
    return [*given, "--shard"] if shards else given


def run(options: argparse.Namespace, data: Path, way: str, folder: Path) -> float:
    """Images per second."""
    out = folder / f"{time.monotonic_ns()}"
    subprocess.run(command(options, data, out, way, options.steps), check=True, stderr=subprocess.DEVNULL)
    return statistics.median(row["images_per_second"] for row in read_rows(out / STEPS)[FIRST:])


def loader(options: argparse.Namespace, data: Path, folder: Path) -> float:
    """Images per second of the loader alone."""
    task = TrainConfig(
        data=data, out=folder / "none", model=options.model, sizes=tuple(map(str, options.sizes)),
        batch_size=options.batch_size, threads=1, device="cpu",
    ).make_task()  # fmt: skip
    times = []
    before = time.perf_counter()
    for _ in task.batches(0, 30):
        times.append(time.perf_counter() - before)
        before = time.perf_counter()
    return options.batch_size / statistics.median(times)


def restart(options: argparse.Namespace, data: Path, way: str, folder: Path) -> float:
    """Seconds."""
    out = folder / "restart"
    given = [*command(options, data, out, way, options.steps), "--checkpoint-every", "1"]
    begun = subprocess.Popen(given, stderr=subprocess.DEVNULL)
    while begun.poll() is None and len(read_rows(out / STEPS)) < options.steps // 2:
        time.sleep(0.01)
    begun.terminate()
    begun.wait()
    rows = len(read_rows(out / STEPS))
    start = time.perf_counter()
    again = subprocess.Popen(given, stderr=subprocess.DEVNULL)
    while again.poll() is None and len(read_rows(out / STEPS)) <= rows:
        time.sleep(0.01)
    found = time.perf_counter() - start
    again.terminate()
    again.wait()
    return found


def main() -> None:
    here = Path(__file__).parent
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="anyres_tiny_patch16")
    parser.add_argument("--sizes", type=int, nargs="+", default=(96, 160, 224))
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--out", type=Path, default=here / "results" / "scale.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = folder / "data"
        anyres(["synthesize", "glyphs", str(data), "--train", "200", "--val", "10", "--size", "224"])
        turns: dict[str, list[float]] = {way: [] for way in WAYS}
        for _ in range(options.turns):
            for way in WAYS:
                turns[way].append(run(options, data, way, folder))
        rows: dict[str, Any] = {
            way: {"images per second": statistics.median(found), "least": min(found), "most": max(found)}
            for way, found in turns.items()
        }
        restarts = {way: restart(options, data, way, folder / way[:1]) for way in list(WAYS)[1:3]}
        result = {
            "model": options.model, "sizes": options.sizes, "batch": options.batch_size, "steps": options.steps,
            "processor": platform.processor() or platform.machine(), "rows": rows,
            "loader alone, images per second": loader(options, data, folder),
            "seconds to restart": restarts,
        }  # fmt: skip
    write_json(options.out, result)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
