"""Conditions of the machine: one sentence with the path or the number, and exit status 2; mistakes stay tracebacks."""

import errno
import os

import pytest
import torch

from anyres import files
from anyres.cli import main, run as command_line
from anyres.training.checkpoint import load_checkpoint
from anyres.training.runlog import RunLog

NO_SPACE = os.strerror(errno.ENOSPC)


def raised(error):
    def fail(*_):
        raise error

    return fail


def too_large():
    try:
        torch.empty(2**50)
    except RuntimeError as error:
        return error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, NO_SPACE, "a/b.pt"), f"a/b.pt: {NO_SPACE}"),
        (OSError(errno.EXDEV, "Invalid link", "a/b.tmp", None, "a/b"), "a/b: Invalid link"),
        (OSError("a short message"), "a short message"),
        (ChildProcessError("the process of a was killed"), "the process of a was killed"),
        (MemoryError(), "out of memory: no room"),
        (MemoryError("Unable to allocate 9 GiB for an array"), "out of memory: Unable to allocate 9 GiB for an array"),
        (
            RuntimeError("Caught RuntimeError in DataLoader worker process 0.\nTraceback:\n  x\nRuntimeError: [enforce "
                         "fail] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 77 bytes. Error "
                         "code 12 (Cannot allocate memory)\n"),
            "out of memory: can't allocate memory: you tried to allocate 77 bytes.",
        ),
        (too_large(), f"out of memory: can't allocate memory: you tried to allocate {2**52} bytes."),
        (torch.OutOfMemoryError("CUDA out of memory. Tried 9 GiB."), "CUDA out of memory. Tried 9 GiB."),
        (
            RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "),
            "a process that loads images (pid 7) was killed by signal: Killed, perhaps for want of memory; fewer "
            "num_workers need less",
        ),
        (
            RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's "
                         "workers are out of shared memory. Please try to raise your shared memory limit."),
            "a process that loads images (pid 7) was killed by signal: Bus error: /dev/shm is full; fewer num_workers "
            "need less",
        ),
        (
            RuntimeError("DataLoader worker (pid(s) 7, 8) exited unexpectedly"),
            "a process that loads images (pid 7, 8) ended by itself, perhaps for want of memory; fewer "
            "num_workers need less",
        ),
    ],
)  # fmt: skip
def test_a_condition_of_the_machine_is_one_sentence(monkeypatch, capsys, error, said):
    monkeypatch.setattr(command_line, "_run", raised(error))
    assert main(["models"]) == 2
    assert capsys.readouterr().err == f"anyres: {said}\n"


@pytest.mark.parametrize(
    "error",
    [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), KeyError("a"), TypeError("b"), RecursionError()],
)
def test_a_mistake_keeps_its_traceback(monkeypatch, error):
    monkeypatch.setattr(command_line, "_run", raised(error))
    with pytest.raises(type(error)):
        main(["models"])


def is_of(name):
    """Whether there is no room for a file of this name."""
    real = files._Watched.sync

    def sync(self):
        if name in str(self.name) and os.path.exists(os.path.join(os.path.dirname(str(self.name)), name)):
            with self._noting():
                raise OSError(errno.ENOSPC, NO_SPACE)
        real(self)

    return sync


@pytest.mark.parametrize("name", ["checkpoint.pt", "log.jsonl"])
def test_a_full_disk_ends_training_with_the_path_and_the_last_checkpoint(tmp_path, monkeypatch, capsys, name):
    assert main(["synthesize", "glyphs", str(tmp_path / "data"), "--train", "10", "--val", "0", "--size", "16"]) == 0
    options = ["width=24", "heads=2", "depth=1", "patch_size=8", "grid=2"]
    arguments = ["train", "--data", str(tmp_path / "data"), "--out", str(tmp_path / "run"), "--model-options", *options]
    arguments += [
        "--sizes",
        "16",
        "--steps",
        "6",
        "--warmup-steps",
        "1",
        "--batch-size",
        "4",
        "--checkpoint-every",
        "2",
    ]
    arguments += ["--no-progress", "--no-tensorboard", "--log-every", "1", "--device", "cpu"]
    with monkeypatch.context() as patch:
        if name == "checkpoint.pt":
            patch.setattr(files._Watched, "sync", is_of(name))
        else:
            real = RunLog._append

            def append(self, name, row):
                if row["step"] == 3:
                    self._files[name] = open("/dev/full", "w")  # noqa: SIM115
                real(self, name, row)

            patch.setattr(RunLog, "_append", append)
        assert main(arguments) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error == f"anyres: {tmp_path / 'run' / name}: cannot be written ({NO_SPACE})"
    assert load_checkpoint(tmp_path / "run" / "checkpoint.pt")["step"] == 2
    assert main(arguments) == 0
    assert load_checkpoint(tmp_path / "run" / "checkpoint.pt")["step"] == 6
