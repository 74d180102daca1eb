"""`ablate`: checks, writes the images, trains and measures what is not done yet, and draws the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from anyres.ablation.config import AblateConfig
from anyres.ablation.page import write_page
from anyres.ablation.plan import (
    IMAGES,
    Job,
    jobs_on_disk,
    numbers_of_images,
    plan_jobs,
    refuse_other_study,
    starting_jobs,
    write_sets,
)
from anyres.ablation.results import RESULT, collect
from anyres.ablation.studies import STUDIES
from anyres.ablation.study import Study
from anyres.costs.memory import is_out_of_memory
from anyres.evaluation.sweep import sweep
from anyres.files import check_folder, write_json
from anyres.processes import run_side_by_side
from anyres.report.report import require_extra
from anyres.training.engine import train
from anyres.training.runlog import STEPS, last_row


def ablate(config: AblateConfig, study: Study | None = None) -> Path:
    """Trains and measures the variants of a study, or goes on where that was stopped, and draws them.

    Every run is an ordinary run of `anyres train` with an ordinary sweep beside it, so that a study that was killed
    gives the numbers of one that was not. A run whose loss is no longer finite, or that finds no room in memory, is
    recorded in seedN.failed.json, and the others go on; without that file it is tried again.

    Args:
        config: what is asked for.
        study: other variants than those of `STUDIES`.

    Returns:
        The page; `ablation.json`, `results.md` and the pictures lie beside it.

    Raises:
        ValueError: a variant, size or set that cannot be, or a folder with results of another configuration; before
            any work, and with those results untouched.
        ImportError: the extra `anyres[report]` is not installed.
        ChildProcessError: a process that trained was killed; the same call goes on from the last checkpoints.
    """
    require_extra("ablate")  # before work starts
    check_folder("out", config.out)
    study = study or STUDIES[config.study]
    jobs = plan_jobs(config, study)
    known = [*jobs, *jobs_on_disk(config, study)]
    refuse_other_study(config, [*known, *starting_jobs(known)])
    first = starting_jobs([job for job in jobs if not job.is_finished()])
    write_sets(config, [*first, *jobs])
    config.folder.mkdir(parents=True, exist_ok=True)
    write_json(config.folder / IMAGES, numbers_of_images(config))
    for stage in (first, jobs):
        todo = [job for job in stage if not job.is_finished()]
        run_jobs(todo, min(config.workers, len(todo)), config.progress)
    found = collect(config, study)
    write_json(config.folder / RESULT, found)
    return write_page(config.folder / RESULT, config.folder)


def run_jobs(jobs: Sequence[Job], workers: int, progress: bool) -> None:
    """Runs all of them, so many at a time, under one progress bar of steps. With one worker, in this process.

    Raises KeyboardInterrupt when stopped; what runs then is saved first.
    """
    with tqdm(
        total=sum(job.training.steps for job in jobs), unit="step", disable=not progress, dynamic_ncols=True
    ) as bar:
        bar.update(sum(_steps_done(job) for job in jobs))
        if workers > 1:
            run_side_by_side(
                run_job, jobs, workers, name=lambda job: job.label,
                follow=lambda running, done: _show(bar, jobs, done, running),
                remedy="The same command goes on from the last checkpoints; with jobs=1 it needs less",
            )  # fmt: skip
            return
        for number, job in enumerate(jobs):
            _show(bar, jobs, number, [job])
            run_job(replace(job, training=replace(job.training, progress=progress)))
        _show(bar, jobs, len(jobs), [])


def run_job(job: Job) -> None:
    """Trains one run, or what is left of it, and measures it.

    A loss that is not finite and too little memory to train in are written down instead: they would only come again.
    """
    if job.start is not None and job.start.failure.exists():
        _write_failure(job, f"{job.start.label} failed")
        return
    try:
        finished = train(job.training).finished
    except (FloatingPointError, RuntimeError, MemoryError) as error:
        if not (isinstance(error, FloatingPointError) or is_out_of_memory(error)):
            raise
        _write_failure(job, str(error) or type(error).__name__)
        return
    if not finished:
        raise KeyboardInterrupt
    for config in job.sweeps:
        sweep(config)  # leaves a finished one alone, unless it was of other weights


def _write_failure(job: Job, reason: str) -> None:
    job.failure.parent.mkdir(parents=True, exist_ok=True)  # the run may not have got as far as its folder
    write_json(job.failure, {"error": reason, "training": job.training.to_json()})


# The progress bar.


def _show(bar: tqdm, jobs: Sequence[Job], done: int, running: Sequence[Job]) -> None:
    current = [f"{job.label} {_steps_done(job)}/{job.training.steps}" for job in running]
    bar.set_postfix_str("; ".join([f"{done} of {len(jobs)} runs", *current]), refresh=False)
    bar.update(sum(_steps_done(job) for job in jobs) - bar.n)


def _steps_done(job: Job) -> int:
    """By the run's log; a run that is over counts in full, also where it failed."""
    if job.is_finished():
        return job.training.steps
    row = last_row(job.training.out / STEPS)
    return 0 if row is None else int(row["step"])
