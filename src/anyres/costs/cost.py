"""What an image costs, from the configuration alone: parameters, multiply-accumulates by part, memory.

Three conventions. "executed": the matrix products and convolutions of one inference pass, equal to torch's flop counter
divided by 2. "plain": the same for grid attention as equation 1 is written, with keys and values of every token, which
is not how it is computed: what a speed is to be measured by. "paper": what reproduces the costs that the ViTAR paper
prints (docs/architecture.md): LayerNorm at 5 per element, the products of grid attention, padding counted in keys and
values, queries and keys also where a cell holds one token. What stands on a ViTAR in segmentation and detection is
counted alike in all three (`cost_dense`).
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, get_args

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from anyres.costs.convention import Convention
from anyres.costs.cost_dense import decoder_parts, padded_size
from anyres.costs.memory import peak_tensor_bytes
from anyres.errors import check_choice
from anyres.layers.merge_plan import Level, MergePlan, compose, largest_cell, token_grid
from anyres.layers.stem import stage_factors
from anyres.layers.token_merging import merge_count
from anyres.models.architectures import architecture_of, backbone_of, get_config
from anyres.models.config import ViTARConfig
from anyres.models.mae import MaskedAutoencoder
from anyres.models.mae_config import MAEConfig
from anyres.models.segmenter import Segmenter
from anyres.models.upgraded_config import UpgradedConfig
from anyres.models.vitar import ViTAR
from anyres.sizes import size_text

if TYPE_CHECKING:
    from anyres.models.detector import Detector

Parts = dict[str, int]

LAYER_NORM = 5  # operations per element that the paper's counter adds for a LayerNorm


@dataclass(frozen=True)
class Cost:
    """What one image costs in inference."""

    parameters: int
    """Number of parameters."""
    macs: int
    """Multiply-accumulates per image; papers of this field print them as FLOPs."""
    parts: Parts
    """Multiply-accumulates of stem, positions, bases of the pyramid merger, each pass of the merger with its grids,
    trunk, and what stands on it."""
    activation_bytes: int | None
    """Most bytes of tensors alive at once in an eager float32 forward pass of one image, without weights and image.
    None for masked auto-encoders and detectors, where it depends on what is hidden and on what is found."""


def cost(
    model: "ViTAR | MaskedAutoencoder | Segmenter | Detector | str",
    size: tuple[int, int],
    convention: Convention = "executed",
    memory: bool = True,
) -> Cost:
    """The cost of one image of size (height, width) in pixels.

    Args:
        model: a model, or the name of one.
        size: (height, width); for a detector the size that it resizes an image to, before padding. Of boxes and masks
            the most that it may work on are counted.
        convention: "executed", "plain" or "paper", see above.
        memory: finds `activation_bytes` too, which takes most of the time.

    Raises:
        ValueError: unknown model or convention, or a side below one pixel.
    """
    check_choice("convention", convention, get_args(Convention))
    height, width = (int(side) for side in size)
    if height < 1 or width < 1:
        raise ValueError(f"size is {height}x{width}; both sides must be at least 1 pixel.")
    twin = _twin(get_config(model) if isinstance(model, str) else model.config)
    parts = parts_of(twin.config, (height, width), convention)
    parameters = sum(parameter.numel() for parameter in twin.parameters())
    known = memory and architecture_of(twin).fixed_work
    return Cost(parameters, sum(parts.values()), parts, _activation_bytes(twin, (height, width)) if known else None)


def parts_of(config: Any, size: tuple[int, int], convention: Convention = "executed") -> Parts:
    """Multiply-accumulates of one image for a model of any configuration, in the order of the forward pass."""
    backbone = backbone_of(config)
    if backbone is config:
        return macs_by_part(backbone, size, convention)
    if isinstance(config, MAEConfig):  # the mean over all masks, which no single pass has
        return mae_macs_by_part(config, size, convention)
    twin = _twin(config)
    size = padded_size(twin, size)
    blocks = getattr(config, "tapped_blocks", None)
    executed = macs_by_part(backbone, size, "executed", blocks)
    parts = macs_by_part(backbone, size, convention, blocks)
    del parts["head"]
    return parts | decoder_parts(twin, size, sum(executed.values()))


def _twin(config: Any) -> Any:
    """A model of this configuration without data, on the meta device."""
    with torch.device("meta"):
        return architecture_of(config).model(config).eval()


def _activation_bytes(twin: Any, size: tuple[int, int]) -> int:
    """Runs a model of the meta device on tensors without data. They say they are on the CPU, whose fused attention is
    then used; tensors of the meta device would take the plain form, with its matrix of all pairs of tokens."""
    channels = backbone_of(twin.config).in_channels
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        twin.to_empty(device="cpu")
        image = torch.empty(1, channels, *size)
        return peak_tensor_bytes(lambda: twin(image))


def macs_by_part(
    config: ViTARConfig, size: tuple[int, int], convention: Convention = "executed", blocks: int | None = None
) -> Parts:
    """Multiply-accumulates of one image of `size` pixels, part by part in the order of the forward pass.

    Args:
        config: of the model.
        size: (height, width) in pixels.
        convention: see above.
        blocks: so many blocks of the trunk, without the final norm, as for outputs of blocks; None is all of it.
    """
    norm = LAYER_NORM if convention == "paper" else 0
    plan = config.plan(token_grid(*size, config.patch_size))
    grid = plan.size  # with more patches than the image where it is enlarged first
    parts = {"stem": stem_macs(config, grid, norm), "positions": _positions(config, grid)}
    if bases := _bases(config, plan, norm):
        parts["bases"] = bases
    if config.merger in ("grid_attention", "pyramid", "concat"):
        plain = 0 if config.learned_levels is None else len(plan.chain) - 1 - config.learned_levels
        for number, level in enumerate(plan.levels):
            if level.is_identity or number >= plain:  # plain means are no products
                name = f"merger {number + 1}: {size_text(level.input_grid)} > {size_text(level.output_grid)}"
                parts[name] = _merger_level(config, level, convention)
    parts["trunk"] = (_merging_trunk if config.tome else _trunk)(config, plan.grid, norm, blocks)
    parts["head"] = config.width * config.num_classes + _attention_pooling(config, plan.grid)
    return parts


def _attention_pooling(config: ViTARConfig, grid: tuple[int, int]) -> int:
    """Of an upgraded ViT whose one learned query attends to all tokens, as SigLIP's ("map")."""
    if not isinstance(config, UpgradedConfig) or config.vit["global_pool"] != "map":
        return 0
    width, tokens = config.width, grid[0] * grid[1] + config.prefix_tokens * config.vit["pool_include_prefix"]
    hidden = int(width * config.vit["mlp_ratio"])
    # queries and projection of one token, keys and values of all, the two products of attention, feed-forward network
    return 2 * width**2 + 2 * tokens * width**2 + 2 * tokens * width + 2 * width * hidden


