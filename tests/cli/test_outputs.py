"""Whatever writes a file at its end finds out before its work that it can."""

from pathlib import Path

import pytest

from anyres.ablation.config import AblateConfig
from anyres.ablation.runner import ablate
from anyres.cli import main
from anyres.evaluation.evaluate import evaluate
from anyres.evaluation.evaluate_config import EvaluateConfig
from anyres.evaluation.sweep import SweepConfig, sweep
from anyres.predict.classify import classify
from anyres.predict.config import ClassifyConfig, DetectConfig, SegmentConfig
from anyres.predict.detect import find_objects
from anyres.predict.encode import encode
from anyres.predict.encode_config import EncodeConfig
from anyres.predict.segment import segment
from anyres.recipes.demo import demo
from anyres.recipes.demo_config import DemoConfig
from anyres.report.report import report
from anyres.training import TrainConfig, train

NOWHERE = Path("no") / "such" / "folder"
FROM = {"run": NOWHERE, "inputs": (NOWHERE,)}  # what would be found missing if the work began
LATE = {
    "segment": lambda out: segment(SegmentConfig(**FROM, out=out)),
    "detect": lambda out: find_objects(DetectConfig(**FROM, out=out)),
    "encode": lambda out: encode(EncodeConfig(**FROM, out=out)),
    "evaluate": lambda out: evaluate(EvaluateConfig(run=NOWHERE, data=NOWHERE, results=out)),
    "sweep": lambda out: sweep(SweepConfig(runs=(NOWHERE,), data=(NOWHERE,), sizes=("16",), out=out)),
    "report": lambda out: report([NOWHERE], out),
    "train": lambda out: train(TrainConfig(data=NOWHERE, out=out, steps=2, warmup_steps=0, tensorboard=False)),
    "ablate": lambda out: ablate(AblateConfig(study="mergers", out=out)),
    "demo": lambda out: demo(DemoConfig(out=out)),
}


@pytest.mark.parametrize("command", LATE)
def test_a_place_below_a_file_is_refused_before_the_work(command, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ValueError, match=r"(out|results) is .*file/new/a.json, but .*file is no folder"):
        LATE[command](tmp_path / "file" / "new" / "a.json")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("command", [*LATE, "predict"])
def test_a_folder_that_nobody_may_write_in_is_refused_before_the_work(command, tmp_path, monkeypatch):
    calls = LATE | {"predict": lambda out: classify(ClassifyConfig(**FROM, out=out.with_suffix(".csv")))}

    def touch(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "touch", touch)
    with pytest.raises(ValueError, match=r"nothing can be written in .* \(Permission denied\)"):
        calls[command](tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("out", "said"),
    [("a.jpg", "allowed: names ending in .png, such as a.png"), ("b", "ending in .png"), (".", "is the folder")],
)
def test_a_drawn_plan_is_a_png(out, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["plan-image", "64", "64", "--out", out]) == 2
    assert said in capsys.readouterr().err and list(tmp_path.iterdir()) == []
