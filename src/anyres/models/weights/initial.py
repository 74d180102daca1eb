"""Weights to start a model from: of a run of ours of any task, of timm's ViT and MAE files, or of transformers'
ViTMAE."""

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anyres.files import LFS_POINTER, is_lfs_pointer
from anyres.layers.merge_plan import Grid
from anyres.layers.position import FuzzyPositionalEncoding
from anyres.layers.region import Region
from anyres.layers.sincos import SinCosPosition
from anyres.models.architectures import ARCHITECTURES, architecture_of, backbone_of
from anyres.models.config import ViTARConfig
from anyres.models.weights.compare import TABLES, Differing, differing_settings, options, told, unequal
from anyres.models.weights.files import load, model_digest
from anyres.models.weights.foreign import WeightSource, convert
from anyres.models.weights.record import CONFIG, WEIGHTS
from anyres.models.weights.table_grid import metadata_of, notes_of
from anyres.models.weights.tensors import read_tensors

_SHARED = ("stem", "patch_size", "in_channels", "width", "depth", "heads")  # what model and source must have in common
_SINCOS_ERROR = 1e-3  # half precision keeps sines to 5e-4; those of another grid, or learned, differ by far more


@dataclass(frozen=True)
class Initial:
    """Weights for the parts of a model below its head, and what they leave open."""

    weights: dict[str, Tensor]
    """State dict entries of a ViTAR, float32."""
    fresh: tuple[str, ...]
    """What the model has and the source lacks, such as "merger": it keeps the values that the model was made with."""
    left_out: tuple[str, ...]
    """What the source has and the model lacks, such as "decoder"; "heads" is all that stands on a backbone."""
    differing: Differing = field(default_factory=dict)
    """Settings with which the same weights are another function, or meet other pixels. Known of runs of ours alone."""
    place: str = ""
    """Where in the file of somebody else they were, such as "model_ema.module"; empty for the file as it is."""

    @property
    def taken(self) -> tuple[str, ...]:
        """The parts that there are weights for, such as "stem"."""
        return tuple(sorted({_part(name) for name in self.weights}))


def initial_weights(source: Path | str, config: ViTARConfig, *, resize_positions: bool = False) -> dict[str, Tensor]:
    """The weights of `read_initial` alone."""
    return read_initial(source, config, resize_positions=resize_positions).weights


def read_initial(
    source: Path | str,
    config: ViTARConfig,
    *,
    resize_positions: bool = False,
    key: str | None = None,
    grid_is_given: bool | None = None,
) -> Initial:
    """Weights from somewhere else for a model of this configuration, below its head. Nothing is unpickled.

    Positions that a ViT has for its class token are added to the token. A table of positions, learned or sin-cos,
    becomes the table of fuzzy and learned positions; for sin-cos positions it must be the very same one.

    Args:
        source: folder of a finished run (of training, or of pre-training, segmentation or detection, of which the
            backbone is taken), a timm ViT or MAE (.safetensors, or .pth with tensors alone), a transformers ViTMAE, or
            a folder with either as model.safetensors. A lone file does not tell its number of heads: it is taken to be
            the model's.
        config: of the model.
        resize_positions: reads a table of another grid bilinearly at the token centres of the model's.
        key: which model of a file that holds several (see `read_tensors`).
        grid_is_given: somebody gave the model's grid, so that it decides which of two a table has (see `table_grid`)
            unless it is to be resized; None: it is not the default one.

    Raises:
        ValueError: a source that cannot be read, of another patch size, width, depth or number of heads, with a table
            whose grid is not to be told, or with one of another grid without `resize_positions`; fixed positions that
            are not the model's; `resize_positions` where nothing is resized; several models without a key.
    """
    where = Path(source)
    if grid_is_given is None:
        grid_is_given = config.grid != ViTARConfig().grid
    found = _read(where, config, key, is_chosen=grid_is_given and not resize_positions)
    _check_facts(found, config, where)
    position = _position(found, config, where, resize_positions)
    given = found.weights | position
    spare_table = [] if position or config.position == "sincos" or found.table is None else ["position"]
    with torch.device("meta"):
        model = architecture_of(config).model(replace(config, num_classes=0))
    wanted = {k: v.shape for k, v in model.state_dict().items()}
    weights = {name: value for name, value in given.items() if name in wanted}
    for name, value in weights.items():
        if value.shape != wanted[name]:
            raise ValueError(f"{name} of {where} is {tuple(value.shape)}, that of the model {tuple(wanted[name])}")
    return Initial(
        weights,
        fresh=_parts((name for name in wanted if name not in weights), wanted),
        left_out=tuple(sorted({*_parts((k for k in given if k not in wanted), given), *found.left_out, *spare_table})),
        differing={} if found.config is None else differing_settings(found.config, config, resize_positions),
        place=found.place,
    )


