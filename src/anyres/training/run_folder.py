"""The folder of a run: its settings, and whether it may be gone on with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from anyres.files import write_atomically
from anyres.models.weights.record import WEIGHTS
from anyres.training import checkpoint
from anyres.training.config import RunConfig, changed_settings

SETTINGS = "train.json"


def write_settings(config: RunConfig) -> None:
    """Makes the folder if need be and writes the configuration there, for those who start the run again."""
    config.out.mkdir(parents=True, exist_ok=True)
    settings = json.dumps(config.to_json(), indent=1).encode()
    write_atomically(config.out / SETTINGS, lambda file: file.write(settings))


def refuse_foreign_folder(config: RunConfig) -> None:
    """ValueError if `config.out` is a file, holds something else than a run, or a run with other settings."""
    out = config.out
    if not out.exists():
        return
    if not out.is_dir():
        raise ValueError(f"out is {out}, which is a file; give a new folder or that of a run to go on with")
    settings = out / SETTINGS
    if settings.exists():
        written = _read_settings(settings)
        if any((out / name).exists() for name in (checkpoint.NAME, WEIGHTS)):  # else nothing has come of it yet
            checkpoint.refuse_other_run(settings, changed_settings(written, config))
    elif any(not entry.name.startswith(".") for entry in out.iterdir()):
        raise ValueError(f"out is {out}, which holds files but no {SETTINGS}; give a new or an empty folder")


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(settings, dict):
            return settings
    except ValueError:
        pass
    raise ValueError(f"{path} is not the settings of a run; delete the run folder, or give another one")
