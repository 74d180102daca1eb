"""Our models as models of Hugging Face transformers, for its Auto classes, pipelines and Trainer.

    import anyres.integrations.transformers  # registers them
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    model = AutoModelForImageClassification.from_pretrained(folder)  # that save_pretrained wrote
    processor = AutoImageProcessor.from_pretrained(folder)
    logits = model(**processor(images, return_tensors="pt")).logits  # of any mix of sizes

The image processor keeps every image's own size: a batch is padded to a common tensor, `image_sizes` says what is
image, and the model takes the padding off again, so that each image gives what it gives alone. With `do_pad=False` it
returns a list, which stock pipelines can batch:

    processor = AutoImageProcessor.from_pretrained(folder, do_pad=False)
    classify = pipeline("image-classification", model=model, image_processor=processor, batch_size=4)
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    AutoBackbone,
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    BatchFeature,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.backbone_utils import BackboneConfigMixin, BackboneMixin
from transformers.image_processing_backends import TorchvisionBackend
from transformers.image_utils import PILImageResampling
from transformers.modeling_outputs import BackboneOutput, BaseModelOutputWithPooling, ImageClassifierOutput

from anyres.models.architectures import ARCHITECTURES, architecture_of, get_config
from anyres.models.config import ViTARConfig
from anyres.models.vitar import ViTAR
from anyres.models.weights.record import make_config

Pixels = Tensor | Sequence[Any]


class AnyresConfig(BackboneConfigMixin, PreTrainedConfig):
    """Configuration of a model of ours.

    Args:
        settings: fields of its `ViTARConfig` (or `UpgradedConfig`); None for those of a default model.
        architecture: "ViTAR", or "UpgradedViT" for what `anyres.upgrade` made.
        out_features, out_indices: of a backbone: which of the stages "stem" (merged tokens), "stage1", ... (blocks).
    """

    model_type = "anyres"

    def __init__(
        self,
        settings: Mapping[str, Any] | None = None,
        architecture: str = "ViTAR",
        out_features: Sequence[str] | None = None,
        out_indices: Sequence[int] | None = None,
        **options: Any,
    ) -> None:
        given = asdict(get_config("anyres_small_patch16")) if settings is None else dict(settings)
        self.settings, self.architecture = {**given, "num_classes": 0}, architecture
        backbone = self.model_config()
        self.hidden_size, self.num_hidden_layers = backbone.width, backbone.depth
        self.num_attention_heads, self.patch_size = backbone.heads, backbone.patch_size
        self.num_channels = backbone.in_channels
        self.stage_names = ["stem", *(f"stage{number}" for number in range(1, backbone.depth + 1))]
        self.set_output_features_output_indices(
            out_features=None if out_features is None else list(out_features),
            out_indices=None if out_indices is None else list(out_indices),
        )
        super().__init__(**options)

    @classmethod
    def from_name(
        cls, name: str, num_labels: int = 2, out_indices: Sequence[int] | None = None, **overrides: Any
    ) -> "AnyresConfig":
        """That of a named model, with fields of `ViTARConfig` replaced."""
        return cls(asdict(get_config(name, **overrides)), num_labels=num_labels, out_indices=out_indices)

    def model_config(self) -> ViTARConfig:
        """Of the model without a classifier."""
        if self.architecture not in ("ViTAR", "UpgradedViT"):
            raise ValueError(f"architecture is {self.architecture!r}; allowed: ViTAR, UpgradedViT.")
        return make_config(ARCHITECTURES[self.architecture], self.settings, Path("config.json").parent)


class _AnyresModel(PreTrainedModel):
    config_class = AnyresConfig
    config: AnyresConfig
    base_model_prefix = "anyres"
    main_input_name = "pixel_values"
    accepts_loss_kwargs = False  # so that the Trainer divides the loss by the batches that it accumulates
    _supports_sdpa = True
    _no_split_modules = ["TrunkBlock", "Block"]
    supports_gradient_checkpointing = True

    def gradient_checkpointing_enable(self, *_: Any, **__: Any) -> None:
        """Recomputes merger passes and blocks in the backward pass instead of keeping their activations."""
        self._set_checkpointing(True)

    def gradient_checkpointing_disable(self) -> None:
        self._set_checkpointing(False)

    def _set_checkpointing(self, enable: bool) -> None:
        for module in self.modules():
            if isinstance(module, ViTAR):
                module.set_grad_checkpointing(enable)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Ours, with projections that start at zero; what was loaded is left alone by transformers' guard."""
        if isinstance(module, ViTAR):
            module.init_weights()
        elif isinstance(module, nn.Linear) and module is getattr(self, "classifier", None):
            nn.init.trunc_normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)


