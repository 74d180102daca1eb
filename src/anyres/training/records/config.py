"""What the training of a head on records is made of, and its checks."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anyres.training.config import Operational, RunConfig
from anyres.training.run_checks import check_numbers

if TYPE_CHECKING:
    from anyres.training.task import Task


@dataclass(frozen=True, kw_only=True)
class RecordsConfig(RunConfig):
    """A linear head that learns on features instead of a model on images: no image is read any more."""

    from_records: Operational[Path]
    """Records of images in class folders, as `anyres encode` writes them, or a folder that holds such records in train/
    and, optionally, val/."""
    init: Operational[Path | None] = None
    """Folder of the model that made the records, if it is no longer where it was then."""
    smoothing: float = 0.1
    """Label smoothing."""

    def make_task(self) -> Task:
        from anyres.training.records.task import RecordsTask

        return RecordsTask(self)

    def check(self) -> None:
        super().check()
        if self.shard:
            raise ValueError("shard is given but has no effect on a head alone; leave it out")
        check_numbers(self, {"smoothing": (0.0, 1.0, "[)")})

    @classmethod
    def from_older(cls, settings: dict[str, Any]) -> dict[str, Any]:
        """The first version wrote settings of images and of a model too, which had no effect; other runs have none."""
        if settings.get("from_records") is None or "model" not in settings:
            return settings
        own = [field.name for field in fields(cls)]
        return {name: value for name, value in settings.items() if name in own}
