"""docs/adding.md says the truth: a toy of three kinds is added by touching just the files that it names."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "adding.md").read_text(encoding="utf-8")

Edits = dict[str, str | tuple[tuple[str, str], ...]]
"""File -> the text of a new one, or what is replaced in one that is there."""

ENCODING: Edits = {
    "src/anyres/layers/checker.py": '''
"""Every second patch is made a little lighter."""

import torch
from torch import Tensor, nn

from anyres.layers.position import region_of
from anyres.layers.region import Region


class CheckerPosition(nn.Module):
    halo = 0

    def __init__(self, width: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.empty(width))
        self.init_weights()

    def init_weights(self) -> None:
        self.shift.data = torch.linspace(-1, 1, len(self.shift))  # a norm would take a constant out

    def forward(self, tokens: Tensor, keys: Tensor | None = None, region: Region | None = None) -> Tensor:
        region = region_of(tokens, region)
        row, col = (torch.arange(part.start, part.stop) for part in (region.rows, region.cols))
        return tokens + ((row[:, None] + col) % 2)[..., None] * self.shift  # (B, rows, cols, D)
''',
    "src/anyres/models/config.py": (('"rotary", "none"]', '"rotary", "checker", "none"]'),),
    "src/anyres/models/parts.py": (
        (
            "    return NoPosition()\n",
            '    if config.position == "checker":\n        return CheckerPosition(config.width)\n'
            "    return NoPosition()\n",
        ),
        (
            "from anyres.layers.conditional import",
            "from anyres.layers.checker import CheckerPosition\nfrom anyres.layers.conditional import",
        ),
    ),
}  # fmt: skip

TASK: Edits = {
    "src/anyres/training/brightness/__init__.py": "",
    "src/anyres/training/brightness/config.py": '''
"""What a run that learns the brightness of images is made of."""

from dataclasses import dataclass
from pathlib import Path

from anyres.models.architectures import VITAR
from anyres.training.image_config import ImageRunConfig


@dataclass(frozen=True, kw_only=True)
class BrightnessConfig(ImageRunConfig):
    """Learn how bright images are."""

    data: Path
    """Folder of images."""
    model: str = "vitar_tiny_patch16"
    """Name of the model."""

    def model_settings(self, classes=None):
        return VITAR.get_config(self.model, num_classes=1, **self.model_options)

    def make_task(self):
        from anyres.training.brightness.task import BrightnessTask

        return BrightnessTask(self)
''',
    "src/anyres/training/brightness/task.py": '''
"""Brightness as a task for the engine."""

import torch

from anyres.data.augment import TrainAugment
from anyres.data.folder import ImageFiles
from anyres.data.loader import TrainingStream
from anyres.models.vitar import ViTAR
from anyres.models.weights.files import save


class BrightnessTask:
    headline = ("error", 3)

    def __init__(self, config):
        self.config, self.folder = config, ImageFiles(config.data)
        torch.manual_seed(config.seed)
        settings = config.model_settings()
        self.model = ViTAR(settings)
        self.stream = TrainingStream(
            self.folder, batch_size=config.batch_size, schedule=config.schedule(), augment=TrainAugment(),
            mean=settings.mean, std=settings.std, seed=config.seed,
        )

    def identity(self):
        return {"kind": "brightness", "files": self.folder.digest()}

    def batches(self, start, stop):
        return self.stream.batches(start, stop)

    def prepare(self, batch, device):
        return batch.stacked.to(device)  # (B, C, H, W)

    def loss(self, prepared, rows):
        images = prepared[rows]
        return (self.model(images)[:, 0] - images.mean((1, 2, 3))).square().mean()

    def validates(self):
        return True

    def validate(self, model, device, step):
        with torch.no_grad():
            batch = self.stream.batch(0)
            error = self.loss(batch.stacked, slice(None)).item()
        return [{"size": list(batch.size), "images": len(batch.labels), "error": error}]

    def save(self, folder, model, extra):
        sizes = self.config.parsed_sizes()
        save(folder, model, name=self.config.model, classes=["brightness"], training_sizes=sizes, extra=extra)
''',
    "src/anyres/cli/table.py": (
        (
            "TRAIN = {\n",
            'TRAIN = {\n    "brightness": Command(\n        "Learn how bright images are.", '
            '"anyres.training.brightness.config:BrightnessConfig", "train"\n    ),\n',
        ),
    ),
}  # fmt: skip

METRIC: Edits = {
    "src/anyres/evaluation/metrics.py": (
        (
            "METRICS: dict[str, Metric] = {",
            "def confidence(probabilities: Tensor, labels: Tensor) -> Tensor:\n"
            "    return probabilities.max(1).values\n\n\n"
            'METRICS: dict[str, Metric] = {"confidence": confidence, ',
        ),
    ),
}

CHANGES = {
    "A positional encoding": ("checker", ENCODING),
    "A task": ("brightness", TASK),
    "A metric of the sweep": ("confidence", METRIC),
}

USE = """
import json
import sys
from pathlib import Path

