"""`anyres.stream`: the features of an image that need not fit into memory, as if the whole of it had been there."""

from __future__ import annotations

import hashlib
import sys
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from anyres.data.ahead import read_ahead
from anyres.free_memory import give_back_free_memory
from anyres.layers.pieces import PieceMerger, PixelBox, pixels_of
from anyres.layers.recompute import merge_recomputing
from anyres.layers.stages import Piece
from anyres.models.features import Features
from anyres.models.vitar import ViTAR
from anyres.streaming.reader import RegionReader
from anyres.streaming.sources import Source, open_source
from anyres.streaming.unfinished import Unfinished, identify_source

IsBackground = Callable[[Tensor], Tensor]
"""Patches (rows, cols, p, p, C) with values between 0 and 1 -> (rows, cols) bool, those that may be skipped."""

_SAVE_EVERY = 60.0  # seconds between two states, where one is asked for
_TRIM_EVERY = 12  # pieces


def stream(
    model: ViTAR,
    source: str | Path | np.ndarray | Source,
    *,
    level: int = 0,
    skip: np.ndarray | IsBackground | None = None,
    resume: Path | str | None = None,
    positions: int | None = None,
    retries: int = 2,
    progress: bool = True,
) -> Features:
    """Encodes an image of any size, in memory that does not grow with it; equal to `model.forward_features`.

    The image is read and merged piece by piece (`layers.pieces`), the next pieces being read while one is computed;
    then the trunk runs once. In training mode with gradients enabled the result has a graph: `backward()` reads the
    image a second time and gives the gradients of all parameters (`layers.recompute`).

    Args:
        model: a ViTAR with a merger, on any device and in any precision.
        source: path, array, memmap or object with `size` and `read_region`: see `streaming.sources.open_source`.
            Integers are scaled and normalised with the model's mean and standard deviation, floats taken as they are.
        level: of a pyramid, 0 is the finest.
        skip: patches that are left out of the merging, as padding is: (rows, cols) bool, or a function of the pixels
            such as `bright_background()`. A cell left empty keeps its first patch. Pieces without any other patch are
            not computed and, with an array, not read; with the pyramid merger, which looks at each cell in the whole
            image, they are read, and only what it sees from afar is computed. The patches are those of the model's
            plan: of an image that it enlarges first, those of the enlarged one.
        resume: a file in which unfinished work is kept when reading fails or the process is stopped, and every
            minute; the next call with it goes on from there. It is removed at the end.
        positions: patches in a piece; by default as many as stay in cache, or as the unfinished work has.
        retries: further attempts to read a region.
        progress: show a progress bar.

    Returns:
        `Features` of a batch of one; `.counts` says how many patches each cell was made of if some were skipped.

    Raises:
        ValueError: a source, model or setting that cannot be, before any work.
        OtherWorkError: a `resume` file of another source, model, mask or size of pieces; a ValueError.
        SourceError: a region that cannot be read, naming it.
    """
    config, with_graph = model.config, model.training and torch.is_grad_enabled()
    if with_graph and (skip is not None or resume is not None):
        raise ValueError("skip or resume is set while gradients are recorded; allowed: either in evaluation mode only")
    if skip is not None and config.merger == "grid_attention" and config.padding == "zeros":
        raise ValueError('skip is set for a model with padding="zeros"; allowed: padding="masked"')
    with ExitStack() as stack:
        opened = open_source(source, level=level)
        if opened is not source:  # what the caller has opened stays open
            stack.callback(opened.close)
        reader = RegionReader(opened, mean=config.mean, std=config.std, channels=config.in_channels, retries=retries)
        if with_graph:
            weakref.finalize(reader, stack.pop_all().close)  # the graph reads again, and lives as long as it likes
            return _with_graph(model, reader, positions, progress)
        with torch.no_grad():
            state = None if resume is None else Unfinished(Path(resume))
            if positions is None and state is not None:
                positions = state.positions  # of the machine that began, whatever the cache of this one
            merging = model.pieces(*reader.size, positions=positions)
            mask = None if skip is None or callable(skip) else _check_mask(skip, merging.plan.size)
            if state is not None:
                marks = {"source": identify_source(source, opened, level), "skip": _identify_skip(skip, mask)}
                state.begin(model, merging, marks)
            _encode(_Work(model, merging, reader, mask, skip if callable(skip) else None), state, progress)
            features = model.forward_merged(merging.result(), merging.plan, merging.keys)
            if state is not None:
                state.finish()
            return replace(features, counts=merging.counts())


def _with_graph(model: ViTAR, reader: RegionReader, positions: int | None, progress: bool) -> Features:
    """Features whose `backward()` reads the image once more."""
    merging = model.pieces(*reader.size, positions=positions)

    def read(regions: Sequence[PixelBox]) -> Iterator[Tensor]:
        bar = tqdm(regions, unit="piece", desc=reader.name[-40:], disable=not progress, file=sys.stderr)
        with bar, closing(read_ahead(lambda region: reader.read(*region), bar, depth=1)) as found:
            for _, pixels in found:
                yield _prepared(pixels, model)

    return model.forward_merged(merge_recomputing(merging, read), merging.plan, merging.keys)