def initial_digest(source: Path | str) -> str:
    """Twelve hexadecimal digits that tell a source from every other. ValueError if it is not there."""
    where = Path(source)
    if where.is_dir() and (where / WEIGHTS).is_file() and (where / CONFIG).is_file():
        return model_digest(where)
    with open(_file_of(where), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]


def _file_of(source: Path) -> Path:
    """The file of weights that a source is or holds. ValueError if there is none."""
    file = source / WEIGHTS if source.is_dir() else source
    if file.is_file():
        return file
    allowed = "the folder of a finished run, a .safetensors or .pth file, or a folder that holds model.safetensors"
    reason = f"holds no {WEIGHTS}" if source.is_dir() else "does not exist"
    raise ValueError(f"{source} {reason}; weights to start from are {allowed}")


def _read(source: Path, config: ViTARConfig, key: str | None, *, is_chosen: bool) -> WeightSource:
    file = _file_of(source)
    record = read_settings(source / CONFIG) if source.is_dir() else {}
    if record.get("architecture") in ARCHITECTURES:
        if key is not None:
            raise ValueError(
                f"init_key is {key!r} but has no effect, because {source} is a run, of one model; leave it out"
            )
        return _of_run(source)
    tensors = read_tensors(file, key)
    if any(re.match(r"((backbone|encoder)\.)*stem\.", name) for name in tensors.by_name):
        raise ValueError(f"{source} is the weights of a run without their {CONFIG}; give the folder that holds both")
    beside = record if source.is_dir() else read_settings(source.parent / CONFIG)
    notes = notes_of(beside | metadata_of(file), config.grid, is_chosen=is_chosen)
    facts = {"heads": record["num_attention_heads"]} if "num_attention_heads" in record else {}
    found = convert(tensors.by_name, source, notes, facts)
    left_out = tuple(sorted({*found.left_out, *tensors.beside}))
    return replace(found, left_out=left_out, place=tensors.place)


def read_settings(path: Path) -> dict[str, Any]:
    """What a config.json says, ours or another library's; nothing if there is none."""
    if not path.is_file():
        return {}
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} {LFS_POINTER if is_lfs_pointer(path) else f'cannot be read: {error}'}") from error
    return record if isinstance(record, dict) else {}


def _of_run(folder: Path) -> WeightSource:
    model, _ = load(folder)
    backbone = backbone_of(model)
    config = backbone.config
    weights = {k: v.float() for k, v in backbone.state_dict().items() if not k.startswith("head.")}
    table = weights.pop("position.table", None)
    if isinstance(backbone.position, SinCosPosition):
        table = backbone.position.exact(Region.whole(config.grid))
    facts = {name: getattr(config, name) for name in _SHARED}
    return WeightSource(weights, table, config.grid, facts, (architecture_of(model).above,), config)


def _check_facts(found: WeightSource, config: ViTARConfig, where: Path) -> None:
    """ValueError that names what the source and the model do not have in common."""
    pairs = {name: (found.facts[name], getattr(config, name)) for name in _SHARED if name in found.facts}
    differing = unequal(pairs)
    if differing:
        raise ValueError(
            f"{where} is another model: {told(differing)}. Choose a model like it, or {options(differing)}"
        )


