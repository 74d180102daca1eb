"""Gradients of merging piece by piece: nothing is kept for the backward pass but what the stages leave.

The forward pass runs without a graph. The backward pass goes through the stages from the last to the first and computes
every piece a second time, this time with its graph, which is gone before the next. So the memory does not grow with
the image, except for what goes from stage to stage: about a thousandth of the patches, and with the pyramid merger a
64th or less, a 16th behind the convolutional stem, as its stages have fewer levels. Positions are jittered as in the
forward pass, because the offsets are a function of key and place.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from anyres.layers.held import Merged, together
from anyres.layers.pieces import PieceMerger, PixelBox
from anyres.layers.stages import Stage

Read = Callable[[Sequence[PixelBox]], Iterator[Tensor]]
"""Boxes -> the pixels (B, C, h, w) of each, in order."""


def merge_recomputing(merging: PieceMerger, read: Read) -> Tensor:
    """The merged tokens (B, *plan.grid, D) of `pieces.merge_in_pieces`, through which gradients reach the parameters.

    Pixels get no gradient. Every region is read twice, the second time in the backward pass.
    """
    modules = (merging.stem, merging.position, merging.merger)
    parameters = [p for module in modules if isinstance(module, nn.Module) for p in module.parameters()]
    result: Tensor = _Merging.apply(merging, read, *parameters)
    return result


class _Merging(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, merging: PieceMerger, read: Read, *parameters: Tensor) -> Tensor:
        ctx.merging, ctx.read, ctx.parameters = merging, read, parameters
        ctx.inputs = []  # of each stage but the first
        x: Merged | None = None
        for stage in merging.stages:
            if x is not None:
                ctx.inputs.append(x)
            given = _given(merging, read, stage, x)
            bands = [[merging.merge(stage, piece, next(given)) for piece in band] for band in stage.bands]
            x = together([together(band, 1) for band in bands], 0)
        assert x is not None
        ctx.autocast = _autocast_now(x.tokens.device.type)
        return merging.merger.finish(x.tokens, merging.plan).to(merging.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> tuple[Any, ...]:
        merging, parameters = ctx.merging, [p for p in ctx.parameters if p.requires_grad]
        sums: list[Any] = [None] * len(parameters)
        gradient = merging.merger.finish(gradient, merging.plan)  # a factor for each cell, its own transpose
        for stage, x in zip(reversed(merging.stages), [*reversed(ctx.inputs), None], strict=True):
            below = None if x is None else torch.zeros_like(x.tokens)
            given = _given(merging, ctx.read, stage, x)
            for piece in stage.pieces:
                with torch.enable_grad(), ctx.autocast():
                    part = next(given)
                    out = merging.merge(stage, piece, part).tokens
                if not out.requires_grad:  # plain means of frozen embeddings
                    continue
                rows, cols = (slice(cells.start, cells.stop) for cells in piece.cells)
                wanted = [*parameters, *([] if below is None else [part.tokens])]
                found = torch.autograd.grad(out, wanted, gradient[:, rows, cols].to(out.dtype), allow_unused=True)
                for index, share in enumerate(found[: len(parameters)]):
                    if share is not None:  # summed exactly: there may be thousands of pieces
                        exact = share.to(torch.promote_types(share.dtype, torch.float32))
                        sums[index] = exact if sums[index] is None else sums[index].add_(exact)
                if below is not None:
                    below[:, piece.region.rows, piece.region.cols] = found[-1]
            gradient = below
        by_parameter = iter(sums)
        gradients = [next(by_parameter) if p.requires_grad else None for p in ctx.parameters]
        return None, None, *[g if g is None else g.to(p.dtype) for g, p in zip(gradients, ctx.parameters, strict=True)]


def _given(merging: PieceMerger, read: Read, stage: Stage, x: Merged | None) -> Iterator[Merged]:
    """What each of a stage's pieces takes: cut from the stage's input, or embedded from pixels."""
    if x is None:
        for piece, pixels in zip(stage.pieces, read([merging.pixels(p) for p in stage.pieces]), strict=True):
            yield merging.embed(piece, pixels)
        return
    for piece in stage.pieces:
        part = x.cut(piece.region, merging.outer(stage, piece))
        yield part._replace(tokens=part.tokens.detach().requires_grad_(torch.is_grad_enabled()))


def _autocast_now(device: str) -> Callable[[], AbstractContextManager]:
    """What enters the autocast that is on now once more."""
    if not torch.amp.is_autocast_available(device):
        return nullcontext
    enabled, dtype = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
    return lambda: torch.autocast(device, dtype=dtype, enabled=enabled, cache_enabled=False)
