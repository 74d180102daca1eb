"""The examples in a shorter form: they run, learn, and leave what they say."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import anyres

EXAMPLES = Path(__file__).parents[1] / "examples"


def loaded(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def short(name, folder, *options):
    return loaded(name).main(["--out", str(folder), "--images", "2", "--size", "96", "--threads", "1", *options])


def test_a_detector_learns_two_images_by_heart(tmp_path, capsys):
    assert short("overfit_detection", tmp_path, "--steps", "36") > 0.5  # untrained: below 0.1
    assert "box_ap50: " in capsys.readouterr().out
    assert len(list((tmp_path / "predictions").glob("*.png"))) == 2


def test_a_segmenter_learns_two_images_by_heart(tmp_path, capsys):
    assert short("overfit_segmentation", tmp_path, "--steps", "200") > 0.4  # all background: 0.19
    assert "mean intersection over union: " in capsys.readouterr().out
    assert len(list((tmp_path / "predictions").glob("*.drawn.png"))) == 2


def test_an_exported_model_predicts_without_torch(tmp_path, capsys):
    draw = np.random.default_rng(0)
    model = anyres.create_model("anyres_tiny_patch16", width=24, depth=1, heads=2, grid=(2, 2), num_classes=3).eval()
    anyres.export(model, tmp_path / "model.onnx", classes=["ant", "bee", "cat"], largest=100, verify=0)
    for number, size in enumerate([(30, 41), (100, 7)]):
        Image.fromarray(draw.integers(0, 256, (*size, 3), np.uint8)).save(tmp_path / f"{number}.png")
    with torch.inference_mode():
        predicted = anyres.Predictor(tmp_path / "model.onnx")(tmp_path)
        rows = {Path(each.path).name: f"{each.size[0]}x{each.size[1]}  " + "  ".join(
            f"{name} {share:.1%}" for name, share in zip(each.classes, each.probabilities, strict=True)
        ) for each in predicted}  # fmt: skip
    loaded("predict_onnx").main(["--model", str(tmp_path / "model.onnx"), str(tmp_path)])
    assert capsys.readouterr().out == "".join(f"{tmp_path / name}  {rows[name]}\n" for name in sorted(rows))
    Image.new("RGB", (101, 3)).save(tmp_path / "long.png")
    with pytest.raises(ValueError, match="larger than the 100 pixels a side"):
        loaded("predict_onnx").main(["--model", str(tmp_path / "model.onnx"), str(tmp_path / "long.png")])
    source = (EXAMPLES / "predict_onnx.py").read_text()
    assert "import torch" not in source and "import anyres" not in source


@pytest.mark.parametrize("name", [path.stem for path in sorted(EXAMPLES.glob("*.py"))])
def test_examples_say_how_they_are_used(name, capsys):
    with pytest.raises(SystemExit) as stopped:
        loaded(name).main(["--help"])
    assert stopped.value.code == 0 and f"python examples/{name}.py" in capsys.readouterr().out
