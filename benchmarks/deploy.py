"""One exported file against the model: latency at several sizes and in a mixed set, and memory over 200 random sizes.

    python benchmarks/deploy.py [--model anyres_small_patch16] [--sides 224 448 1120 2240] [--rounds 7] [--threads 2]
        [--out benchmarks/results/deploy.json]

The model in PyTorch as it is (eager) and with compiled parts, the file by onnxruntime and by OpenVINO (if that is
installed; it is told to compute in float32), and the file with 8-bit weights by onnxruntime take turns; figures
are medians of the rounds after one that does not count, and ratios to eager round by round. The mixed set is eight
images with about a million pixels together. Memory is the peak of a process that predicts images of 200 random sizes of
up to a million pixels, with and without onnxruntime's arena, above what it held after one of 64x64.
"""

import argparse
import json
import multiprocessing
import platform
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import onnxruntime
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic

import anyres
from anyres.files import write_json

matplotlib.use("Agg")
import matplotlib.pyplot as plt

Way = Callable[[Sequence[np.ndarray]], object]
MIXED = ((224, 224), (480, 360), (360, 480), (512, 288), (97, 333), (640, 427), (50, 900), (300, 211))


def session(path: Path, threads: int, arena: bool = False) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.enable_cpu_mem_arena = options.enable_mem_pattern = arena
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def by_session(path: Path, threads: int) -> Way:
    running = session(path, threads)
    return lambda images: [running.run(["logits"], {"images": image}) for image in images]


def by_openvino(path: Path, threads: int) -> Way:
    import openvino

    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    network = openvino.Core().compile_model(openvino.convert_model(path), "CPU", settings)
    return lambda images: [network(image) for image in images]


def by_torch(model: torch.nn.Module) -> Way:
    def run(images: Sequence[np.ndarray]) -> object:
        tensors = [torch.from_numpy(image) for image in images]
        return model(tensors[0]) if len(tensors) == 1 else model([tensor[0] for tensor in tensors])

    return run


def ways(model: anyres.ViTAR, folder: Path, threads: int) -> tuple[dict[str, Way], dict[str, float]]:
    """How an image can be answered, and what files weigh in MB."""
    path, small = folder / "model.onnx", folder / "model-int8.onnx"
    start = time.perf_counter()
    anyres.export(model, path, verify=6, verify_pixels=10**5)
    export = time.perf_counter() - start
    quantize_dynamic(path, small, op_types_to_quantize=["MatMul"], weight_type=QuantType.QInt8, per_channel=True)
    compiled = type(model)(model.config)
    compiled.load_state_dict(model.state_dict())
    compiled.eval().compile_parts()
    found = {
        "eager": by_torch(model), "compiled": by_torch(compiled), "onnxruntime": by_session(path, threads),
        "onnxruntime, int8": by_session(small, threads),
    }  # fmt: skip
    try:
        found["OpenVINO"] = by_openvino(path, threads)
    except ImportError:
        print("OpenVINO is not installed and left out")
    sizes = {each.stem: each.stat().st_size / 1e6 for each in (path, small)}
    return found, {**sizes, "seconds to export": export}


@torch.inference_mode()
def measure(found: dict[str, Way], images: Sequence[np.ndarray], rounds: int) -> dict[str, Any]:
    times: dict[str, list[float]] = {name: [] for name in found}
    for number in range(rounds + 1):
        for name, way in found.items():
            start = time.perf_counter()
            way(images)
            if number:
                times[name].append(time.perf_counter() - start)
    rows = {}
    for name, taken in times.items():
        ratios = [own / eager for own, eager in zip(taken, times["eager"], strict=True)]
        rows[name] = {"seconds": statistics.median(taken), "ratio": statistics.median(ratios),
                      "least": min(ratios), "most": max(ratios)}  # fmt: skip
    return rows


def memory(path: Path, arena: bool, threads: int) -> float:
    """MB, in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak, (path, arena, threads))


def _peak(path: Path, arena: bool, threads: int) -> float:
    running = session(path, threads, arena)
    draw = random.Random(0)
    sizes = [(64, 64)]
    while len(sizes) < 201:
        size = draw.randint(1, 2000), draw.randint(1, 2000)
        if size[0] * size[1] <= 10**6:
            sizes.append(size)
    before = 0.0
    for number, (height, width) in enumerate(sizes):
        running.run(["logits"], {"images": np.zeros((1, 3, height, width), np.float32)})
        if not number:
            before = _most_held()
    return _most_held() - before


def _most_held() -> float:
    """MB that this process has held at most; what `resource` tells begins with those of its parent."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1000


def draw(rows: dict[str, dict[str, Any]], path: Path) -> None:
    """Time relative to eager PyTorch, a group of bars for each size."""
    figure, axes = plt.subplots(figsize=(10, 4), layout="constrained")
    names = list(next(iter(rows.values())))
    for place, name in enumerate(names):
        at = np.arange(len(rows)) + (place - (len(names) - 1) / 2) * 0.16
        values = [row[name] for row in rows.values()]
        spread = [
            [value["ratio"] - value["least"] for value in values], [value["most"] - value["ratio"] for value in values]
        ]  # fmt: skip
        axes.bar(at, [value["ratio"] for value in values], 0.15, yerr=spread, label=name, error_kw={"linewidth": 0.8})
    axes.set_xticks(range(len(rows)), list(rows))
    axes.set(ylabel="time, eager PyTorch = 1", ylim=(0, None))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, ncols=5, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    here = Path(__file__).parent
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="anyres_small_patch16")
    parser.add_argument("--sides", type=int, nargs="+", default=(224, 448, 1120, 2240))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=here / "results" / "deploy.json")
    parser.add_argument("--image", type=Path, default=here.parent / "docs" / "images" / "deploy.png")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    model = anyres.create_model(options.model).eval()
    assert isinstance(model, anyres.ViTAR)
    numbers = np.random.default_rng(0)

    def noise(height: int, width: int) -> np.ndarray:
        return numbers.standard_normal((1, 3, height, width), np.float32)

    with tempfile.TemporaryDirectory() as folder:
        found, files = ways(model, Path(folder), options.threads)
        rows = {f"{side} px": measure(found, [noise(side, side)], options.rounds) for side in options.sides}
        rows["mixed set"] = measure(found, [noise(*size) for size in MIXED], options.rounds)
        path = Path(folder) / "model.onnx"
        peaks = {"with the arena": memory(path, True, options.threads), "without": memory(path, False, options.threads)}
    result = {
        "model": options.model, "threads": options.threads, "processor": platform.processor(),
        "onnxruntime": onnxruntime.__version__, "files": files, "rows": rows, "megabytes over 200 sizes": peaks,
    }  # fmt: skip
    write_json(options.out, result)
    draw(rows, options.image)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
