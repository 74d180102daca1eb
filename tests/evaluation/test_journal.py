"""A sweep that is stopped goes on where it was and measures nothing twice; a finished one is left alone."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from anyres.costs.memory import is_out_of_memory
from anyres.evaluation import identity as identity_module, measure, subject as subject_module, sweep as sweep_module
from anyres.evaluation.journal import Journal, Part, sizes_done
from anyres.evaluation.sweep import SweepConfig, sweep
from anyres.models.config import ViTARConfig
from anyres.models.vitar import ViTAR
from anyres.models.weights.files import save

CLASSES = ("ant", "bee")


def train(folder, seed):
    torch.manual_seed(seed)
    model = ViTAR(ViTARConfig(patch_size=4, grid=(2, 2), width=8, depth=1, heads=1, num_classes=2))
    save(folder, model, name=None, classes=CLASSES, training_sizes=[(8, 8)])


def draw(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (17, 19, 3), np.uint8)).save(path)


@pytest.fixture
def place(tmp_path):
    for name in ("first", "second"):
        for number, kind in enumerate(CLASSES * 2):
            draw(tmp_path / name / kind / f"{number}.png", number)
    (tmp_path / "first" / "ant" / "broken.png").write_bytes(b"no image")
    train(tmp_path / "run", 0)
    train(tmp_path / "other", 1)
    return tmp_path


def configure(place, **changes):
    settings = {
        "runs": (place / "run", place / "other"), "data": (place / "first", place / "second"), "sizes": ("8", "12x7"),
        "out": place / "out.json", "latency_runs": 1, "latency_seconds": 0.01, "examples": 1, "threads": 1,
    }  # fmt: skip
    return SweepConfig(**settings | changes)


class Stop(Exception):
    pass


@pytest.fixture
def watch(monkeypatch):
    """What is measured: the (set, size) pairs and the shapes timed; `stop_after` many pairs Stop is raised."""

    class Watch:
        pairs, timed, stop_after = [], [], None

    real_measure, real_latency = measure.measure_size, subject_module.latency

    def measure_size(name, size, *rest):
        if len(Watch.pairs) == Watch.stop_after:
            raise Stop
        Watch.pairs.append((name, size))
        return real_measure(name, size, *rest)

    def latency(*given, **options):
        Watch.timed.append(1)
        return real_latency(*given, **options)

    monkeypatch.setattr(sweep_module, "measure_size", measure_size)
    monkeypatch.setattr(subject_module, "latency", latency)
    Watch.pairs, Watch.timed, Watch.stop_after = [], [], None
    return Watch


def without_times(result):
    rows = [{k: v for k, v in row.items() if k not in ("latency_ms", "images_per_second")} for row in result["rows"]]
    return result | {"rows": rows}


@pytest.mark.parametrize("done", [0, 1, 3])
def test_a_stopped_sweep_goes_on_and_measures_nothing_twice(place, watch, done, capsys):
    whole = sweep(configure(place, out=place / "whole.json"))
    pairs, timed = watch.pairs[:], len(watch.timed)
    watch.pairs, watch.timed, watch.stop_after = [], [], done
    with pytest.raises(Stop):
        sweep(configure(place))
    assert not (place / "out.json").exists() and (place / "out.json.partial").exists() == (done > 0)
    before = json.loads((place / "out.json.partial").read_text())["parts"] if done else []
    watch.stop_after = None
    capsys.readouterr()
    result = sweep(configure(place))
    assert watch.pairs == pairs and len(pairs) == 4 and len(watch.timed) == timed == 4  # 2 models, 2 shapes
    assert without_times(result) == without_times(whole)
    assert json.loads((place / "out.json").read_text()) == result
    assert not (place / "out.json.partial").exists()
    assert [row for part in before for row in part["rows"] if row not in result["rows"]] == []  # with their times
    assert (f"{done} of 4 sizes are done" in capsys.readouterr().err) == (done > 0)


def test_every_finished_size_is_on_disk_at_once(place, watch):
    for done in (1, 2, 3):
        watch.stop_after = done
        with pytest.raises(Stop):
            sweep(configure(place))
        parts = json.loads((place / "out.json.partial").read_text())["parts"]
        assert [(part["set"], tuple(part["size"])) for part in parts] == watch.pairs
        assert len(watch.pairs) == done


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"sizes": ("8", "9")}, r"settings\.sizes"),
        ({"crop_ratio": 1.0}, r"settings\.crop_ratio: 0\.875 there, 1\.0 here"),
        ({"batch_size": 2}, r"settings\.batch_size"),
        ({"precision": "bfloat16"}, r"environment\.precision: 'float32' there, 'bfloat16' here"),
        ({"runs": ("run",)}, r"models\.other"),
        ("weights", r"models\.other\.weights"),
        ("images", r"sets\.second\.files"),
        ("timm", r"environment\.timm: .* '9\.9' here"),
    ],
)
def test_a_partial_file_of_other_settings_is_refused(place, watch, change, field, monkeypatch):
    watch.stop_after = 1
    with pytest.raises(Stop):
        sweep(configure(place))
    kept = (place / "out.json.partial").read_bytes()
    if change == "weights":
        train(place / "other", 2)
    elif change == "images":
        draw(place / "second" / "bee" / "new.png", 9)
    elif change == "timm":
        monkeypatch.setattr(identity_module.timm, "__version__", "9.9")
    changes = change if isinstance(change, dict) else {}
    changes |= {"runs": tuple(place / run for run in changes["runs"])} if "runs" in changes else {}
    with pytest.raises(ValueError, match=rf"out\.json\.partial belongs to .*{field}.*delete it .* another out"):
        sweep(configure(place, **changes))
    assert (place / "out.json.partial").read_bytes() == kept and len(watch.pairs) == 1


def test_title_progress_and_readers_are_not_settings(place, watch):
    watch.stop_after = 2
    with pytest.raises(Stop):
        sweep(configure(place))
    watch.stop_after = None
    result = sweep(configure(place, title="New", progress=False, num_workers=1, device="auto"))
    assert result["title"] == "New" and len(watch.pairs) == 4


def test_a_finished_sweep_is_left_alone_until_it_differs(place, watch, capsys):
    first = sweep(configure(place))
    content = (place / "out.json").read_bytes()
    capsys.readouterr()
    assert sweep(configure(place)) == first and (place / "out.json").read_bytes() == content
    assert "finished" in capsys.readouterr().err and len(watch.pairs) == 4
    assert sweep(configure(place, title="Other")) == first | {"title": "Other"}
    assert json.loads((place / "out.json").read_text())["title"] == "Other" and len(watch.pairs) == 4
    train(place / "run", 5)
    again = sweep(configure(place))
    assert len(watch.pairs) == 8 and again["models"]["run"]["weights"] != first["models"]["run"]["weights"]
    assert again["models"]["other"] == first["models"]["other"]
    assert "models.run.weights" in capsys.readouterr().err
    (place / "out.json").unlink()
    sweep(configure(place))
    assert len(watch.pairs) == 12


def test_a_stop_between_the_last_two_steps_leaves_nothing_that_is_in_the_way(place, watch, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(sweep_module.Journal, "close", lambda self: None)
        sweep(configure(place))
    assert (place / "out.json.partial").exists()
    sweep(configure(place))
    assert not (place / "out.json.partial").exists() and len(watch.pairs) == 4
    (place / "out.json.partial").write_text(json.dumps({"format": 1, "identity": {"another": "sweep"}, "parts": []}))
    sweep(configure(place))
    assert (place / "out.json.partial").exists() and len(watch.pairs) == 4


@pytest.mark.parametrize("content", ["not JSON", "[1]", '{"format": 1}'])
@pytest.mark.parametrize("name", ["out.json", "out.json.partial"])
def test_files_that_are_no_sweep_are_not_touched(place, watch, name, content):
    (place / name).write_text(content)
    with pytest.raises(ValueError, match=rf"{name} is not (the JSON|what is done) of a sweep .*another out"):
        sweep(configure(place))
    assert (place / name).read_text() == content and watch.pairs == []


def test_a_sweep_of_an_older_version_is_replaced(place, watch):
    (place / "out.json").write_text(json.dumps({"format": 1, "title": "old", "rows": [], "models": {}}))
    assert len(sweep(configure(place))["rows"]) == 2 * 2 * 2 * 2  # sets, models, sizes, protocols
    assert len(watch.pairs) == 4


def test_what_lack_of_memory_looks_like():
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        torch.empty(1 << 52, dtype=torch.uint8)  # four petabytes
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(torch.OutOfMemoryError("full")) and is_out_of_memory(MemoryError())
    assert is_out_of_memory(RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried"))
    with pytest.raises(RuntimeError) as caught:
        torch.zeros(2) @ torch.zeros(3)
    assert not is_out_of_memory(caught.value) and not is_out_of_memory(ValueError("out of memory"))


def test_lack_of_cpu_memory_leaves_rows_out(place, monkeypatch):
    def too_large(self, size, *rest):
        torch.empty(1 << 52, dtype=torch.uint8)

    monkeypatch.setattr(subject_module.Subject, "speed", too_large)
    found = sweep(configure(place, data=(place / "second",), sizes=("8",), resize_to=("none",)))
    assert found["rows"] == [] and found["examples"] == []
    assert [item["model"] for item in found["left_out"]] == ["run", "other"]
    assert {item["reason"] for item in found["left_out"]} == {"out of memory on cpu for one image"}


def test_lack_of_memory_in_a_batch_leaves_that_row_out_and_goes_on(place, monkeypatch):
    real = subject_module.Subject.look

    def look(self, images, max_patches):
        if self.label == "run" and len(images) > 1:
            torch.empty(1 << 52, dtype=torch.uint8)
        return real(self, images, max_patches)

    monkeypatch.setattr(subject_module.Subject, "look", look)
    found = sweep(configure(place, data=(place / "second",), sizes=("8",), resize_to=("none",)))
    assert [row["model"] for row in found["rows"]] == ["other"] and found["rows"][0]["images"] == 4
    assert [item["model"] for item in found["left_out"]] == ["run"]
    assert "max_patches" in found["left_out"][0]["reason"]
    assert list(found["examples"][0]["predictions"]) == ["other"]


def test_other_failures_of_a_model_are_not_swallowed(place, monkeypatch):
    def broken(self, size, *rest):
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(subject_module.Subject, "speed", broken)
    with pytest.raises(RuntimeError, match="do not fit"):
        sweep(configure(place))


def test_what_is_done_of_a_sweep_elsewhere_is_told_by_its_journal(tmp_path):
    out = tmp_path / "sweep.json"
    assert sizes_done(out) == []
    journal = Journal(out, {"settings": {}})
    for size in ([24, 24], [32, 48]):
        journal.add(Part(set="val", size=size, rows=[], examples=[], skipped={}, left_out=[]))
    assert sizes_done(out) == [(24, 24), (32, 48)]
    journal.close()
    assert sizes_done(out) == []
