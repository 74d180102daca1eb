"""What a training run on class folders is made of, and its checks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from anyres.data.augment import TrainAugment
from anyres.data.schedule import EverySize, ResolutionSchedule
from anyres.errors import check_choice
from anyres.models.architectures import VITAR
from anyres.models.config import ViTARConfig
from anyres.models.presets import AUTOENCODERS, CLASSIFIERS
from anyres.sizes import SideRange
from anyres.training.backbone_config import BackboneRunConfig
from anyres.training.config import Operational
from anyres.training.image_config import check_augmentation, nearest_name
from anyres.training.run_checks import FROM_ZERO, PROBABILITY, Range, check_numbers

if TYPE_CHECKING:
    from torch import nn

    from anyres.training.task import Task

_NUMBERS: dict[str, Range] = {
    "mixup": FROM_ZERO, "cutmix": FROM_ZERO, "mixup_prob": PROBABILITY, "mixup_switch_prob": PROBABILITY,
    "smoothing": (0.0, 1.0, "[)"), "validate_crop_ratio": (0.0, 1.0, "(]"), "consistency": FROM_ZERO,
    "label_share": (0.0, 1.0, "(]"),
}  # fmt: skip

# what frozen features leave without effect, and options of a model that act while it learns
_OF_TRUNK = ("layer_decay", "grad_checkpointing", "grad_pieces", "consistency")
_WHILE_LEARNING = ("drop_path_rate", "extra_passes", "jitter", "rescale")


@dataclass(frozen=True, kw_only=True)
class TrainConfig(BackboneRunConfig):
    """A training run. The defaults are DeiT's recipe (arXiv 2012.12877, table 9) with one image size per step.

    On the command line --from-records in place of --data trains a head on features (`RecordsConfig`).
    """

    data: Operational[Path]
    """Folder that holds train/ and, optionally, val/, each with one folder of images per class."""
    init: Operational[Path | None] = None
    """Start from these weights instead of random ones, with a fresh head: folder of a run of `anyres pretrain` or
    `anyres train`, or a ViT or MAE of timm or transformers (.safetensors, .pth). What `anyres upgrade` wrote keeps its
    head if it knows the same classes."""
    train: Literal["all", "adapter"] = "all"
    """"adapter": where init is what `anyres upgrade` wrote, merger and head alone; the old ViT stays as it is."""
    linear_probe: bool = False
    """Leave everything of init as it is and train a head on its features."""
    label_share: float = 1.0
    """Share of the training images to use, the same one of every class and at least one image of each."""
    model: str = "anyres_tiny_patch16"
    """Name of the model; `anyres models` lists them."""
    replicas: bool = False
    """Every step shows each image at all the sizes, with a crop and augmentation for each (ResFormer), not at one."""
    consistency: float = 0.0
    """Weight of the loss that draws a replica's features to those of the next larger one (ResFormer: 1)."""
    layer_decay: float | None = None
    """Factor on the learning rate from each layer to the one below it; the same for all layers if not given."""
    augmentation: TrainAugment = TrainAugment()
    """What is done to each training image."""
    mixup: float = 0.8
    """Alpha of mixup's Beta distribution; 0 turns mixup off."""
    cutmix: float = 1.0
    """Alpha of cutmix's Beta distribution; 0 turns cutmix off."""
    mixup_prob: float = 1.0
    """Probability that a batch is mixed at all."""
    mixup_switch_prob: float = 0.5
    """Probability that a mixed batch is cut (cutmix) rather than blended (mixup)."""
    smoothing: float = 0.1
    """Label smoothing."""
    grad_pieces: bool = False
    """Embed and merge piece by piece, and again in the backward pass: the same gradients in memory that hardly grows
    with the size of the images, for half as much time again at large ones."""
    validate_crop_ratio: Operational[float] = 0.875
    """Short side to size / ratio, then a centre crop; 1 for no crop on square images."""

    def make_task(self) -> Task:
        from anyres.training.classification.task import ClassificationTask

        return ClassificationTask(self)

    def model_settings(self, classes: int | None = None) -> ViTARConfig:
        head = {} if classes is None else {"num_classes": classes}
        settings = VITAR.get_config(self.model, **self.model_options, **head)
        return self.with_levels_of_training(settings, self.parsed_sizes())

    def schedule(self) -> ResolutionSchedule | EverySize:
        """Which size each step has, or with `replicas` which sizes."""
        if not self.replicas:
            return super().schedule()
        _check_replicas(self)
        return EverySize(self.parsed_sizes())

    def is_mixing(self) -> bool:
        """Whether any batch of the run can be mixed."""
        return self.mixup_prob > 0 and (self.mixup > 0 or self.cutmix > 0)

    def check(self) -> None:
        super().check()
        check_numbers(self, _NUMBERS)
        check_choice("train", self.train, ("all", "adapter"))
        if self.train == "adapter" and (self.init is None or self.linear_probe):
            raise ValueError(
                'train is "adapter", which is what `anyres upgrade` put before an old ViT; allowed: init, the folder '
                "that it wrote, and no linear_probe"
            )
        if self.is_mixing() and self.batch_size % 2:
            raise ValueError(
                f"batch_size is {self.batch_size}, but mixup and cutmix mix pairs and need an even number; "
                f"nearest: {self.batch_size + 1}; or set mixup and cutmix to 0"
            )
        if self.model in AUTOENCODERS:
            nearest = nearest_name(self.model.removeprefix("mae_").replace("vit_", "deit_"), CLASSIFIERS)
            raise ValueError(
                f"model is {self.model!r}, a masked auto-encoder; allowed: `anyres pretrain` with it, or to train "
                f"another from what that wrote, with init; nearest: {nearest!r}"
            )
        model = self.model_settings()
        if self.linear_probe:
            _check_probe(self, model)
        if self.grad_pieces and model.merger == "none":
            raise ValueError(
                f"grad_pieces is set and {self.model} has no merger; allowed: grad_checkpointing, or a ViTAR"
            )
        check_augmentation(self.augmentation, self.parsed_sizes()[0], model)

    def idle(self) -> dict[str, str | None]:
        unmixed = not (self.mixup or self.cutmix)
        switched_off = next((name for name in ("mixup_prob", "mixup", "cutmix") if not getattr(self, name)), None)
        idle = super().idle() | {
            "mixup_prob": "mixup and cutmix are 0" if unmixed else None,
            "mixup": "mixup_prob is 0" if not self.mixup_prob else None,
            "cutmix": "mixup_prob is 0" if not self.mixup_prob else None,
            "mixup_switch_prob": f"{switched_off} is 0" if switched_off else None,
            "consistency": None if self.replicas else "there are no replicas",
        }
        if self.replicas:
            idle |= {"size_weights": "replicas are shown at every size", "aspect": "replicas are shown at fixed sizes"}
        if self.train == "adapter":
            idle["layer_decay"] = "the adapter alone is trained"
        if self.linear_probe:
            idle |= dict.fromkeys(_OF_TRUNK, "linear_probe trains the head alone")
        return idle

    def save_memory(self, model: nn.Module) -> None:
        super().save_memory(model)
        if self.grad_pieces:
            model.set_grad_pieces(True)  # type: ignore[operator]

    def memory_advice(self) -> str:
        return "A larger accumulate, grad_checkpointing or grad_pieces"

    @classmethod
    def from_older(cls, settings: dict[str, Any]) -> dict[str, Any]:
        """In the first version a head on records was a run of this kind too, with the records in a field of it."""
        settings = super().from_older(settings)
        is_on_images = settings.get("from_records", "") is None
        return {name: value for name, value in settings.items() if not (is_on_images and name == "from_records")}


def _check_replicas(config: TrainConfig) -> None:
    """Replicas are shown at all the sizes of every step, so there must be several, and nothing is drawn."""
    ranges = [entry for entry in config.size_entries() if isinstance(entry, SideRange)]
    if ranges:
        low, high = ranges[0].low, ranges[0].high
        raise ValueError(f"sizes holds the range {low}-{high}, but replicas need fixed sizes; nearest: {low} {high}")
    if len(config.sizes) < 2:
        raise ValueError(f"replicas at the one size {config.sizes[0]} would be no replicas; give two sizes or more")


def _check_probe(config: TrainConfig, model: ViTARConfig) -> None:
    """A probe needs features worth reading, and a model that is never trained has no use for what regularises it."""
    if config.init is None:
        raise ValueError(
            "linear_probe without init would be a probe of random features; give the weights to probe as init"
        )
    usual = VITAR.get_config(config.model)
    for name in _WHILE_LEARNING:
        given, default = getattr(model, name), getattr(usual, name)
        if name in config.model_options and given != default:
            raise ValueError(
                f"model option {name} is {given} but has no effect, because linear_probe trains the head alone; "
                "leave it out"
            )
