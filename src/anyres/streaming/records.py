"""Features on disk: records of constant size in numbered safetensors files, `records.json` beside them.

A shard holds "tokens" (n, rows, cols, D) in 16 bits, zeros beyond the grid of an image; "grids" (n, 2), the rows and
columns that are real; "sizes" (n, 2), height and width of the images in pixels; "checksums" (n, 32), SHA-256 of each
record; and, as JSON in its header, sources and labels. Where grids follow the images' shapes, "tokens" is one row of
the most that there can be, (n, 1, most, D), in which a grid stands row after row: no rectangle fits them all closely.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from tqdm import tqdm

from anyres.errors import check_choice
from anyres.files import LFS_POINTER, is_lfs_pointer, named_in_text, read_json, write_bytes
from anyres.layers.merge_plan import Grid
from anyres.sizes import parse_size, size_text

INDEX = "records.json"
FORMAT = 2
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
_HEADER = "anyres"  # one key only: safetensors writes several in no particular order


@dataclass(frozen=True, kw_only=True)
class Record:
    """What is kept of an image."""

    tokens: Tensor
    """(rows, cols, D) in 16 bits: the grid tokens after trunk and final norm, of the image's own grid."""
    source: str
    """The image's path, as it was given."""
    label: str | None
    """Its class, if any."""
    size: tuple[int, int]
    """(height, width) of the image in pixels."""

    @property
    def grid(self) -> Grid:
        """(rows, cols)."""
        return self.tokens.shape[0], self.tokens.shape[1]

    def checksum(self) -> bytes:
        """SHA-256 of all that the record says: 32 bytes."""
        said = json.dumps([self.source, self.label, *self.size, *self.grid, str(self.tokens.dtype)])
        # of what the record says and not of the file's bytes: shards are written again when they grow
        digest = hashlib.sha256(said.encode())
        digest.update(self.tokens.contiguous().view(torch.uint8).numpy().tobytes())
        return digest.digest()


def shard_path(folder: Path, number: int) -> Path:
    """The file of a shard."""
    return folder / f"records-{number:05d}.safetensors"


def write_shard(path: Path, records: Sequence[Record], grid: Grid) -> None:
    """Writes records, padded with zeros to `grid`, to one file, atomically; equal records give equal bytes.

    A `grid` of one row takes grids of any shape, row after row.
    """
    like = records[0].tokens
    tokens = like.new_zeros(len(records), *grid, like.shape[2])  # (n, rows, cols, D)
    for place, record in zip(tokens, records, strict=True):
        _real(place, record.grid).copy_(record.tokens)
    tensors = {
        "tokens": tokens,
        "grids": torch.tensor([record.grid for record in records], dtype=torch.int32),
        "sizes": torch.tensor([record.size for record in records], dtype=torch.int64),
        "checksums": torch.tensor([list(record.checksum()) for record in records], dtype=torch.uint8),
    }
    said = {"sources": [record.source for record in records], "labels": [record.label for record in records]}
    content = save(tensors, metadata={_HEADER: json.dumps(said)})
    write_bytes(path, content)


def _real(padded: Tensor, grid: Grid) -> Tensor:
    """The part of (rows, cols, D) that a record's grid takes, or less of it where there is no room. A view."""
    (rows, cols), count = grid, grid[0] * grid[1]
    if len(padded) > 1 or not 0 < count <= padded.shape[1]:
        return padded[:rows, :cols]
    return padded[0, :count].view(rows, cols, -1)


def read_index(folder: Path) -> dict[str, Any] | None:
    """What records.json says, None if there is none. ValueError if it is damaged or of another format."""
    path = folder / INDEX
    if not path.is_file():
        return None
    index = read_json(path, "an index of records", keys=("format",), remedy="put a backup in place")
    check_choice(f"format in {path}", index["format"], (FORMAT,))
    return _upgraded(index)


def _upgraded(index: dict[str, Any]) -> dict[str, Any]:
    """What was written before "short_side" was told from "size" and failures had "path" and "reason": a size of one
    number was the shorter side then, the aspect being kept, and one of two numbers meant both."""
    settings = dict(index["settings"])
    if "size" in settings and "short_side" not in settings:
        size = settings["size"]
        is_exact = size is not None and "x" in size.lower()
        settings["size"] = size_text(parse_size(size)) if is_exact else None
        settings["short_side"] = int(size) if size is not None and not is_exact else None
    failures = [
        {"input": each["input"], "path": each["source"], "reason": each["error"].removeprefix(f"{each['source']}: ")}
        if "error" in each
        else each
        for each in index["failures"]
    ]
    return {**index, "settings": settings, "failures": failures}


