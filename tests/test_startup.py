"""What is loaded when: configurations know nothing of torch, and names of packages are imported when asked for."""

import ast
import importlib
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "timm", "torchvision", "matplotlib")
LIGHT = (
    "anyres",
    "anyres.ablation",
    "anyres.ablation.config",
    "anyres.ablation.studies",
    "anyres.amounts",
    "anyres.cli.configs",
    "anyres.costs.largest_config",
    "anyres.data.augment",
    "anyres.data.cache",
    "anyres.data.decode",
    "anyres.data.folder",
    "anyres.data.schedule",
    "anyres.data.segmentation",
    "anyres.data.synthetic",
    "anyres.devices",
    "anyres.errors",
    "anyres.evaluation.evaluate_config",
    "anyres.evaluation.rows",
    "anyres.evaluation.sweep_config",
    "anyres.files",
    "anyres.layers",
    "anyres.layers.merge_plan",
    "anyres.layers.options",
    "anyres.models.architectures",
    "anyres.models.config",
    "anyres.models.detector_config",
    "anyres.models.mae_config",
    "anyres.models.presets",
    "anyres.models.segmenter_config",
    "anyres.predict.config",
    "anyres.predict.encode_config",
    "anyres.recipes",
    "anyres.recipes.demo_config",
    "anyres.report.paper",
    "anyres.report.plan_image",
    "anyres.seeds",
    "anyres.settings",
    "anyres.sizes",
    "anyres.training",
    "anyres.training.classification.config",
    "anyres.training.detection.config",
    "anyres.training.pretraining.config",
    "anyres.training.records.config",
    "anyres.training.segmentation.config",
)
LAZY = ("anyres", "anyres.ablation", "anyres.layers", "anyres.predict", "anyres.recipes", "anyres.training")


def test_what_is_loaded_when():
    """In one process, since each takes seconds to import torch."""
    subprocess.run([sys.executable, "-c", f"HEAVY, LIGHT = {HEAVY}, {LIGHT}\n{STEPS}"], check=True, timeout=100)


STEPS = """
import importlib, sys

def check_light(what):
    heavy = [name for name in HEAVY if name in sys.modules]
    assert not heavy, f"{what} loads {heavy}"

import anyres
from anyres.cli import main
assert main(["--help"]) == 0
check_light("the list of commands")
assert "tyro" not in sys.modules

for name in LIGHT:
    importlib.import_module(name)
    check_light(name)
from anyres.devices import check_device
check_device("cpu"), check_device("auto")
check_light("checking the name of a device")

from anyres.cli.table import COMMANDS, HEAD_ON_RECORDS, PREDICT, TRAIN
for command in (HEAD_ON_RECORDS, *COMMANDS.values(), *PREDICT.values(), *TRAIN.values()):
    assert command.options_class
    check_light(command.options)

for name in ("matplotlib", "jinja2", "tensorboard", "transformers"):  # a plain install has none of them
    assert name not in sys.modules
    sys.modules[name] = None
for name in anyres.__all__:
    assert getattr(anyres, name)
"""


@pytest.mark.parametrize("package", LAZY)
def test_names_of_a_package(package):
    module = importlib.import_module(package)
    editors, table = written_in(module)
    assert editors == table and module.__all__ == sorted(table)
    for name, home in table.items():
        assert getattr(module, name) is getattr(importlib.import_module(home), name)
        assert name in dir(module)
        assert importlib.util.find_spec(f"{package}.{name}") is None, f"a module of {package} hides the name {name}"
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'nothing'"):
        module.nothing  # noqa: B018
    with pytest.raises(ImportError):
        exec(f"from {package} import nothing")


def written_in(module):
    """Name -> module, as imported under TYPE_CHECKING for editors, and as in the table of `attach`."""
    (block,) = (node for node in ast.parse(Path(module.__file__).read_text()).body if isinstance(node, ast.If))
    editors = {each.asname: node.module for node in block.body for each in node.names}
    (call,) = (node.value for node in block.orelse)
    table = ast.literal_eval(call.args[1])
    return editors, {name: home for home, names in table.items() for name in names}
