"""The parts of a model, made from its configuration."""

from functools import partial

from torch import nn

from anyres.layers.attention import LocalValueAttention, PositionedAttention, RelativeBiasAttention, RotaryAttention
from anyres.layers.conditional import ConditionalPosition
from anyres.layers.global_local import GlobalLocalPosition
from anyres.layers.merging import AdaptiveTokenMerger, AveragePoolMerger, ConcatMerger
from anyres.layers.position import FuzzyPositionalEncoding, NoPosition
from anyres.layers.pyramid_merger import PyramidMerger
from anyres.layers.rotary import RotaryPosition
from anyres.layers.sincos import SinCosPosition
from anyres.layers.stem import ConvStem, PatchStem
from anyres.layers.token_merging import ToMeBlock
from anyres.models.config import ViTARConfig
from anyres.models.trunk_block import TrunkBlock

PositionBefore = FuzzyPositionalEncoding | SinCosPosition | ConditionalPosition | GlobalLocalPosition | NoPosition
TokenMerger = AdaptiveTokenMerger | PyramidMerger | AveragePoolMerger | ConcatMerger

layer_norm = partial(nn.LayerNorm, eps=1e-6)


def make_stem(config: ViTARConfig) -> PatchStem | ConvStem:
    stem = PatchStem if config.stem == "patch" else ConvStem
    return stem(config.in_channels, config.width, config.patch_size)


def make_position(config: ViTARConfig) -> PositionBefore:
    """What acts on the patch tokens before the merger; nothing for positions that live in the trunk."""
    if config.position in ("fuzzy", "learned"):
        jitter = config.jitter if config.position == "fuzzy" else 0.0
        return FuzzyPositionalEncoding(config.width, config.grid, jitter=jitter, interpolation=config.interpolation)
    if config.position == "sincos":
        return SinCosPosition(config.width, config.grid)
    if config.position == "global_local":
        return GlobalLocalPosition(config.width, local=config.local_placement == "before")
    if config.position == "conditional" and config.local_placement == "before":
        return ConditionalPosition(config.width)
    return NoPosition()


def make_rotary(config: ViTARConfig) -> RotaryPosition | None:
    """The rotation that all blocks of the trunk share."""
    if config.position != "rotary":
        return None
    return RotaryPosition(config.width // config.heads, rescale=config.rescale)


def make_merger(config: ViTARConfig) -> TokenMerger | None:
    if config.merger == "none":
        return None
    if config.merger == "average":
        return AveragePoolMerger()
    if config.merger == "concat":
        return ConcatMerger(config.width)
    if config.merger == "pyramid":
        return PyramidMerger(
            config.width,
            config.heads,
            config.mlp_ratio,
            start=config.start,
            full_levels=config.full_levels,
            deep_weight=config.deep_weight,
        )
    return AdaptiveTokenMerger(
        config.width,
        config.heads,
        config.mlp_ratio,
        padding=config.padding,
        start=config.start,
        scale_query=config.scale_query,
        learned_levels=config.learned_levels,
    )


def make_blocks(config: ViTARConfig) -> nn.ModuleList:
    """The trunk; stochastic depth grows linearly from 0 at the first block."""
    rates = [config.drop_path_rate * i / max(config.depth - 1, 1) for i in range(config.depth)]
    return nn.ModuleList(_make_block(config, index, rate) for index, rate in enumerate(rates))


def _make_block(config: ViTARConfig, index: int, rate: float) -> TrunkBlock | ToMeBlock:
    if config.tome:
        return ToMeBlock(
            config.width,
            config.heads,
            config.mlp_ratio,
            qkv_bias=True,
            drop_path=rate,
            norm_layer=layer_norm,
            amount=config.tome,
            prefix_tokens=config.prefix_tokens,
        )
    after_first = config.position == "conditional" and config.local_placement == "trunk" and index == 0
    return TrunkBlock(
        config.width,
        config.heads,
        config.mlp_ratio,
        drop_path=rate,
        norm_layer=layer_norm,
        attention=_make_attention(config),
        position=ConditionalPosition(config.width) if after_first else None,
        window=0 if index in config.whole_blocks else config.window,
    )


def _make_attention(config: ViTARConfig) -> PositionedAttention | None:
    """The attention of a block, None for timm's own."""
    if config.position == "relative_bias":
        return RelativeBiasAttention(config.width, config.heads, config.grid)
    if config.position == "rotary":
        return RotaryAttention(config.width, config.heads)
    if config.position == "global_local" and config.local_placement == "trunk":
        return LocalValueAttention(config.width, config.heads)
    return None


def init_linear_and_norms(model: nn.Module) -> None:
    """Glorot for all matrices, zeros for their biases, ones and zeros for norms, as in the original ViT and in MAE."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            module.reset_parameters()
