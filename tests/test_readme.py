"""The README's example and commands are run as they stand there."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from anyres.cli import main

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def run(command, folder):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "ANYRES_CACHE": str(folder)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
def test_python_examples(tmp_path):
    for code in blocks("python"):
        out = run([sys.executable, "-c", code], tmp_path)
        for promised in re.findall(r"# (torch\.Size.*)", code):
            assert promised in out


@pytest.mark.slow
def test_commands(tmp_path):
    for code in blocks("sh"):
        run(["sh", "-ec", code], tmp_path)
    assert (tmp_path / "report" / "index.html").is_file()
    assert (tmp_path / "plan.png").is_file()


def test_commands_within_sentences(capsys):
    commands = re.findall(r"`(anyres \w+ [^`]*--show)`", README)
    assert commands
    for command in commands:
        assert main(shlex.split(command)[1:]) == 0
        assert " hours" in capsys.readouterr().out


def test_links_and_pictures_are_there():
    targets = re.findall(r"\]\(([^)#]+)\)", README)
    assert len(targets) > 4
    for target in targets:
        assert target.startswith("https://") or (ROOT / target).exists(), target


def test_the_two_commands_exist():
    makefile = (ROOT / "Makefile").read_text()
    for command in re.findall(r"^    make ([\w-]+)", README, flags=re.MULTILINE):
        assert f"\n{command}:" in makefile


def test_costs_in_the_table_are_those_of_the_library():
    from anyres import cost

    row = next(line for line in README.splitlines() if line.startswith("| GMACs at"))
    sides = [int(side) for side in re.findall(r"\d+", row.split("|")[1])]
    names = ("anyres_base_patch16", "vitar_base_patch16", "deit_base_patch16")
    for name, cell in zip(names, row.split("|")[2:5], strict=True):
        printed = [float(number.replace(",", "")) for number in cell.split("/")]
        counted = [cost(name, (side, side), memory=False).macs / 1e9 for side in sides]
        assert printed == [pytest.approx(macs, rel=0.005) for macs in counted]
