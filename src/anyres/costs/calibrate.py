"""Measures the constants of the cost model once for a machine and a model, and remembers them in a cache folder."""

import hashlib
import json
import math
import os
import platform
import statistics
import sys
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from anyres.costs.cost import macs_by_part
from anyres.costs.fit import Constants, CostModel, Counts, fit
from anyres.costs.memory import is_out_of_memory
from anyres.costs.probe import Shape, peak_bytes, resident_is_measured
from anyres.costs.timing import latency
from anyres.files import read_json, write_json
from anyres.layers.pieces import piece_positions
from anyres.models.config import ViTARConfig
from anyres.models.modes import evaluating
from anyres.models.vitar import ViTAR
from anyres.settings import plain

FORMAT = 1  # of the files and of what the constants mean
_ROUNDS = 3  # so that what else the machine does for a while falls on all sizes alike
_SLOWEST = 3.0  # seconds; sizes that take longer are predicted, not measured


@dataclass(frozen=True)
class Budget:
    """Seconds that a calibration may take, roughly."""

    timing: float = 45.0
    memory: float = 40.0


def calibration(
    model: ViTAR, *, recalibrate: bool = False, progress: bool = True, budget: Budget | None = None
) -> CostModel:
    """The cost model of a model on the device where it is, in its precision, with torch's present number of threads.

    Constants are read from the cache folder, or measured (one to two minutes for a model of base size on two cores)
    and written there. A file of another machine, setting or version is not used, nor is a damaged one.
    """
    identity = identify(model)
    path = cache_folder() / f"{_file_name(identity)}.json"
    constants = None if recalibrate else _read(path, identity)
    if constants is not None:
        return CostModel(_counts(model), constants)
    seconds, peaks = measure(model, progress=progress, budget=budget or Budget())
    found = fit(_counts(model), seconds, peaks)
    try:
        _write(path, identity, found.constants, seconds, peaks)
    except OSError as error:  # what was measured is good all the same
        warnings.warn(f"{error}: it will be measured again next time; ANYRES_CACHE names another folder", stacklevel=2)
    return found


def measure(model: ViTAR, *, progress: bool, budget: Budget) -> tuple[dict[Shape, float], dict[Shape, int]]:
    """Median seconds and peak bytes of a forward pass for each of the calibration's shapes that is not too slow."""
    shapes = calibration_shapes(_counts(model))
    with (
        evaluating(model),
        torch.inference_mode(),
        tqdm(desc="calibrate", total=100, file=sys.stderr, disable=not progress) as bar,
    ):
        bar.bar_format = "{desc} {percentage:3.0f}%|{bar}| {elapsed}"
        # time before memory: shapes that turn out too slow are not probed for memory either
        seconds = _median_seconds(model, shapes, budget.timing, bar)
        return seconds, _peaks(model, list(seconds), seconds, budget.memory, bar)


def calibration_shapes(counts: Counts) -> list[Shape]:
    """(batch, height, width) around the final grid, up to where merging in pieces begins, and beyond; by their cost."""
    config, positions = counts.config, counts.positions
    area, patch = math.prod(config.grid), config.patch_size
    wanted = [(1, area / 2, 0.6), (1, 0.75 * area, 1.8), (1, area / 2, 2.2), (1, 0.9 * area, 0.5), (1, area, 1.0)]
    wanted += [(1, 1.3 * area, 2.5), (1, 2 * area, 0.35), (4, area, 1.0), (1, 1.7 * area, 0.6), (1, 4 * area, 1.0)]
    wanted += [(1, 5 * area, 2.3), (2, 3 * area, 0.45), (1, 9 * area, 1.7), (3, area / 2, 1.6)]
    pieces = [(1, 0.5, 1.0), (1, 0.9, 0.6), (1, 1.4, 1.5), (1, 1.9, 1.0), (1, 2.2, 1.0), (1, 2.6, 0.5)]
    pieces += [(1, 3.1, 1.9), (1, 4.0, 1.0), (2, 1.7, 0.8), (4, 0.7, 1.2), (1, 6.0, 0.7), (1, 9.0, 1.3)]
    wanted += [(batch, share * positions, aspect) for batch, share, aspect in pieces]
    shapes = set()
    for index, (batch, patches, aspect) in enumerate(wanted):
        # sizes that are no whole patches cost a copy of the image, which some of the shapes must show
        odd = 0.37 if index % 2 and aspect != 1 else 0  # of a patch is missing
        height, width = ((max(1, round(side)) - odd) * patch for side in _sides(patches, aspect))
        shapes.add((batch, math.ceil(height), math.ceil(width)))
    return sorted(shapes, key=lambda shape: _macs(config, shape))


