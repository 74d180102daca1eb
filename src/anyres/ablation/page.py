"""`ablation.json` -> an offline HTML page, pictures as PNG, tables in Markdown; the same JSON gives the same bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from anyres.ablation.results import FORMAT
from anyres.ablation.summary import cells, sets
from anyres.evaluation.rows import NATIVE, protocol_text, si
from anyres.files import read_json, write_bytes, write_text
from anyres.report.page import render
from anyres.report.paper import SOURCE
from anyres.report.report import require_extra


def write_page(result: Path, out: Path) -> Path:
    """Draws the file `ablation.json`: `out`/index.html, `out`/results.md and the PNGs, light and dark.

    Returns the page. Raises ValueError for a file that is no study, ImportError without the extra `anyres[report]`.
    """
    require_extra("ablate")
    data = read_json(
        result, "the result of a study", keys=("format", "study", "summary"), remedy="give a file of `anyres ablate`"
    )
    if data["format"] != FORMAT:
        raise ValueError(f"{result} has format {data['format']!r}; allowed: {FORMAT}")
    out.mkdir(parents=True, exist_ok=True)
    pictures = _pictures(data)
    for name, picture in pictures.items():
        write_bytes(out / f"{name}.png", picture)
    write_text(out / "results.md", markdown(data))
    write_bytes(out / "index.html", _html(data, pictures))
    return out / "index.html"


def _pictures(data: Mapping[str, Any]) -> dict[str, bytes]:
    """File name without its suffix -> PNG; the dark twin of a picture has `-dark` appended."""
    from anyres.ablation import figures
    from anyres.report import canvas

    found: dict[str, bytes] = {}
    for theme in (canvas.LIGHT, canvas.DARK):
        tail = "" if theme is canvas.LIGHT else "-dark"
        found[f"accuracy{tail}"] = canvas.png(figures.together(data, theme))
        for name in sets(data["summary"]):
            found[f"alone-{name}{tail}"] = canvas.png(figures.alone(data, name, theme))
    return found


def table(data: Mapping[str, Any], set_name: str, protocol: str = NATIVE) -> dict[str, Any]:
    """One set as a table: {"sides", "rows"}; a row has its variant, a cell per side and what it does far beyond.

    A cell is None where nothing was measured, else the row of the summary with "best" (no other variant is above it
    at this side, as shown) and "trained". `protocol` is a prefix: "resized to" gives two lines per variant.
    """
    protocols = [p for p in dict.fromkeys(row["protocol"] for row in data["summary"]) if p.startswith(protocol)]
    lines = [(v, p, cells(data["summary"], set_name, p).get(v["name"])) for v in data["variants"] for p in protocols]
    lines = [(variant, p, own) for variant, p, own in lines if own]
    sides = sorted({side for _, _, own in lines for side in own or ()})
    top = {side: max(_shown(own[side]["mean"]) for _, _, own in lines if own and side in own) for side in sides}
    far = {entry["variant"]: entry for entry in data["beyond"] if entry["set"] == set_name}
    rows = []
    for variant, name, own in lines:
        found = [_cell((own or {}).get(side), top[side], side in variant["trained_at"]) for side in sides]
        shown = None if name == NATIVE else protocol_text(name)
        rows.append({"variant": variant, "protocol": shown, "cells": found, "far": far.get(variant["name"])})
    return {"sides": sides, "rows": rows}


def _cell(row: Mapping[str, Any] | None, top: float, trained: bool) -> dict[str, Any] | None:
    return None if row is None else {**row, "best": _shown(row["mean"]) == top, "trained": trained}


def _shown(value: float) -> float:
    return round(value, 1)


def beside_the_paper(data: Mapping[str, Any], set_name: str) -> dict[str, Any]:
    """The paper's accuracy and ours at the sizes that stand for each other, for the variants that the paper has."""
    pairs = data["landmarks"]
    own = cells(data["summary"], set_name)
    rows = [
        {"variant": v, "pairs": [(v["paper"].get(r), own[v["name"]].get(side)) for r, side in pairs.items()]}
        for v in data["variants"]
        if v["paper"] and v["name"] in own
    ]
    return {"pairs": pairs, "rows": rows}


HELD = "What is lost over the sizes from the smallest training size on, and against resizing to the largest (in points)"


def held_entries(data: Mapping[str, Any], set_name: str) -> list[Mapping[str, Any]]:
    """What `summary.held` says of one set; nothing for a result of an older version."""
    return [entry for entry in data.get("held", ()) if entry["set"] == set_name]


def order_sentences(data: Mapping[str, Any], set_name: str) -> list[str]:
    """For each size that stands for one of the paper's: how many pairs of variants stand in the paper's order."""
    found = []
    for entry in (entry for entry in data["orderings"] if entry["set"] == set_name):
        against = sorted(entry["disagree"], key=lambda pair: -pair["points"])
        total = entry["agree"] + entry["tied"] + len(against)
        if not total:
            continue
        text = (
            f"At {entry['size']} (the paper's {entry['paper_resolution']}) {entry['agree']} of {total} pairs stand in "
        )
        text += "the paper's order"
        if against:
            named = "; ".join(
                f"{pair['ours']} above {pair['paper']} by {pair['points']:.1f}"
                + (" (in every seed)" if pair["clear"] else "")
                for pair in against
            )
            text += f". Against it: {named}"
        found.append(f"{text}.")
    return found


