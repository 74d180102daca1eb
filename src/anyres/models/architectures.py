"""The table of architectures: every kind of model is one entry, and whoever makes, saves or counts models reads it.

Nothing here imports torch, so that commands can name and check models before anything slow is loaded; the class of a
model is imported when it is asked for.
"""

import fnmatch
import importlib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from anyres.errors import unknown
from anyres.models.config import FIELDS, ViTARConfig, override
from anyres.models.detector_config import DetectorConfig
from anyres.models.mae_config import MAEConfig
from anyres.models.presets import (
    AUTOENCODERS,
    CLASSIFIERS,
    DETECTORS,
    SEGMENTERS,
    AutoencoderName,
    DetectorName,
    SegmenterName,
)
from anyres.models.segmenter_config import SegmenterConfig
from anyres.models.upgraded_config import UpgradedConfig

if TYPE_CHECKING:
    from torch import nn

    from anyres.models.detector import Detector
    from anyres.models.mae import MaskedAutoencoder
    from anyres.models.segmenter import Segmenter
    from anyres.models.vitar import ViTAR

Config = TypeVar("Config", bound=ViTARConfig | MAEConfig | SegmenterConfig | DetectorConfig)


@dataclass(frozen=True, kw_only=True)
class Architecture(Generic[Config]):
    """What there is to know of a kind of model."""

    name: str
    """Of its class, and in the config.json of saved models."""
    module: str
    """Where the class is."""
    config: type[Config]
    """Its configuration. One with a field `backbone` is around a ViTAR."""
    presets: Mapping[str, Config]
    """The named models."""
    backbone: str
    """Name of the submodule that is its ViTAR; "" where that is the model itself."""
    above: str
    """What stands on the ViTAR, in one word, which another model that starts from it leaves out."""
    fixed_work: bool
    """Whether the size of an image alone says what a pass does; otherwise it depends on what is hidden or found."""
    noun: str
    """In errors: a name that is unknown is an unknown ..."""
    advice: str
    """In errors, where another kind is needed: what one does with a saved model of this kind."""

    @property
    def model(self) -> Any:
        """The class of the model. Only now is it imported, with torch and, for a detector, torchvision's detection."""
        return getattr(importlib.import_module(self.module), self.name)

    def get_config(self, name: str, **overrides: Any) -> Config:
        """`architectures.get_config` for the named models of this kind alone."""
        if name not in self.presets:
            raise unknown(self.noun, name, self.presets)
        preset: Any = self.presets[name]
        if isinstance(preset, ViTARConfig):
            return override(preset, overrides, name)  # type: ignore[return-value]
        own = [field.name for field in fields(preset) if field.name != "backbone"]
        inner = {key: value for key, value in overrides.items() if key not in own}
        for key in inner:
            if key not in FIELDS or key == "num_classes":
                raise unknown(f"option of {name}", key, [*sorted(own), *FIELDS])
        changes = {key: value for key, value in overrides.items() if key in own}
        return replace(preset, **changes, backbone=override(preset.backbone, inner, name))


VITAR = Architecture(
    name="ViTAR",
    module="anyres.models.vitar",
    config=ViTARConfig,
    presets=CLASSIFIERS,
    backbone="",
    above="head",
    fixed_work=True,
    noun="model",
    advice="it is a classifier",
)
UPGRADED = Architecture(
    name="UpgradedViT",
    module="anyres.models.upgraded",
    config=UpgradedConfig,
    presets={},
    backbone="",
    above="head",
    fixed_work=True,
    noun="upgraded model",
    advice="it is a classifier that anyres.upgrade made",
)
AUTOENCODER = Architecture(
    name="MaskedAutoencoder",
    module="anyres.models.mae",
    config=MAEConfig,
    presets=AUTOENCODERS,
    backbone="backbone",
    above="decoder",
    fixed_work=False,
    noun="model to pre-train",
    advice="fine-tune it with anyres train --init",
)
SEGMENTER = Architecture(
    name="Segmenter",
    module="anyres.models.segmenter",
    config=SegmenterConfig,
    presets=SEGMENTERS,
    backbone="backbone",
    above="heads",
    fixed_work=True,
    noun="model to segment with",
    advice="it labels pixels: anyres predict, anyres evaluate",
)
DETECTOR = Architecture(
    name="Detector",
    module="anyres.models.detector",
    config=DetectorConfig,
    presets=DETECTORS,
    backbone="backbone.backbone",  # torchvision's detectors call `backbone` what gives maps: ViTAR with its pyramid
    above="heads",
    fixed_work=False,
    noun="detector",
    advice="it finds objects: anyres predict, anyres evaluate",
)

