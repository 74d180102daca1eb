"""Weights of other people's plain ViTs and MAEs under our names: timm's, MAE's own and transformers' files."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from anyres.layers.merge_plan import Grid
from anyres.models.config import ViTARConfig
from anyres.models.weights.table_grid import TableNotes, grid_of_table
from anyres.models.weights.timm import convert_timm_vit

_PATCHES, _BIAS = "patch_embed.proj.weight", "patch_embed.proj.bias"
_SPARE = re.compile(r"(head|head_dist|fc_norm|mask_token|pooler|classifier)(\.|$)|decoder")  # not of an encoder
_OWN = re.compile(r"(pos_embed|cls_token|patch_embed\.proj\.(weight|bias))$|blocks\.|norm\.")
_LAYERS = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
_BLOCK = {f"{layer}.{kind}" for layer in _LAYERS for kind in ("weight", "bias")}

# Names of transformers' ViT and ViTMAE, as in the files on the hub and as in its classes since version 5, and timm's.
_RENAMED = (
    (r"^vit\.", ""),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^(encoder\.layer|layers)\.(?=\d)", "blocks."),
    (r"^layernorm\.", "norm."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.attention\.(query|key|value)\.", r".attn.\1."),
    (r"\.attention\.q_proj\.", ".attn.query."),
    (r"\.attention\.k_proj\.", ".attn.key."),
    (r"\.attention\.v_proj\.", ".attn.value."),
    (r"\.attention\.(output\.dense|o_proj)\.", ".attn.proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"^(blocks\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
)


@dataclass(frozen=True)
class WeightSource:
    """An encoder to start from, under our names."""

    weights: dict[str, Tensor]
    """State dict entries, without the position table."""
    table: Tensor | None
    """Positions that were added to the patches, learned or fixed, (rows, cols, D); None where there are none."""
    grid: Grid
    """Rows and columns of the table, or of the tokens behind the merger."""
    facts: dict[str, Any]
    """Fields of `ViTARConfig` that the model must share, as far as they are known."""
    left_out: tuple[str, ...] = ()
    """Parts that no encoder of ours has."""
    config: ViTARConfig | None = None
    """Of a run of ours."""
    place: str = ""
    """Where in the file it was, if not at the top (see `Tensors`)."""


def convert(weights: Mapping[str, Tensor], where: Path, notes: TableNotes, facts: Mapping[str, Any]) -> WeightSource:
    """The encoder of a timm or transformers checkpoint.

    Args:
        weights: by their names.
        where: for messages.
        notes: what is known of the position table.
        facts: what else is known of it, such as its heads, which the weights do not tell.

    Raises:
        ValueError: weights of another architecture, or of parts that ours lacks; a table whose grid is not to be told.
    """
    if any(name.endswith("patch_embeddings.projection.weight") for name in weights):
        weights = _from_transformers(weights)
        notes = replace(notes, has_class_position=True)  # theirs always has one
    shapes = {name: weights[name].ndim for name in (_PATCHES, _BIAS, "pos_embed") if name in weights}
    if shapes != {_PATCHES: 4, _BIAS: 1, "pos_embed": 3}:
        raise ValueError(
            f"{where} holds no ViT; allowed: the folder of a run, or weights with the names of timm's "
            f"VisionTransformer or transformers' ViTMAE; it begins with {', '.join(list(weights)[:3])}"
        )
    spare = {name.split(".")[0] for name in weights if _SPARE.match(name)}
    weights = {name: value.float() for name, value in weights.items() if not _SPARE.match(name)}
    _check_parts(weights, where)
    _check_blocks(weights, where)
    prefix = int("cls_token" in weights)
    facts = _facts(weights, where) | dict(facts)
    grid, is_of_all = grid_of_table(weights["pos_embed"].shape[1], prefix, facts["patch_size"], notes, where)
    if not is_of_all:  # the class token has no position
        weights["pos_embed"] = F.pad(weights["pos_embed"], (0, 0, 1, 0))
    try:
        converted = convert_timm_vit(weights, ViTARConfig(grid=grid, prefix_tokens=prefix))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    table = converted.pop("position.table")
    return WeightSource(converted, table, grid, facts, tuple(sorted(spare)))


def _facts(weights: Mapping[str, Tensor], where: Path) -> dict[str, Any]:
    width, channels, height, other = weights[_PATCHES].shape
    if height != other:
        raise ValueError(f"{where} has patches of {height}x{other} pixels; allowed: square ones")
    depth = len({name.split(".")[1] for name in weights if name.startswith("blocks.")})
    return {"stem": "patch", "patch_size": height, "in_channels": channels, "width": width, "depth": depth}


def _check_parts(weights: Mapping[str, Tensor], where: Path) -> None:
    """ValueError for more than a plain ViT has. Its table may have positions for them too, so this comes first."""
    other = [name for name in weights if not _OWN.match(name)]
    if other:
        raise ValueError(
            f"{where} is no plain ViT with at most a class token: ours has no {', '.join(sorted(other)[:5])}"
        )


def _check_blocks(weights: Mapping[str, Tensor], where: Path) -> None:
    """ValueError for blocks that are not a plain ViT's, or not whole."""
    blocks: dict[str, set[str]] = {}
    for name in weights:
        if name.startswith("blocks."):
            _, index, rest = name.split(".", 2)
            blocks.setdefault(index, set()).add(rest)
    for index, names in blocks.items():
        other = sorted(names - _BLOCK)
        missing = sorted(_BLOCK - names - {"attn.qkv.bias"})  # without it the bias is zero, as that of a fresh model
        if other:
            raise ValueError(f"{where} is no plain ViT: a block of ours has no {', '.join(other[:5])}")
        if missing:
            raise ValueError(f"{where} is not whole: block {index} lacks {', '.join(missing[:5])}")


def _from_transformers(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same under timm's names, queries, keys and values side by side."""
    found: dict[str, Tensor] = {}
    for name, value in weights.items():
        for pattern, replacement in _RENAMED:
            name = re.sub(pattern, replacement, name)
        found[name] = value
    for name in [name for name in found if ".attn.query." in name]:
        trio = [name.replace(".query.", f".{kind}.") for kind in ("query", "key", "value")]
        if all(each in found for each in trio):
            found[name.replace(".query.", ".qkv.")] = torch.cat([found.pop(each) for each in trio])
    return found
