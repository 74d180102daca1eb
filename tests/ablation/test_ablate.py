"""A tiny study from end to end: resumed, extended, refused; and what is written about it."""

import base64
import hashlib
import io
import json
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from PIL import Image

from anyres.ablation import ablate, figures, runner
from anyres.ablation.page import write_page
from anyres.ablation.plan import plan_jobs
from anyres.ablation.results import collect
from anyres.ablation.runner import run_jobs
from anyres.report import canvas
from anyres.training.runlog import STEPS, read_rows
from anyres.training.trainer import Trainer


@pytest.fixture(autouse=True)
def small_pictures(monkeypatch):
    monkeypatch.setattr(canvas, "DPI", 40)


def digests(folder, pattern="**/*"):
    return {
        path.relative_to(folder): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.glob(pattern))
        if path.is_file()
    }


def measured(folder):
    """Rows without what the clock says."""
    rows = json.loads((folder / "mergers" / "ablation.json").read_text())["rows"]
    return [{name: value for name, value in row.items() if name != "latency_ms"} for row in rows]


@pytest.fixture(scope="module")
def done(tmp_path_factory, tiny, settings):
    """Two seeds of both variants, the second seed asked for later."""
    out = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(canvas, "DPI", 40)
        with patch.context() as early:
            early.setattr(runner, "write_page", lambda result, folder: result)  # it is drawn below
            ablate(settings(out), tiny)
        first = digests(out, "mergers/runs/**/*")
        ablate(settings(out, seeds=2), tiny)
    assert {path: digest for path, digest in digests(out, "mergers/runs/**/*").items() if path in first} == first
    return out


def test_what_is_written(done):
    folder = done / "mergers"
    data = json.loads((folder / "ablation.json").read_text())
    assert {(row["variant"], row["seed"]) for row in data["rows"]} == {(v, s) for v in ("grid", "mean") for s in (0, 1)}
    sizes = {row["size"][0] for row in data["rows"] if row["protocol"] == "native"}
    assert sizes == {16, 24, 48, 96}  # 48 by a landmark, 96 = 4 x 24
    assert {row["protocol"] for row in data["rows"]} == {"native", "resized to 16x16", "resized to 24x24"}
    assert {row["images"] for row in data["rows"]} == {10}
    assert {row["seeds"] for row in data["summary"]} == {2}
    assert [v["trained_at"] for v in data["variants"]] == [[16, 24]] * 2
    assert [v["steps"] for v in data["variants"]] == [6, 6]
    assert data["variants"][0]["paper"]["4032"] == 78.6
    assert {entry["paper_resolution"] for entry in data["orderings"]} == {224, 4032}
    assert data["command"].startswith("anyres ablate mergers --seeds 2 --sets ordinary --steps 6 --stem patch")
    assert data["command"].endswith("--precision float32") and data["settings"]["training precision"] == "float32"
    assert {path.name for path in folder.glob("*.png")} == {
        "accuracy.png", "accuracy-dark.png", "alone-ordinary.png", "alone-ordinary-dark.png",
    }  # fmt: skip
    text = (folder / "results.md").read_text()
    assert "| variant | 16 | 24 | 48 | 96 | at 4x its largest size | below its best |" in text
    assert "Images that every size is measured on: 10." in text


def test_the_picture_holds_every_variant_against_resizing(done):
    data = json.loads((done / "mergers" / "ablation.json").read_text())
    wide = {**data, "summary": [{**row, "set": name} for name in ("a", "b", "c", "d") for row in data["summary"]]}
    for given, panels in ((data, 1), (wide, 4)):
        figure = figures.together(given, canvas.LIGHT)
        axes = [ax for part in figure.subfigs for ax in part.axes if ax.axison]
        assert len(axes) == panels and len(figure.subfigs) in (1, 6)  # three beside each other, two rows
        for ax in axes:
            [box] = ax.figure.legends
            labels = [text.get_text() for text in box.get_texts()]
            assert labels[:4] == ["grid", "mean", "grid, resized to 16", "grid, resized to 24"]
            own = [row for row in data["summary"] if (row["variant"], row["protocol"]) == ("grid", "resized to 24x24")]
            means = [row["mean"] for row in sorted(own, key=lambda row: row["size"])]
            assert means in [list(line.get_ydata()) for line in ax.lines if line.get_color() == canvas.LIGHT.ink]


