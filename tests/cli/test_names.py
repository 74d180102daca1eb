"""Names of files that are no text: nothing is lost for one, on disk or on a terminal of any encoding."""

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import anyres
from anyres.cli import main
from anyres.streaming.records import Records
from anyres.training.checkpoint import load_checkpoint

GOOD, BROKEN, CLASS = (os.fsdecode(name) for name in (b"caf\xe9.png", b"kaputt\xff.png", b"b\xe9e"))
OPTIONS = ["width=24", "heads=2", "depth=1", "patch_size=8", "grid=2"]


@pytest.fixture
def place(tmp_path):
    """A model, and a data set, in folders whose names are no text either."""
    torch.manual_seed(0)
    root = tmp_path / os.fsdecode(b"d\xe9but")
    model = anyres.create_model("vitar_tiny_patch16", width=24, heads=2, depth=1, patch_size=8, grid=2, num_classes=2)
    anyres.save(root / "run", model, name=None, classes=["ant", CLASS], training_sizes=[(16, 16)])
    for split in ("train", "val"):
        for number, name in enumerate(("ant", CLASS)):
            folder = root / "data" / split / name
            folder.mkdir(parents=True)
            for index, image in enumerate(("a.png", GOOD, "c.png")):
                Image.new("RGB", (20 + index, 31), (200 * number, 90, 40 * index)).save(folder / image)
            (folder / BROKEN).write_bytes(b"no image")
    return root


@pytest.fixture
def strict(monkeypatch):
    """`strict()` from then on gives what is printed on a terminal that knows ASCII alone and is strict about it."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="strict", write_through=True)

    def printed():
        monkeypatch.setattr(sys, "stdout", stream)
        return stream.buffer.getvalue().decode("ascii")

    return printed


def paths(place, split, name):
    return [str(place / "data" / split / each / name) for each in ("ant", CLASS)]


def test_predictions_keep_them_in_csv_and_json_and_show_them_escaped(place, strict):
    strict()
    arguments = ["predict", "--run", str(place / "run"), "--inputs", str(place / "data" / "val"), "--device", "cpu"]
    for name in ("out.csv", "out.json"):
        assert main([*arguments, "--out", str(place / name)]) == 1  # two files are broken
    rows = list(csv.DictReader(io.StringIO((place / "out.csv").read_text(errors="surrogateescape"))))
    assert b"caf\xe9.png" in (place / "out.csv").read_bytes()
    entries = json.loads((place / "out.json").read_text())
    for found in (rows, entries):
        assert {each["path"] for each in found} >= {*paths(place, "val", GOOD), *paths(place, "val", BROKEN)}
    assert {row["class_1"] for row in rows if row["class_1"]} <= {"ant", CLASS}
    assert all(Path(each["path"]).is_file() for each in rows)
    assert main(arguments) == 1
    assert r"caf\udce9.png" in strict() and r"kaputt\udcff.png" in strict()


def test_on_a_real_terminal_of_another_encoding(place):
    call = [sys.executable, "-m", "anyres.cli", "predict", "--run", place / "run", "--inputs", place / "data" / "val"]
    environment = os.environ | {"PYTHONIOENCODING": "ascii:strict", "LC_ALL": "C"}
    done = subprocess.run(call, env=environment, capture_output=True, check=False)
    assert done.returncode == 1, done.stderr
    assert rb"caf\udce9.png" in done.stdout and b"Traceback" not in done.stderr


def test_features_keep_them_and_go_on(place, strict, capsys):
    strict()
    arguments = ["encode", str(place / "data" / "val"), "--run", str(place / "run"), "--out", str(place / "out")]
    for _ in range(2):
        assert main([*arguments, "--device", "cpu"]) == 1
    records = Records(place / "out")
    assert set(paths(place, "val", GOOD)) <= set(records.sources) and set(records.labels) == {"ant", CLASS}
    assert [each["path"] for each in records.failures] == paths(place, "val", BROKEN)
    assert r"kaputt\udcff.png: not a JPEG" in strict()
    records.verify()
    head = ["train", "--from-records", str(place / "out"), "--out", str(place / "head"), "--steps", "2"]
    assert main([*head, "--warmup-steps", "0", "--device", "cpu", "--no-progress", "--no-tensorboard"]) == 0


def test_a_run_with_such_a_name_says_what_tensorboard_cannot(place, capsys):
    arguments = ["train", "--data", str(place / "data"), "--out", str(place / "run2"), "--model-options", *OPTIONS]
    assert main([*arguments, "--sizes", "16", "--steps", "2", "--warmup-steps", "0"]) == 2
    assert "a name that is no text, into which TensorBoard does not write; give another" in capsys.readouterr().err
    assert not (place / "run2").exists()


def test_what_only_libvips_reads_may_have_them(place, tmp_path, capsys):
    pyvips = pytest.importorskip("pyvips")
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    pyvips.Image.new_from_array(pixels).write_to_file(str(tmp_path / "a.v"))
    image = (tmp_path / "a.v").rename(place / os.fsdecode(b"\xe9.v"))
    arguments = ["encode", str(image), "--run", str(place / "run"), "--out", str(place / "out"), "--device", "cpu"]
    assert main(arguments) == 0
    assert Records(place / "out").sources == [str(image)]


def test_a_list_may_hold_them(place, capsys):
    (place / "list.txt").write_bytes(os.fsencode("\n".join(paths(place, "val", GOOD))))
    arguments = ["--list", str(place / "list.txt"), "--run", str(place / "run"), "--out", str(place / "out")]
    assert main(["encode", *arguments, "--device", "cpu"]) == 0
    assert Records(place / "out").sources == paths(place, "val", GOOD)


def test_training_with_such_files_sweep_and_report(place, strict, capsys):
    strict()
    run, sweep = place / "trained", place / "sweep.json"
    arguments = [
        "train",
        "--data",
        str(place / "data"),
        "--out",
        str(run),
        "--model-options",
        *OPTIONS,
        "--sizes",
        "16",
    ]
    arguments += ["--steps", "4", "--warmup-steps", "1", "--batch-size", "4", "--no-progress", "--no-tensorboard"]
    for _ in range(2):  # the second time it is finished
        assert main([*arguments, "--device", "cpu"]) == 0
    skipped = load_checkpoint(run / "checkpoint.pt")["skipped"]
    assert set(skipped) == set(paths(place, "train", BROKEN))
    arguments = ["sweep", "--runs", str(run), "--data", str(place / "data"), "--sizes", "16", "--out", str(sweep)]
    for _ in range(2):
        assert main([*arguments, "--latency-runs", "1", "--no-progress"]) == 0
    found = json.loads(sweep.read_text())
    assert [each["path"] for each in found["skipped"]] == [f"{each}/{BROKEN}" for each in ("ant", CLASS)]
    assert r"kaputt\udcff.png: not a JPEG" in strict()
    (place / "data").rename(place / CLASS)  # the name of the set, in pictures too
    sweep.unlink()
    arguments[arguments.index(str(place / "data"))] = str(place / CLASS)
    assert main([*arguments, "--latency-runs", "1", "--no-progress"]) == 0
    assert main(["report", str(sweep), "--out", str(place / "page")]) == 0
    assert r"b\udce9e" in (place / "page" / "index.html").read_text()
