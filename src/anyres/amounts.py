"""Amounts of memory, and how they are written."""

import math
import re

_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def parse_bytes(text: str) -> int:
    """Reads an amount of memory, such as "2GB" or "800 MB", with units of 1000 (or "GiB", of 1024).

    Raises ValueError for anything else.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", str(text))
    unit = _UNITS.get(match[2].upper()) if match else None
    amount = float(match[1]) * unit if match and unit else 0.0
    if amount < 1:
        near = f"; nearest: {match[1]}GB" if match and not match[2] and float(match[1]) else ""
        raise ValueError(f"cannot read {text!r} as memory; allowed: a number with a unit, such as 2GB or 800MB{near}")
    return int(amount)


def show_bytes(count: float) -> str:
    """Rounded up to three digits, such as "1.24GB", so that what is shown as enough is enough."""
    unit = "GB" if count >= 1e9 else "MB"
    value = count / _UNITS[unit]
    digit = 10.0 ** (math.floor(math.log10(value)) - 2) if value > 0 else 1.0
    return f"{float(f'{math.ceil(value / digit) * digit:.6g}'):g}{unit}"
