"""Runs that fail: recorded where it is for good, with the others going on; said clearly where it is not."""

import json
from dataclasses import replace

import pytest

from anyres.ablation import ablate, runner
from anyres.ablation.plan import plan_jobs
from anyres.ablation.runner import run_job, run_jobs
from anyres.report import canvas
from anyres.training.trainer import Trainer


def short_of_memory(patch):
    """No room for the third step of the variant "large", nor for the model of "huge"."""
    begin, update = Trainer.__init__, Trainer.update

    def begun(trainer, config, *rest):
        if config.out.parent.name == "huge":
            raise MemoryError
        begin(trainer, config, *rest)

    def updated(trainer, batch):
        if trainer.config.out.parent.name == "large" and trainer.step == 2:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        return update(trainer, batch)

    patch.setattr(Trainer, "__init__", begun)
    patch.setattr(Trainer, "update", updated)


def test_a_run_that_fails_is_recorded_and_the_others_go_on(tmp_path, monkeypatch, tiny, settings, variant):
    """One diverges, one finds no room in its third step, one not even for its model."""
    wild = variant("wild", lr=1e30, warmup_steps=0, clip_grad=None)
    study = replace(tiny, variants=(wild, variant("large"), variant("huge"), tiny.variants[0]))
    config = settings(tmp_path)
    monkeypatch.setattr(canvas, "DPI", 40)
    with monkeypatch.context() as patch:
        short_of_memory(patch)
        ablate(config, study)
    data = json.loads((tmp_path / "mergers" / "ablation.json").read_text())
    failed = {item["run"]: item["error"] for item in data["failed"]}
    assert list(failed) == [f"ordinary/{name}/seed0" for name in ("wild", "large", "huge")]
    assert "at step" in failed["ordinary/wild/seed0"] and failed["ordinary/huge/seed0"] == "MemoryError"
    assert failed["ordinary/large/seed0"].startswith("out of memory on cpu at step 3 of 6, size ")
    assert {row["variant"] for row in data["rows"]} == {"grid"}
    assert [variant["name"] for variant in data["variants"]] == ["wild", "large", "huge", "grid"]
    assert all(run in (tmp_path / "mergers" / "index.html").read_text() for run in failed)
    monkeypatch.setattr(runner, "train", lambda config: pytest.fail("done already"))
    ablate(config, study)
    with pytest.raises(ValueError, match="lr: 1e\\+30 there"):
        ablate(config, replace(study, variants=(variant("wild"), *study.variants[1:])))
    with pytest.raises(ValueError, match="no run in .* has a result .*wild.*large.*huge"):
        (tmp_path / "mergers" / "runs" / "ordinary" / "grid").rename(tmp_path / "elsewhere")
        ablate(replace(config, only=("wild", "huge")), study)


def test_other_errors_of_a_run_are_not_taken_for_its_result(tiny, settings, tmp_path, monkeypatch):
    [job, *_] = plan_jobs(settings(tmp_path), tiny)

    def wrong(config):
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(runner, "train", wrong)
    with pytest.raises(RuntimeError, match="do not fit"):
        run_jobs([job], 1, progress=False)
    assert not job.failure.exists()


def test_a_killed_process_is_said_with_its_run_and_what_to_do(tiny, settings, tmp_path, monkeypatch):
    said = {}

    def killed(function, jobs, workers, *, name, follow, remedy):
        said.update(names=[name(job) for job in jobs], remedy=remedy, function=function, workers=workers)
        follow(jobs[:1], 0)

    monkeypatch.setattr(runner, "run_side_by_side", killed)
    run_jobs(plan_jobs(settings(tmp_path), tiny), 2, progress=False)
    assert said["names"][:2] == ["ordinary/grid/seed0", "ordinary/mean/seed0"] and "jobs=1" in said["remedy"]
    assert (said["function"], said["workers"]) == (run_job, 2)
