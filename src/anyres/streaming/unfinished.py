"""What is done of a huge image, on disk, and what tells it from other work."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from anyres.data.source_base import OpenSource
from anyres.errors import OtherWorkError
from anyres.files import named_in_text, write_bytes
from anyres.layers.pieces import PieceMerger
from anyres.models.vitar import ViTAR


class Unfinished:
    """The state of a `PieceMerger` in a file that is written between two pieces.

    Args:
        path: the file; it need not be there yet.

    Raises:
        ValueError: its folder is missing, or it holds something else.
    """

    def __init__(self, path: Path) -> None:
        if not path.absolute().parent.is_dir():
            raise ValueError(f"resume is {path}, but there is no folder {path.absolute().parent}; give one that exists")
        self.path = path
        self._found: dict[str, str] = {}
        self._tensors: dict[str, Tensor] = {}
        if path.exists():
            try:
                with named_in_text(path) as readable, safe_open(readable, framework="pt") as file:
                    self._found = file.metadata() or {}
                    self._tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            except Exception as error:  # safetensors raises its own, unexported kind
                raise ValueError(f"{path} is not unfinished work of anyres: {error}; give another file") from error

    @property
    def positions(self) -> int | None:
        """Patches in a piece of the work on disk, if there is any."""
        return int(self._found["positions"]) if "positions" in self._found else None

    def begin(self, model: ViTAR, merging: PieceMerger, marks: Mapping[str, str]) -> None:
        """Gives what is on disk to `merging`. OtherWorkError if that is of another model, image or cut.

        Args:
            marks: what else must be the same.
        """
        self.merging = merging
        # pieces of another size leave other cells half merged, though the image and the model are the same
        pieces = hashlib.sha256(repr(merging.stages).encode()).hexdigest()
        self.identity = {"size": str(merging.size), "plan": str(merging.plan), "pieces": pieces}
        self.identity |= {"model": _digest(model), **marks}
        if self._found:
            other = [name for name, value in self.identity.items() if self._found.get(name) != value]
            if other:
                raise OtherWorkError(f"{self.path} holds other work: its {', '.join(other)} differ; give another file")
            device = model.device
            merging.load_state_dict({key: value.to(device) for key, value in self._tensors.items()})
        self._tensors = {}
        self.note()

    def note(self) -> None:
        """To be called between two pieces: what an interruption in the middle of one may not spoil."""
        self._noted = self.merging.state_dict()

    def save(self) -> None:
        """Writes what was noted last."""
        # safetensors and not torch.save: reading it runs no code
        data = save(self._noted, metadata={**self.identity, "positions": str(self.merging.positions)})
        write_bytes(self.path, data)

    def finish(self) -> None:
        self.path.unlink(missing_ok=True)


def identify_source(source: Any, opened: OpenSource, level: int) -> str:
    """Tells a source from others: a file by name, length and time of change, anything else by two of its corners."""
    if isinstance(source, str | os.PathLike):
        path = Path(source).resolve()
        stat = path.stat()
        return f"{path} {stat.st_size} {stat.st_mtime_ns} level {level}"
    # two corners, since hashing all pixels would be reading the image once more
    height, width = (min(side, 256) for side in opened.size)
    corners = [(0, 0), (opened.size[0] - height, opened.size[1] - width)]
    pixels = [np.ascontiguousarray(opened.read_region(y, x, height, width)).tobytes() for y, x in corners]
    return hashlib.sha256(b"".join(pixels)).hexdigest()


def _digest(model: ViTAR) -> str:
    """Of all that acts before the trunk."""
    digest = hashlib.sha256(repr(model.config).encode())
    for name, value in model.state_dict().items():
        if name.startswith(("stem", "position", "merger")):
            digest.update(str(value.dtype).encode() + value.detach().to(torch.float32).cpu().numpy().tobytes())
    return digest.hexdigest()
