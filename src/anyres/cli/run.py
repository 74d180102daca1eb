"""From arguments to an exit status."""

import io
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from anyres.cli.choose import choose
from anyres.cli.conditions import told
from anyres.cli.table import COMMANDS

ABOUT = "Vision transformers for images of any resolution. `anyres COMMAND --help` lists a command's options."


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command.

    Exit status: 0, 1 with files that could not be read, 2 for bad input and where the machine has no room, 130 when
    interrupted.
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    if not given:
        print(f"{overview()}\nanyres: no command given", file=sys.stderr)
        return 2
    if given[0] in ("-h", "--help"):
        print(overview())
        return 0
    with _printing_anything():
        try:
            return _run(given[0], given[1:])
        except Exception as error:
            said = told(error)
            if said is None:
                raise
            print(f"anyres: {said}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print("anyres: interrupted", file=sys.stderr)
            return 130


@contextmanager
def _printing_anything() -> Iterator[None]:
    """What a terminal has no letters for is printed with backslashes, instead of ending a command that is done."""
    streams = [each for each in (sys.stdout, sys.stderr) if isinstance(each, io.TextIOWrapper)]
    before = [each.errors for each in streams]
    for each in streams:
        each.reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        for each, errors in zip(streams, before, strict=True):
            with suppress(OSError, ValueError):  # nobody reads it any more, or it is closed
                each.reconfigure(errors=errors)


def overview() -> str:
    """The help that names all commands; nothing of them is imported for it."""
    indent = max(map(len, COMMANDS)) + 4
    width = max(min(shutil.get_terminal_size().columns, 120), indent + 30)
    lines = ["usage: anyres COMMAND [OPTIONS]", "", *textwrap.wrap(ABOUT, width), "", "commands:"]
    for name, command in COMMANDS.items():
        start = f"  {name}".ljust(indent)
        lines += textwrap.wrap(
            command.about, width, initial_indent=start, subsequent_indent=" " * indent, break_on_hyphens=False
        )
    return "\n".join(lines)


def _run(name: str, arguments: list[str]) -> int:
    command, rest = choose(name, arguments)
    import tyro  # a tenth of a second, which the overview does without

    from anyres.cli.model_options import REGISTRY

    options: Any = tyro.cli(
        command.options_class, prog=f"anyres {name}", args=rest, description=command.about, registry=REGISTRY
    )
    return command.run(options)
