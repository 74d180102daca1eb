"""What an image costs, from the configuration alone: parameters, multiply-accumulates by part, memory.

Three conventions. "executed": the matrix products and convolutions of one inference pass, equal to torch's flop counter
divided by 2. "plain": the same for grid attention as equation 1 is written, with keys and values of every token, which
is not how it is computed: what a speed is to be measured by. "paper": what reproduces the costs that the ViTAR paper
prints (docs/architecture.md): LayerNorm at 5 per element, the products of grid attention, padding counted in keys and
values, queries and keys also where a cell holds one token.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from anyres.errors import check_choice
from anyres.evaluation.memory import peak_tensor_bytes
from anyres.layers.merge_plan import Level
from anyres.layers.stem import stage_factors, token_grid
from anyres.layers.token_merging import merge_count
from anyres.models.presets import get_config
from anyres.models.vitar import ViTAR, ViTARConfig

Convention = Literal["paper", "executed", "plain"]
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
    """Multiply-accumulates of stem, positions, each pass of the merger with its grids, trunk and head."""
    activation_bytes: int
    """Most bytes of tensors alive at once in an eager float32 forward pass of one image, without weights and image."""


def cost(model: ViTAR | str, size: tuple[int, int], convention: Convention = "executed") -> Cost:
    """The cost of one image of size (height, width) in pixels.

    Args:
        model: a model, or the name of one.
        size: (height, width).
        convention: "executed", "plain" or "paper", see above.

    Raises:
        ValueError: unknown model or convention, or a side below one pixel.
    """
    check_choice("convention", convention, get_args(Convention))
    height, width = (int(side) for side in size)
    if height < 1 or width < 1:
        raise ValueError(f"size is {height}x{width}; both sides must be at least 1 pixel.")
    config = get_config(model) if isinstance(model, str) else model.config
    parts = macs_by_part(config, (height, width), convention)
    with torch.device("meta"):
        twin = ViTAR(config).eval()
    parameters = sum(parameter.numel() for parameter in twin.parameters())
    activation_bytes = _activation_bytes(twin, (height, width))
    return Cost(parameters, sum(parts.values()), parts, activation_bytes)


def _activation_bytes(twin: ViTAR, size: tuple[int, int]) -> int:
    """Runs a model of the meta device on tensors without data. They say they are on the CPU, whose fused attention is
    then used; tensors of the meta device would take the plain form, with its matrix of all pairs of tokens."""
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        twin.to_empty(device="cpu")
        image = torch.empty(1, twin.config.in_channels, *size)
        return peak_tensor_bytes(lambda: twin(image))


def macs_by_part(config: ViTARConfig, size: tuple[int, int], convention: Convention = "executed") -> Parts:
    """Multiply-accumulates of one image of `size` pixels, part by part in the order of the forward pass."""
    norm = LAYER_NORM if convention == "paper" else 0
    grid = token_grid(*size, config.patch_size)
    parts = {"stem": _stem(config, grid, norm), "positions": _positions(config, grid)}
    plan = config.plan(grid)
    if config.merger in ("grid_attention", "concat"):
        plain = 0 if config.learned_levels is None else len(plan.chain) - 1 - config.learned_levels
        for number, level in enumerate(plan.levels):
            if level.is_identity or number >= plain:  # plain means are no products
                (rows, cols), (to_rows, to_cols) = level.input_grid, level.output_grid
                name = f"merger {number + 1}: {rows}x{cols} > {to_rows}x{to_cols}"
                parts[name] = _merger_level(config, level, convention)
    parts["trunk"] = _merging_trunk(config, plan.grid, norm) if config.tome else _trunk(config, plan.grid, norm)
    parts["head"] = config.width * config.num_classes
    return parts


def _stem(config: ViTARConfig, grid: tuple[int, int], norm: int) -> int:
    tokens, width = grid[0] * grid[1], config.width
    if config.stem == "patch":
        return tokens * config.in_channels * config.patch_size**2 * width
    total, inputs, side = 0, config.in_channels, config.patch_size
    factors = stage_factors(config.patch_size)
    for stage, factor in enumerate(factors):
        side //= factor  # positions of this stage along one side of a patch
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
    return grid[0] * rows * cols * config.width + tokens * cols * config.width


def _depthwise(config: ViTARConfig, tokens: int) -> int:
    return tokens * 9 * config.width


def _feed_forward(config: ViTARConfig, tokens: int) -> int:
    return tokens * 2 * config.width * int(config.width * config.mlp_ratio)


def _merger_level(config: ViTARConfig, level: Level, convention: Convention) -> int:
    width, norm = config.width, LAYER_NORM if convention == "paper" else 0
    inputs = level.input_grid[0] * level.input_grid[1]
    outputs = level.output_grid[0] * level.output_grid[1]
    if config.merger == "concat":
        return outputs * 4 * width * (width + norm)
    if norm or config.padding == "zeros":
        inputs = level.padded_grid[0] * level.padded_grid[1]
    total = _feed_forward(config, outputs)
    if config.scale_query and (norm or not level.is_identity):
        total += 2 * width
    if norm:
        attention = 2 * inputs * width
        total += attention + norm * width * (inputs + 2 * outputs)
    elif level.is_identity:
        return total + 2 * outputs * width**2  # values and projection only: softmax over one key is 1
    elif convention == "executed":  # the weights of keys and values meet a cell once, its tokens each head's vectors
        places = level.cell[0] * level.cell[1]
        return total + outputs * (4 * width**2 + 2 * places * config.heads * width)
    return total + 2 * inputs * width**2 + 2 * outputs * width**2


def _trunk(config: ViTARConfig, grid: tuple[int, int], norm: int) -> int:
    width, tokens = config.width, grid[0] * grid[1] + config.prefix_tokens
    block = 4 * tokens * width**2 + 2 * tokens**2 * width + _feed_forward(config, tokens) + 2 * norm * tokens * width
    total = config.depth * block + norm * tokens * width
    if config.local_placement == "trunk":  # on the values of every block, or once after the first
        convolutions = config.depth if config.position == "global_local" else 1
        total += convolutions * _depthwise(config, grid[0] * grid[1])
    return total


def _merging_trunk(config: ViTARConfig, grid: tuple[int, int], norm: int) -> int:
    """A trunk whose blocks merge tokens between attention and feed-forward network (ToMe)."""
    width, left, prefix, total = config.width, grid[0] * grid[1], config.prefix_tokens, 0
    for _ in range(config.depth):
        tokens, merged = left + prefix, merge_count(config.tome, left)
        total += 4 * tokens * width**2 + 2 * tokens**2 * width + norm * tokens * width
        if merged:
            first = (left + 1 - prefix % 2) // 2  # the sets whose tokens are compared: even and odd places
            head = width // config.heads
            total += tokens * width * head + first * (left - first) * head
        left -= merged
        total += _feed_forward(config, left + prefix) + norm * (left + prefix) * width
    return total + norm * (left + prefix) * width