def how_trained(variant: Mapping[str, Any]) -> str:
    """Sizes and how they are drawn, in words."""
    training, text = variant["training"], ", ".join(variant["sizes"])
    if "size_weights" in training:
        text += f" (drawn {' : '.join(f'{weight:g}' for weight in training['size_weights'])})"
    if "aspect" in training:
        text += f", aspect {training['aspect'][0]:g} to {training['aspect'][1]:g}"
    if training.get("replicas"):
        text += ", all in every step"
    if "consistency" in training:
        text += f", consistency {training['consistency']:g}"
    return text


def _html(data: Mapping[str, Any], pictures: Mapping[str, bytes]) -> bytes:
    return render(
        "anyres.ablation",
        "ablation.html",
        pictures,
        {"si": si, "protocol": protocol_text, "trained": how_trained, "where": _where},
        data=data,
        sets=[
            {
                "name": name,
                "native": table(data, name),
                "resized": table(data, name, "resized to"),
                "paper": beside_the_paper(data, name),
                "order": order_sentences(data, name),
                "held": held_entries(data, name),
            }
            for name in sets(data["summary"])
        ],
        held_title=HELD,
        source=SOURCE.rpartition(",")[0],
    )


# Markdown.


def markdown(data: Mapping[str, Any]) -> str:
    """The tables for a page of documentation, with seeds, steps and the command."""
    parts = [f"## {data['title']}", data["question"], f"`{data['command']}`"]
    parts.append(f"Images that every size is measured on: {data['settings']['images measured']}.")
    parts += _bullets(f"{key} {value}" for key, value in data["settings"].items() if key.startswith("runs on "))
    for name in sets(data["summary"]):
        parts += [f"### {data['title']}: {name}", _accuracy_table(data, name), *_bullets(order_sentences(data, name))]
        parts += ["Resized before it reaches the model:", _accuracy_table(data, name, "resized to")]
        parts += _held_table(data, name)
    parts += ["### What it costs", _cost_table(data["variants"])]
    parts += _bullets(f"{item['run']} has no result: {item['error']}" for item in data["failed"])
    return "\n\n".join(parts) + "\n"


def _bullets(lines: Any) -> list[str]:
    text = "\n".join(f"- {line}" for line in lines)
    return [text] if text else []


def _accuracy_table(data: Mapping[str, Any], set_name: str, protocol: str = NATIVE) -> str:
    found = table(data, set_name, protocol)
    native = protocol == NATIVE
    head = ["variant", *map(str, found["sides"]), *(["at 4x its largest size", "below its best"] if native else [])]
    rows = []
    for row in found["rows"]:
        name = row["variant"]["name"] + (f", {row['protocol']}" if row["protocol"] else "")
        own = [_spread(cell) for cell in row["cells"]]
        far = row["far"]
        beyond = [f"{far['far']:.1f} ({far['far_size']})", f"{far['below_best']:.1f}"] if far else ["", ""]
        rows.append([name, *own, *(beyond if native else [])])
    return _grid(head, rows)


def _held_table(data: Mapping[str, Any], set_name: str) -> list[str]:
    entries = held_entries(data, set_name)
    head = ["variant", "up to", "best", "lowest", "below its best", "most behind resizing", "most ahead of it"]
    rows = [
        [
            e["variant"], str(e["largest"]), f"{e['best']:.1f}", _where(e["lowest"], "{:.1f}"),
            f"{e['below_best']:.1f}", _where(e["behind"], "{:+.1f}"), _where(e["ahead"], "{:+.1f}"),
        ]
        for e in entries
    ]  # fmt: skip
    return [f"{HELD}:", _grid(head, rows)] if rows else []


def _where(at: Mapping[str, Any] | None, form: str) -> str:
    """A value and the size that it is of."""
    return f"{form.format(at['value'])} ({at['size']})" if at else ""


def _spread(cell: Mapping[str, Any] | None) -> str:
    if cell is None:
        return ""
    mean = f"**{cell['mean']:.1f}**" if cell["best"] else f"{cell['mean']:.1f}"
    return mean if cell["seeds"] == 1 else f"{mean} ({cell['low']:.1f} to {cell['high']:.1f})"


def _cost_table(variants: Sequence[Mapping[str, Any]]) -> str:
    head = ["variant", "acts", "trained at", "seeds", "steps", "parameters", "MMACs at its largest size", "at 4x"]
    head += ["MMACs per training image", "training, s"]
    rows = []
    for v in variants:
        near, far = (v["macs"][str(side)] / 1e6 for side in (v["largest"], v["far"]))
        seeds = ", ".join(f"{name} {len(numbers)}" for name, numbers in v["seeds"].items())
        seconds = "" if v["training_seconds"] is None else f"{v['training_seconds']:.0f}"
        numbers = [f"{near:,.1f}", f"{far:,.1f}", f"{v['training_macs'] / 1e6:,.1f}", seconds]
        parameters = "" if v["parameters"] is None else si(v["parameters"])
        rows.append([v["name"], v["placement"], how_trained(v), seeds, str(v["steps"]), parameters, *numbers])
    return _grid(head, rows)


def _grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