class Reader(HTMLParser):
    """Every opened tag is closed, and nothing is loaded from elsewhere."""

    def __init__(self):
        super().__init__()
        self.open, self.links, self.rows = [], [], 0

    def handle_starttag(self, tag, attributes):
        self.links += [value for name, value in attributes if name in ("src", "srcset", "href", "action")]
        self.rows += tag == "tr"
        if tag not in ("meta", "img", "source", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_whole_and_offline(done):
    text = (done / "mergers" / "index.html").read_text()
    reader = Reader()
    reader.feed(text)
    assert not reader.open and reader.rows > 10
    assert reader.links and all(link.startswith("data:image/png;base64,") for link in reader.links)
    for link in reader.links:
        Image.open(io.BytesIO(base64.b64decode(link.partition(",")[2]))).verify()
    assert not re.search(r"https?://|@import|url\(", re.sub(r"base64,[A-Za-z0-9+/=]+", "", text))
    assert "Tiny &amp; &lt;small&gt;" in text and "<small>&" not in text
    assert "adaptive token merger" in text and "78.6" in text


def test_same_json_same_bytes(done, tmp_path):
    page = write_page(done / "mergers" / "ablation.json", tmp_path / "other")
    assert page == tmp_path / "other" / "index.html"
    for path, digest in digests(tmp_path / "other").items():
        assert digest == digests(done / "mergers", str(path))[path], path


def test_a_finished_study_is_only_drawn_again(done, tiny, settings, monkeypatch):
    before = digests(done)
    for name in ("train", "sweep"):
        monkeypatch.setattr(runner, name, lambda config: pytest.fail("done already"))
    ablate(settings(done, seeds=2, jobs=7), tiny)
    assert digests(done) == before
    fewer = collect(settings(done, only=("mean",)), tiny)  # what was finished earlier stays in the tables
    assert {(row["variant"], row["seed"]) for row in fewer["rows"]} == {
        (v, s) for v in ("grid", "mean") for s in (0, 1)
    }


def test_stopped_in_the_middle_of_the_second_run_ends_alike(done, tiny, settings, tmp_path, monkeypatch):
    update, count = Trainer.update, 0

    def stopped(trainer, batch):
        nonlocal count
        count += 1
        if count == 6 + 5:  # of the second run, after its checkpoint at step 4
            raise KeyboardInterrupt
        return update(trainer, batch)

    out = tmp_path / "study"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Trainer, "update", stopped)
        ablate(settings(out, seeds=2), tiny)
    first = out / "mergers" / "runs" / "ordinary" / "grid"
    assert (first / "seed0.json").exists() and not (first / "seed1").exists()
    assert not (first.parent / "mean" / "seed0" / "model.safetensors").exists()
    kept = digests(first)
    ablate(settings(out, seeds=2), tiny)
    assert {path: digest for path, digest in digests(first).items() if path in kept} == kept
    assert measured(out) == measured(done)
    weights = "mergers/runs/**/model.safetensors"
    assert digests(out, weights) == digests(done, weights) and len(digests(out, weights)) == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 7}, "steps: 6 there, 7 here"),
        ({"stem": "conv"}, "model_options.stem: 'patch' there, 'conv' here"),
        ({"precision": "bfloat16"}, "precision: 'float32' there, 'bfloat16' here"),
        ({"val_images": 11}, "val_images: 10 there, 11 here"),
        ({"train_images": 30}, "train_images: 20 there, 30 here"),
        ({"only": ("gird",)}, "Did you mean 'grid'"),
    ],
)
def test_another_configuration_is_refused_and_results_stay(done, tiny, settings, changes, message):
    before = digests(done)
    with pytest.raises(ValueError, match=message):
        ablate(settings(done, seeds=2, **({"sets": ("ordinary",)} | changes)), tiny)
    assert digests(done) == before


