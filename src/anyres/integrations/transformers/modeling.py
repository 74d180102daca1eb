"""Our models with the calls of transformers."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, overload

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.backbone_utils import BackboneMixin
from transformers.modeling_outputs import (
    BackboneOutput,
    BaseModelOutputWithPooling,
    ImageClassifierOutput,
    MaskedImageModelingOutput,
)

from anyres.integrations.transformers.configuration import AnyresConfig, AnyresMAEConfig
from anyres.integrations.transformers.image_processing import Pixels, unpadded
from anyres.models.architectures import architecture_of
from anyres.models.mae import MaskedAutoencoder
from anyres.models.vitar import ViTAR


class _AnyresModel(PreTrainedModel):
    config_class: type[AnyresConfig] = AnyresConfig
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
            if isinstance(module, ViTAR | MaskedAutoencoder):
                module.set_grad_checkpointing(enable)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Ours, with projections that start at zero; what was loaded is left alone by transformers' guard."""
        if isinstance(module, ViTAR | MaskedAutoencoder):
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

    def forward(
        self,
        pixel_values: Pixels,
        image_sizes: Tensor | None = None,
        output_hidden_states: bool | None = None,
        **_: Any,
    ) -> BaseModelOutputWithPooling:
        """`last_hidden_state`, `pooler_output`, and `hidden_states`: what the first block gets and each block gives.

        Args:
            pixel_values: (B, C, H, W), or a list of (C, H_i, W_i).
            image_sizes: (B, 2), height and width in pixels of each image, whose right and bottom are padding beyond it.
            output_hidden_states: None takes the config's. Of images of several sizes one by one, which is slower.

        Raises:
            ValueError: sizes that do not fit the tensor.
        """
        images = unpadded(pixel_values, image_sizes)
        if self.config.output_hidden_states if output_hidden_states is None else output_hidden_states:
            return self._with_hidden_states([images] if isinstance(images, Tensor) else [each[None] for each in images])
        features = self.vit.forward_features(images)
        if isinstance(features.tokens, Tensor):
            tokens = features.tokens.flatten(1, 2)
        else:  # final grids can differ; what stands behind the shorter ones is zero
            tokens = nn.utils.rnn.pad_sequence([each.flatten(0, 1) for each in features.tokens], batch_first=True)
        hidden = torch.cat([features.prefix, tokens], dim=1)
        return BaseModelOutputWithPooling(last_hidden_state=hidden, pooler_output=features.pooled)

    def _with_hidden_states(self, batches: Sequence[Tensor]) -> BaseModelOutputWithPooling:
        trunk = self.vit.trunk
        found = []  # for each batch all hidden states, the last one, and what is pooled
        for images in batches:
            tokens, plan = self.vit.merge(images)
            last, pairs = trunk.forward_intermediates(tokens, range(len(trunk.blocks)), len(trunk.blocks) - 1)
            states = [trunk.with_prefix(tokens.flatten(1, 2))]
            states += [torch.cat([prefix, grid.flatten(1, 2)], dim=1) for grid, prefix in (*pairs, last)]
            found.append((states, self.vit.features_of(*last, plan).pooled))
        *states, last = (_padded(each) for each in zip(*(states for states, _ in found), strict=True))
        pooled = torch.cat([pooled for _, pooled in found])
        return BaseModelOutputWithPooling(last_hidden_state=last, pooler_output=pooled, hidden_states=tuple(states))


def _padded(batches: Sequence[Tensor]) -> Tensor:
    """Batches (B_i, N_i, D) as one (B, N, D), with zeros behind the tokens of the shorter ones."""
    return nn.utils.rnn.pad_sequence([tokens for batch in batches for tokens in batch], batch_first=True)


class AnyresForImageClassification(_AnyresModel):
    """A classifier of images of any size."""

    def __init__(self, config: AnyresConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.anyres = AnyresModel(config)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels or 0)
        self.post_init()

    def forward(
        self,
        pixel_values: Pixels,
        image_sizes: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        **_: Any,
    ) -> ImageClassifierOutput:
        """Logits (B, num_labels), and with `labels` (B,) their cross-entropy. See `AnyresModel.forward`."""
        found = self.anyres(pixel_values, image_sizes, output_hidden_states)
        logits = self.classifier(found.pooler_output)
        if labels is not None and self.config.problem_type not in (None, "single_label_classification"):
            raise ValueError(f"problem_type is {self.config.problem_type!r}; allowed: single_label_classification.")
        loss = None if labels is None else F.cross_entropy(logits, labels)
        return ImageClassifierOutput(loss=loss, logits=logits, hidden_states=found.hidden_states)


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


class AnyresForPreTraining(_AnyresModel):
    """A masked auto-encoder. `mae.reconstruct(images)` gives pictures of what it makes of hidden cells.

    `from_anyres(model.mae.backbone, num_labels=...)` makes a classifier of its encoder.
    """

    config_class = AnyresMAEConfig
    base_model_prefix = "mae"

    def __init__(self, config: AnyresMAEConfig) -> None:
        super().__init__(config)
        self.mae = MaskedAutoencoder(config.mae_config())
        self.post_init()

    def forward(
        self, pixel_values: Pixels, image_sizes: Tensor | None = None, keys: Tensor | None = None, **_: Any
    ) -> MaskedImageModelingOutput:
        """`loss`: the mean squared error over what is hidden.

        Args:
            pixel_values, image_sizes: see `AnyresModel.forward`.
            keys: (B,) int64, from which masks are drawn; None draws them from torch's generator.
        """
        return MaskedImageModelingOutput(loss=self.mae(unpadded(pixel_values, image_sizes), keys))


@overload
def from_anyres(model: MaskedAutoencoder) -> AnyresForPreTraining: ...
@overload
def from_anyres(
    model: ViTAR, classes: Sequence[str] = (), num_labels: int | None = None
) -> AnyresForImageClassification: ...
def from_anyres(model: Any, classes: Sequence[str] = (), num_labels: int | None = None) -> PreTrainedModel:
    """A model of ours, such as `anyres.load(folder)[0]` or `anyres.upgrade(...)`, as one of transformers.

    Args:
        model: a classifier, a model without a head, or a masked auto-encoder.
        classes: names in the order of the logits; their numbers if not given.
        num_labels: gives a model without a head a fresh one for so many classes.

    Raises:
        ValueError: another number of names than of outputs, or no head and no `num_labels`.
    """
    if isinstance(model, MaskedAutoencoder):
        pretraining = AnyresForPreTraining(AnyresMAEConfig.of(model.config))
        pretraining.mae.load_state_dict(model.state_dict())
        return pretraining.train(model.training)
    outputs = model.config.num_classes
    count = outputs or num_labels or 0
    if not count or num_labels not in (None, count) or len(classes) not in (0, count):
        raise ValueError(
            f"the model has {outputs} outputs, num_labels is {num_labels} and there are {len(classes)} names; allowed: "
            "num_labels for a model without a head alone, and a name for each output or none."
        )
    names = dict(enumerate(map(str, classes or range(count))))
    config = AnyresConfig(
        asdict(model.config), architecture_of(model).name, id2label=names, label2id={v: k for k, v in names.items()}
    )
    made = AnyresForImageClassification(config)
    weights = model.state_dict()
    if outputs:
        made.classifier.load_state_dict({name: weights.pop(f"head.{name}") for name in ("weight", "bias")})
    made.anyres.vit.load_state_dict(weights)
    return made.train(model.training)
