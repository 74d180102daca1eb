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
    """To three digits, rounded up, such as "1.24GB"."""
    unit = "GB" if count >= 1e9 else "MB"
    return f"{three_digits_up(count / _UNITS[unit]):g}{unit}"


def three_digits_up(value: float) -> float:
    """Rounded up to three digits, so that what is shown as enough is enough; 0 for what is below."""
    if value <= 0:
        return 0.0
    digit = 10.0 ** (math.floor(math.log10(value)) - 2)
    return float(f"{math.ceil(value / digit) * digit:.6g}")  # six digits: without the crumbs of the product
