"""The training loop: start or go on, step, log, validate, save, finish."""

from __future__ import annotations

import sys
import time
from collections.abc import Generator, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from anyres.costs.memory import is_out_of_memory, what_found_no_room
from anyres.data.workers import naming_lost_workers
from anyres.errors import Unreadable
from anyres.files import check_folder
from anyres.models.weights.record import CONFIG, WEIGHTS
from anyres.settings import differences
from anyres.sizes import size_text
from anyres.training import checkpoint
from anyres.training.config import RunConfig, changed_settings, operational
from anyres.training.interrupt import StopRequest
from anyres.training.parallel import (
    any_of,
    check_processes,
    demand_alike,
    everyones,
    is_first,
    local_device,
    process_group,
    together,
    wait,
    world,
)
from anyres.training.run_folder import refuse_foreign_folder, write_settings
from anyres.training.runlog import VALIDATIONS, RunLog, check_tensorboard, describe, read_rows
from anyres.training.task import Step, Task
from anyres.training.trainer import StepResult, Trainer, torch_settings


@dataclass(frozen=True)
class TrainResult:
    """How a call of `train` ended."""

    run: Path
    """The run folder."""
    step: int
    """Steps done, over all starts of the run."""
    finished: bool
    """False after Ctrl-C or SIGTERM: the same call goes on."""
    loss: float
    """Training loss of the last step done."""
    skipped: list[Unreadable] = field(default_factory=list)
    """Unreadable files and the reasons, over all starts of the run."""
    validation: list[dict[str, Any]] = field(default_factory=list)
    """The last validation, one row per size."""


def train(config: RunConfig, task: Task | None = None) -> TrainResult:
    """Trains what the configuration says, or goes on with a run that was stopped or killed.

    Started by torchrun, its processes share every batch and end with the weights that one process would have, up to
    rounding (see `training.parallel`).

    A run in `config.out` with the same settings is continued from its last checkpoint and ends, on one CPU and
    with equal `threads`, with the very weights of a run that was never stopped. A finished run is left alone.

    Args:
        config: the run.
        task: what to learn; by default `config.make_task()`.

    Raises:
        ValueError: impossible settings or data, or another run in `config.out`; before any work.
        FloatingPointError: loss or gradient became infinite or not a number. The last checkpoint stays as it is.
        MemoryError: a step found no room in memory, on whatever device. The last checkpoint stays as it is.
        UnreadableImageError: with `strict`, the first file that cannot be read.
        ChildProcessError: a process that loads images was killed. The last checkpoint stays as it is.
        OSError: the run cannot be written, on a full disk, say. The last checkpoint stays as it is.
        ImportError: an extra that the task needs is not installed; the message names it.
    """
    with process_group():
        together(lambda: _check(config))
        device = local_device(config.torch_device())
        with torch_settings(config, device):
            made = together(lambda: task or config.make_task())
            free = operational(type(config)) - {"shard", "checkpoint_every", "validate_every", "out"}
            settings = {name: value for name, value in config.to_json().items() if name not in free}
            demand_alike("settings or data", {**settings, "device": device.type, "task": made.identity()})
            return _Run(config, made, device).go()


def _check(config: RunConfig) -> None:
    config.check()
    check_processes(config)
    refuse_foreign_folder(config)
    if not (config.out / WEIGHTS).exists():  # a finished run may be where nobody may write
        check_folder("out", config.out)
    if config.tensorboard and is_first():
        check_tensorboard(config.out)  # fails now rather than after the data has been read


