"""How long commands take that have next to nothing to do: what importing costs.

    python benchmarks/startup.py [--before CHECKOUT] [--runs 7] [--out benchmarks/results/startup.json]

Every command is a process of its own. With --before the commands of another checkout are run too, one of each in turn,
by the same Python and packages. Seconds are on the clock, and of the processor over all threads: median, least, most.
Where other work runs beside it ("load", at the end) the clock says more than a command needs; the processor does not.
"""

import argparse
import importlib.util
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
SAVE = """
import sys
import anyres

model = anyres.create_model("vitar_tiny_patch16", num_classes=2)
save = getattr(anyres, "save", None) or anyres.save_model  # as it was called before
save(sys.argv[1], model, name="vitar_tiny_patch16", classes=["ant", "bee"], training_sizes=[(224, 224)])
"""


def commands(run: Path, image: Path) -> dict[str, list[str]]:
    """What is timed, by what it is called in the results."""
    return {
        "--help": ["--help"],
        "train --help": ["train", "--help"],
        "plan-image": ["plan-image", "224", "224", "--out", str(image.with_name("plan.png"))],
        "cost": ["cost", "vitar_tiny_patch16", "224", "224"],
        "predict": ["predict", "--run", str(run), "--inputs", str(image), "--device", "cpu"],
    }


def seconds(checkout: Path, arguments: list[str]) -> tuple[float, float]:
    """Seconds on the clock and of the processor that a Python process takes with the modules of a checkout."""
    environment = os.environ | {"PYTHONPATH": str(checkout / "src")}
    used, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, *arguments], env=environment, check=True, stdout=subprocess.DEVNULL)
    taken, now = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return taken, now.ru_utime - used.ru_utime + now.ru_stime - used.ru_stime


def summary(taken: list[tuple[float, float]]) -> dict[str, dict[str, float]]:
    """Median, least and most of both kinds of seconds."""
    clock, processor = ([round(each, 3) for each in kind] for kind in zip(*taken, strict=True))
    return {
        name: {"median": statistics.median(kind), "least": min(kind), "most": max(kind)}
        for name, kind in (("clock", clock), ("processor", processor))
    }


def is_compiled() -> bool:
    """Whether the bytecode of installed packages is on disk."""
    spec = importlib.util.find_spec("torch")
    return spec is not None and spec.cached is not None and Path(spec.cached).exists()


def measure(checkouts: dict[str, Path], runs: int) -> list[dict]:
    """A row for every command: the seconds of each checkout."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "image.png"
        Image.new("RGB", (64, 48), (200, 90, 40)).save(image)
        for name, checkout in checkouts.items():
            seconds(checkout, ["-c", SAVE, f"{folder}/{name}"])
        for command in commands(Path(folder), image):
            taken: dict[str, list[tuple[float, float]]] = {name: [] for name in checkouts}
            for _ in range(runs):
                for name, checkout in checkouts.items():
                    arguments = commands(Path(folder) / name, image)[command]
                    taken[name].append(seconds(checkout, ["-m", "anyres.cli", *arguments]))
            rows.append({"command": command} | {name: summary(each) for name, each in taken.items()})
            shown = (f"{name} {rows[-1][name]['clock']['median']:.2f} s" for name in checkouts)
            print(f"anyres {command}: {', '.join(shown)}", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="another checkout to compare with")
    parser.add_argument("--runs", type=int, default=7, help="of every command in each checkout")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "startup.json")
    options = parser.parse_args()

    checkouts = ({} if options.before is None else {"before": options.before}) | {"now": ROOT}
    machine: dict[str, object] = {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "bytecode": is_compiled(),
    }
    rows = measure(checkouts, options.runs)
    machine["load"] = round(os.getloadavg()[0], 1)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps({"machine": machine, "runs": options.runs, "rows": rows}, indent=1) + "\n")
    print(options.out)


if __name__ == "__main__":
    main()