import torch

import anyres
from anyres.cli import main
from anyres.layers.pieces import merge_in_pieces, pixels_of

out = Path(sys.argv[1])
small = {"width": 16, "depth": 1, "heads": 2, "patch_size": 4, "grid": 2}
options = ["patch_size=4", "grid=2", "width=16", "depth=1", "heads=2", "position=checker"]

# The encoding acts, alike on an image as a whole and on pieces of it, and is counted.
model = anyres.create_model("vitar_tiny_patch16", position="checker", num_classes=3, **small).double().eval()
images = torch.randn(2, 3, 27, 45, dtype=torch.float64)
pieces = merge_in_pieces(
    model.pieces(27, 45, batch=2, positions=9), lambda boxes: (pixels_of(images, box) for box in boxes)
)
torch.testing.assert_close(pieces, model.grid_tokens(images))
plain = anyres.create_model("vitar_tiny_patch16", position="none", num_classes=3, **small).double().eval()
plain.load_state_dict(model.state_dict(), strict=False)
assert not torch.allclose(model(images), plain(images))
assert anyres.cost(model, (27, 45)).macs > 0

# The task trains, is gone on with, and its model is loaded.
assert main(["synthesize", "glyphs", str(out / "data"), "--train", "12", "--val", "12", "--size", "16"]) == 0
common = ["--sizes", "16", "--batch-size", "4", "--warmup-steps", "1", "--no-progress", "--no-tensorboard",
          "--model-options", *options]
train = ["train", "--task", "brightness", "--data", str(out / "data"), "--out", str(out / "bright"), "--steps", "3"]
assert main([*train, *common]) == 0 and main([*train, *common]) == 0
assert anyres.load(out / "bright")[1].classes == ("brightness",)
assert "error" in (out / "bright" / "validation.jsonl").read_text()

# The metric is in the rows and in the report.
assert main(["train", "--data", str(out / "data"), "--out", str(out / "run"), "--steps", "2", *common]) == 0
sweep = ["sweep", "--runs", str(out / "run"), "--data", str(out / "data"), "--sizes", "16", "24", "--out"]
assert main([*sweep, str(out / "sweep.json"), "--latency-runs", "1", "--no-progress"]) == 0
rows = json.loads((out / "sweep.json").read_text())["rows"]
assert all(0.1 <= row["metrics"]["confidence"] <= 1 for row in rows)
assert main(["report", str(out / "sweep.json"), "--out", str(out / "page")]) == 0
assert "<button>confidence</button>" in (out / "page" / "index.html").read_text(encoding="utf-8")
"""


def files_of(change: str, name: str) -> set[str]:
    """The files that the page names for a change."""
    (section,) = re.findall(rf"^## {change}\n(.*?)(?=^## |\Z)", PAGE, flags=re.DOTALL | re.MULTILINE)
    return {path.replace("NAME", name) for path in re.findall(r"^- `([^`]+)`", section, flags=re.MULTILINE)}


def test_the_page_has_ten_changes_and_names_files_that_are_there():
    changes = re.findall(r"^## (.*)$", PAGE, flags=re.MULTILINE)
    assert len(changes) == 10
    for line in re.findall(r"^- `[^`]+`.*$", PAGE, flags=re.MULTILINE):
        path = re.findall(r"`([^`]+)`", line)[0]
        assert ("(new)" in line) != (ROOT / path).is_file(), path


@pytest.mark.parametrize("change", CHANGES)
def test_the_toys_touch_no_other_files(change):
    name, edits = CHANGES[change]
    assert set(edits) <= files_of(change, name)


@pytest.mark.slow
def test_toys_added_by_touching_just_these_files(tmp_path):
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    for _, edits in CHANGES.values():
        for file, edit in edits.items():
            path = tmp_path / file
            path.parent.mkdir(exist_ok=True)
            text = edit if isinstance(edit, str) else path.read_text(encoding="utf-8")
            for old, new in () if isinstance(edit, str) else edit:
                assert text.count(old) == 1, (file, old)
                text = text.replace(old, new)
            path.write_text(text, encoding="utf-8")
    command = [sys.executable, "-c", USE, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "src")}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