def mae_macs_by_part(config: MAEConfig, size: tuple[int, int], convention: Convention = "executed") -> Parts:
    """Multiply-accumulates of a forward pass of masked auto-encoding of one image of `size` pixels, part by part.

    The mean over all masks: cells may differ in size. As in inference, passes with 1x1 cells are counted without
    queries and keys.

    Raises:
        ValueError: an image that leaves no cell visible or none hidden.
    """
    backbone, norm = config.backbone, LAYER_NORM if convention == "paper" else 0
    size = config.seen(*size)
    whole = macs_by_part(backbone, size, convention)
    plan = config.plan(*size)
    visible = config.visible(*size)
    passes = [name for name in whole if name.startswith("merger")]
    found = {"stem": whole["stem"] * _seen_share(config, plan, 0, visible), "positions": float(whole["positions"])}
    if "bases" in whole:  # of visible cells alone, but positions are read for all
        read = sum(_positions(backbone, grid) for grid in plan.chain[1:])
        found["bases"] = read + (whole["bases"] - read) * _seen_share(config, plan, 0, visible)
    for level, name in enumerate(passes, start=len(plan.levels) - len(passes) + 1):
        found[name] = whole[name] * _seen_share(config, plan, level, visible)
    cells = plan.grid[0] * plan.grid[1]
    seen = round(cells * _seen_share(config, plan, len(plan.levels), visible))
    found["trunk"] = _trunk(backbone, (1, seen), norm)
    width, tokens = config.decoder_width, cells + backbone.prefix_tokens
    # 12 = 3 for queries, keys and values, 1 for the projection, 8 for a feed-forward network four times as wide; the
    # two products of attention; a LayerNorm before each half
    block = 12 * tokens * width**2 + 2 * tokens**2 * width + 2 * norm * tokens * width
    embedding = (seen + backbone.prefix_tokens) * backbone.width * width
    side = config.side(plan)
    # every cell is told as a square of pixels
    squares = cells * width * backbone.in_channels * side**2
    found["decoder"] = embedding + config.decoder_depth * block + norm * tokens * width + squares
    # two passes of a separable resize, rows first: every cell counts as the largest one does, since all are cut out
    # alike
    down, across = (largest_cell(edges) * backbone.patch_size for edges in (plan.cell_rows, plan.cell_cols))
    found["target"] = backbone.in_channels * plan.grid[0] * side * (size[1] * down + plan.grid[1] * across * side)
    return {name: round(macs) for name, macs in found.items()}


