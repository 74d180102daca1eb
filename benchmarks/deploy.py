"""Exported files against the model: latency at several sizes and in a mixed set, and memory over 200 random sizes.

    python benchmarks/deploy.py [--model anyres_small_patch16] [--sides 224 448 1120 2240] [--rounds 7] [--threads 2]
        [--out benchmarks/results/deploy.json]

The model in PyTorch as it is (eager) and with compiled parts; its .onnx file by onnxruntime, with dynamic and with
static 8-bit weights; its .xml file by OpenVINO computing in float32, in bfloat16 (quick only on processors that have
it), and with static 8-bit weights. They take turns; figures are medians of the rounds after one that does not count,
and ratios to eager round by round. The mixed set is eight images with about a million pixels together. Ranges of static
quantisation are those of two photographs and ten parts of them. Memory is the peak of a process that predicts images of
200 random sizes of up to a million pixels, above what it held after one of 64x64. Weights are random: what quantisation
does to answers is for `anyres export --int8 --data` to say.
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
import openvino
import torch
from PIL import Image

import anyres
from anyres.exporting.exported import KINDS, ExportedModel, OnnxModel, OpenVinoModel
from anyres.files import write_json
from anyres.predict.quantized import megabytes, quantized

matplotlib.use("Agg")
import matplotlib.pyplot as plt

Way = Callable[[Sequence[np.ndarray]], object]
MIXED = ((224, 224), (480, 360), (360, 480), (512, 288), (97, 333), (640, 427), (50, 900), (300, 211))


def by_file(model: ExportedModel) -> Way:
    return lambda images: [model.run(torch.from_numpy(image))["logits"] for image in images]


def by_torch(model: torch.nn.Module) -> Way:
    def run(images: Sequence[np.ndarray]) -> object:
        tensors = [torch.from_numpy(image) for image in images]
        return model(tensors[0]) if len(tensors) == 1 else model([tensor[0] for tensor in tensors])

    return run


def ways(model: anyres.ViTAR, folder: Path, threads: int) -> tuple[dict[str, Way], dict[str, float]]:
    """How an image can be answered, and what files weigh in MB."""
    path, network = folder / "model.onnx", folder / "model.xml"
    start = time.perf_counter()
    anyres.export(model, path, verify=6, verify_pixels=10**5)
    export = time.perf_counter() - start
    anyres.export(model, network, verify=6, verify_pixels=10**5)
    dynamic = quantized(path, "dynamic").rename(folder / "dynamic.onnx")
    photographs(folder / "photographs")
    static, eights = (quantized(each, "static", folder / "photographs") for each in (path, network))
    compiled = type(model)(model.config)
    compiled.load_state_dict(model.state_dict())
    compiled.eval().compile_parts()
    found = {
        "eager": by_torch(model), "compiled": by_torch(compiled),
        "onnxruntime": by_file(OnnxModel(path, threads)),
        "onnxruntime, dynamic int8": by_file(OnnxModel(dynamic, threads)),
        "onnxruntime, static int8": by_file(OnnxModel(static, threads)),
        "OpenVINO": by_file(OpenVinoModel(network, threads)),
        "OpenVINO, bfloat16": by_file(OpenVinoModel(network, threads, "bf16")),
        "OpenVINO, static int8": by_file(OpenVinoModel(eights, threads)),
    }  # fmt: skip
    sizes = {each.name: megabytes(each) for each in (path, dynamic, static, network, eights)}
    return found, {**sizes, "seconds to export": export}


def photographs(folder: Path) -> None:
    """Parts of the two photographs that scikit-learn comes with, and the whole of them enlarged to 1120 px."""
    from sklearn.datasets import load_sample_images

    folder.mkdir()
    numbers = np.random.default_rng(0)
    for which, pixels in enumerate(load_sample_images().images):
        Image.fromarray(pixels).resize((1120, 747)).save(folder / f"{which}.png")
        for number in range(5):
            (top, left), (down, across) = numbers.integers(0, (200, 300)), numbers.integers(40, (220, 330))
            Image.fromarray(pixels[top : top + down, left : left + across]).save(folder / f"{which}-{number}.png")


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


def memory(path: Path, threads: int) -> dict[str, float]:
    """MB, in a process of its own: over all sizes, and what is held after a last small image."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_memory, (path, threads))


def _memory(path: Path, threads: int) -> dict[str, float]:
    running = by_file(KINDS[path.suffix](path, threads))
    draw = random.Random(0)
    sizes = [(64, 64)]
    while len(sizes) < 201:
        size = draw.randint(1, 2000), draw.randint(1, 2000)
        if size[0] * size[1] <= 10**6:
            sizes.append(size)
    before = 0.0
    for number, (height, width) in enumerate([*sizes, (64, 64)]):
        running([np.zeros((1, 3, height, width), np.float32)])
        if not number:
            before = _held("VmHWM")
    return {"most": _held("VmHWM") - before, "at the end": _held("VmRSS") - before}


def _held(what: str) -> float:
    """MB that this process holds (VmRSS), or has held at most (VmHWM: `resource`'s begins with those of its parent)."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(what)]
    return int(line.split()[1]) / 1000


def draw(rows: dict[str, dict[str, Any]], path: Path) -> None:
    """Time relative to eager PyTorch, a group of bars for each size."""
    figure, axes = plt.subplots(figsize=(10, 4), layout="constrained")
    names = list(next(iter(rows.values())))
    for place, name in enumerate(names):
        at = np.arange(len(rows)) + (place - (len(names) - 1) / 2) * 0.1
        values = [row[name] for row in rows.values()]
        spread = [
            [value["ratio"] - value["least"] for value in values], [value["most"] - value["ratio"] for value in values]
        ]  # fmt: skip
        axes.bar(at, [value["ratio"] for value in values], 0.095, yerr=spread, label=name, error_kw={"linewidth": 0.8})
    axes.set_xticks(range(len(rows)), list(rows))
    axes.set(ylabel="time, eager PyTorch = 1", ylim=(0, 1.6))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, ncols=4, fontsize=8)
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
        peaks = {name: memory(Path(folder) / name, options.threads) for name in ("model.onnx", "model.xml")}
    result = {
        "model": options.model, "threads": options.threads, "processor": platform.processor() or platform.machine(),
        "onnxruntime": onnxruntime.__version__, "openvino": openvino.__version__, "files": files, "rows": rows,
        "megabytes over 200 sizes": peaks,
    }  # fmt: skip
    write_json(options.out, result)
    draw(rows, options.image)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
