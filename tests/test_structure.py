"""The structure of the package itself: no file imports, by whatever way, a file that imports it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import anyres

ROOT = Path(anyres.__file__).parent


def modules() -> dict[str, Path]:
    """Dotted name -> file."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = ("anyres", *path.relative_to(ROOT).with_suffix("").parts)
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(tree: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """All import statements, also those within functions; not those for type checkers alone."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            for other in node.orelse:
                yield from imports(other)
        else:
            yield from imports(node)


def imported(node: ast.Import | ast.ImportFrom, known: dict[str, Path]) -> Iterator[str]:
    """The modules of the package that a statement names: `from room import file` is of the file, not of the room."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names if alias.name in known)
        return
    assert node.level == 0, "imports are absolute"
    for alias in node.names:
        name = f"{node.module}.{alias.name}"
        if name in known:
            yield name
        elif node.module in known:
            yield node.module


def graph() -> dict[str, set[str]]:
    """Module -> the modules of the package that it imports."""
    known = modules()
    found = {}
    for name, path in known.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found[name] = {other for node in imports(tree) for other in imported(node, known)} - {name}
    return found


def cycles(edges: dict[str, set[str]]) -> list[list[str]]:
    """One cycle, as a path that ends where it began, for every file at which a walk along the imports comes back."""
    found: list[list[str]] = []
    done: set[str] = set()

    def walk(name: str, path: list[str]) -> None:
        if name in path:
            found.append([*path[path.index(name) :], name])
            return
        if name in done:
            return
        for other in sorted(edges[name]):
            walk(other, [*path, name])
        done.add(name)

    for name in sorted(edges):
        walk(name, [])
    return found


def test_no_file_is_part_of_a_cycle_of_imports():
    found = [" > ".join(cycle) for cycle in cycles(graph())]
    assert not found, "\n".join(found)


def test_cycles_are_found():
    """The test above tests something."""
    assert cycles({"a": {"b"}, "b": {"c"}, "c": set()}) == []
    assert cycles({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == [["b", "c", "b"]]
    tree = ast.parse(
        "import anyres\nif TYPE_CHECKING:\n    import anyres.sizes\ndef f():\n    from anyres import errors"
    )
    known = modules()
    assert [name for node in imports(tree) for name in imported(node, known)] == ["anyres", "anyres.errors"]
    assert {"anyres.sizes", "anyres.errors"} <= known.keys() and graph()["anyres.files"] == set()
