"""Whole runs: a run that was stopped, killed or refused ends like one that never was."""

import json
import multiprocessing
import os
import signal

import pytest
import torch

from anyres.data.augment import TrainAugment
from anyres.models.vitar import ViTAR
from anyres.models.weights.files import load
from anyres.training import train
from anyres.training.checkpoint import NAME, load_checkpoint
from anyres.training.model_options import options_as_text
from anyres.training.runlog import STEPS, VALIDATIONS, read_rows
from anyres.training.trainer import Trainer


class Crash(Exception):
    """Stands for whatever ends a process."""


def crash_at(monkeypatch, step, error=Crash):
    """The process 'dies' in the middle of the given step, after backward and before the weights change."""
    update = Trainer.update

    def dying(self, batch):
        if self.step + 1 == step:
            self._backward(batch)
            raise error
        return update(self, batch)

    monkeypatch.setattr(Trainer, "update", dying)


def assert_same(one, other, path=""):
    """Bitwise equality of nested checkpoints."""
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), path
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), path
        for key in one:
            assert_same(one[key], other[key], f"{path}/{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), path
        for index, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_same(a, b, f"{path}/{index}")
    else:
        assert one == other, path


STATE = ("step", "model", "ema", "optimizer", "loss", "skipped")


def state_of(config):
    state = load_checkpoint(config.out / NAME)
    return {key: state[key] for key in STATE}


@pytest.fixture
def uninterrupted(make_config, tmp_path):
    config = make_config(out=tmp_path / "uninterrupted", validate_every=3)
    train(config)
    return config


def same_in_the_end(config, reference):
    assert_same(state_of(config), state_of(reference))
    for one, other in zip(read_rows(config.out / STEPS), read_rows(reference.out / STEPS), strict=True):
        for key in ("step", "size", "loss", "lr", "grad_norm"):
            assert one[key] == other[key]
    assert read_rows(config.out / VALIDATIONS) == read_rows(reference.out / VALIDATIONS)
    assert_same(load(config.out, ViTAR)[0].state_dict(), load(reference.out, ViTAR)[0].state_dict())


@pytest.mark.parametrize("step", [1, 2, 3, 4, 6])
def test_resumed_equals_uninterrupted(make_config, uninterrupted, monkeypatch, step):
    config = make_config(validate_every=3)
    with monkeypatch.context() as patch:
        crash_at(patch, step)
        with pytest.raises(Crash):
            train(config)
    done = max(n for n in range(step) if n % 2 == 0 or n % 3 == 0)  # checkpoints every 2, and before validations
    assert (config.out / NAME).exists() == (done > 0)
    if done:
        assert load_checkpoint(config.out / NAME)["step"] == done
    result = train(config)
    assert (result.step, result.finished) == (6, True)
    same_in_the_end(config, uninterrupted)
    assert [row["step"] for row in read_rows(config.out / STEPS)] == [1, 2, 3, 4, 5, 6]
    assert [row["step"] for row in read_rows(config.out / VALIDATIONS)] == [3, 3, 6, 6]


@pytest.mark.parametrize(
    "changes",
    [
        {"replicas": True, "consistency": 1.0, "sizes": ("13", "16x23", "9")},
        {"sizes": ("9-16", "8x11"), "aspect": (0.5, 2.0), "repeats": 3},
    ],
)
@pytest.mark.parametrize("step", [3, 4])
def test_other_schedules_resume_alike(make_config, tmp_path, monkeypatch, changes, step):
    reference = make_config(out=tmp_path / "uninterrupted", **changes)
    train(reference)
    config = make_config(num_workers=step - 3, **changes)
    with monkeypatch.context() as patch:
        crash_at(patch, step)
        with pytest.raises(Crash):
            train(config)
    assert load_checkpoint(config.out / NAME)["step"] == 2
    assert train(config).finished
    same_in_the_end(config, reference)


def test_how_a_run_is_carried_out_does_not_matter(make_config, uninterrupted):
    config = make_config(validate_every=3, num_workers=1, checkpoint_every=5, tensorboard=True)
    train(config)
    same_in_the_end(config, uninterrupted)
    assert list((config.out / "tensorboard").iterdir())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_step_and_saves(make_config, uninterrupted, monkeypatch, number, capfd):
    config = make_config(validate_every=3, checkpoint_every=1000)
    update = Trainer.update
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:

        def signalled(self, batch):
            if self.step == 3:
                os.kill(os.getpid(), number)
            return update(self, batch)

        patch.setattr(Trainer, "update", signalled)
        result = train(config)
    assert (result.step, result.finished) == (4, False)
    assert load_checkpoint(config.out / NAME)["step"] == 4
    assert not (config.out / "model.safetensors").exists()
    assert "Stopped after step 4 of 6. Run the same command again" in capfd.readouterr().err
    assert handlers == (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))
    assert train(config).finished
    same_in_the_end(config, uninterrupted)


