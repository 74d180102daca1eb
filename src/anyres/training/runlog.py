"""The written record of a run: JSON lines, one per logged step, and TensorBoard events beside them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Any

from anyres.files import naming, write_bytes
from anyres.sizes import size_text

STEPS = "log.jsonl"
VALIDATIONS = "validation.jsonl"


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSONL file; a line cut short by a crash ends them. A missing file has no rows."""
    rows: list[dict[str, Any]] = []
    if not path.exists():
        return rows
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            break
        if not isinstance(row, dict):
            break
        rows.append(row)
    return rows


def last_row(path: Path) -> dict[str, Any] | None:
    """The last whole line of a log that another process may be writing; None if there is none yet."""
    if not path.exists():
        return None
    with path.open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - 4096))
        lines = file.read().split(b"\n")[:-1]
    row: dict[str, Any] | None = json.loads(lines[-1]) if lines else None
    return row


def cut_back(path: Path, step: int) -> None:
    """Drops the rows of steps after `step`, which a resumed run is going to write again."""
    if path.exists():
        kept = [row for row in read_rows(path) if row["step"] <= step]
        text = "".join(json.dumps(row) + "\n" for row in kept)
        write_bytes(path, text.encode())


class RunLog:
    """Appends to RUN/log.jsonl, RUN/validation.jsonl and RUN/tensorboard/.

    A step is counted from 1: row n was written when n steps were done. `start` is the number of steps that the
    run resumes from; what an earlier process wrote beyond it is removed, so that every step is there once.
    """

    def __init__(self, run: Path, *, start: int, tensorboard: bool) -> None:
        self._writer: Any = None
        if tensorboard:  # purge_step hides the events of steps that are written again
            self._writer = summary_writer()(str(run / "tensorboard"), purge_step=start + 1)
        self._run = run
        self._files: dict[str, IO[str]] = {}
        for name in (STEPS, VALIDATIONS):
            cut_back(run / name, start)
            self._files[name] = (run / name).open("a", encoding="utf-8")

    def step(self, row: dict[str, Any]) -> None:
        """One training step: step, size [height, width], loss, lr, images_per_second, grad_norm, seconds."""
        self._append(STEPS, row)
        if self._writer is not None:
            for name in ("loss", "lr", "images_per_second", "grad_norm"):
                self._writer.add_scalar(f"train/{name}", row[name], row["step"])
            self._writer.add_scalar(f"train/loss_at_{size_text(row['size'])}", row["loss"], row["step"])

    def validation(self, step: int, rows: Iterable[dict[str, Any]]) -> None:
        """One validation: a row per size, with what the task measured there."""
        for row in rows:
            self._append(VALIDATIONS, {"step": step, **row})
            if self._writer is not None:
                for name, value in row.items():
                    if isinstance(value, float):
                        self._writer.add_scalar(f"val/{name}_at_{size_text(row['size'])}", value, step)

    def sync(self) -> None:
        """On disk when this returns: a checkpoint must never be ahead of the log."""
        for name, file in self._files.items():
            with naming(self._run / name):
                file.flush()
                os.fsync(file.fileno())
        if self._writer is not None:
            self._writer.flush()

    def close(self) -> None:
        for name, file in self._files.items():
            with naming(self._run / name):  # a row that found no room is tried once more
                file.close()
        if self._writer is not None:
            self._writer.close()

    def _append(self, name: str, row: dict[str, Any]) -> None:
        with naming(self._run / name):
            self._files[name].write(json.dumps(row) + "\n")
            self._files[name].flush()


def check_tensorboard(run: Path) -> None:
    """ImportError if TensorBoard is not installed, ValueError if it cannot write into the folder of a run."""
    summary_writer()
    try:
        str(run).encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"out is {run}, a name that is no text, into which TensorBoard does not write; give another out, or train "
            "with tensorboard=False"
        ) from error


def summary_writer() -> Any:
    """The class SummaryWriter. ImportError naming the extra if TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError(
            "tensorboard is not installed: pip install 'anyres[train]', or train with tensorboard=False"
        ) from error
    return SummaryWriter


def describe(rows: Sequence[dict[str, Any]], measure: str, decimals: int) -> str:
    """Validation rows on one line: "top1 at 56x56 97.2, at 112x112 98.1", or "loss at 224x224 0.412".

    A measure of classes of which some have nothing to be found says how many: "miou at 32x32 100.0 (1 class absent)".
    """
    values = ["unknown" if row[measure] is None else f"{row[measure]:.{decimals}f}" for row in rows]
    each = [f"at {size_text(row['size'])} {value}{_absent(row)}" for row, value in zip(rows, values, strict=True)]
    return f"{measure} {', '.join(each)}"


def _absent(row: dict[str, Any]) -> str:
    count = len(row.get("absent", ()))
    return f" ({count} {'class' if count == 1 else 'classes'} absent)" if count else ""
