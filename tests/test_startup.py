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
    "anyres.ablation.studies",
    "anyres.amounts",
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
    "anyres.evaluation.rows",
    "anyres.evaluation.sweep_config",
    "anyres.files",
    "anyres.layers",
    "anyres.layers.merge_plan",
    "anyres.layers.options",
    "anyres.models.config",
    "anyres.models.detector_config",
    "anyres.models.mae_config",
    "anyres.models.segmenter_config",
    "anyres.recipes",
    "anyres.report.paper",
    "anyres.report.plan_image",
    "anyres.seeds",
    "anyres.settings",
    "anyres.sizes",
    "anyres.training",
)
LAZY = ("anyres", "anyres.ablation", "anyres.layers", "anyres.recipes", "anyres.training")


def test_configurations_load_nothing_heavy():
    code = f"""
import importlib, sys
for name in {LIGHT}:
    importlib.import_module(name)
    heavy = [each for each in {HEAVY} if each in sys.modules]
    assert not heavy, (name, heavy)
from anyres.devices import check_device
check_device("cpu"), check_device("auto")
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize("package", LAZY)
def test_names_of_a_package(package):
    module = importlib.import_module(package)
    assert imported_for_editors(module) == {name: module_of(package, name) for name in module.__all__}
    for name in module.__all__:
        assert getattr(module, name) is getattr(importlib.import_module(module_of(package, name)), name)
        assert name in dir(module)
        assert importlib.util.find_spec(f"{package}.{name}") is None, f"a module of {package} hides the name {name}"
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'nothing'"):
        module.nothing  # noqa: B018
    with pytest.raises(ImportError):
        exec(f"from {package} import nothing")


def module_of(package, name):
    """The module that the table of a package says."""
    cells = importlib.import_module(package).__getattr__.__closure__
    tables = [cell.cell_contents for cell in cells if isinstance(cell.cell_contents, dict)]
    (table,) = tables
    return table[name]


def imported_for_editors(module):
    """Name -> module of the imports under TYPE_CHECKING."""
    (block,) = (node for node in ast.parse(Path(module.__file__).read_text()).body if isinstance(node, ast.If))
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    return {each.asname: node.module for node in imports for each in node.names}
