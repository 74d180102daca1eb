"""Vision transformers of Hugging Face transformers as timm's `VisionTransformer`, on the way to `anyres.upgrade`."""

import re
from dataclasses import dataclass
from typing import Any, Literal

import torch
from timm.layers import GELUTanh, Mlp, QuickGELU, SwiGLU
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

_HALF, _IMAGENET = ((0.5,) * 3, (0.5,) * 3), ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_CLIP = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class _Kind:
    """What a class of transformers leaves unsaid."""

    statistics: tuple[tuple[float, ...], tuple[float, ...]]
    """Mean and deviation that its best-known checkpoints have; a model does not tell its own."""
    pool: Literal["token", "map"] = "token"
    has_norm_before: bool = False


_DINO = _Kind(_IMAGENET)
KINDS = {
    "ViTModel": _Kind(_HALF),
    "ViTForImageClassification": _Kind(_HALF),
    "Dinov2Model": _DINO,
    "Dinov2WithRegistersModel": _DINO,
    "CLIPVisionModel": _Kind(_CLIP, has_norm_before=True),
    "SiglipVisionModel": _Kind(_HALF, pool="map"),
}
_ACTIVATIONS = {
    "gelu": nn.GELU,
    "quick_gelu": QuickGELU,
    "gelu_pytorch_tanh": GELUTanh,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
}
_RENAMED = [
    (re.compile(pattern), name)
    for pattern, name in (
        (r"^(vit|vision_model)\.", ""),
        (r"^embeddings\.patch_embeddings?\.(projection\.)?", "patch_embed.proj."),
        (r"^embeddings\.position_embeddings?(\.weight)?$", "pos_embed"),
        (r"^embeddings\.(cls_token|class_embedding)$", "cls_token"),
        (r"^embeddings\.register_tokens$", "reg_token"),
        (r"^(encoder\.)?layers?\.(?=\d)", "blocks."),
        (r"^pre_layrnorm\.", "norm_pre."),
        (r"^(post_)?layernorm\.", "norm."),
        (r"^classifier\.", "head."),
        (r"^head\.probe$", "attn_pool.latent"),
        (r"^head\.attention\.out_proj\.", "attn_pool.proj."),
        (r"^head\.attention\.in_proj_", "attn_pool.qkv."),
        (r"^head\.layernorm\.", "attn_pool.norm."),
        (r"^head\.mlp\.", "attn_pool.mlp."),
        (r"\.(layernorm_before|layer_norm1)\.", ".norm1."),
        (r"\.(layernorm_after|layer_norm2)\.", ".norm2."),
        (r"\.(attention|self_attn)\.([qkv])_proj\.", r".attn.\2."),
        (r"\.(attention|self_attn)\.(o|out)_proj\.", ".attn.proj."),
        (r"\.layer_scale(\d)\.lambda1$", r".ls\1.gamma"),
        (r"\.mlp\.gate_proj\.", ".mlp.fc1_g."),
        (r"\.mlp\.up_proj\.", ".mlp.fc1_x."),
        (r"\.mlp\.down_proj\.", ".mlp.fc2."),
    )
]
_LEFT_OUT = re.compile(r"(^|\.)(mask_token|pooler|position_ids)(\.|$)")


def as_timm(model: Any) -> VisionTransformer:
    """The same model as timm's, with a copy of its weights; pooled it gives `pooler_output` before any dense layer.

    Raises:
        ValueError: a model of another class, or with an activation that has no counterpart.
    """
    name, config = type(model).__name__, model.config
    if name not in KINDS:
        raise ValueError(f"{name} cannot be upgraded; allowed of transformers: {', '.join(KINDS)}.")
    if config.hidden_act not in _ACTIVATIONS:
        allowed = ", ".join(_ACTIVATIONS)
        raise ValueError(f"{name} cannot be upgraded: its activation is {config.hidden_act}; allowed: {allowed}.")
    kind, weights = KINDS[name], _under_timms_names(model)
    gated = weights.get("blocks.0.mlp.fc1_g.weight")
    hidden = len(weights["blocks.0.mlp.fc1.weight"] if gated is None else gated)
    width = config.hidden_size
    eps = config.layer_norm_eps
    vit = VisionTransformer(
        img_size=config.image_size, patch_size=config.patch_size, in_chans=config.num_channels, embed_dim=width,
        depth=config.num_hidden_layers, num_heads=config.num_attention_heads, mlp_ratio=(hidden + 0.5) / width,
        num_classes=len(weights["head.weight"]) if "head.weight" in weights else 0, global_pool=kind.pool,
        class_token="cls_token" in weights, no_embed_class=True, pre_norm=kind.has_norm_before,
        reg_tokens=weights["reg_token"].shape[1] if "reg_token" in weights else 0,
        qkv_bias="blocks.0.attn.qkv.bias" in weights, init_values=1.0 if "blocks.0.ls1.gamma" in weights else None,
        norm_layer=lambda size, **options: nn.LayerNorm(size, eps=eps, **options),
        act_layer=nn.SiLU if gated is not None else _ACTIVATIONS[config.hidden_act],
        mlp_layer=Mlp if gated is None else SwiGLU, weight_init="skip",
    )  # fmt: skip
    try:
        vit.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"{name} cannot be upgraded: {str(error).splitlines()[-1].strip()}") from error
    mean, std = kind.statistics
    vit.pretrained_cfg = {  # type: ignore[assignment]
        "architecture": name, "input_size": (config.num_channels, *vit.patch_embed.img_size), "mean": mean, "std": std
    }  # fmt: skip
    return vit.train(model.training)


def _under_timms_names(model: Any) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        if _LEFT_OUT.search(name):
            continue
        for pattern, replacement in _RENAMED:
            name = pattern.sub(replacement, name)
        found[name] = value.detach().clone()
    for name in [name for name in found if ".attn.q." in name]:
        parts = [found.pop(name.replace(".q.", f".{part}.")) for part in "qkv"]
        found[name.replace(".q.", ".qkv.")] = torch.cat(parts)
    for end in ("weight", "bias"):  # of the pooling that is attention
        if f"attn_pool.qkv.{end}" in found:
            query, key_value = found.pop(f"attn_pool.qkv.{end}").tensor_split([model.config.hidden_size])
            found |= {f"attn_pool.q.{end}": query, f"attn_pool.kv.{end}": key_value}
    table = found["pos_embed"].view(1, -1, model.config.hidden_size)
    if "cls_token" in found:  # its position is added once and for all
        found["cls_token"] = found["cls_token"].view(1, 1, -1) + table[:, :1]
        table = table[:, 1:]
    return found | {"pos_embed": table}


def is_of_transformers(model: Any) -> bool:
    return any(kind.__module__.startswith("transformers.") for kind in type(model).__mro__)
