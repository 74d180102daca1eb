"""`anyres.upgrade`: from a plain ViT of timm to a model for any size."""

import copy
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from timm import layers as timm_layers
from timm.models import vision_transformer as timm_vit
from torch import Tensor, nn

from anyres.errors import check_choice, unknown
from anyres.models.from_transformers import as_timm, is_of_transformers
from anyres.models.upgraded import UpgradedViT
from anyres.models.upgraded_config import UpgradedConfig
from anyres.models.weights.timm_model import timm_model
from anyres.sizes import Size

UpgradeStart = Literal["resized", "merged"]
_OPTIONS = (
    "base_filter", "full_levels", "deep_weight", "last_pass", "extra_passes", "drop_path_rate", "mean", "std"
)  # fmt: skip
_MERGERS = {"resized": "pyramid", "merged": "grid_attention"}
_TOLERANCE = 1e-4


def upgrade(vit: nn.Module | str, start: UpgradeStart = "resized", **options: Any) -> UpgradedViT:
    """A plain ViT as a model for images of any size, with exactly the answers that it had.

    Before it is given, the model is compared with its source on an image of noise. "Resized" means as the pyramid does
    it: area means level by level of the plan, which for other ratios than powers of two is not quite one area mean.

    Args:
        vit: timm's `VisionTransformer` (DeiT, DeiT-III, AugReg, MAE, DINOv2, CLIP and SigLIP towers, ...), or the name
            of one, whose published weights timm then downloads; or transformers' `ViTModel`,
            `ViTForImageClassification`, `Dinov2Model`, `Dinov2WithRegistersModel`, `CLIPVisionModel` or
            `SiglipVisionModel`, whose answer is then `pooler_output` (of a `ViTModel` the class token itself). It is
            left as it is.
        start: "resized": at *every* size the answers are those of the old model on the image resized to its own size,
            and training the merger can only add detail. "merged": the old embedding at full resolution, and a merger
            that begins as the mean of a cell; the answers are the old ones at the model's own size.
        options: base_filter="bicubic" (see `UpgradedConfig`); of `ViTARConfig` full_levels, deep_weight, last_pass,
            extra_passes, and drop_path_rate, which is 0 whatever it was, as is all other dropout; and `mean` and `std`
            of the old preprocessing, which models of transformers do not tell: taken are those of the best-known
            checkpoints (0.5 for a `ViTModel`, ImageNet's for DINOv2, CLIP's own), so give your processor's.

    Returns:
        A model in evaluation mode, on the CPU. Its own size is the old grid times the patch (`config.own_size`); where
        the old input size is no multiple of the patch, as SigLIP's 384 with patches of 14, what is left over is cut.

    Raises:
        ValueError: what is no plain ViT, with the reason; a name whose weights cannot be fetched; an upgrade that would
            not answer as the old model does.
    """
    check_choice("start", start, get_args(UpgradeStart))
    for name in options:
        if name not in _OPTIONS:
            raise unknown("option of upgrade", name, _OPTIONS)
    source = vit = timm_model(vit) if isinstance(vit, str) else vit
    if is_of_transformers(vit):
        vit = as_timm(vit)
    config = describe(vit, merger=_MERGERS[start], **options)
    assert isinstance(vit, timm_vit.VisionTransformer)
    model = UpgradedViT(config)
    weights = converted(vit)
    missing = [name for name in model.state_dict() if name not in weights and not name.startswith("merger.")]
    spare = [name for name in weights if name not in model.state_dict()]
    if missing or spare:
        raise ValueError(_UNLIKE.format(f"parts of its own: {', '.join((*spare, *missing)[:5])}"))
    model.load_state_dict(weights, strict=False)
    model.eval()
    _check_answers(source, vit.patch_embed.img_size, model)
    return model


_UNLIKE = "this VisionTransformer cannot be upgraded: it is not what timm's arguments make, with {}."


@torch.inference_mode()
def _check_answers(source: nn.Module, size: Size, model: UpgradedViT) -> None:
    """ValueError unless both answer alike at the model's own size, on noise: on the CPU, in float32."""
    height, width = model.config.own_size
    noise = torch.randn(1, model.config.in_channels, *size, generator=torch.Generator().manual_seed(0))
    answer = copy.deepcopy(source).cpu().float().eval()(noise)
    if not isinstance(answer, Tensor):  # of transformers
        kind = type(source).__name__
        answer = answer.last_hidden_state[:, 0] if kind == "ViTModel" else answer.get("logits", answer[-1])
    expected = answer.detach()
    found = model(noise[:, :, :height, :width])
    error = (found - expected).abs().max() / expected.abs().max().clamp(min=1e-6)
    if not error <= _TOLERANCE:
        raise ValueError(_UNLIKE.format(f"answers that differ by {error:.1e} of the largest"))