def _sides(area: float, aspect: float) -> tuple[float, float]:
    return math.sqrt(area / aspect), math.sqrt(area * aspect)


def _macs(config: ViTARConfig, shape: Shape) -> int:
    return shape[0] * sum(macs_by_part(config, shape[1:]).values())


def _median_seconds(model: ViTAR, shapes: Sequence[Shape], budget: float, bar: Any) -> dict[Shape, float]:
    """The shapes in turn, several times; the later ones only if the ones before say that they are fast enough."""
    found: dict[Shape, list[float]] = {}
    share = budget / _ROUNDS / len(shapes)
    for turn in range(_ROUNDS):
        for index, shape in enumerate(list(found) if turn else shapes):
            if not turn and found:
                last, values = next(reversed(found.items()))
                expected = values[-1] * _macs(model.config, shape) / max(_macs(model.config, last), 1)
                if expected > min(_SLOWEST, 4 * share) and index > 3:
                    break
            try:
                images = _images(model, shape)
                time = latency(lambda images=images: model(images), 5, 1, share, device=images.device)  # type: ignore[misc]
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or len(found) < 3:
                    raise
                break
            found.setdefault(shape, []).append(time.p50 / 1e3)
            bar.update(75 / _ROUNDS / len(shapes))
    bar.update(75 - bar.n)
    return {shape: statistics.median(values) for shape, values in found.items()}


def _peaks(
    model: ViTAR, shapes: Sequence[Shape], seconds: dict[Shape, float], budget: float, bar: Any
) -> dict[Shape, int]:
    """Peak bytes of the shapes, which were all found to be fast enough and to fit; a first call is a slow one."""
    while sum(seconds[shape] for shape in shapes) > budget and len(shapes) > 4:
        shapes = shapes[:-1]
    found = {}
    for shape, peak in zip(shapes, peak_bytes(model, shapes), strict=True):
        found[shape] = peak
        bar.update(25 / len(shapes))
    return found


def _images(model: ViTAR, shape: Shape) -> Tensor:
    batch, height, width = shape
    return torch.rand(batch, model.config.in_channels, height, width).to(model.device, model.dtype)


def _counts(model: ViTAR) -> Counts:
    like = model.like
    return Counts(model.config, like.element_size(), piece_positions(model.config.width, like))


def identify(model: ViTAR) -> dict[str, Any]:
    """All that the constants depend on."""
    device = model.device
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "format": FORMAT,
        "machine": [platform.node(), platform.platform(terse=True), _processor(), os.cpu_count()],
        "device": gpu or device.type,
        "memory": "allocated" if gpu else "resident" if resident_is_measured() else "tensors",
        "precision": str(model.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "code": _code(),
        "positions": _counts(model).positions,
        "config": plain(model.config),
    }


@cache
def _code() -> str:
    """Tells versions of what computes apart."""
    digest = hashlib.sha256()
    for room in ("layers", "models"):
        for path in sorted((Path(__file__).parents[1] / room).glob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _processor() -> str:
    path = Path("/proc/cpuinfo")  # on Linux `platform` gives the family only
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def cache_folder() -> Path:
    """`$ANYRES_CACHE`, or a folder "anyres" where the platform's programs keep what they can make again."""
    if given := os.environ.get("ANYRES_CACHE"):
        return Path(given)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "anyres"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "anyres"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "anyres"


def _file_name(identity: dict[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    return f"calibration-{identity['precision']}-{digest}"


def _write(
    path: Path, identity: dict[str, Any], constants: Constants, seconds: dict[Shape, float], peaks: dict[Shape, int]
) -> None:
    measured = [{"shape": shape, "seconds": time, "peak_bytes": peaks.get(shape)} for shape, time in seconds.items()]
    record = {"identity": identity, "constants": asdict(constants), "measured": measured}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, record)


def _read(path: Path, identity: dict[str, Any]) -> Constants | None:
    """The constants of a file, or None if there is none, or not of this identity, or it is damaged."""
    try:
        record = read_json(path, "a calibration", keys=("identity", "constants"), remedy="it is made again")
        if record["identity"] != identity:
            return None
        return Constants(**record["constants"])
    except (OSError, ValueError, TypeError):
        return None