class _Run:
    """One process' share of a run."""

    def __init__(self, config: RunConfig, task: Task, device: torch.device) -> None:
        self.config, self.task, self.folder = config, task, config.out
        self.identity = {"task": task.identity()}
        self.trainer = Trainer(config, task, device)
        self.loss = float("nan")
        self.seconds = 0.0  # of training, over all starts
        self.skipped: dict[str, str] = {}
        self.validation: list[dict[str, Any]] = []
        self._validated = 0  # the step of that validation
        self._clock = 0.0  # when the current step began
        together(self._load)
        known = {"step": self.trainer.step, "validated": self._validated, "finished": self._is_finished()}
        demand_alike("files in the run folder, which all must see,", known)

    def go(self) -> TrainResult:
        try:
            with naming_lost_workers():
                return self._go()
        except ChildProcessError as error:
            raise ChildProcessError(f"{error}. {self._kept()}; the same command goes on from there") from error

    def _go(self) -> TrainResult:
        if self._is_finished():
            self._say(f"{self.folder} is finished: {self.trainer.step} steps. Nothing to do.")
            return self._result()
        if is_first():
            write_settings(self.config)
        wait()
        if self.trainer.step:
            self._say(f"Going on with {self.folder} after step {self.trainer.step} of {self.config.steps}.")
        log = RunLog(self.folder, start=self.trainer.step, tensorboard=self.config.tensorboard) if is_first() else None
        with StopRequest() as stop, closing(log) if log is not None else nullcontext():
            self._loop(log, stop)
            if self.trainer.step == self.config.steps:
                self._finish()
            else:
                step, steps = self.trainer.step, self.config.steps
                self._say(f"Stopped after step {step} of {steps}. Run the same command again to go on from there.")
        return self._result()

    def _loop(self, log: RunLog | None, stop: StopRequest) -> None:
        first, config = self.trainer.step, self.config
        silent = not (config.progress and is_first())
        bar = tqdm(total=config.steps, initial=first, unit="step", disable=silent, dynamic_ncols=True)
        if first and self._validates_at(first) and self._validated != first:
            self._validate(log)  # the checkpoint was written, and then the run was killed
        saved, self._clock = first, time.perf_counter()
        with closing(bar), closing(self._batches(first, stop)) as batches:
            for batch in batches:
                result, speed = self._timed_update(batch)
                step, stops = self.trainer.step, any_of(stop.is_set)
                self._show(bar, result, batch, speed)
                self._collect_skipped(batch.skipped)
                if log is not None and (step % config.log_every == 0 or step == config.steps):
                    log.step(self._row(result, batch, speed))
                validates = self._validates_at(step)
                if validates or stops or step % config.checkpoint_every == 0 or step == config.steps:
                    self._save(log)  # before validating, which may fail or take long
                    saved = step
                if validates:
                    self._validate(log)
                if stops:
                    return
                self._clock = time.perf_counter()  # validating and saving are not part of the speed
        if saved != self.trainer.step:  # the request came while waiting for a batch
            self._save(log)

    def _batches(self, first: int, stop: StopRequest) -> Generator[Step, None, None]:
        """The batches still to come; ends when a stop is asked for, also if that broke the loading."""
        batches = iter(self.task.batches(first, self.config.steps))
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                return
            except Exception:
                if stop.is_set and world() == 1:  # several would not agree on how far they got
                    return
                raise
            yield batch

    def _timed_update(self, batch: Step) -> tuple[StepResult, float]:
        try:
            result = self.trainer.update(batch)
        except FloatingPointError as error:
            advice = "A lower lr, a longer warm-up, clip_grad=1 or precision=float32"
            raise FloatingPointError(f"{error}. {self._last_resort(advice)}") from None
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            where = f"step {self.trainer.step + 1} of {self.config.steps}, size {size_text(batch.size)}"
            text = f"out of memory on {self.trainer.device} at {where}: {what_found_no_room(error)}"
            raise MemoryError(f"{text}. {self._last_resort(self.config.memory_advice())}") from error
        seconds = time.perf_counter() - self._clock  # loading included
        self.loss = result.loss
        self.seconds += seconds
        return result, world() * len(batch.labels) / max(seconds, 1e-9)

    def _validates_at(self, step: int) -> bool:
        every = self.config.validate_every
        return self.task.validates() and (step == self.config.steps or (every > 0 and step % every == 0))

    def _validate(self, log: RunLog | None) -> None:
        self._validated, model = self.trainer.step, self.trainer.final_model()
        if log is None:
            return  # the first process measures, and the others wait for it at the next step
        self.validation = self.trainer.validate(model)
        for row in self.validation:
            self._collect_skipped(row.pop("skipped", []))
        log.validation(self.trainer.step, self.validation)
        if self.validation:
            self._say(f"step {self.trainer.step}: {describe(self.validation, *self.task.headline)}")

    # What is on disk.

    def _save(self, log: RunLog | None) -> None:
        """The log first: a checkpoint must not be ahead of it."""
        for found in everyones(self.skipped):
            self.skipped |= found
        weights = self.trainer.state_dict()
        if log is None:
            return
        log.sync()
        state = weights | {
            "config": self.config.to_json(),
            "identity": self.identity,
            "loss": self.loss,
            "seconds": self.seconds,
            "skipped": self.skipped,
        }
        checkpoint.save_checkpoint(self.folder / checkpoint.NAME, state)

    def _load(self) -> None:
        path = self.folder / checkpoint.NAME
        if not path.exists():
            return
        state = checkpoint.load_checkpoint(path)
        changed = changed_settings(state["config"], self.config) + differences(state["identity"], self.identity)
        checkpoint.refuse_other_run(path, changed)
        self.trainer.step = state["step"]
        if not self._is_finished():  # whose weights nobody needs, so that they may be an earlier version's
            checkpoint.refuse_earlier_format(path, state)
            self.trainer.load_state_dict(state)
        self.loss, self.seconds, self.skipped = state["loss"], state["seconds"], state["skipped"]
        rows = [row for row in read_rows(self.folder / VALIDATIONS) if row["step"] <= self.trainer.step]
        self._validated = last = rows[-1]["step"] if rows else 0
        self.validation = [{k: v for k, v in row.items() if k != "step"} for row in rows if row["step"] == last]

    def _finish(self) -> None:
        extra = {"steps": self.trainer.step, "validation": self.validation, "skipped": len(self.skipped)}
        model = self.trainer.final_model()
        if not is_first():
            return
        self.task.save(self.folder, model, extra)
        self._say(f"Finished {self.trainer.step} steps; the model is in {self.folder}.")
        if self.skipped:
            self._say(f"{len(self.skipped)} files could not be read and were skipped:")
            for each in self._unreadable():
                self._say(f"  {each}")

    def _is_finished(self) -> bool:
        written = all((self.folder / name).exists() for name in (WEIGHTS, CONFIG))
        return written and self.trainer.step == self.config.steps

    # What is shown.

    def _row(self, result: StepResult, batch: Step, speed: float) -> dict[str, Any]:
        return {
            "step": self.trainer.step,
            "size": list(batch.size),
            "loss": result.loss,
            "lr": result.lr,
            "images_per_second": round(speed, 2),
            "grad_norm": result.grad_norm,
            "seconds": round(self.seconds, 3),
        }

    def _show(self, bar: Any, result: StepResult, batch: Step, speed: float) -> None:
        size = size_text(batch.size)
        bar.set_postfix({"loss": f"{result.loss:.3f}", "size": size, "images/s": f"{speed:.0f}"}, refresh=False)
        bar.update()

    def _collect_skipped(self, skipped: Sequence[Unreadable]) -> None:
        self.skipped |= {str(path): reason for path, reason in skipped}

    def _last_resort(self, advice: str) -> str:
        return f"{self._kept()}. {advice} may help, in a new run folder"

    def _kept(self) -> str:
        path = self.folder / checkpoint.NAME
        return f"{path} still holds the last checkpoint" if path.exists() else "No checkpoint was written yet"

    def _say(self, text: str) -> None:
        if is_first():
            tqdm.write(text, file=sys.stderr)

    def _result(self) -> TrainResult:
        step = self.trainer.step
        finished = step == self.config.steps
        return TrainResult(self.folder, step, finished, self.loss, self._unreadable(), self.validation)

    def _unreadable(self) -> list[Unreadable]:
        return [Unreadable(path, reason) for path, reason in sorted(self.skipped.items())]
