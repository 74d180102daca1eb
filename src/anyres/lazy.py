"""Packages whose public names are imported when they are first asked for, so that importing one costs nothing."""

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def attach(
    package: str, names: Mapping[str, tuple[str, ...]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """`__getattr__`, `__dir__` (PEP 562) and `__all__` of a package.

    Editors and type checkers learn the names from imports under TYPE_CHECKING beside it; a test holds both together.

    Args:
        package: its `__name__`.
        names: module -> the public names that it defines. None may be that of a module of the package, which would
            take its place as soon as it is imported.
    """
    module_of = {name: module for module, defined in names.items() for name in defined}

    def find(name: str) -> Any:
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        found = getattr(importlib.import_module(module_of[name]), name)
        setattr(sys.modules[package], name, found)  # so that this function is asked once
        return found

    return find, lambda: sorted({*vars(sys.modules[package]), *module_of}), sorted(module_of)