def test_a_signal_while_waiting_for_data_saves_even_if_loading_breaks(make_config, uninterrupted, monkeypatch):
    from anyres.data.loader import TrainingStream

    config = make_config(validate_every=3, checkpoint_every=1000)
    batches = TrainingStream.batches
    with monkeypatch.context() as patch:

        def breaking(self, start, stop):
            yield from batches(self, start, 3)
            os.kill(os.getpid(), signal.SIGINT)
            raise RuntimeError("DataLoader worker exited unexpectedly")

        patch.setattr(TrainingStream, "batches", breaking)
        assert train(config).step == 3
    train(config)
    same_in_the_end(config, uninterrupted)


def test_a_second_ctrl_c_stops_at_once(make_config, monkeypatch):
    config = make_config()

    def impatient(self, batch):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("not reached")

    monkeypatch.setattr(Trainer, "update", impatient)
    with pytest.raises(KeyboardInterrupt):
        train(config)
    assert not (config.out / NAME).exists()


def test_a_death_between_the_last_checkpoint_and_the_model_is_made_good(make_config, uninterrupted, monkeypatch):
    config = make_config(validate_every=3)
    with monkeypatch.context() as patch:
        patch.setattr("anyres.training.classification.task.save", lambda *args, **kwargs: (_ for _ in ()).throw(Crash))
        with pytest.raises(Crash):
            train(config)
    assert load_checkpoint(config.out / NAME)["step"] == 6
    result = train(config)
    assert result.finished and [row["size"] for row in result.validation] == [[13, 13], [16, 23]]
    same_in_the_end(config, uninterrupted)


def test_a_finished_run_is_left_alone(make_config, capsys):
    config = make_config()
    first = train(config)
    before = {path.name: path.read_bytes() for path in config.out.iterdir()}
    again = train(config)
    assert again == first and again.finished
    assert {path.name: path.read_bytes() for path in config.out.iterdir()} == before
    assert "is finished: 6 steps" in capsys.readouterr().err


def test_bad_numbers_keep_the_last_checkpoint(make_config, monkeypatch):
    config = make_config()
    with monkeypatch.context() as patch:
        update = Trainer.update

        def poisoned(self, batch):
            if self.step == 3:
                batch.images.fill_(float("nan"))
            return update(self, batch)

        patch.setattr(Trainer, "update", poisoned)
        with pytest.raises(FloatingPointError, match=r"loss is nan at step 4 of 6, size \d+x\d+.*last checkpoint"):
            train(config)
    assert load_checkpoint(config.out / NAME)["step"] == 2
    assert [row["step"] for row in read_rows(config.out / STEPS)] == [1, 2, 3]
    assert train(config).finished


def test_a_killed_process_that_loads_images_is_named_and_the_run_goes_on(make_config, uninterrupted, monkeypatch):
    config, update = make_config(num_workers=1, validate_every=3), Trainer.update

    def killing(self, batch):
        for process in multiprocessing.active_children() if self.step == 3 else ():
            os.kill(process.pid, signal.SIGKILL)
        return update(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "update", killing)
        told = "was killed by signal: Killed, .*checkpoint.pt still holds the last checkpoint; the same command goes on"
        with pytest.raises(ChildProcessError, match=told):
            train(config)
    assert load_checkpoint(config.out / NAME)["step"] in (3, 4)
    train(config)
    same_in_the_end(config, uninterrupted)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes"), "can't allocate memory: 9 bytes"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB"), "Tried to allocate 9 GiB"),
        (MemoryError(), "no room"),
    ],
)
def test_too_little_memory_says_where_and_keeps_the_last_checkpoint(make_config, monkeypatch, error, said):
    config, update = make_config(), Trainer.update

    def short(self, batch):
        if self.step == 3:
            raise error
        return update(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "update", short)
        with pytest.raises(MemoryError, match=rf"on cpu at step 4 of 6, size \d+x\d+: .*{said}.*last checkpoint"):
            train(config)
    assert load_checkpoint(config.out / NAME)["step"] == 2
    assert train(config).finished


def test_other_errors_of_a_step_stay_what_they_are(make_config, monkeypatch):
    monkeypatch.setattr(Trainer, "update", lambda self, batch: torch.ones(2) @ torch.ones(3))
    with pytest.raises(RuntimeError, match="(?i)size"):
        train(make_config())


def test_other_settings_are_refused_before_anything_is_touched(make_config):
    config = make_config()
    train(config)
    before = {path.name: path.read_bytes() for path in config.out.iterdir()}
    changed = make_config(lr=0.5, augmentation=TrainAugment(hflip=0.0), model_options={"width": 16, "heads": 2})
    told = r"\(model_options\.patch_size: 4 there, 'not set' here; .*; lr: 0\.001 there, 0\.5 here; augmentation\.hflip"
    with pytest.raises(ValueError, match=told):
        train(changed)
    assert {path.name: path.read_bytes() for path in config.out.iterdir()} == before