class Shard:
    """One file of records, opened without reading its tokens. ValueError naming it if it is missing or damaged."""

    def __init__(self, path: Path, count: int, shape: tuple[int, int, int]) -> None:
        if not path.is_file():
            raise ValueError(f"{path} is missing; {_REMEDY}")
        if is_lfs_pointer(path):
            raise ValueError(f"{path} {LFS_POINTER}")
        self.path = path
        try:
            with named_in_text(path) as readable:
                self._file = safe_open(readable, framework="pt")
            said = json.loads(self._file.metadata()[_HEADER])
            self.sources: list[str] = said["sources"]
            self.labels: list[str | None] = said["labels"]
            self._grids, self._sizes, self.checksums = (
                self._file.get_tensor(name) for name in ("grids", "sizes", "checksums")
            )
            self._tokens = self._file.get_slice("tokens")
            lengths = {len(self.sources), len(self.labels), len(self._grids), len(self._sizes), len(self.checksums)}
            found = tuple(self._tokens.get_shape())
        except (SafetensorError, ValueError, KeyError, TypeError, OSError) as error:
            raise ValueError(f"{path} is damaged or no shard of records ({error}); {_REMEDY}") from error
        # More records than expected: the process was killed between writing the shard and the index.
        if found[1:] != shape or lengths != {found[0]} or found[0] < count:
            raise ValueError(f"{path} holds {found} tokens where {(count, *shape)} are expected; {_REMEDY}")

    def record(self, place: int, *, check: bool) -> Record:
        """A record, compared with its checksum if asked for."""
        rows, cols = self._grids[place].tolist()
        height, width = self._sizes[place].tolist()
        tokens = _real(self._tokens[place], (rows, cols))
        record = Record(
            tokens=tokens, source=self.sources[place], label=self.labels[place], size=(int(height), int(width))
        )
        if record.grid != (rows, cols) or (check and record.checksum() != bytes(self.checksums[place].tolist())):
            raise ValueError(
                f"{self.path} is damaged: record {place} of the shard, of {record.source}, is not what its checksum "
                f"says; {_REMEDY}"
            )
        return record


_REMEDY = "put a backup in its place, or encode again into a new folder"


class Records:
    """The records that `anyres encode` wrote to a folder, in the order of its inputs, read one at a time.

    Inputs that a later run of the command could read are at the end; those that none could, `failures`, are missing.

    Raises:
        ValueError: no records there, records that are not finished, a missing shard; later, a damaged one.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        index = read_index(self.folder)
        if index is None:
            raise ValueError(f"{self.folder} holds no {INDEX}; give a folder that `anyres encode` wrote")
        self.settings: dict[str, Any] = index["settings"]
        """What the records were made with: digest of the model, inputs, size, preparation, dtype, grid, width."""
        self.run = Path(index["run"])
        """The folder of the model at that time."""
        self.grid: Grid = (self.settings["grid"][0], self.settings["grid"][1])
        """Rows and columns that every record is padded to on disk; (1, most tokens) where grids have several shapes."""
        self.width: int = self.settings["width"]
        self.failures: list[dict[str, Any]] = index["failures"]
        """The inputs that could not be read: {"input": its place, "path", "reason"}."""
        self._count: int = index["records"]
        self._held: tuple[int, Shard] | None = None  # the shard that was read last
        done, files = index["inputs_done"], self.settings["inputs"]["files"]
        if done < files:
            raise ValueError(
                f"the records in {self.folder} are not finished: {done} of {files} inputs are done; "
                "run the command that wrote them again, and it goes on from there"
            )
        for number in range(self._shards):
            if not shard_path(self.folder, number).is_file():
                raise ValueError(f"{shard_path(self.folder, number)} is missing; {_REMEDY}")

    def __len__(self) -> int:
        return self._count

    def record(self, index: int) -> Record:
        """Record `index`, not compared with its checksum (see `verify`). IndexError beyond the last one."""
        return self._record(index, check=False)

    @property
    def _shards(self) -> int:
        return -(-self._count // self.settings["shard_records"])

    def _shard(self, number: int) -> Shard:
        if self._held is None or self._held[0] != number:
            size = self.settings["shard_records"]
            count = min(size, self._count - number * size)
            self._held = number, Shard(shard_path(self.folder, number), count, (*self.grid, self.width))
        return self._held[1]

    def _record(self, index: int, *, check: bool) -> Record:
        if not 0 <= index < self._count:
            raise IndexError(f"index is {index} in {self._count} records; allowed: 0 to {self._count - 1}")
        number, place = divmod(index, self.settings["shard_records"])
        return self._shard(number).record(place, check=check)

    @cached_property
    def _headers(self) -> tuple[list[str], list[str | None], str]:
        """Sources, labels, and a digest of all checksums; reads no tokens."""
        sources: list[str] = []
        labels: list[str | None] = []
        digest = hashlib.sha256()
        for number in range(self._shards):
            shard = self._shard(number)
            count = min(self.settings["shard_records"], self._count - len(sources))
            sources += shard.sources[:count]
            labels += shard.labels[:count]
            digest.update(shard.checksums[:count].numpy().tobytes())
        return sources, labels, digest.hexdigest()[:16]

    @property
    def sources(self) -> list[str]:
        """The images' paths as they were given."""
        return self._headers[0]

    @property
    def labels(self) -> list[str | None]:
        """Each image's class: the first folder below the input folder, None for files that were named outright."""
        return self._headers[1]

    @property
    def classes(self) -> tuple[str, ...]:
        """The labels that there are, sorted."""
        return tuple(sorted({label for label in self.labels if label is not None}))

    def digest(self) -> str:
        """Sixteen hexadecimal digits that tell these records from all others."""
        return self._headers[2]

    def verify(self, *, progress: bool = False) -> None:
        """Reads everything and compares the checksums. ValueError naming the first damaged shard and record."""
        for index in tqdm(range(len(self)), desc="verify", unit="record", file=sys.stderr, disable=not progress):
            self._record(index, check=True)

    def pooled(self, *, progress: bool = False) -> Tensor:
        """The mean of the tokens of each image's own grid, (records, D) float32. Verifies what it reads."""
        means = torch.empty(len(self), self.width)
        for index in tqdm(range(len(self)), desc="records", unit="record", file=sys.stderr, disable=not progress):
            means[index] = self._record(index, check=True).tokens.float().mean((0, 1))
        return means
