"""Classes of many images as a table in the terminal, and as CSV."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from anyres.terminal import printable

_ROWS_SHOWN = 20  # of the table, where the rest is in a file

Entry = dict[str, Any]
"""What `Classification.to_dict` gives, or {"path", "reason"}."""


def csv_table(entries: Sequence[Entry], *, with_budget: bool) -> str:
    """path, height, width, class_1, prob_1, ..., reason; with a budget "reduced" after width, such as 224x320."""
    ranks = range(1, 1 + max((len(entry.get("top", ())) for entry in entries), default=0))
    classes = [f"{what}_{rank}" for rank in ranks for what in ("class", "prob")]
    names = ["path", "height", "width", *(["reduced"] if with_budget else []), *classes, "reason"]
    table = io.StringIO()
    writer = csv.DictWriter(table, names, lineterminator="\n")
    writer.writeheader()
    for entry in entries:
        row = {name: entry[name] for name in names if name in entry}
        if "reduced" in entry:
            row["reduced"] = "{}x{}".format(*entry["reduced"])
        for rank, each in enumerate(entry.get("top", ()), start=1):
            row |= {f"class_{rank}": each["class"], f"prob_{rank}": f"{each['probability']:.6g}"}
        writer.writerow(row)
    return table.getvalue()


def show_classes(entries: Sequence[Entry], written: Path | None, file: TextIO) -> None:
    """Prints the table, as far as it is not in a file, and what could not be read; what the terminal has no letters
    for after backslashes."""

    def show(line: object) -> None:
        print(printable(line, file), file=file)

    good = [entry for entry in entries if "top" in entry]
    failed = [entry for entry in entries if "reason" in entry]
    shown = good if written is None else good[:_ROWS_SHOWN]
    # before they are laid out, since what is printed may be longer
    rows = [(printable(entry["path"], file), f"{entry['height']}x{entry['width']}", _top(entry)) for entry in shown]
    if rows:
        rows.insert(0, ("image", "height x width", "classes"))
        path_width, size_width = (max(len(row[column]) for row in rows) for column in (0, 1))
        for path, size, top in rows:
            show(f"{path:<{path_width}}  {size:>{size_width}}  {top}")
    if len(shown) < len(good):
        show(f"... and {len(good) - len(shown)} more in {written}")
    elif written is not None:
        show(f"written to {written}")
    if reduced := sum("reduced" in entry for entry in entries):
        show(f"{reduced} of {len(entries)} images were reduced to fit the budget")
    if failed:
        show(f"{len(failed)} of {len(entries)} files could not be read or were refused:")
        for entry in failed:
            show(f"  {entry['path']}: {entry['reason']}")


def _top(entry: Entry) -> str:
    return "  ".join(f"{each['class']} {each['probability']:.1%}" for each in entry["top"])
