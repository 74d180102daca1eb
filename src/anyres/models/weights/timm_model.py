"""A model of timm with weights: by its name, or from a file that is already here."""

from pathlib import Path

import timm
from timm.data import ImageNetInfo, infer_imagenet_subset
from timm.models.vision_transformer import checkpoint_filter_fn
from torch import nn

from anyres.errors import unknown
from anyres.files import read_json
from anyres.models.weights.record import CONFIG, WEIGHTS
from anyres.models.weights.tensors import read_tensors


def timm_model(source: str | Path, architecture: str | None = None) -> nn.Module:
    """The model of a name, whose weights timm downloads; or of a file or folder, and then no network is needed.

    Args:
        source: a name of timm; a .safetensors or .pth file of timm's names; or a folder with model.safetensors.
        architecture: timm's name of the model in a file; None reads it from config.json beside it, as timm writes it.

    Raises:
        ValueError: neither a name nor a file; a file whose architecture is not known, or weights of another one (the
            first that differs, with both shapes); weights that cannot be fetched.
    """
    path = Path(source)
    if not path.exists():
        if architecture is not None:
            raise ValueError(f"there is no file {source}; architecture is for files only.")
        return _downloaded(str(source))
    file = path / WEIGHTS if path.is_dir() else path
    if not file.is_file():
        raise ValueError(f"{path} holds no {WEIGHTS}.")
    beside = file.parent / CONFIG
    known = read_json(beside, "a model configuration", keys=(), remedy="move it away") if beside.is_file() else {}
    name = architecture or known.get("architecture")
    if not name:
        raise ValueError(
            f"{file} does not say what model it is of, and there is no {CONFIG} beside it; give timm's name, such as "
            "--architecture deit3_small_patch16_224."
        )
    if not timm.is_model(name):
        raise unknown("model of timm", name, timm.list_models())
    weights = read_tensors(file).by_name
    classes = len(weights["head.weight"]) if "head.weight" in weights else 0
    overlay = {key: value for key, value in known.get("pretrained_cfg", {}).items() if key in _OF_DATA}
    arguments = {**(known.get("model_args") or {}), "num_classes": classes}
    if "global_pool" in known:
        arguments["global_pool"] = known["global_pool"]
    model = timm.create_model(name, pretrained_cfg_overlay=overlay, **arguments)
    if isinstance(model, timm.models.VisionTransformer):
        shapes = {key: weights[key].shape for key in _RESAMPLED if key in weights}
        weights = checkpoint_filter_fn(dict(weights), model)
        for key, shape in shapes.items():
            if key in weights and weights[key].numel() != shape.numel():  # timm would resample it
                raise ValueError(
                    f"{file} is not of {name} as it is: {key} is {tuple(shape)} there and {tuple(weights[key].shape)} "
                    "in the model; give a folder with timm's config.json, whose model_args say the image size."
                )
    model.label_names = known.get("label_names")  # type: ignore[assignment]
    expected = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    given = {key: tuple(value.shape) for key, value in weights.items()}
    for key in (*expected, *given):
        if expected.get(key) != given.get(key):
            raise ValueError(
                f"{file} is not of {name}: {key} is {given.get(key, 'missing')} there and "
                f"{expected.get(key, 'missing')} in the model."
            )
    model.load_state_dict(weights)
    return model


def class_names(model: nn.Module) -> list[str]:
    """Those beside its file, or of ImageNet where timm tells by their number which of its sets it is, or "0", "1", ...

    None without a head.
    """
    count = int(getattr(model, "num_classes", 0))
    given = getattr(model, "label_names", None)
    if given and len(given) == count:
        return [str(name) for name in given]
    subset = infer_imagenet_subset(model) if count else None  # it takes the source's number where there is no head
    if subset is None:
        return [str(index) for index in range(count)]
    known = ImageNetInfo(subset)
    return [known.index_to_description(index) for index in range(count)]


def class_folders(model: nn.Module) -> list[str]:
    """What ImageNet's folders of the classes are called, in their order; empty for models of other classes, as far as
    their number and names of their own tell."""
    has_others = getattr(model, "label_names", None) or not getattr(model, "num_classes", 0)
    subset = None if has_others else infer_imagenet_subset(model)
    return [] if subset is None else ImageNetInfo(subset).label_names()


_RESAMPLED = ("pos_embed", "patch_embed.proj.weight")
_OF_DATA = ("mean", "std", "interpolation", "crop_pct", "input_size")


def _downloaded(name: str) -> nn.Module:
    if not timm.is_model(name):
        raise unknown("file or model of timm", name, timm.list_models())
    try:
        return timm.create_model(name, pretrained=True)
    except Exception as error:  # those of whatever fetches: huggingface_hub's, httpx's, urllib's
        reason = (str(error).splitlines() or ["no reason given"])[0]
        raise ValueError(
            f"timm found no weights of {name} ({type(error).__name__}: {reason:.200}). Without a "
            f"network give a file that is already here, with --architecture {name.split('.')[0]}."
        ) from error
