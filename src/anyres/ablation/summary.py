"""Statistics of a study: over the seeds, far beyond the training sizes, and against the paper's order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from statistics import fmean, stdev
from typing import Any

from anyres.evaluation.rows import NATIVE
from anyres.sizes import size_text

Rows = Sequence[Mapping[str, Any]]


def summarise(rows: Rows) -> list[dict[str, Any]]:
    """Rows of the same set, variant, protocol and size become one: accuracy over the seeds, cost and latency.

    "deviation" is the sample standard deviation (divided by seeds - 1), None for a single seed.
    """
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["set"], row["variant"], row["protocol"], *row["size"]), []).append(row)
    found = []
    for (set_name, variant, protocol, height, width), group in groups.items():
        top1 = [row["top1"] for row in group]
        found.append({
            "set": set_name, "variant": variant, "protocol": protocol, "size": [height, width], "seeds": len(group),
            "mean": fmean(top1), "low": min(top1), "high": max(top1),
            "deviation": stdev(top1) if len(top1) > 1 else None,
            "macs": group[0]["macs"], "latency_ms": fmean(row["latency_ms"] for row in group),
        })  # fmt: skip
    return found


def cells(summary: Rows, set_name: str, protocol: str = NATIVE) -> dict[str, dict[int, Mapping[str, Any]]]:
    """Variant -> side -> row of the summary, for the square sizes of one set."""
    found: dict[str, dict[int, Mapping[str, Any]]] = {}
    for row in summary:
        if (row["set"], row["protocol"]) == (set_name, protocol) and row["size"][0] == row["size"][1]:
            found.setdefault(row["variant"], {})[row["size"][0]] = row
    return found


def beyond(summary: Rows, variants: Rows) -> list[dict[str, Any]]:
    """For every set and variant: its best size, and how far below that it is at four times its own largest one."""
    found = []
    for set_name in sets(summary):
        table = cells(summary, set_name)
        for variant in variants:
            own = table.get(variant["name"], {})
            if variant["far"] not in own:
                continue
            best = max(own, key=lambda side: own[side]["mean"])
            far = own[variant["far"]]
            found.append({
                "set": set_name, "variant": variant["name"], "best_size": best, "best": own[best]["mean"],
                "far_size": variant["far"], "far": far["mean"], "low": far["low"], "high": far["high"],
                "below_best": own[best]["mean"] - far["mean"],
            })  # fmt: skip
    return found


def held(summary: Rows, variants: Rows) -> list[dict[str, Any]]:
    """For every set and variant: what is lost over the sizes, and against images resized to its largest training size.

    By means over the seeds, from the smallest training size on. "lowest" is the worst size with how far it is "below
    best"; "behind" and "ahead" are the sizes at which the images as they are lose and gain most against themselves
    resized, in points, None where there is none such. At far sizes fewer images are measured, so that the best of all
    sizes may be one of others' images; a comparison with resizing is of the same images.
    """
    found = []
    for set_name in sets(summary):
        native = cells(summary, set_name)
        for variant in variants:
            low, text = min(variant["trained_at"], default=0), size_text((variant["largest"], variant["largest"]))
            own = {side: row["mean"] for side, row in native.get(variant["name"], {}).items() if side >= low}
            resized = cells(summary, set_name, f"resized to {text}").get(variant["name"], {})
            gains = {side: mean - resized[side]["mean"] for side, mean in own.items() if side in resized}
            if own:
                lowest, best = min(own, key=lambda side: own[side]), max(own.values())
                found.append({
                    "set": set_name, "variant": variant["name"], "best": best, "lowest": _at(lowest, own),
                    "below_best": best - own[lowest], "largest": max(own),
                    "behind": _at(min(gains, key=lambda side: gains[side]), gains) if gains else None,
                    "ahead": _at(max(gains, key=lambda side: gains[side]), gains) if gains else None,
                })  # fmt: skip
    return found


def _at(side: int, values: Mapping[int, float]) -> dict[str, Any]:
    return {"size": side, "value": values[side]}


def orderings(summary: Rows, variants: Rows, landmarks: Mapping[int, int]) -> list[dict[str, Any]]:
    """Whether ours stand in the paper's order, at each landmark: pairs of variants that the paper tells apart.

    Counted by our means. "disagree" says which of the two is better in the paper, which here, and by how many points;
    it is "clear" if the ranges over the seeds do not overlap, which needs two seeds or more. By chance alone two seeds
    each are so once in six times, three each once in twenty.
    """
    paper = {v["name"]: v["paper"] for v in variants if v["paper"]}
    found = []
    for set_name in sets(summary):
        table = cells(summary, set_name)
        for resolution, side in landmarks.items():
            values = {
                name: (row[str(resolution)], table[name][side])
                for name, row in paper.items()
                if row.get(str(resolution)) is not None and side in table.get(name, {})
            }
            if len(values) > 1:
                pairs = _compare(values)
                found.append({"set": set_name, "paper_resolution": resolution, "size": side, **pairs})
    return found


def _compare(values: Mapping[str, tuple[float, Mapping[str, Any]]]) -> dict[str, Any]:
    agree, tied, disagree = 0, 0, []
    for one, other in combinations(values, 2):
        (a, mine), (b, theirs) = values[one], values[other]
        if a == b:
            continue
        ahead, behind = (mine, theirs) if a > b else (theirs, mine)
        gap = ahead["mean"] - behind["mean"]
        agree, tied = agree + (gap > 0), tied + (gap == 0)
        if gap < 0:
            clear = min(ahead["seeds"], behind["seeds"]) > 1 and behind["low"] > ahead["high"]
            disagree.append({"paper": ahead["variant"], "ours": behind["variant"], "points": -gap, "clear": clear})
    return {"agree": agree, "tied": tied, "disagree": disagree}


def sets(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """The sets of images that the rows are of, in their order."""
    return list(dict.fromkeys(row["set"] for row in rows))
