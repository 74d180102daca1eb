"""`anyres.load_timm`: the weights of a plain ViT of timm in a model of ours that is made for them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from anyres.models.config import ViTARConfig
from anyres.models.vitar import ViTAR
from anyres.models.weights.tensors import read_tensors
from anyres.models.weights.timm import convert_timm_vit

Source = nn.Module | Mapping[str, Tensor] | str | Path


@torch.no_grad()
def load_timm(model: ViTAR, source: Source) -> list[str]:
    """Puts the weights of a timm ViT with at most a class token on a `ViTAR` of its width, depth, patch and grid.

    A `deit_*_patch16` then answers as the source does; of a state dict or file it is not known whether heads,
    activation and pooling are the same. Any other ViTAR starts from what it shares with it; to keep all
    of a ViT's answers at every size, use `anyres.upgrade`.

    Args:
        model: changed in place.
        source: the timm model, its state dict, or a file of it (.safetensors, .pth).

    Returns:
        Names of the model's parameters that the source has none for, such as those of the merger; they stay as they
        were. So does a head for another number of classes.

    Raises:
        ValueError: no plain ViT, a position table of another grid, or a tensor of another shape (the first such, with
            both shapes). Then the model is unchanged.
    """
    if isinstance(source, VisionTransformer):
        _check_unseen(source, model.config)
    weights = _state_dict(source)
    if "pos_embed" not in weights or "patch_embed.proj.weight" not in weights:
        first = ", ".join(list(weights)[:3])
        raise ValueError(f"these are not the weights of a timm VisionTransformer; they begin with {first}.")
    shaped = ViTARConfig(grid=model.config.grid, prefix_tokens=int("cls_token" in weights))
    own = model.state_dict()
    converted = convert_timm_vit(weights, shaped)
    spare = [name for name in converted if name not in own and name.startswith("trunk.") and name != "trunk.prefix"]
    if spare:
        raise ValueError(f"the model has no {', '.join(spare[:3])}; to keep all of a ViT use anyres.upgrade.")
    found = {name: value for name, value in converted.items() if name in own}
    if {name for name in found if name.startswith("head.") and found[name].shape != own[name].shape}:
        found = {name: value for name, value in found.items() if not name.startswith("head.")}
    for name, value in found.items():
        if value.shape != own[name].shape:
            raise ValueError(f"{name} is {tuple(value.shape)} in the source and {tuple(own[name].shape)} in the model.")
    model.load_state_dict(found, strict=False)
    return [name for name in own if name not in found]


def _check_unseen(source: VisionTransformer, config: ViTARConfig) -> None:
    """ValueError for what no tensor tells of and our models have otherwise."""
    block: Any = source.blocks[0]
    for name, theirs, ours in (
        ("heads", block.attn.num_heads, config.heads),
        ("activation", type(block.mlp.act).__name__, "GELU"),
        ("epsilon of norms", block.norm1.eps, 1e-6),
        ("pooling", source.global_pool, "token") if config.pool == "token" else ("", 0, 0),
    ):
        if theirs != ours:
            raise ValueError(
                f"{name}: {theirs} in the source and {ours} in the model; to keep a ViT use anyres.upgrade."
            )


def _state_dict(source: Source) -> Mapping[str, Tensor]:
    if isinstance(source, nn.Module):
        return source.state_dict()
    return source if isinstance(source, Mapping) else read_tensors(Path(source)).by_name
