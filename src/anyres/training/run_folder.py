"""The folder of a run: its settings, and whether it may be gone on with."""

from __future__ import annotations

from anyres.files import read_json, write_json
from anyres.models.weights.record import WEIGHTS
from anyres.training import checkpoint
from anyres.training.config import RunConfig, changed_settings

SETTINGS = "train.json"


def write_settings(config: RunConfig) -> None:
    """Makes the folder if need be and writes the configuration there, for those who start the run again."""
    config.out.mkdir(parents=True, exist_ok=True)
    write_json(config.out / SETTINGS, config.to_json())


def refuse_foreign_folder(config: RunConfig) -> None:
    """ValueError if `config.out` is a file, holds something else than a run, or a run with other settings."""
    out = config.out
    if not out.exists():
        return
    if not out.is_dir():
        raise ValueError(f"out is {out}, which is a file; give a new folder or that of a run to go on with")
    settings = out / SETTINGS
    if settings.exists():
        remedy = "delete the run folder, or give another one"
        written = read_json(settings, "the settings of a run", remedy=remedy)
        if any((out / name).exists() for name in (checkpoint.NAME, WEIGHTS)):  # else nothing has come of it yet
            checkpoint.refuse_other_run(settings, changed_settings(written, config))
    elif any(not entry.name.startswith(".") for entry in out.iterdir()):
        raise ValueError(f"out is {out}, which holds files but no {SETTINGS}; give a new or an empty folder")
