"""The examples in a shorter form: they run, learn, and leave what they say."""

import importlib.util
from pathlib import Path

import pytest
import torch

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


@pytest.mark.parametrize("name", [path.stem for path in sorted(EXAMPLES.glob("*.py"))])
def test_examples_say_how_they_are_used(name, capsys):
    with pytest.raises(SystemExit) as stopped:
        loaded(name).main(["--help"])
    assert stopped.value.code == 0 and f"python examples/{name}.py" in capsys.readouterr().out
