"""What commands that predict have in common: files that are read and written, and what is said of each."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from anyres.data.folder import find_images
from anyres.errors import Unreadable
from anyres.predict.config import FilesConfig
from anyres.predict.predictor import Predictor

Entry = dict[str, Any]


def entries_of(predictor: Predictor, paths: Sequence[Path], entry_of: Callable[[Any], Entry]) -> list[Entry]:
    """An entry per image; {"path", "reason"} for one that cannot be read.

    Args:
        entry_of: writes what is found in an image, and says so; called as soon as a result is there.
    """
    entries: list[Entry] = [{} for _ in paths]
    for place, found in predictor.numbered(paths):
        entries[place] = found.to_dict() if isinstance(found, Unreadable) else entry_of(found)
    return entries


def checked_paths(config: FilesConfig, out: Path, written: Callable[[int, Path], Sequence[str]]) -> list[Path]:
    """The files that are looked at.

    Args:
        config: names the inputs.
        out: the folder that is written into.
        written: place and path of an input -> names of the files that may be written of it.

    Raises:
        ValueError: if files of two inputs have the same name, or one would replace an input.
    """
    paths = find_images(config.inputs)
    inputs = {path.resolve() for path in paths}
    owners: dict[str, Path] = {}
    for index, path in enumerate(paths):
        for name in written(index, path):
            if name in owners:
                raise ValueError(
                    f"{owners[name]} and {path} would both be written to {name}; give them in two calls with different "
                    "out"
                )
            if (out / name).resolve() in inputs:
                raise ValueError(f"what is written of {path} would replace the input {out / name}; give another out")
            owners[name] = path
    return paths