class AnyresModel(_AnyresModel):
    """Tokens (B, P + N, D) and pooled features (B, D) of images of any size."""

    def __init__(self, config: AnyresConfig) -> None:
        super().__init__(config)
        settings = config.model_config()
        self.vit = architecture_of(settings).model(settings)
        self.post_init()

    def forward(self, pixel_values: Pixels, image_sizes: Tensor | None = None, **_: Any) -> BaseModelOutputWithPooling:
        """`last_hidden_state` and `pooler_output`.

        Args:
            pixel_values: (B, C, H, W), or a list of (C, H_i, W_i).
            image_sizes: (B, 2), height and width in pixels of each image, whose right and bottom are padding beyond it.

        Raises:
            ValueError: sizes that do not fit the tensor.
        """
        images = unpadded(pixel_values, image_sizes)
        features = self.vit.forward_features(images)
        if isinstance(features.tokens, Tensor):
            tokens = features.tokens.flatten(1, 2)
        else:  # final grids can differ; what stands behind the shorter ones is zero
            tokens = nn.utils.rnn.pad_sequence([each.flatten(0, 1) for each in features.tokens], batch_first=True)
        hidden = torch.cat([features.prefix, tokens], dim=1)
        return BaseModelOutputWithPooling(last_hidden_state=hidden, pooler_output=features.pooled)


class AnyresForImageClassification(_AnyresModel):
    """A classifier of images of any size."""

    def __init__(self, config: AnyresConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.anyres = AnyresModel(config)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels or 0)
        self.post_init()

    def forward(
        self, pixel_values: Pixels, image_sizes: Tensor | None = None, labels: Tensor | None = None, **_: Any
    ) -> ImageClassifierOutput:
        """Logits (B, num_labels), and with `labels` (B,) their cross-entropy. See `AnyresModel.forward`."""
        logits = self.classifier(self.anyres(pixel_values, image_sizes).pooler_output)
        if labels is not None and self.config.problem_type not in (None, "single_label_classification"):
            raise ValueError(f"problem_type is {self.config.problem_type!r}; allowed: single_label_classification.")
        loss = None if labels is None else F.cross_entropy(logits, labels)
        return ImageClassifierOutput(loss=loss, logits=logits)


class AnyresBackbone(BackboneMixin, _AnyresModel):
    """Feature maps (B, D, rows, cols) of some blocks, for detectors and segmenters of transformers.

    ValueError unless the final grid has the image's shape: cells of 1x1 or 2x2 patches, or no merger.
    """

    has_attentions = False

    def __init__(self, config: AnyresConfig) -> None:
        super().__init__(config)
        settings = config.model_config()
        if not settings.keeps_shape:
            raise ValueError(
                f"cells are {settings.cells!r}, so that maps would have no constant stride; allowed in a backbone: "
                'cells="1x1" or "2x2".'
            )
        self.anyres = AnyresModel(config)
        self.num_features = [config.hidden_size] * len(config.stage_names)
        self.post_init()

    def forward(self, pixel_values: Tensor, **_: Any) -> BackboneOutput:  # type: ignore[override]
        """`feature_maps`, one for each of the config's `out_features`."""
        vit = self.anyres.vit
        tokens, _plan = vit.merge(pixel_values)
        indices = [self.stage_names.index(name) for name in self.out_features]
        blocks = [index - 1 for index in indices if index]
        pairs = vit.trunk.forward_intermediates(tokens, blocks, max(blocks, default=-1))[1]
        maps = [tokens] * (0 in indices) + [grid for grid, _ in pairs]
        return BackboneOutput(feature_maps=tuple(each.permute(0, 3, 1, 2).contiguous() for each in maps))


def from_anyres(model: ViTAR, classes: Sequence[str] = ()) -> AnyresForImageClassification:
    """A classifier of ours, such as `anyres.load(folder)[0]` or `anyres.upgrade(...)`, as one of transformers.

    Args:
        model: with a head.
        classes: names in the order of the logits; their numbers if not given.

    Raises:
        ValueError: no head, or another number of names.
    """
    count = model.config.num_classes
    if not count or len(classes) not in (0, count):
        raise ValueError(f"the model has {count} outputs and {len(classes)} names; allowed: a name for each, or none.")
    names = dict(enumerate(map(str, classes or range(count))))
    config = AnyresConfig(
        asdict(model.config), architecture_of(model).name, id2label=names, label2id={v: k for k, v in names.items()}
    )
    made = AnyresForImageClassification(config)
    weights = model.state_dict()
    made.classifier.load_state_dict({name: weights.pop(f"head.{name}") for name in ("weight", "bias")})
    made.anyres.vit.load_state_dict(weights)
    return made.train(model.training)