def _position(found: WeightSource, config: ViTARConfig, where: Path, resize: bool) -> dict[str, Tensor]:
    """The entry of the model's own position table, if it has one and the source has positions for it."""
    _check_grid(found, config, where, resize)
    if found.table is None or config.position not in (*TABLES, "sincos"):
        return {}
    if config.position in TABLES:
        return {"position.table": _resized(found.table, config.grid)}
    own = SinCosPosition(config.width, config.grid).exact(Region.whole(config.grid))
    if not _is_same(found.table, own):
        raise ValueError(
            f'the positions of {where} are {_kind(found.table, own)}, and the model\'s are "sincos", which are fixed; '
            "give --model-options position=learned or position=fuzzy"
        )
    return {}


def _is_same(table: Tensor, other: Tensor) -> bool:
    return (table - other).abs().max().item() <= _SINCOS_ERROR


def _kind(table: Tensor, own: Tensor) -> str:
    """What a table is that is not the sin-cos one."""
    if _is_same(table, own.roll(own.shape[-1] // 2, -1)):
        return (
            "sin-cos ones with rows and columns exchanged, as versions of transformers 5 give them to a ViTMAE that "
            "starts from nothing"
        )
    if not table.any():
        return "all zero, as versions of transformers 5 leave them in a ViTMAE that starts from nothing"
    return "learned or of another kind"


def _check_grid(found: WeightSource, config: ViTARConfig, where: Path, resize: bool) -> None:
    """ValueError for a table of another grid unless it is to be resized and can be, and for a resizing that is none."""
    theirs, ours = (f"{rows}x{cols}" for rows, cols in (found.grid, config.grid))
    if found.grid == config.grid:
        if resize:
            raise ValueError(
                f"{where} has the model's grid of {ours}: there is nothing to resize; leave init_resize out"
            )
        return
    both = f"{where} has a grid of {theirs} and the model one of {ours}: give --model-options grid={theirs}"
    if found.config is None and math.prod(found.grid) == math.prod(config.grid):  # it is a square by convention alone
        both += f" (if its table is one of {ours}, a config.json beside it must say so)"
    is_fixed = found.table is not None and config.position == "sincos"
    if is_fixed or config.position == "relative_bias":
        raise ValueError(
            f'{both}; positions "{config.position}" cannot be resized, those of a table can '
            "(--model-options position=learned --init-resize)"
        )
    has_table = found.table is not None and config.position in TABLES
    if resize and not has_table:
        own = f'the model\'s position is "{config.position}"'
        reason = f"{where} has no positions" if config.position in TABLES else own
        raise ValueError(f"init_resize has no effect, because {reason}: there is no table to resize; leave it out")
    if has_table and not resize:
        raise ValueError(f"{both}, or --init-resize, which reads the position table bilinearly at {ours}")


def _resized(table: Tensor, grid: Grid) -> Tensor:
    """A table (rows, cols, D) as it is, or read at the token centres of another grid."""
    rows, cols, width = table.shape
    if (rows, cols) == grid:
        return table
    encoding = FuzzyPositionalEncoding(width, (rows, cols), jitter=0.0)
    with torch.no_grad():
        encoding.table.copy_(table)
        return encoding.exact(Region.whole(grid))


def _parts(names: Iterable[str], whole: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of tensors as those of parts: "merger" where all of it is meant, else "merger.block.scale" by itself."""
    listed = set(names)
    entire = {_part(name) for name in listed} - {_part(name) for name in whole if name not in listed}
    single = {name.removeprefix("trunk.") for name in listed if _part(name) not in entire}
    return tuple(sorted(entire | {re.sub(r"^blocks\.\d+\.", "blocks.*.", name) for name in single}))


def _part(name: str) -> str:
    """The part of a model that a tensor belongs to; those of the trunk by themselves: "blocks", "norm", "prefix"."""
    return name.removeprefix("trunk.").split(".")[0]