# an upgraded model is a ViTAR too, so it comes first
ARCHITECTURES: dict[str, Architecture[Any]] = {
    each.name: each for each in (UPGRADED, VITAR, AUTOENCODER, SEGMENTER, DETECTOR)
}


def architecture_of(thing: object) -> Architecture[Any]:
    """The architecture of a model or of a configuration. ValueError for what is neither."""
    kinds = {(kind.__module__, kind.__name__) for kind in type(thing).__mro__}
    for each in ARCHITECTURES.values():
        if isinstance(thing, each.config) or (each.module, each.name) in kinds:
            return each
    raise ValueError(f"{type(thing).__name__} is no model of anyres; allowed: {', '.join(ARCHITECTURES)}.")


@overload
def backbone_of(thing: "nn.Module") -> "ViTAR": ...
@overload
def backbone_of(thing: ViTARConfig | MAEConfig | SegmenterConfig | DetectorConfig) -> ViTARConfig: ...
def backbone_of(thing: Any) -> Any:
    """The ViTAR in a model, or its configuration in that of a model: the thing itself where it is one."""
    architecture = architecture_of(thing)
    if isinstance(thing, architecture.config):
        return getattr(thing, "backbone", thing)
    return thing.get_submodule(architecture.backbone)


def list_models(pattern: str = "*") -> list[str]:
    """Names of models that match a shell-style pattern, such as "vitar*"."""
    names = (name for each in ARCHITECTURES.values() for name in each.presets)
    return [name for name in names if fnmatch.fnmatch(name, pattern)]


@overload
def get_config(name: AutoencoderName, **overrides: Any) -> MAEConfig: ...
@overload
def get_config(name: SegmenterName, **overrides: Any) -> SegmenterConfig: ...
@overload
def get_config(name: DetectorName, **overrides: Any) -> DetectorConfig: ...
@overload
def get_config(name: str, **overrides: Any) -> Any: ...
def get_config(name: str, **overrides: Any) -> Any:
    """The configuration of a named model with some fields replaced, those of its ViTAR or of what stands on it.

    What the preset sets and an override leaves without effect goes back to its default: `position="none"` on a DeiT
    needs no word about interpolation.

    Raises:
        ValueError: unknown model or field (the nearest names are suggested), or an impossible value.
    """
    return _architecture_named(name).get_config(name, **overrides)


@overload
def create_model(name: AutoencoderName, *, weights: None = None, **overrides: Any) -> "MaskedAutoencoder": ...
@overload
def create_model(name: SegmenterName, *, weights: None = None, **overrides: Any) -> "Segmenter": ...
@overload
def create_model(name: DetectorName, *, weights: None = None, **overrides: Any) -> "Detector": ...
@overload
def create_model(name: str, *, weights: Any = None, **overrides: Any) -> "ViTAR": ...
def create_model(name: str, *, weights: Any = None, **overrides: Any) -> Any:
    """A freshly initialised model by name, of which "_patch16" may be left out.

    With `weights`, a ViT of timm, its state dict or a file of it, a classifier starts from what it shares with that:
    a DeiT from all of it (see `anyres.load_timm`).

    Overrides are fields of `ViTARConfig`, and for `mae_*`, `upernet_*`, `unmerge_*` and `mask_rcnn_*` those of
    `MAEConfig`, `SegmenterConfig` and `DetectorConfig` too.

    `create_model("vitar_small_patch16", num_classes=10, drop_path_rate=0.1)`. Inside `with torch.device("meta"):`
    nothing is allocated; call `model.to_empty(device=...)` and `model.init_weights()` later.

    Raises:
        ValueError: unknown model or field (the nearest names are suggested), or an impossible value.
    """
    names = list_models()
    name = next((each for each in (name, f"{name}_patch16") if each in names), name)
    architecture = _architecture_named(name)
    if weights is not None and architecture is not VITAR:
        raise ValueError(f"weights are for classifiers, and {name} is none; use anyres train or pretrain with init.")
    model = architecture.model(architecture.get_config(name, **overrides))
    if weights is not None:
        from anyres.models.weights.load_timm import load_timm

        load_timm(model, weights)
    return model


def _architecture_named(name: str) -> Architecture[Any]:
    """The architecture of a named model. ValueError for an unknown name, with the nearest ones."""
    for each in ARCHITECTURES.values():
        if name in each.presets:
            return each
    raise unknown("model", name, list_models())