def unpadded(pixel_values: Pixels, image_sizes: Tensor | None = None) -> Tensor | list[Tensor]:
    """Images without their padding: one tensor if nothing is padded, else a list of (C, H_i, W_i).

    ValueError for sizes that do not fit.
    """
    if not isinstance(pixel_values, Tensor):
        images: list[Tensor] = []
        for each in pixel_values:  # a pipeline collates lists to a list of lists
            images += each if isinstance(each, list | tuple) else [each]
        return torch.stack(images) if len({image.shape for image in images}) == 1 else images
    if image_sizes is None:
        return pixel_values
    height, width = pixel_values.shape[-2:]
    given = torch.as_tensor(image_sizes)
    sizes = given.tolist()
    if given.shape != (len(pixel_values), 2) or any(not (0 < h <= height and 0 < w <= width) for h, w in sizes):
        raise ValueError(
            f"image_sizes are {sizes} for pixel_values of {tuple(pixel_values.shape)}; allowed: (height, width) for "
            f"each image, at most {height}x{width}."
        )
    if all(size == [height, width] for size in sizes):
        return pixel_values
    return [image[:, :h, :w] for image, (h, w) in zip(pixel_values, sizes, strict=True)]


class AnyresImageProcessor(TorchvisionBackend):
    """Images at their own size, normalised: `pixel_values` padded to a common tensor, and `image_sizes` (B, 2).

    `do_pad=False` gives a list of (C, H_i, W_i) instead. `do_resize=True` with `size` brings all to one size first.
    """

    resample = PILImageResampling.BICUBIC
    do_resize = False
    do_rescale = True
    do_normalize = True
    do_pad = True
    do_convert_rgb = True
    size = {"height": 224, "width": 224}
    image_mean = [0.485, 0.456, 0.406]
    image_std = [0.229, 0.224, 0.225]
    model_input_names = ["pixel_values", "image_sizes"]

    @classmethod
    def of_model(cls, config: AnyresConfig, **options: Any) -> "AnyresImageProcessor":
        """The one that a model needs: its mean and deviation."""
        settings = config.model_config()
        own = {"image_mean": list(settings.mean), "image_std": list(settings.std)}
        return cls(**{**own, "do_convert_rgb": settings.in_channels == 3, **options})

    def _preprocess(self, images: list[Tensor], **options: Any) -> BatchFeature:  # type: ignore[override]
        if not images:
            raise ValueError("there are no images; give one or more.")
        for index, image in enumerate(images):
            if 0 in image.shape:
                raise ValueError(
                    f"image {index} is {image.shape[-2]}x{image.shape[-1]} pixels; both must be at least 1."
                )
        wanted, is_padded = options.pop("return_tensors", None), options.pop("do_pad", True)
        found = super()._preprocess(images, do_pad=False, return_tensors=None, **options)["pixel_values"]
        sizes = torch.tensor([image.shape[-2:] for image in found])
        if not is_padded:
            return BatchFeature({"pixel_values": list(found)})
        height, width = sizes.amax(0).tolist()
        padded = torch.stack([F.pad(each, (0, width - each.shape[-1], 0, height - each.shape[-2])) for each in found])
        return BatchFeature({"pixel_values": padded, "image_sizes": sizes}, tensor_type=wanted)


def collate(processor: AnyresImageProcessor) -> Callable[[Sequence[Mapping[str, Any]]], dict[str, Any]]:
    """A data collator for `Trainer`: rows of "image" (anything the processor takes) and "labels" to a padded batch.

    Give the Trainer `remove_unused_columns=False`, since a model has no argument "image".
    """

    def batch(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        found = dict(processor([row["image"] for row in rows], return_tensors="pt"))
        if "labels" in rows[0]:
            found["labels"] = torch.tensor([row["labels"] for row in rows])
        return found

    return batch


AutoConfig.register("anyres", AnyresConfig, exist_ok=True)
AutoModel.register(AnyresConfig, AnyresModel, exist_ok=True)
AutoBackbone.register(AnyresConfig, AnyresBackbone, exist_ok=True)
AutoModelForImageClassification.register(AnyresConfig, AnyresForImageClassification, exist_ok=True)
AutoImageProcessor.register(AnyresConfig, image_processor_classes={"torchvision": AnyresImageProcessor}, exist_ok=True)