def _seen_share(config: MAEConfig, plan: MergePlan, levels: int, visible: int) -> float:
    """Mean share of the cells after so many levels of a plan that hold something visible."""
    if config.masking == "cells":
        return visible / (plan.grid[0] * plan.grid[1])
    rows = compose([level.rows for level in plan.levels[:levels]], plan.size[0])
    cols = compose([level.cols for level in plan.levels[:levels]], plan.size[1])
    areas = [(bottom - top) * (right - left) for top, bottom in pairwise(rows) for left, right in pairwise(cols)]
    patches = plan.size[0] * plan.size[1]
    all_sets = math.comb(patches, visible)
    # the chance that none of a cell's patches is among the visible ones: hypergeometric, and the same for all cells of
    # an area
    unseen = {area: math.comb(patches - area, visible) / all_sets for area in set(areas)}
    return 1 - sum(unseen[area] for area in areas) / len(areas)


def stem_macs(config: ViTARConfig, grid: tuple[int, int], norm: int = 0) -> int:
    """Of a grid of patches; `norm` for each element of a LayerNorm."""
    tokens, width = grid[0] * grid[1], config.width
    if config.stem == "patch":
        return tokens * config.in_channels * config.patch_size**2 * width
    total, inputs, side = 0, config.in_channels, config.patch_size
    factors = stage_factors(config.patch_size)
    for stage, factor in enumerate(factors):
        side //= factor  # positions of this stage along one side of a patch
        # widths double from stage to stage up to the model's own, as resolutions fall; kernels of 2 * factor - 1
        # overlap by one less than half
        outputs = max(width >> (len(factors) - stage), 1)
        total += tokens * side**2 * outputs * (inputs * (2 * factor - 1) ** 2 + norm)
        inputs = outputs
    return total + tokens * inputs * width


def _positions(config: ViTARConfig, grid: tuple[int, int]) -> int:
    """Positions that act before the merger; reading a table as it is, or by a resize that is no product, is free."""
    tokens = grid[0] * grid[1]
    if config.position in ("conditional", "global_local"):
        convolutions = (config.position == "global_local") + (config.local_placement == "before")
        return convolutions * _depthwise(config, tokens)
    if config.position not in ("fuzzy", "learned") or grid == config.grid:
        return 0
    rows, cols = config.grid
    # R table C^T, rows first: (grid rows x table rows) times the table, then (table columns x grid columns)
    return grid[0] * rows * cols * config.width + tokens * cols * config.width


def _bases(config: ViTARConfig, plan: MergePlan, norm: int) -> int:
    """Stem and positions of the images that the pyramid merger reduces to the grid of each level that merges."""
    if config.merger != "pyramid":
        return 0
    grids = plan.chain[1:]
    return sum(stem_macs(config, grid, norm) + _positions(config, grid) for grid in grids)


def _depthwise(config: ViTARConfig, tokens: int) -> int:
    return tokens * 9 * config.width


