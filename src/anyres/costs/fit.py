"""Latency and peak memory of a forward pass in closed form: counted terms, each with one constant of the machine.

    seconds = sum over terms of constant x count: one call, passes of levels, pixels moved, and multiply-accumulates of
              stem, merger, trunk and its attention, which reach different shares of the machine's speed
    bytes   = images + sum over terms of constant x bytes: one call, the tokens at work before the trunk (all of them,
              or those of a piece where the model merges in pieces), the cells that they become, the trunk's tokens,
              and the copy of images whose last patches must be completed

The constants come from measurements (`calibrate`), by least squares of the relative error with no constant negative;
peaks of small images, which vary by megabytes between equal runs, weigh less.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from anyres.costs.cost import attended_pairs, macs_by_part, stem_macs
from anyres.costs.probe import Shape
from anyres.layers.aspect_grid import least_tokens
from anyres.layers.merge_plan import Grid, token_grid
from anyres.layers.stages import make_stages
from anyres.models.config import ViTARConfig
from anyres.models.piecewise import exceeds_a_piece

Terms = dict[str, float]

_LEAST_RESERVE = 1.05
_CACHED = 4096


@dataclass(frozen=True)
class Counts:
    """What is counted of a model, beyond which a machine is described by constants."""

    config: ViTARConfig
    item: int
    """Bytes of a number."""
    positions: int
    """Patches of a piece."""

    def image_bytes(self, shape: Shape) -> int:
        return math.prod(shape) * self.config.in_channels * self.item

    def seconds(self, shape: Shape) -> Terms:
        """Terms of the latency of images (batch, height, width)."""
        batch, height, width = shape
        grid = token_grid(height, width, self.config.patch_size)
        fixed, by_image = _work(self.config, grid)
        pieces = self._pieces(batch, grid)
        terms = {name: count * batch for name, count in by_image.items()}
        return {"call": 1.0, "levels": fixed * pieces, "pixels": float(math.prod(shape)), **terms}

    def least_seconds(self, shape: Shape) -> Terms:
        """Of each term of `seconds` a lower bound that never falls as an image grows."""
        terms, batch = self.seconds(shape), shape[0]
        if self.config.learned_levels is not None:  # a further level can save products
            terms["merger"] = 0
        if self.config.grid_shape == "aspect":  # a slightly larger image can have fewer tokens, cells and levels
            grid = token_grid(*shape[1:], self.config.patch_size)
            least = 1, self.least_trunk(grid)
            fixed, by_image = _work(replace(self.config, grid=least, grid_shape="fixed"), least)
            terms |= {"levels": fixed * self._pieces(batch, grid), "merger": 0}
            # nor need positions grow, bases, or the patches of an enlarged image
            terms["stem"] = float(stem_macs(self.config, grid) * batch)
            terms |= {name: by_image[name] * batch for name in ("trunk", "attention")}
        return terms

    def least_trunk(self, grid: Grid) -> int:
        """A lower bound of an image's tokens in the trunk that never falls as it grows."""
        if self.config.grid_shape == "aspect":
            return least_tokens(grid, math.prod(self.config.grid))
        return math.prod(self.config.plan(grid).grid)

    def _pieces(self, batch: int, grid: Grid) -> float:
        return max(1.0, batch * math.prod(grid) / self.positions)

    def bytes(self, shape: Shape) -> Terms:
        """Terms of the peak memory of images (batch, height, width), beyond the images themselves."""
        batch, height, width = shape
        grid = token_grid(height, width, self.config.patch_size)
        size = batch * self.config.width * self.item
        terms = {"call": 1e6, **{name: count * size for name, count in _at_work(self, grid, batch).items()}}
        # completing the last patches makes a second image of all of it; pieces are completed one by one
        is_copied = (height % self.config.patch_size or width % self.config.patch_size) and not terms["pieces"]
        return {**terms, "completed": self.image_bytes(shape) if is_copied else 0}


@lru_cache(maxsize=_CACHED)
def _work(config: ViTARConfig, grid: Grid) -> tuple[int, Terms]:
    """Passes of the merger, and multiply-accumulates of one image by what does them."""
    # the cost depends on the grid alone, so sizes of one grid share an entry of the cache
    size = (grid[0] * config.patch_size, grid[1] * config.patch_size)
    parts = macs_by_part(config, size)
    plan = config.plan(grid)
    attention = 0 if config.tome else 2 * attended_pairs(config, plan.grid) * config.width
    merger = sum(macs for name, macs in parts.items() if name.startswith("merger"))
    # bases are patches of further images
    terms = {"stem": parts["stem"] + parts["positions"] + parts.get("bases", 0), "merger": merger}
    terms |= {"trunk": parts["trunk"] + parts["head"] - attention, "attention": attention}
    return len(plan.levels), {name: float(macs) for name, macs in terms.items()}