def test_a_changed_variant_is_refused_even_if_not_asked_for(done, tiny, settings, variant):
    changed = replace(tiny, variants=(tiny.variants[0], variant("mean", {"merger": "average"}, lr=0.5)))
    with pytest.raises(
        ValueError, match=r"mean/seed0 was made by another configuration \(lr: 0.0012 there, 0.5 here\)"
    ):
        ablate(settings(done, only=("grid",)), changed)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (({"merger": "avrage"}, {}), "variant odd of tiny: unknown merger 'avrage'. Did you mean 'average'"),
        (({"merger": "average"}, {"sizes": ("0",)}), "variant odd of tiny: .*'0'"),
        (({"merger": "average"}, {"sizes": ("16", "800")}), "measured at 3200 pixels; allowed: up to 3072"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(tmp_path, tiny, settings, variant, wrong, message):
    odd = variant("odd", wrong[0], **wrong[1])
    with pytest.raises(ValueError, match=message):
        ablate(settings(tmp_path / "study"), replace(tiny, variants=(*tiny.variants, odd)))
    assert not (tmp_path / "study").exists()


def test_a_run_whose_folder_is_gone_is_made_again_and_not_lost(done, tiny, settings, tmp_path):
    out = tmp_path / "study"
    shutil.copytree(done, out)
    jobs = plan_jobs(settings(out, seeds=2), tiny)
    assert all(job.is_finished() for job in jobs)
    shutil.rmtree(jobs[0].training.out)
    assert [job.is_finished() for job in jobs] == [False, True, True, True]
    run_jobs(jobs[:1], 1, progress=False)
    again, before = digests(out), digests(done)
    assert {path for path in before if path.suffix in (".json", ".safetensors")} <= set(again)
    for path in (path for path in before if path.suffix == ".safetensors" or path.name.startswith("seed")):
        assert again[path] == before[path], path  # the same weights, so the sweeps are left alone


def test_a_run_that_is_only_begun_is_not_finished(done, tiny, settings, tmp_path):
    out = tmp_path / "study"
    shutil.copytree(done, out)
    job = plan_jobs(settings(out, seeds=2), tiny)[0]
    for path in job.training.out.iterdir():
        if path.name != "train.json":  # which is written first
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert not job.is_finished()


def test_numbers_of_images_are_known_without_the_images(done, tiny, settings, tmp_path):
    out = tmp_path / "study"
    shutil.copytree(done, out)
    shutil.rmtree(out / "data")
    with pytest.raises(ValueError, match="other images .train_images: 20 there, 40 here"):
        ablate(settings(out, seeds=3, train_images=40), tiny)
    assert not (out / "data").exists()


PROGRAM = """
import pickle, sys
from anyres.ablation import ablate
if __name__ == "__main__":
    with open(sys.argv[1], "rb") as file:
        ablate(*pickle.load(file))
"""


@pytest.mark.slow
def test_killed_with_two_workers_ends_like_one_worker_undisturbed(tmp_path, tiny, settings):
    program, given = tmp_path / "program.py", tmp_path / "given"
    out = tmp_path / "killed"
    program.write_text(PROGRAM)
    given.write_bytes(pickle.dumps((settings(out, steps=150, jobs=2), tiny)))

    def start():
        return subprocess.Popen([sys.executable, str(program), str(given)], stderr=subprocess.DEVNULL)

    logs = [out / "mergers" / "runs" / "ordinary" / name / "seed0" / STEPS for name in ("grid", "mean")]
    process, deadline = start(), time.monotonic() + 400
    while min(len(read_rows(log)) for log in logs) < 20 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(1.0)
    rows = [len(read_rows(log)) for log in logs]
    assert min(rows) >= 20 and max(rows) < 150
    time.sleep(1.0)
    assert [len(read_rows(log)) for log in logs] == rows  # the workers ended with their parent
    assert start().wait(timeout=600) == 0
    ablate(settings(tmp_path / "reference", steps=150), tiny)
    assert measured(out) == measured(tmp_path / "reference")
