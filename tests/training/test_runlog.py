"""The log: every step once, whatever happened to the process that wrote it."""

import json
import sys

import pytest

from anyres.training.runlog import STEPS, RunLog, cut_back, describe, last_row, read_rows, summary_writer

ROW = {"size": [8, 9], "loss": 1.0, "lr": 0.1, "images_per_second": 5.0, "grad_norm": 2.0, "seconds": 0.5}


def write(run, start, stop, tensorboard=False):
    log = RunLog(run, start=start, tensorboard=tensorboard)
    for step in range(start + 1, stop + 1):
        log.step({"step": step, **ROW})
    log.validation(stop, [{"size": [8, 9], "top1": 50.0}])
    log.sync()
    log.close()


@pytest.mark.parametrize(("stop", "resume"), [(5, 3), (5, 0), (5, 5), (3, 5)])
def test_resuming_cuts_the_log_back(tmp_path, stop, resume):
    write(tmp_path, 0, stop)
    write(tmp_path, resume, 7)
    kept = list(range(1, min(stop, resume) + 1))
    assert [row["step"] for row in read_rows(tmp_path / STEPS)] == kept + list(range(resume + 1, 8))


def test_a_torn_last_line_is_dropped(tmp_path):
    path = tmp_path / STEPS
    path.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert read_rows(path) == [{"step": 1}, {"step": 2}]
    cut_back(path, 9)
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'


def test_no_log_has_no_rows(tmp_path):
    assert read_rows(tmp_path / STEPS) == []


def test_rows_are_written_at_once(tmp_path):
    log = RunLog(tmp_path, start=0, tensorboard=False)
    log.step({"step": 1, **ROW})
    assert json.loads((tmp_path / STEPS).read_text()) == {"step": 1, **ROW}
    log.close()


def test_tensorboard_events_say_the_same(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    write(tmp_path, 0, 3, tensorboard=True)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3]
    assert [event.value for event in events.Scalars("val/top1_at_8x9")] == [50.0]


def test_missing_tensorboard_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match=r"anyres\[train\]"):
        summary_writer()


def test_description():
    rows = [{"size": [56, 56], "top1": 97.25}, {"size": [9, 7], "top1": 1.0}]
    assert describe(rows, "top1", 1) == "top1 at 56x56 97.2, at 9x7 1.0"


def test_the_last_row_is_the_last_whole_line(tmp_path):
    log = tmp_path / "log.jsonl"
    assert last_row(log) is None
    log.write_text('{"step": 1')
    assert last_row(log) is None
    log.write_text("".join(f'{{"step": {step}, "filling": "{"x" * 90}"}}\n' for step in range(100)) + '{"step": 1')
    assert last_row(log)["step"] == 99
