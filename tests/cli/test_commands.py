"""The command line: every command has its help, runs, and turns bad input into one line and exit status 2."""

import json
import re

import pytest
import torch
from PIL import Image

import anyres
from anyres.cli import main
from anyres.cli.table import COMMANDS


@pytest.fixture
def run(tmp_path):
    torch.manual_seed(0)
    model = anyres.create_model("vitar_tiny_patch16", width=24, heads=2, depth=1, patch_size=8, grid=2, num_classes=2)
    anyres.save(tmp_path / "run", model, name=None, classes=["ant", "bee"], training_sizes=[(16, 16)])
    for split in ("train", "val"):
        for number, name in enumerate(("ant", "bee")):
            (tmp_path / "data" / split / name).mkdir(parents=True)
            for index in range(4):
                picture = Image.new("RGB", (20 + index, 31), (200 * number, 90, 40 * index))
                picture.save(tmp_path / "data" / split / name / f"{index}.png")
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS)
def test_help(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    out = " ".join(capsys.readouterr().out.split())
    assert f"usage: anyres {command}" in out and COMMANDS[command].about in out


@pytest.mark.parametrize("task", ["classification", "segmentation", "detection"])
def test_the_help_of_training_begins_with_what_everybody_gives(task, capsys):
    with pytest.raises(SystemExit):
        main(["train", "--task", task, "--help"])
    lines = (line.strip("│ ") for line in capsys.readouterr().out.splitlines())
    options = [line.split()[0] for line in lines if re.match(r"--\w", line)]
    assert options[:5] == ["--data", "--model", "--model-options", "--sizes", "--out"]


def test_help_without_a_command_lists_all(capsys):
    for flag in ("--help", "-h"):
        assert main([flag]) == 0
        out = " ".join(capsys.readouterr().out.split())
        assert all(f"{name} {command.about}" in out for name, command in COMMANDS.items())
    assert main([]) == 2
    error = capsys.readouterr().err
    assert "usage: anyres COMMAND" in error and error.endswith("anyres: no command given\n")


def test_an_unknown_command_names_the_nearest(capsys):
    assert main(["trian", "--help"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("anyres: unknown command 'trian'. Did you mean 'train'") and "plan-image" in error


def test_cost_and_models(capsys):
    assert main(["cost", "vitar_base_conv16", "1120", "1120", "--convention", "paper"]) == 0
    out = capsys.readouterr().out
    assert "49.152 GMACs" in out and "merger 2: 35x35 > 18x18" in out
    assert main(["models", "deit*"]) == 0
    out = capsys.readouterr().out
    assert "deit_base_patch16" in out and "vitar" not in out


def test_plan_image(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (64, 112), "red").save("red.png")
    assert main(["plan-image", "1120", "640", "--out", "plan.png", "--image", "red.png"]) == 0
    assert "70x40 > 35x20 > 18x14 > 14x14" in capsys.readouterr().out
    picture = Image.open("plan.png").convert("RGB")
    assert min(picture.size) > 300
    colours = {colour for _, colour in picture.getcolors(1 << 24)}
    assert (255, 0, 0) in colours and len(colours) > 5


def test_train_sweep_report_predict(run, capsys):
    trained = run / "trained"
    options = ["width=24", "heads=2", "depth=1", "patch_size=8", "grid=2"]
    arguments = ["train", "--data", str(run / "data"), "--out", str(trained), "--model-options", *options]
    arguments += ["--sizes", "16", "24x16", "--steps", "3", "--warmup-steps", "1", "--batch-size", "4", "--no-progress"]
    assert main(arguments) == 0
    assert main(arguments) == 0  # a finished run is left alone
    sweep = run / "sweep.json"
    arguments = [
        "sweep",
        "--runs",
        str(trained),
        str(run / "run"),
        "--data",
        str(run / "data"),
        "--sizes",
        "16",
        "24x32",
    ]
    assert main([*arguments, "--out", str(sweep), "--latency-runs", "1", "--no-progress"]) == 0
    found = json.loads(sweep.read_text())
    assert set(found["models"]) == {"trained", "run"}  # the folders' names
    assert main(["report", str(sweep), "--out", str(run / "page")]) == 0
    assert (run / "page" / "index.html").is_file()
    assert main(["predict", "--run", str(trained), "--inputs", str(run / "data"), "--out", str(run / "out.csv")]) == 0
    assert len((run / "out.csv").read_text().splitlines()) == 17
    (run / "data" / "broken.png").write_bytes(b"no image")
    assert main(["predict", "--run", str(trained), "--inputs", str(run / "data")]) == 1
    assert "broken.png" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cost", "vitar_bas_patch16", "8", "8"], "Did you mean 'vitar_base_patch16'"),
        (["cost", "vitar_base_patch16", "0", "8"], "at least 1 pixel"),
        (["models", "resnet*"], "no model matches"),
        (["plan-image", "0", "8"], "at least 1"),
        (["predict", "--run", "nowhere", "--inputs", "."], "nowhere holds no saved model"),
        (["predict", "--run", "autoencoder", "--inputs", "."], "holds a MaskedAutoencoder; allowed to predict: ViTAR"),
        (["predict", "--run", "classifier", "--inputs", "."], "no images below"),
        (["train", "--data", "nowhere", "--out", "run"], "nowhere"),
        (["train", "--data", ".", "--out", "run", "--sizes", "64", "--lr", "-1"], "lr is -1"),
        (["train", "--data", ".", "--out", "run", "--model", "vitar_tyny_patch16"], "vitar_tiny_patch16"),
        (["report", "nowhere.json"], "nowhere.json"),
        (["plan-image", "32", "32", "--out", "no/such/folder/plan.png"], "no/such/folder"),
        (["train", "--data", ".", "--out", "run", "--model-options", "depth=two"], "depth is 'two'"),
        (["train", "--data", ".", "--out", "run", "--augmentation.auto-augment", "foo"], "rand-m9-mstd0.5-inc1"),
        (["train", "--data", ".", "--out", "run"], "has no folder train"),
        (["sweep", "--runs", "nowhere", "--data", ".", "--sizes", "8", "--out", "x.json"], "no saved model"),
    ],
)
def test_bad_input_is_one_line_and_status_2(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder, kind in (("classifier", "ViTAR"), ("autoencoder", "MaskedAutoencoder")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "config.json").write_text(json.dumps({"architecture": kind}))
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("anyres: ") and message in error
    assert not (tmp_path / "run").exists()
