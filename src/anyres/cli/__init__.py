"""The command line: `run.py` parses and calls, `table.py` lists the commands, `actions.py` carries them out."""

from anyres.cli.run import main

__all__ = ["main"]