def bright_background(threshold: float = 0.9) -> IsBackground:
    """Background is where even the darkest channel is bright on average: the empty glass of a slide, blank paper.

    Args:
        threshold: from which mean of a patch's darkest channel on, between 0 and 1.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold is {threshold}; allowed: above 0 and at most 1")
    return lambda patches: patches.amin(-1).mean((-2, -1)) >= threshold


@dataclass(frozen=True)
class _Work:
    """Reading and computing the pieces of one image."""

    model: ViTAR
    merging: PieceMerger
    reader: RegionReader
    mask: Tensor | None
    is_background: IsBackground | None

    def read(self, piece: Piece) -> tuple[Tensor | None, Tensor | list[Tensor]]:
        """A piece's skipped patches (rows, cols), if any may be, and its pixels; runs in another thread."""
        is_skipped = None if self.mask is None else self.mask[piece.region.rows, piece.region.cols]
        if is_skipped is not None and is_skipped.all() and self.merging.skips_cheaply(piece):
            return is_skipped, [self.reader.read(*region) for region in self.merging.empty_pixels(piece)]
        pixels = self.reader.read(*self.merging.pixels(piece))  # (1, C, h, w)
        if self.is_background is not None:
            is_skipped = self.is_background(self._patches(piece, pixels))
            given = (is_skipped.dtype, is_skipped.shape) if isinstance(is_skipped, Tensor) else None
            if given != (torch.bool, piece.region.size):
                raise ValueError(f"skip gave {is_skipped!r:.80}; allowed: a bool tensor of shape {piece.region.size}")
            if is_skipped.all() and self.merging.skips_cheaply(piece):
                y, x, _, _ = self.merging.pixels(piece)
                regions = [(r[0] - y, r[1] - x, r[2], r[3]) for r in self.merging.empty_pixels(piece)]
                return is_skipped, [pixels_of(pixels, region) for region in regions]
        return is_skipped, pixels.to(self.model.dtype)

    def _patches(self, piece: Piece, pixels: Tensor) -> Tensor:
        """(rows, cols, p, p, C) between 0 and 1 of a piece without its halo."""
        patch, config = self.merging.stem.patch_size, self.model.config
        outer = self.merging.outer(self.merging.stages[0], piece)
        y, x = ((a - b) * patch for a, b in zip(piece.region.start, outer.start, strict=True))
        height, width = (side * patch for side in piece.region.size)
        own = self.merging.fit(piece, pixels)[0, :, y : y + height, x : x + width].permute(1, 2, 0)
        values = own * torch.tensor(config.std) + torch.tensor(config.mean)  # (h, w, C)
        return values.unflatten(1, (-1, patch)).unflatten(0, (-1, patch)).transpose(1, 2)

    def compute(self, is_skipped: Tensor | None, pixels: Tensor | list[Tensor]) -> None:
        if isinstance(pixels, list):
            self.merging.add_empty([_prepared(part, self.model) for part in pixels])
        else:
            skipped = None if is_skipped is None else is_skipped.to(self.model.device)
            self.merging.add(_prepared(pixels, self.model), skipped)


def _prepared(pixels: Tensor, model: ViTAR) -> Tensor:
    return pixels.to(model.device, model.dtype)


def _check_mask(skip: np.ndarray, grid: tuple[int, int]) -> Tensor:
    mask = np.asarray(skip)
    if mask.shape != grid or mask.dtype != bool:
        raise ValueError(f"skip is {mask.dtype} of shape {mask.shape}; allowed: bool of the patches' grid, {grid}")
    return torch.from_numpy(mask.copy())


def _identify_skip(skip: np.ndarray | IsBackground | None, mask: Tensor | None) -> str:
    """A function cannot be told from another; whether there is one can."""
    return "" if skip is None else "function" if mask is None else hashlib.sha256(mask.numpy().tobytes()).hexdigest()


def _encode(work: _Work, state: Unfinished | None, progress: bool) -> None:
    """Reads ahead, computes, shows how far it is, and keeps what is done if that ends early."""
    merging, size = work.merging, work.merging.size
    todo = merging.remaining()
    # every piece counts as an equal share of the image
    pixels_done = [size[0] * size[1] * n // len(merging.pieces) for n in range(len(merging.pieces) + 1)]
    bar = tqdm(
        total=pixels_done[-1], initial=pixels_done[merging.done], unit="px", unit_scale=True,
        desc=work.reader.name[-40:], disable=not progress, file=sys.stderr,
    )  # fmt: skip
    saved = time.monotonic()
    try:
        with bar, closing(read_ahead(work.read, todo, depth=1)) as found:
            for _, (is_skipped, pixels) in found:
                work.compute(is_skipped, pixels)
                bar.update(pixels_done[merging.done] - bar.n)
                if not merging.done % _TRIM_EVERY:
                    give_back_free_memory()
                if state is not None:
                    state.note()
                if state is not None and time.monotonic() - saved > _SAVE_EVERY:
                    state.save()
                    saved = time.monotonic()
    except BaseException:
        if state is not None:
            state.save()
        raise
    if state is not None:
        state.save()  # the trunk may not find room
