"""Stem, positions and merging piece by piece: the fast path for large images, the only one for those beyond memory.

Everything before the trunk is local: a merged token depends on the pixels of its own cell, and with some parts on a
declared `halo` of patches around it. So an image is cut into pieces that stay in cache. Each is embedded and merged as
far as its cells allow, and only what is left is kept. The levels of a plan fall into *stages*: all levels of a stage
are done on one piece, whose output are whole cells of the stage's last level. The first stage takes pixels; a later one
takes the tokens of the stage before it, as soon as the rows that its next band of pieces needs have arrived. So what is
held is one piece and at most one band of pieces per stage, whatever the image's height.

The pyramid merger looks at every cell in the image averaged down to its grid. There the stages also hand on the image
at their last grid (`held`), of which a piece needs a little more than of the tokens (`piece_bases`).
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, partial
from typing import Any, Protocol

import torch
from torch import Tensor

from anyres.layers.fitted import AxisFit
from anyres.layers.held import Merged, Queue, together
from anyres.layers.merge_plan import Level, MergePlan
from anyres.layers.piece_bases import PatchTokens, PieceBases
from anyres.layers.pyramid_merger import PyramidMerger
from anyres.layers.region import Region
from anyres.layers.stages import Piece, Stage, first_cells, level_cells, make_stages, stage_cells

PixelBox = tuple[int, int, int, int]
"""First row, first column, height and width of a rectangle of pixels."""


_CACHE_BYTES = 2**25  # where the machine does not say
_ON_A_GPU = 2**29  # no cache to stay in: large enough to fill the device, small beside its memory
_WORKING_SET = 2.5  # times the bytes of a piece's tokens: larger pieces mean fewer, larger products (docs/log.md)


_CHEAP = 16  # patches in a cell, of which one is computed alone


@cache
def _cache_bytes() -> int:
    """The last cache of this machine; it is shared by its cores, hence the upper limit."""
    name = "SC_LEVEL3_CACHE_SIZE"
    size = os.sysconf(name) if name in getattr(os, "sysconf_names", {}) else 0
    return min(max(size, 2**23), 2**26) if size > 0 else _CACHE_BYTES


def piece_positions(width: int, like: Tensor) -> int:
    """How many patches of width D make a piece whose work stays in cache; `like` has the type and device of tokens."""
    size = _cache_bytes() if like.device.type == "cpu" else _ON_A_GPU
    return max(int(size / (_WORKING_SET * width * like.element_size())), 64)


class Merger(Protocol):
    """What is asked of a merger: see `merging`."""

    def step(self, x: Tensor, plan: MergePlan, index: int, level: Level, counts: Any = None) -> tuple[Tensor, Any]: ...

    def finish(self, x: Tensor, plan: MergePlan, counts: Any = None) -> Tensor: ...


class PieceMerger:
    """Merges one image, or several of one size, piece by piece.

    ```
    merging = PieceMerger(stem, position, merger, plan, size)
    for piece in merging.remaining():
        merging.add(pixels of merging.pixels(piece))
    merging.result()
    ```

    Args:
        stem, position, merger: the parts of a model before its trunk.
        plan: how the patches of the image are merged.
        size: (height, width) of the image in pixels.
        positions: how many patches, or tokens of a later stage, make a piece.
        keys: (B,) int64 jitter keys of the images, in training.
        enlarges: an axis of fewer patches than the plan has is enlarged to them (`fitted`).
    """

    def __init__(
        self,
        stem: Any,
        position: Any,
        merger: Merger,
        plan: MergePlan,
        size: tuple[int, int],
        *,
        positions: int,
        keys: Tensor | None = None,
        enlarges: bool = False,
    ) -> None:
        self.stem, self.position, self.merger = stem, position, merger
        self.plan, self.size, self.keys, self.positions = plan, size, keys, positions
        self._fits = [
            AxisFit(side, patches, stem.patch_size, enlarges=enlarges)
            for side, patches in zip(size, plan.size, strict=True)
        ]
        self._tokens = PatchTokens(stem, position)
        self._bases = PieceBases(self._tokens, plan, keys) if isinstance(merger, PyramidMerger) else None
        self.stages = make_stages(plan, positions, None if self._bases is None else self._bases.outer)
        self.pieces = self.stages[0].pieces
        self._edges = stage_cells(plan, 0, self.stages[0].last)
        self.done = 0  # pieces of the first stage
        self.dtype: torch.dtype | None = None  # of patch tokens; what is held may be more exact
        self._image_dtype: torch.dtype | None = None  # of images
        self._queues = [Queue(stage, partial(self.outer, stage)) for stage in self.stages[1:]]
        self._band: list[Merged] = []  # finished pieces of the first stage's unfinished band
        self._result: list[Merged] = []  # finished bands of the last stage

    def remaining(self) -> Sequence[Piece]:
        """The pieces still to be added, in order."""
        return self.pieces[self.done :]

    def outer(self, stage: Stage, piece: Piece) -> Region:
        """The rectangle of a stage's input that a piece needs; of the first stage it is one of patches."""
        outer = piece.region if stage.first else piece.region.grown(*self._tokens.halo)
        if self._bases is None:
            return outer
        spans = [self._bases.outer(stage.first, stage.last, axis, piece.cells[axis]) for axis in (0, 1)]
        return outer.around(*spans)

    def pixels(self, piece: Piece) -> PixelBox:
        """The pixels that a piece of the first stage needs."""
        rows, cols = (fit.reach(start, stop) for fit, (start, stop) in zip(self._fits, self._box(piece), strict=True))
        return rows[0], cols[0], rows[1] - rows[0], cols[1] - cols[0]

    def _box(self, piece: Piece) -> list[tuple[int, int]]:
        """First pixel, and the one behind the last, on both axes of a piece's patches with all that is around them."""
        outer, patch = self.outer(self.stages[0], piece), self.stem.patch_size
        return [(part.start * patch, part.stop * patch) for part in (outer.rows, outer.cols)]

    def fit(self, piece: Piece, pixels: Tensor) -> Tensor:
        """The patches of a piece with all that is around them, as one image, from its pixels (B, C, h, w)."""
        for axis, (fit, (start, stop)) in enumerate(zip(self._fits, self._box(piece), strict=True)):
            pixels = fit.apply(pixels, pixels.ndim - 2 + axis, start, stop)
        return pixels

    def embed(self, piece: Piece, pixels: Tensor) -> Merged:
        """Patch tokens (B, rows, cols, D) with positions of a piece, from its pixels (B, C, h, w)."""
        (tokens,), image = self._embed([piece.region], piece, pixels)
        return Merged(tokens, None, image)

    def _embed(self, regions: Sequence[Region], piece: Piece, pixels: Tensor) -> tuple[list[Tensor], Tensor]:
        """The tokens of some regions of a piece, and its patches with all that is around them as one image."""
        (y, _), (x, _) = self._box(piece)
        image = self.fit(piece, pixels)
        tokens = [self._tokens.make(region, image, (y, x), self.keys) for region in regions]
        self.dtype, self._image_dtype = tokens[0].dtype, image.dtype
        return tokens, image

    def merge(self, stage: Stage, piece: Piece, given: Merged) -> Merged:
        """All levels of a stage on a piece of it.

        Args:
            stage, piece: which.
            given: the tokens (B, rows, cols, D) of its region, and the image of its `outer` one.

        Returns:
            Tokens of its cells, (B, cell rows, cell cols, D), and the image of these.
        """
        rows, cols = (level_cells(self.plan, stage.first, stage.last, axis, piece.cells[axis]) for axis in (0, 1))
        x, counts, image = given
        bases, image = self._seen_from_afar(stage, piece, x, image)
        for step, index in enumerate(range(stage.first, stage.last)):
            part = self.plan.levels[index].part(rows[step], cols[step])
            x, counts = self._step(x, index, part, counts, bases[step])
        return Merged(x, counts, image)

    def _seen_from_afar(
        self, stage: Stage, piece: Piece, x: Tensor, image: Tensor | None
    ) -> tuple[Sequence[Tensor | None], Tensor | None]:
        """The base of each level of a stage, and the image for the stage after it; None where a merger needs none."""
        if self._bases is None or image is None or self._image_dtype is None:
            return [None] * (stage.last - stage.first), None
        bases, image = self._bases.make(stage, piece, x, image, self.outer(stage, piece), self._image_dtype)
        return bases, None if stage.last == len(self.plan.levels) else image

    def _step(
        self, x: Tensor, index: int, level: Level, counts: Tensor | None, base: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        if isinstance(self.merger, PyramidMerger):
            return self.merger.step(x, self.plan, index, level, counts, base)
        return self.merger.step(x, self.plan, index, level, counts)

    def skips_cheaply(self, piece: Piece) -> bool:
        """Whether a piece without any patch that counts is better added by `add_empty`: its cells are large enough."""
        cells = len(piece.cells[0]) * len(piece.cells[1])
        return piece.region.size[0] * piece.region.size[1] >= _CHEAP * cells

    def empty_pixels(self, piece: Piece) -> list[PixelBox]:
        """The pixels that a piece without any patch that counts needs: those of the first patch of each cell; in one
        box those of the piece, where bases see what is skipped."""
        return [self.pixels(each) for each in (self._firsts(piece) if self._bases is None else [piece])]

    def add_empty(self, pixels: Sequence[Tensor]) -> None:
        """Adds the next piece where all its patches are skipped: of each cell the first one alone is computed.

        Args:
            pixels: (B, C, h, w) of each of its `empty_pixels`.
        """
        piece, stage, image = self.pieces[self.done], self.stages[0], None
        rows, cols = (len(cells) for cells in piece.cells)
        firsts = self._firsts(piece)
        if self._bases is None:
            parts = [self.embed(first, part).tokens for first, part in zip(firsts, pixels, strict=True)]
        else:
            parts, image = self._embed([first.region for first in firsts], piece, pixels[0])
        x = torch.stack(parts).flatten(1, 3).transpose(0, 1).unflatten(1, (rows, cols))  # (B, rows, cols, D)
        bases, image = self._seen_from_afar(stage, piece, x, image)
        down, across = (first_cells(self.plan, stage.first, stage.last, axis, piece.cells[axis]) for axis in (0, 1))
        alone = Level(tuple(range(rows + 1)), tuple(range(cols + 1)))
        for step, index in enumerate(range(stage.first, stage.last)):
            base = bases[step]
            x, _ = self._step(x, index, alone, None, base if base is None else base[:, down[step]][:, :, across[step]])
        self._take(0, Merged(x, torch.zeros(rows, cols, dtype=torch.int64, device=x.device), image))
        self.done += 1

    def _firsts(self, piece: Piece) -> list[Piece]:
        """The first patch of every cell of a piece of the first stage, as pieces of their own."""
        (rows, cols), size = self._edges, self.plan.size
        return [
            Piece((range(row, row + 1), range(col, col + 1)), Region((rows[row], cols[col]), (1, 1), size))
            for row in piece.cells[0]
            for col in piece.cells[1]
        ]

    def add(self, pixels: Tensor, is_skipped: Tensor | None = None) -> None:
        """Embeds and merges the next piece.

        Args:
            pixels: (B, C, h, w) of its region.
            is_skipped: (rows, cols) bool, patches of its region that are left out of the merging; all or no pieces
                of an image have it.
        """
        piece = self.pieces[self.done]
        counts = None if is_skipped is None else (~is_skipped).long()
        self._take(0, self.merge(self.stages[0], piece, self.embed(piece, pixels)._replace(counts=counts)))
        self.done += 1

    def _take(self, stage: int, merged: Merged) -> None:
        """Puts the result of a stage's next piece where it belongs, and does what has become possible by that."""
        band = self._queues[stage - 1].band if stage else self._band
        band.append(merged)
        if sum(part.tokens.shape[2] for part in band) < self._width(stage):
            return
        whole = together(band, 1)
        band.clear()
        if stage + 1 == len(self.stages):
            self._result.append(whole)
            return
        queue = self._queues[stage]
        for piece, given in queue.push(whole):
            self._take(stage + 1, self.merge(queue.stage, piece, given))

    def _width(self, stage: int) -> int:
        return self.stages[stage].bands[0][-1].cells[1].stop

    def state_dict(self) -> dict[str, Tensor]:
        """All that is held, as tensors by name, so that the work can go on later or elsewhere from the next piece."""
        state = {"done": torch.tensor(self.done), "next": torch.tensor([queue.next for queue in self._queues])}
        if self.dtype is not None:
            state["like"] = torch.empty(0, dtype=self.dtype)
        for name, held in self._held().items():
            for index, merged in enumerate(held):
                parts = {f"{name}.{index}.{part}": value for part, value in merged._asdict().items()}
                state |= {key: value.contiguous() for key, value in parts.items() if value is not None}
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Goes on from a state of the same image, plan and model, cut into the same pieces."""
        self.done = int(state["done"])
        self.dtype = state["like"].dtype if "like" in state else None
        for queue, following in zip(self._queues, state["next"].tolist(), strict=True):
            queue.next = following
        for name, held in self._held().items():
            held.clear()
            while (key := f"{name}.{len(held)}.tokens") in state:
                counts, image = (state.get(f"{name}.{len(held)}.{part}") for part in ("counts", "image"))
                held.append(Merged(state[key], counts, image))

    def _held(self) -> dict[str, list[Merged]]:
        held = {"band": self._band, "result": self._result}
        for index, queue in enumerate(self._queues):
            held |= {f"stage{index}.rows": queue.rows, f"stage{index}.band": queue.band}
        return held

    def result(self) -> Tensor:
        """The merged tokens (B, *plan.grid, D), once all pieces have been added."""
        x, counts, _ = self._whole()
        return self.merger.finish(x, self.plan, counts).to(self.dtype or x.dtype)

    def counts(self) -> Tensor | None:
        """How many patches took part in each final cell, (rows, cols), if any were skipped or could have been."""
        return self._whole().counts

    def _whole(self) -> Merged:
        if self.remaining():
            raise ValueError(f"{len(self.remaining())} of {len(self.pieces)} pieces have not been added yet.")
        return together(self._result, 0)


def pixels_of(images: Tensor, region: PixelBox) -> Tensor:
    """That region of images (..., H, W)."""
    y, x, height, width = region
    return images[..., y : y + height, x : x + width]


def merge_in_pieces(merging: PieceMerger, read: Callable[[Sequence[PixelBox]], Iterable[Tensor]]) -> Tensor:
    """Reads and adds all pieces; the merged tokens (B, *plan.grid, D)."""
    for pixels in read([merging.pixels(piece) for piece in merging.remaining()]):
        merging.add(pixels)
    return merging.result()
