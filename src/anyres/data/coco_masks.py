"""Masks as COCO writes them: polygons, and run lengths both plain and compressed."""

import importlib
import math
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from anyres.sizes import Size

_FAR = 10  # longest sides of the image; real corners overhang by some pixels


def mask_tools() -> ModuleType:
    """The module that encodes and decodes run lengths. ImportError naming the extra if it is not installed."""
    try:
        return importlib.import_module("faster_coco_eval.core.mask")
    except ImportError as error:
        raise ImportError("faster-coco-eval is not installed: pip install 'anyres[dense]'") from error


def check_segmentation(given: Any, size: Size) -> tuple[Any, str | None]:
    """A segmentation that `decode_mask` can read for an image of (height, width), or what is wrong with it.

    Polygons of fewer than three corners, which cover nothing, are left out.
    """
    if not given:
        return None, "no mask, which the model option masks=False does without"
    if isinstance(given, Mapping):
        return _checked_runs(given, size)
    if not isinstance(given, Sequence) or isinstance(given, str):
        return None, "a mask that is neither polygons nor run lengths"
    polygons = [polygon for polygon in given if isinstance(polygon, list) and len(polygon) >= 6]
    if not polygons or not all(_is_polygon(polygon) for polygon in polygons):
        return None, "a polygon that is not three or more pairs of finite numbers"
    if any(abs(number) > _FAR * max(size) for polygon in polygons for number in polygon):
        return None, "a polygon whose corners are far from their image"  # drawing its edges would fill the memory
    return polygons, None


def covers_nothing(segmentation: Any, size: Size) -> bool:
    """Whether a checked segmentation has no pixel in an image of (height, width), as far as is told at a glance."""
    if isinstance(segmentation, Mapping):
        counts = segmentation["counts"]
        runs = counts if isinstance(counts, list) else _run_lengths(counts)
        return not sum((runs or [])[1::2])
    height, width = size
    return all(
        max(each[::2]) <= 0 or min(each[::2]) >= width or max(each[1::2]) <= 0 or min(each[1::2]) >= height
        for each in segmentation
    )


def _checked_runs(given: Mapping[str, Any], size: Size) -> tuple[Any, str | None]:
    told, counts = given.get("size"), given.get("counts")
    if not isinstance(told, Sequence) or tuple(told) != size:
        return None, "a mask of another size than their image"
    runs = counts if isinstance(counts, list) else _run_lengths(counts)
    if runs is None or not all(isinstance(run, int) and run >= 0 for run in runs) or sum(runs) != size[0] * size[1]:
        return None, "a mask whose runs do not cover their image"
    return {**given, "size": list(size)}, None  # the file's may be floats


def _is_polygon(corners: list[Any]) -> bool:
    numbers = all(isinstance(each, int | float) and math.isfinite(each) for each in corners)
    return numbers and len(corners) % 2 == 0


def decode_mask(segmentation: Any, size: Size) -> np.ndarray:
    """A checked segmentation as an array (H, W) uint8 of 0 and 1; several polygons are united."""
    tools, (height, width) = mask_tools(), size
    runs = segmentation
    if isinstance(segmentation, list):
        runs = tools.merge(tools.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation["counts"], list):
        runs = tools.frPyObjects(segmentation, height, width)
    return np.ascontiguousarray(tools.decode(runs))


def encode_mask(mask: np.ndarray) -> dict[str, Any]:
    """An array (H, W) as compressed run lengths, as plain JSON."""
    runs = mask_tools().encode(np.asfortranarray(mask, dtype=np.uint8))
    counts = runs["counts"]
    text = counts.decode() if isinstance(counts, bytes) else counts
    return {"size": [int(side) for side in runs["size"]], "counts": text}


def _run_lengths(text: Any) -> list[int] | None:
    """What COCO's compressed string of run lengths says, None if it is no such string.

    Five bits a character, the lowest first; from the fourth run on each is told as its difference to the last but one.
    """
    if isinstance(text, bytes):
        text = text.decode("ascii", errors="replace")
    if not isinstance(text, str) or not all(48 <= ord(letter) < 112 for letter in text):
        return None
    runs: list[int] = []
    value = shift = 0
    for letter in text:
        bits = ord(letter) - 48
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    return runs if not shift else None
