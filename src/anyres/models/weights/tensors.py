"""Tensors by name from anybody's file: what kind of file it is, and where in it the weights of a ViT are."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from anyres.errors import unknown
from anyres.files import LFS_POINTER, is_lfs_pointer, named_in_text

_PATCHES = re.compile(r"(?:(.+)\.)?(?:patch_embed\.proj|embeddings\.patch_embeddings\.projection)\.weight")
_REFUSED = re.compile(r"(?:GLOBAL|Unsupported class) ([\w.]+)")  # of torch, for what only unpickling could read
_ALLOWED = "allowed: .safetensors, or a file of torch.save that holds nothing but tensors by name"
_DEPTH = 4  # dictionaries within one another that are looked into


@dataclass(frozen=True)
class Tensors:
    """What a file holds of one model."""

    by_name: dict[str, Tensor]
    """Under the names that they have below `place`."""
    place: str = ""
    """The dictionaries and the beginnings of names that they were under, such as "model_ema.module"."""
    beside: tuple[str, ...] = ()
    """What stands beside them in the same dictionary, by the first part of its names."""


def read_tensors(path: Path, key: str | None = None) -> Tensors:
    """The weights of a ViT in a .safetensors file or in anything that `torch.save` wrote. Nothing is unpickled.

    The content decides what kind of file it is, not its suffix. The ViT may be in dictionaries of any name ("model",
    "state_dict", "teacher") and under names that all begin alike ("module.", "_orig_mod.", "model.", "backbone.").
    Where there are several, such as weights and their average, `key` has to choose: neither is taken for the other.

    Args:
        key: the place of the one that is meant, or its beginning, such as "model_ema".

    Raises:
        ValueError: a file that cannot be read, or only by unpickling, or that holds no tensors by name; several ViTs
            without a key, or a key of none of them.
    """
    loaded = _load(path)
    places = {place: found for place, found in _mappings(loaded) if any(map(_is_tensor, found.values()))}
    if not places:
        raise ValueError(f"{path} is no state dict: expected are tensors by name, alone or under 'model'")
    found = {
        _joined(place, inner): (place, inner) for place, tensors in places.items() for inner in _places_in(tensors)
    }
    if not found:  # not a ViT, which whoever converts it says
        place = max(places, key=lambda each: len(places[each]))
        return Tensors(_below(places[place], ""), place)
    chosen = _chosen(list(found), key, path)
    place, inner = found[chosen]
    start = f"{inner}." if inner else ""
    beside = {name.split(".")[0] for name in places[place] if not name.startswith(start)}
    return Tensors(_below(places[place], start), chosen, tuple(sorted(beside)))


def _chosen(places: list[str], key: str | None, path: Path) -> str:
    fitting = [each for each in places if key is None or f"{each}.".startswith(f"{key}.")]
    if len(fitting) == 1:
        return fitting[0]
    if key is not None and not fitting:
        raise unknown(f"init_key for {path}", key, places)
    raise ValueError(
        f"{path} holds several models: {', '.join(fitting)}; give one of them as --init-key, such as "
        f"--init-key {fitting[0]}"
    )


def _mappings(value: Any, place: str = "", depth: int = _DEPTH) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every dictionary by names, with where it is."""
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value) or not depth:
        return
    yield place, value
    for name, each in value.items():
        yield from _mappings(each, _joined(place, name), depth - 1)


def _places_in(tensors: Mapping[str, Any]) -> list[str]:
    """Beginnings of names, without the point, under which there is a ViT."""
    found = (_PATCHES.fullmatch(name) for name, value in tensors.items() if _is_tensor(value))
    return [match[1] or "" for match in found if match]


def _below(tensors: Mapping[str, Any], start: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(start): value
        for name, value in tensors.items()
        if name.startswith(start) and _is_tensor(value)
    }


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor)


def _joined(place: str, name: str) -> str:
    return f"{place}.{name}".strip(".")


def _load(path: Path) -> Any:
    """Whatever a file holds."""
    if is_lfs_pointer(path):
        raise ValueError(f"{path} {LFS_POINTER}")
    with open(path, "rb") as file:  # torch is not told the name, since it goes by the suffix
        start = file.read(16)
        file.seek(0)
        try:
            if _is_safetensors(start):
                with named_in_text(path) as readable:
                    return load_file(readable)
            return torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # both libraries raise kinds of their own
            raise ValueError(f"{path} cannot be read{_problem(start, error)}; {_ALLOWED}") from error


def _is_safetensors(start: bytes) -> bool:
    """By its first bytes: the length of a header, and the header, which is JSON."""
    return len(start) > 8 and start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 2**32


def _problem(start: bytes, error: Exception) -> str:
    """Why a file cannot be read, in our words: torch's have the colours of a terminal, and advise to unpickle."""
    if _is_safetensors(start):
        return f": a damaged .safetensors file ({error})"
    if refused := _REFUSED.search(str(error)):
        return f" without unpickling: it holds a {refused[1]}, which is no tensor"
    if start.startswith((b"PK", b"\x80")):  # a zip archive, as torch writes it, or a bare pickle as older versions did
        return " without unpickling: it is damaged, or holds more than tensors"
    return f": it is no file of weights, since it begins with {start!r}" if start else ": it is empty"