@lru_cache(maxsize=_CACHED)
def _at_work(counts: Counts, grid: Grid, batch: int) -> Terms:
    """Of one image: tokens at work at once, the same once more in pieces, cells that they become, tokens with
    padding, and the trunk's.

    The model's own rule: pieces where the batch has more patches than a piece (`models.piecewise`).
    """
    plan = counts.config.plan(grid)
    grid = plan.size  # with more patches than the image where it is enlarged first
    patches = tokens = math.prod(grid)
    in_pieces = exceeds_a_piece(counts.config, batch, grid, counts.positions)
    found: Terms = {"tokens": tokens, "pieces": 0, "cells": 0, "gathered": 0, "trunk": math.prod(plan.grid)}
    if not plan.levels:
        return found
    if in_pieces:  # which an allocator does not fit into each other's places so well
        stages = make_stages(plan, max(counts.positions // batch, 1))
        tokens = max(math.prod(piece.region.size) for stage in stages for piece in stage.pieces)
        found["pieces"] = tokens
    level, share = plan.levels[0], tokens / patches
    found["tokens"] = 0 if level.is_identity else tokens
    found["gathered"] = 0 if level.is_identity else math.prod(level.padded_grid) * share
    found["cells"] = math.prod(level.output_grid) * share
    return found


@dataclass(frozen=True)
class Constants:
    """What a machine adds: a factor for each term."""

    seconds: Mapping[str, float]
    bytes: Mapping[str, float]
    reserve: float
    """Factor from the expected bytes beyond the images to what was never exceeded: allocators differ by sizes."""


@dataclass(frozen=True)
class CostModel:
    """Predicted cost of a forward pass in inference of images (batch, height, width)."""

    counts: Counts
    constants: Constants

    def milliseconds(self, shape: Shape) -> float:
        """Expected median latency."""
        return 1e3 * _dot(self.constants.seconds, self.counts.seconds(shape))

    def bytes(self, shape: Shape) -> float:
        """Expected peak beyond the loaded model, images included."""
        return self.counts.image_bytes(shape) + _dot(self.constants.bytes, self.counts.bytes(shape))

    def bytes_at_most(self, shape: Shape) -> float:
        """A bound of the peak, which budgets are held against."""
        rest = _dot(self.constants.bytes, self.counts.bytes(shape))
        return self.counts.image_bytes(shape) + self.constants.reserve * rest

    def least(self, shape: Shape) -> tuple[float, float]:
        """Lower bounds of `milliseconds` and `bytes_at_most` that never fall as an image grows.

        The two themselves may: pieces need less memory than the whole of a slightly smaller image, and time is as
        `least_seconds` says.
        """
        batch, height, width = shape
        config, seconds = self.counts.config, self.counts.least_seconds(shape)
        trunk = self.counts.least_trunk(token_grid(height, width, config.patch_size))
        fixed = {"call": 1e6, "trunk": trunk * batch * config.width * self.counts.item}  # as in `Counts.bytes`
        least_bytes = self.counts.image_bytes(shape) + self.constants.reserve * _dot(self.constants.bytes, fixed)
        return 1e3 * _dot(self.constants.seconds, seconds), least_bytes


_HELD = 40e6  # bytes: an allocator holds some megabytes more or less whatever the size, 5 % of this and of the peak


def _dot(constants: Mapping[str, float], terms: Mapping[str, float]) -> float:
    return sum(constants[name] * count for name, count in terms.items())


def fit(counts: Counts, seconds: Mapping[Shape, float], peaks: Mapping[Shape, float]) -> CostModel:
    """The cost model whose constants explain measured seconds and peak bytes of some shapes best."""
    by_time = _constants([counts.seconds(shape) for shape in seconds], list(seconds.values()), list(seconds.values()))
    terms = [counts.bytes(shape) for shape in peaks]
    beyond = [peak - counts.image_bytes(shape) for shape, peak in peaks.items()]
    by_bytes = _constants(terms, beyond, [peak + _HELD for peak in peaks.values()])
    expected = [_dot(by_bytes, term) for term in terms]
    # how far the fit ever was below what was measured
    worst = max((found / value for found, value in zip(beyond, expected, strict=True) if value > 0), default=1.0)
    reserve = max(worst**2, _LEAST_RESERVE)  # some other size will be worse than the worst of these few
    return CostModel(counts, Constants(by_time, by_bytes, reserve))


def _constants(terms: Sequence[Terms], values: Sequence[float], scales: Sequence[float]) -> dict[str, float]:
    """Constants, none negative, with the least sum of squares of (constants . terms - value) / scale."""
    names = list(terms[0])
    scale = np.asarray(scales, dtype=float)
    matrix = np.array([[term[name] for name in names] for term in terms]) / scale[:, None]
    found = non_negative_least_squares(matrix, np.asarray(values, dtype=float) / scale)
    return dict(zip(names, found.tolist(), strict=True))


def non_negative_least_squares(matrix: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The x >= 0 with the least |matrix x - values|. For few unknowns: every set of those above zero is tried."""
    # terms are from 1 to 1e12, which least squares would take for rank deficiency
    units = np.abs(matrix).max(axis=0)
    used = np.flatnonzero(units)
    best, least = np.zeros(matrix.shape[1]), float(values @ values)
    for number in range(1, len(used) + 1):
        for chosen in map(list, itertools.combinations(used, number)):
            part = matrix[:, chosen] / units[chosen]
            x = np.linalg.lstsq(part, values, rcond=None)[0]
            error = float(np.sum((part @ x - values) ** 2))
            if (x >= 0).all() and error < least:
                best, least = np.zeros(matrix.shape[1]), error
                best[chosen] = x / units[chosen]
    return best