def test_a_run_of_an_earlier_version_is_recognised_but_not_gone_on_with(make_config, capsys):
    """Its settings hold the model's options as text, and its checkpoint names parameters otherwise."""
    config = make_config()
    done = train(config)
    path, settings = config.out / NAME, config.to_json() | {"from_records": None}
    settings["model_options"] = options_as_text(config.model_options)
    (config.out / "train.json").write_text(json.dumps(settings))
    state = load_checkpoint(path) | {"config": settings}
    state["model"] = {f"old.{name}": value for name, value in state["model"].items()}
    torch.save(state | {"format": 1}, path)
    assert train(config) == done and "Nothing to do" in capsys.readouterr().err
    (config.out / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="format 1; .* finish the run with the version of anyres that began it"):
        train(config)


def test_a_run_that_never_saved_anything_may_start_with_other_settings(make_config, monkeypatch):
    with monkeypatch.context() as patch:
        crash_at(patch, 1)
        with pytest.raises(Crash):
            train(make_config(lr=0.5))
    assert train(make_config(lr=0.001)).finished


def test_a_failing_validation_loses_no_step(make_config, monkeypatch):
    config = make_config(validate_every=3)
    with monkeypatch.context() as patch:
        patch.setattr("anyres.training.classification.task.ClassificationTask.validate", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(config)
    assert load_checkpoint(config.out / NAME)["step"] == 3
    assert train(config).finished
    assert [row["step"] for row in read_rows(config.out / VALIDATIONS)] == [3, 3, 6, 6]


def test_unreadable_validation_images_are_listed_too(make_config, write_data, tmp_path):
    root = write_data(tmp_path / "data")
    broken = next((root / "val").rglob("*.png"))
    broken.write_bytes(b"no image")
    result = train(make_config(data=root))
    assert [path for path, _ in result.skipped] == [str(broken)]
    assert "skipped" not in result.validation[0]


def test_other_data_is_refused(make_config, write_data, tmp_path):
    train(make_config())
    with pytest.raises(ValueError, match="task.training files"):
        train(make_config(data=write_data(tmp_path / "more", train=6)))
    assert train(make_config(data=write_data(tmp_path / "moved"))).finished


def test_a_damaged_checkpoint_is_refused(make_config):
    config = make_config()
    train(config)
    whole = (config.out / NAME).read_bytes()
    (config.out / NAME).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="damaged"):
        train(config)


def test_a_folder_of_something_else_is_refused(make_config):
    config = make_config()
    config.out.mkdir()
    (config.out / "thesis.tex").write_text("irreplaceable")
    with pytest.raises(ValueError, match=r"holds files but no train\.json"):
        train(config)
    assert [path.name for path in config.out.iterdir()] == ["thesis.tex"]
    (config.out / "train.json").write_text("{")
    with pytest.raises(ValueError, match="not the settings of a run"):
        train(config)
    with pytest.raises(ValueError, match="is a file"):
        train(make_config(out=config.out / "thesis.tex"))


def test_unreadable_files_are_skipped_counted_and_listed(make_config, write_data, tmp_path, capsys):
    root = write_data(tmp_path / "data")
    broken = root / "train" / "green" / "2.png"
    broken.write_bytes(broken.read_bytes()[:60])
    config = make_config(data=root, steps=8)
    result = train(config)
    assert [path for path, _ in result.skipped] == [str(broken)]
    assert load(config.out, ViTAR)[1].extra["skipped"] == 1
    shown = capsys.readouterr().err
    assert "1 files could not be read" in shown and str(broken) in shown
    with pytest.raises(ValueError, match=r"green/2\.png"):
        train(make_config(data=root, steps=8, strict=True, out=tmp_path / "strict"))


def test_the_log_holds_what_was_promised(make_config):
    config = make_config(log_every=4)
    result = train(config)
    rows = read_rows(config.out / STEPS)
    assert [row["step"] for row in rows] == [4, 6]
    assert set(rows[0]) == {"step", "size", "loss", "lr", "images_per_second", "grad_norm", "seconds"}
    assert rows[-1]["loss"] == result.loss and rows[0]["seconds"] < rows[1]["seconds"]
    assert json.loads((config.out / "train.json").read_text()) == config.to_json()


def test_final_weights_are_the_average_if_asked_for(make_config, tmp_path):
    for save_ema, name in ((True, "ema"), (False, "model")):
        config = make_config(save_ema=save_ema, out=tmp_path / name)
        train(config)
        assert_same(load(config.out, ViTAR)[0].state_dict(), state_of(config)[name])


def test_a_run_learns(plain):
    config = plain(steps=60, batch_size=8, lr=3e-3, ema=None, mixup=0.0, cutmix=0.0, sizes=("13", "12x17"))
    result = train(config)
    assert all(row["top1"] == 100.0 for row in result.validation)