def describe(vit: nn.Module, *, merger: str, **own: Any) -> UpgradedConfig:
    """The configuration of a timm ViT. ValueError, with the reason, for what cannot be upgraded."""
    if type(vit) is not timm_vit.VisionTransformer:
        raise ValueError(_refusal(vit))
    block: Any = vit.blocks[0]
    embed: Any = vit.patch_embed
    for has, what in (
        (not isinstance(embed, timm_layers.PatchEmbed), f"its patches are made by {type(embed).__name__}"),
        (not isinstance(getattr(embed, "norm", None), nn.Identity), "its patch embedding has a norm"),
        (embed.patch_size[0] != embed.patch_size[1], f"its patches are {embed.patch_size}; allowed: square ones"),
        (type(block) is not timm_vit.Block, f"its blocks are {type(block).__name__}; allowed: Block"),
        (vit.global_pool == "", "it has no pooling"),
        (not isinstance(vit.head, nn.Identity | nn.Linear), f"its head is a {type(vit.head).__name__}"),
    ):
        if has:
            raise ValueError(f"{type(vit).__name__} cannot be upgraded: {what}.")
    if not hasattr(block.norm1, "eps"):
        raise ValueError(f"{type(vit).__name__} cannot be upgraded: {type(block.norm1).__name__} is no layer norm.")
    known = getattr(vit, "pretrained_cfg", None) or {}
    mlp, attention = block.mlp, block.attn
    hidden = (mlp.fc1_g if hasattr(mlp, "fc1_g") else mlp.fc1).out_features
    described: dict[str, Any] = {
        "mlp": type(mlp).__name__, "mlp_ratio": (hidden + 0.5) / vit.embed_dim,
        "act": type(mlp.act).__name__, "norm": type(block.norm1).__name__, "norm_eps": block.norm1.eps,
        "qkv_bias": attention.qkv.bias is not None, "proj_bias": attention.proj.bias is not None,
        "qk_norm": not isinstance(attention.q_norm, nn.Identity),
        "scale_attn_norm": not isinstance(getattr(attention, "norm", nn.Identity()), nn.Identity),
        "scale_mlp_norm": not isinstance(getattr(mlp, "norm", nn.Identity()), nn.Identity),
        "init_values": None if isinstance(block.ls1, nn.Identity) else 1e-5,
        "class_token": vit.cls_token is not None, "reg_tokens": vit.num_reg_tokens,
        "pre_norm": not isinstance(vit.norm_pre, nn.Identity),
        "final_norm": not (isinstance(vit.norm, nn.Identity) and isinstance(vit.fc_norm, nn.Identity)),
        "fc_norm": not isinstance(vit.fc_norm, nn.Identity), "global_pool": vit.global_pool,
        "pool_include_prefix": vit.pool_include_prefix,
    }  # fmt: skip
    if getattr(mlp.act, "approximate", "none") != "none":
        described["act_options"] = {"approximate": mlp.act.approximate}
    if hasattr(mlp, "gate_last"):
        described["mlp_options"] = {"gate_last": mlp.gate_last}
    out = (mlp.w3 if hasattr(mlp, "w3") else mlp.fc2).in_features
    into = 2 * hidden if hasattr(mlp, "fc1_g") else hidden
    classes = 0 if isinstance(vit.head, nn.Identity) else vit.head.out_features  # also of a head that was replaced
    source = {key: known.get(key) for key in ("architecture", "tag", "input_size", "interpolation", "crop_pct")}
    fields: dict[str, Any] = {
        "grid": tuple(embed.grid_size), "patch_size": embed.patch_size[0], "in_channels": embed.proj.in_channels,
        "width": vit.embed_dim, "depth": len(vit.blocks), "heads": attention.num_heads,
        "mlp_ratio": (into + out) / (2 * vit.embed_dim), "num_classes": classes,
        "prefix_tokens": vit.num_prefix_tokens, "pool": "token" if vit.global_pool == "token" else "mean",
        "position": "none" if vit.pos_embed is None else "learned", "merger": merger, "start": "mean",
        **({} if vit.pos_embed is None else {"interpolation": "bicubic"}),
        **{name: _of_channels(known[name], embed.proj.in_channels) for name in ("mean", "std") if known.get(name)},
    }  # fmt: skip
    return UpgradedConfig(**{**fields, **own}, vit=described, source={k: v for k, v in source.items() if v is not None})


def _of_channels(values: Sequence[float], channels: int) -> tuple[float, ...]:
    """Statistics of a model for other channels than those of its `pretrained_cfg`: the mean of those."""
    return tuple(values) if len(values) == channels else (sum(values) / len(values),) * channels


_REASONS = {
    "VisionTransformerDistilled": "its second token has a classifier of its own",
    "Eva": "its positions are rotary and its blocks are EVA's",
    "NaFlexVit": "it takes any size itself",
    "SwinTransformer": "its attention is in windows",
    "SwinTransformerV2": "its attention is in windows",
}


def _refusal(model: nn.Module) -> str:
    kind = type(model).__name__
    reason = _REASONS.get(kind, "it is no plain ViT")
    return f"{kind} cannot be upgraded: {reason}; allowed: timm's VisionTransformer, such as deit3_small_patch16_224."


def converted(vit: timm_vit.VisionTransformer) -> dict[str, Tensor]:
    """The weights of a timm ViT under the names of an `UpgradedViT`: all but the merger's."""
    theirs = {name: value.float() for name, value in vit.state_dict().items()}
    projection, table = theirs.pop("patch_embed.proj.weight"), theirs.pop("pos_embed", None)
    bias = theirs.pop("patch_embed.proj.bias", None)
    found = {
        "stem.proj.weight": projection.flatten(1),
        "stem.proj.bias": projection.new_zeros(len(projection)) if bias is None else bias,
    }
    parts = [theirs.pop(name)[0] for name in ("cls_token", "reg_token") if name in theirs]
    prefix = torch.cat(parts) if parts else None
    if table is not None:
        rows, cols = vit.patch_embed.grid_size
        before = table.shape[1] - rows * cols
        if prefix is not None and before:
            prefix = prefix + table[0, :before]
        found["position.table"] = table[0, before:].unflatten(0, (rows, cols))
    if prefix is not None:
        found["trunk.prefix"] = prefix
    for name, value in theirs.items():
        part = name.split(".")[0]
        place = {"attn_pool": "pooling.", "fc_norm": "pooling.", "head": ""}.get(part, "trunk.")
        found[place + name] = value
    return found
