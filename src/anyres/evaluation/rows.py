"""The rows of a sweep: what they hold, the statistics on them, and how their numbers are written."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from typing import Any, TypedDict

FORMAT = 1
NATIVE = "native"

_TOP_KEYS = ("format", "title", "environment", "models", "rows", "examples", "skipped")
_MODEL_KEYS = ("name", "parameters", "training_sizes", "patch_size", "grid", "run")


class LatencyMs(TypedDict):
    """Milliseconds per image at batch 1, over `runs` timed calls."""

    p50: float
    p95: float
    runs: int


class _RequiredRow(TypedDict):
    set: str
    model: str
    protocol: str
    size: list[int]
    images: int
    correct: int
    top1: float
    interval: list[float]
    macs: int
    latency_ms: LatencyMs
    images_per_second: float
    peak_memory_bytes: int


class SweepRow(_RequiredRow, total=False):
    """One model, one protocol and one size on one set of images; `macs` are multiply-accumulates ("executed")."""

    metrics: dict[str, float]
    """Means over the images of what `evaluation.metrics` names, and of what `stability` adds to rows of images as they
    are; sweeps of older versions have none."""


def wilson(correct: int, images: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """The Wilson score interval in percent (95 % by default) of `correct` hits among `images`, clipped to 0..100.

    Unlike the normal approximation it stays inside the range and does not collapse to nothing at 0 % and 100 %.
    """
    if images < 1 or not 0 <= correct <= images:
        raise ValueError(f"{correct} correct of {images} images; allowed: 1 image or more, 0 to all of them correct")
    share = correct / images
    centre = share + z * z / (2 * images)
    spread = z * math.sqrt(share * (1 - share) / images + z * z / (4 * images * images))
    scale = 100 / (1 + z * z / images)
    # At the ends the exact bound is 0 or 100; rounding would leave 99.99999999999999.
    low = 0.0 if correct == 0 else max(0.0, (centre - spread) * scale)
    high = 100.0 if correct == images else min(100.0, (centre + spread) * scale)
    return low, high


def frontier(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices, by rising cost, of the (cost, gain) points that no other point dominates.

    A point is dominated if another costs no more and gains no less, and is better in at least one of the two. Equal
    points do not dominate each other: both are kept.
    """
    best = -math.inf
    kept: list[int] = []
    for index in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1], i)):
        cost, gain = points[index]
        if gain > best or (kept and points[kept[-1]] == (cost, gain)):
            best = gain
            kept.append(index)
    return kept


def side(size: Sequence[int]) -> float:
    """Where (height, width) stands on a resolution axis: the side of the square with as many pixels."""
    return math.sqrt(size[0] * size[1])


def size_label(size: Sequence[int]) -> str:
    """`224` for a square of 224, `224×336` for height 224 and width 336."""
    return str(size[0]) if size[0] == size[1] else f"{size[0]}×{size[1]}"


def protocol_text(protocol: str) -> str:
    """The protocol of a row as it is shown: `resized to 56x56` becomes `resized to 56`."""
    words = protocol.split(" ")
    height, cross, width = words[-1].partition("x")
    if cross and height.isdigit() and width.isdigit():
        words[-1] = size_label((int(height), int(width)))
    return " ".join(words)


def line_name(model: str, protocol: str) -> str:
    """How a line of a picture is named: by the model alone if that gets the images as they are."""
    return model if protocol == NATIVE else f"{model}, {protocol_text(protocol)}"


def bytes_text(value: float, digits: int = 3) -> str:
    """A number of bytes: 1234567 -> `1.23 MB`."""
    text = si(value, digits)
    return f"{text}B" if " " in text else f"{text} B"


def si(value: float, digits: int = 3) -> str:
    """A positive number to `digits` significant digits, with a prefix: 1234567 -> `1.23 M`."""
    if value == 0:
        return "0"
    # rounded first, so that 999.9 is 1.00 k and not 1000
    rounded = float(f"{value:.{digits - 1}e}")
    power = math.floor(math.log10(rounded))
    step = min(5, max(0, power // 3))
    decimals = max(0, digits - 1 - (power - 3 * step))
    return f"{rounded / 1000**step:.{decimals}f} {'kMGTP'[step - 1] if step else ''}".rstrip()


def distinct_labels(labels: Sequence[str], parents: Sequence[str]) -> list[str]:
    """The labels; those of several models get their parent folder before them, and a number if that is not enough."""
    wide = []
    for label, parent in zip(labels, parents, strict=True):
        alone = labels.count(label) == 1 or not parent or label.startswith(f"{parent}/")
        wide.append(label if alone else f"{parent}/{label}")
    found: list[str] = []
    for label in wide:
        numbered = (f"{label} #{number}" for number in count(2))
        found.append(label if label not in found else next(text for text in numbered if text not in [*wide, *found]))
    return found


def lines(rows: Iterable[SweepRow]) -> dict[tuple[str, str], list[SweepRow]]:
    """(model, protocol) -> its rows by rising size, in the order in which the lines first appear."""
    grouped: dict[tuple[str, str], list[SweepRow]] = {}
    for row in rows:
        grouped.setdefault((row["model"], row["protocol"]), []).append(row)
    for group in grouped.values():
        group.sort(key=lambda row: (side(row["size"]), row["size"]))
    return grouped


def check_sweep(sweep: Any, name: str) -> dict[str, Any]:
    """The sweep itself if this version can show it; otherwise a ValueError that names the file and what is wrong."""
    if not isinstance(sweep, dict) or sweep.get("format") != FORMAT:
        given = sweep.get("format") if isinstance(sweep, dict) else type(sweep).__name__
        raise ValueError(f"{name}: not the JSON of `anyres sweep`: format is {given!r}; allowed: {FORMAT}")
    _demand(sweep, _TOP_KEYS, name)
    for label, model in sweep["models"].items():
        _demand(model, _MODEL_KEYS, f"{name}: model {label!r}")
    for number, row in enumerate(sweep["rows"]):
        _demand(row, tuple(_RequiredRow.__annotations__), f"{name}: row {number}")
        if row["model"] not in sweep["models"]:
            raise ValueError(f"{name}: row {number} is of model {row['model']!r}; allowed: {sorted(sweep['models'])}")
    if not sweep["rows"]:
        raise ValueError(f"{name}: the sweep has no rows; allowed: at least one")
    return sweep


def _demand(given: Mapping[str, Any], keys: Sequence[str], where: str) -> None:
    missing = [key for key in keys if key not in given]
    if missing:
        raise ValueError(f"{where}: missing {', '.join(missing)}; needed: {', '.join(keys)}")
