"""A plain ViT of timm under our names."""

import re
from collections.abc import Mapping

from torch import Tensor

from anyres.models.config import ViTARConfig

_TRUNK = re.compile(r"blocks\.|norm\.")


def convert_timm_vit(weights: Mapping[str, Tensor], config: ViTARConfig) -> dict[str, Tensor]:
    """State dict of a timm VisionTransformer (class token, learned positions) under our names.

    The patch convolution becomes a linear layer, and the position of the class token is added into the token itself.
    The position table must be that of `config.grid`.

    Raises:
        ValueError: a table of another grid, more than one prefix token, or weights of parts that our model lacks.
    """
    prefix = config.prefix_tokens
    table = weights["pos_embed"][0]  # (P + N, D)
    rows, cols = config.grid
    if len(table) != prefix + rows * cols:
        raise ValueError(f"pos_embed has {len(table)} positions; {prefix} + {rows}x{cols} are needed. Set `grid`.")
    converted = {
        "stem.proj.weight": weights["patch_embed.proj.weight"].flatten(1),
        "stem.proj.bias": weights["patch_embed.proj.bias"],
        "position.table": table[prefix:].unflatten(0, (rows, cols)),
    }
    used = {"pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias"}
    if prefix:
        converted["trunk.prefix"] = weights["cls_token"][0] + table[:prefix]
        used.add("cls_token")
    left = [key for key in weights if key not in used and not _TRUNK.match(key) and not key.startswith("head.")]
    if left or prefix > 1:
        raise ValueError(f"only a plain ViT with at most a class token can be converted; left over: {left or prefix}.")
    heads = {key: value for key, value in weights.items() if key.startswith("head.")}
    return converted | {f"trunk.{key}": value for key, value in weights.items() if _TRUNK.match(key)} | heads
