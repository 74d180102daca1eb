"""Which models can be written as one graph for every size, and what to use instead of those that cannot."""

from torch import nn

from anyres.layers.merging import AdaptiveTokenMerger
from anyres.layers.plain_linear import is_plain_linear
from anyres.layers.position import FuzzyPositionalEncoding, NoPosition
from anyres.layers.sincos import SinCosPosition
from anyres.models.vitar import ViTAR

_MOST_BYTES = 2**31 - 2**24  # protobuf's limit, and some for the graph


def check_exportable(model: nn.Module) -> None:
    """ValueError, with the alternative, for a model that cannot be written as one graph."""
    if not isinstance(model, ViTAR):
        raise ValueError(f"{type(model).__name__} cannot be exported; allowed: a classifier or a backbone (ViTAR).")
    if type(model).forward_head is not ViTAR.forward_head:
        raise ValueError(
            f"{type(model).__name__} has calls of its own; allowed: the same weights in anyres.create_model's model."
        )
    weight = 4 * sum(parameter.numel() for parameter in model.parameters())
    if weight > _MOST_BYTES:
        raise ValueError(f"the model's {weight / 1e9:.1f} GB are more than one ONNX file holds; allowed: up to 2 GB.")
    config = model.config
    before = (FuzzyPositionalEncoding, SinCosPosition, NoPosition)
    for applies, what, instead in (
        (config.tome, f"tome={config.tome}", "a model with a merger"),
        (config.merger in ("average", "concat"), f"merger={config.merger!r}", 'merger="pyramid" or "grid_attention"'),
        (config.padding == "zeros", 'padding="zeros"', 'padding="masked"'),
        (config.cells == "balanced", 'cells="balanced"', 'cells="halving"'),
        (config.scale_query, "scale_query", "a merger without it"),
        (config.learned_levels is not None, "learned_levels", "a merger that learns all levels"),
        (config.window, f"window={config.window}", "global attention"),
        (not isinstance(model.position, before) or config.position == "relative_bias"
         or config.local_placement == "trunk", f"position={config.position!r}",
         "fuzzy, learned, sincos, rotary or no positions"),
        (getattr(model.position, "interpolation", "bilinear") == "timm", 'interpolation="timm"', '"bilinear"'),
        (getattr(config, "base_filter", "area") != "area", 'base_filter="bicubic"', 'base_filter="area"'),
    ):  # fmt: skip
        if applies:
            raise ValueError(f"a model with {what} cannot be exported; allowed: {instead}.")
    layers: dict[str, nn.Module] = {"stem.proj": model.stem.proj}
    if isinstance(model.merger, AdaptiveTokenMerger):
        block = model.merger.block
        layers |= {"q": block.q, "kv": block.kv, "proj": block.proj, "mlp.fc1": block.mlp.fc1, "mlp.fc2": block.mlp.fc2}
    for name, layer in layers.items():
        if not is_plain_linear(layer):
            raise ValueError(f"{name} is no plain linear layer; merge its adapters into its weights first.")
