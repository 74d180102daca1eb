"""The code on pages of the documentation is run as it stands there, and prints what it says."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parent.parent / "docs"


@pytest.mark.slow
@pytest.mark.parametrize("page", ["deploy.md", "integrations.md"])
def test_code_prints_what_it_says(page, tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), flags=re.DOTALL)
    assert blocks
    for code in blocks:
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-2000:]
        promised = re.findall(r"print\(.*\)  # (.*)", code)
        printed = done.stdout.splitlines()
        assert len(printed) == len(promised)
        for line, expected in zip(printed, promised, strict=True):
            assert expected.startswith(line), f"{line} where {expected} is promised"