def _feed_forward(config: ViTARConfig, tokens: int) -> int:
    return tokens * 2 * config.width * int(config.width * config.mlp_ratio)


def _merger_level(config: ViTARConfig, level: Level, convention: Convention) -> int:
    width, norm = config.width, LAYER_NORM if convention == "paper" else 0
    inputs = level.input_grid[0] * level.input_grid[1]
    outputs = level.output_grid[0] * level.output_grid[1]
    if config.merger == "concat":
        # the four tokens of a cell side by side go through one linear layer after a LayerNorm
        return outputs * 4 * width * (width + norm)
    if norm or config.padding == "zeros":
        # zeros are keys and values like any others, and the paper counts them even where they are masked
        inputs = level.padded_grid[0] * level.padded_grid[1]
    total = _feed_forward(config, outputs)
    if config.scale_query and (norm or not level.is_identity):
        total += 2 * width
    if norm:
        # every token meets its cell's one query, once as a key and once as a value
        attention = 2 * inputs * width
        total += attention + norm * width * (inputs + 2 * outputs)
    elif level.is_identity:
        return total + 2 * outputs * width**2  # values and projection only: softmax over one key is 1
    elif convention == "executed":  # the weights of keys and values meet a cell once, its tokens each head's vectors
        places = level.cell[0] * level.cell[1]
        return total + outputs * (4 * width**2 + 2 * places * config.heads * width)
    return total + 2 * inputs * width**2 + 2 * outputs * width**2


def window_pairs(grid: tuple[int, int], window: int) -> int:
    """Pairs of tokens of a grid that share a window; windows at the right and bottom edge have what remains."""
    # pairs of a side: those of its whole windows, and those of the smaller one that remains; a window's pairs are the
    # product of both sides'
    rows, cols = (length // window * window**2 + (length % window) ** 2 for length in grid)
    return rows * cols


def attended_pairs(config: ViTARConfig, grid: tuple[int, int], blocks: int | None = None) -> int:
    """Pairs of tokens that attend to each other in all blocks of the trunk together, or in the first so many."""
    count = config.depth if blocks is None else blocks
    whole = sum(block < count for block in set(config.whole_blocks))
    pairs = whole * (grid[0] * grid[1] + config.prefix_tokens) ** 2
    return pairs + (count - whole) * window_pairs(grid, config.window) if config.window else pairs


def _trunk(config: ViTARConfig, grid: tuple[int, int], norm: int, blocks: int | None = None) -> int:
    width, tokens = config.width, grid[0] * grid[1] + config.prefix_tokens
    count = config.depth if blocks is None else blocks
    pairs = attended_pairs(config, grid, count)
    block = 4 * tokens * width**2 + _feed_forward(config, tokens) + 2 * norm * tokens * width
    total = count * block + 2 * pairs * width
    if blocks is None:
        total += norm * tokens * width
    if config.local_placement == "trunk":  # on the values of every block, or once after the first
        convolutions = count if config.position == "global_local" else 1
        total += convolutions * _depthwise(config, grid[0] * grid[1])
    return total


def _merging_trunk(config: ViTARConfig, grid: tuple[int, int], norm: int, blocks: int | None = None) -> int:
    """A trunk whose blocks merge tokens between attention and feed-forward network (ToMe)."""
    width, left, prefix, total = config.width, grid[0] * grid[1], config.prefix_tokens, 0
    for _ in range(config.depth if blocks is None else blocks):
        # tokens become fewer from block to block, so each block is counted by itself
        tokens, merged = left + prefix, merge_count(config.tome, left)
        total += 4 * tokens * width**2 + 2 * tokens**2 * width + norm * tokens * width
        if merged:
            first = (left + 1 - prefix % 2) // 2  # the sets whose tokens are compared: even and odd places
            # ToMe compares keys, their mean over the heads, hence as wide as one head; the mean itself is a product too
            head = width // config.heads
            total += tokens * width * head + first * (left - first) * head
        left -= merged
        total += _feed_forward(config, left + prefix) + norm * (left + prefix) * width
    return total if blocks is not None else total + norm * (left + prefix) * width
