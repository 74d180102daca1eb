"""Writing records so that a kill costs at most the inputs that were under way."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from anyres.files import write_json
from anyres.layers.merge_plan import Grid
from anyres.settings import plain
from anyres.streaming.records import FORMAT, INDEX, Record, Shard, read_index, shard_path, write_shard

_UNFINISHED = ".unfinished-"


class RecordWriter:
    """A folder of records that grows input by input, or goes on growing.

    Shards are full but for the last, which is written again when it grows. First the shard is written, then the index
    with the number of inputs done and the failures: whatever is beyond the index is done again.

    Args:
        folder: new, empty, or with the records of the same settings.
        settings: plain JSON values, on which the records' content depends; "shard_records", "grid" and "width" are
            among them.
        run: the model's folder, for those who look for it later.

    Raises:
        ValueError: a folder with something else in it, or records with other settings, naming those.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], run: Path) -> None:
        self.folder, self.run = folder, run
        self.settings: dict[str, Any] = plain(settings)
        self.done = 0
        """Inputs that have been tried: all before this place."""
        self.count = 0
        """Records in the folder."""
        self.failures: list[dict[str, Any]] = []
        """One entry per unreadable input, in their order: {"input": its place, "path", "reason"}."""
        self._last: list[Record] = []  # those of the last shard, if it is not full
        self._grid: Grid = (settings["grid"][0], settings["grid"][1])
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"out is {folder}, which is a file; give a new folder, or that of records to go on with")
        index = read_index(folder)
        if index is not None and (index["inputs_done"] or index["settings"] == self.settings):
            self._go_on(index)
            return
        if index is None and folder.exists() and any(not entry.name.startswith(".") for entry in folder.iterdir()):
            raise ValueError(f"out is {folder}, which holds files but no {INDEX}; give a new or an empty folder")
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.glob(f"{_UNFINISHED}*"):
            path.unlink()
        self._write_index()

    def _go_on(self, index: dict[str, Any]) -> None:
        there = index["settings"]
        names = [name for name in {**there, **self.settings} if there.get(name) != self.settings.get(name)]
        if names:
            changed = "; ".join(f"{name}: {there.get(name)} there, {self.settings.get(name)} here" for name in names)
            raise ValueError(
                f"{self.folder} holds records made with other settings ({changed}). Give the settings they were "
                "started with to go on with them, or another folder for new records"
            )
        self.done, self.count, self.failures = index["inputs_done"], index["records"], index["failures"]
        number, held = divmod(self.count, self.settings["shard_records"])
        if held:
            shard = Shard(shard_path(self.folder, number), held, (*self._grid, self.settings["width"]))
            self._last = [shard.record(place, check=True) for place in range(held)]

    @property
    def room(self) -> int:
        """Records that the last shard still takes, at least 1."""
        return int(self.settings["shard_records"]) - len(self._last)

    @property
    def shards(self) -> int:
        """Files of records in the folder."""
        return -(-self.count // int(self.settings["shard_records"]))

    def unfinished(self, source: Path) -> Path:
        """The file for unfinished work on this input. Removed when other records are begun in the folder."""
        return self.folder / f"{_UNFINISHED}{hashlib.sha256(os.fsencode(source)).hexdigest()[:16]}"

    def add(self, places: Sequence[int], records: Sequence[Record], failures: Sequence[dict[str, Any]]) -> None:
        """Writes the results of the inputs at these places: the next ones, or some that failed before.

        Args:
            places: at most `room`.
            records: of those that could be read.
            failures: the entries of the others.
        """
        assert len(records) <= self.room and len(records) + len(failures) == len(places)
        self._last += records
        # a shard is written whole, and the index after it: a kill in between leaves records that nobody counts, and
        # they are written again
        if records:
            write_shard(shard_path(self.folder, self.count // self.settings["shard_records"]), self._last, self._grid)
        self.count += len(records)
        self.done = max(self.done, *(place + 1 for place in places))
        tried = set(places)
        kept = [failure for failure in self.failures if failure["input"] not in tried]
        self.failures = sorted([*kept, *failures], key=lambda failure: int(failure["input"]))
        self._write_index()
        if len(self._last) == self.settings["shard_records"]:
            self._last = []

    def _write_index(self) -> None:
        index = {
            "format": FORMAT, "run": str(self.run), "inputs_done": self.done, "records": self.count,
            "settings": self.settings, "failures": self.failures,
        }  # fmt: skip
        write_json(self.folder / INDEX, index)
