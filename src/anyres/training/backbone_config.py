"""What runs of a ViTAR add, alone or as the backbone of another model, that may start from weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from anyres.training.config import Operational
from anyres.training.image_config import ImageRunConfig
from anyres.training.run_checks import check_numbers


@dataclass(frozen=True, kw_only=True)
class BackboneRunConfig(ImageRunConfig):
    """A run of a ViTAR with something on it that may start from weights."""

    init: Operational[Path | None] = None
    """Start the backbone from these weights instead of random ones: folder of a run of `anyres pretrain` or `anyres
    train` of any task, or a ViT or MAE of timm or transformers (.safetensors, .pth)."""
    init_resize: bool = False
    """Read the position table of init bilinearly at the model's grid, where that is another."""
    init_key: str | None = None
    """Which model of a file that holds several, such as "model_ema" or "teacher"."""
    layer_decay: float | None = None
    """Factor on the learning rate from each layer of the backbone to the one below it (ViTDet, base: 0.7); what stands
    on the backbone has the whole rate. The same for all layers if not given."""

    def check(self) -> None:
        super().check()
        check_numbers(self, {"layer_decay": (0.0, 1.0, "(]")})

    def idle(self) -> dict[str, str | None]:
        without = "there is no init" if self.init is None else None
        return super().idle() | {"init_resize": without, "init_key": without}

    def rate_from_layer_to_layer(self) -> float | None:
        return self.layer_decay
