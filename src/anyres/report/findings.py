"""Three sentences that say what a sweep of one set shows, computed from its rows, for better and for worse."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from anyres.evaluation.rows import NATIVE, SweepRow, lines, protocol_text, side, size_label


def findings(rows: Sequence[SweepRow], models: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The three sentences for the rows of one set: at training sizes, at the largest size, and where the subject loses.

    The subject is the first model whose preset is a ViTAR, or the first model if none is. Two rows count as different
    only if their 95 % intervals do not overlap.
    """
    labels = list(dict.fromkeys(row["model"] for row in rows))
    vitar = [label for label in labels if str(models[label]["name"] or "").startswith("vitar")]
    subject = (vitar or labels)[0]
    native = {label: lines(rows).get((label, NATIVE), []) for label in labels}
    return [
        _at_home(labels, native, models),
        _far_away(subject, labels, native, models),
        _where_it_loses(subject, rows),
    ]


def differs(one: SweepRow, other: SweepRow) -> bool:
    """Whether the 95 % intervals of two rows do not overlap."""
    return one["interval"][0] > other["interval"][1] or other["interval"][0] > one["interval"][1]


def _at_home(
    labels: Sequence[str], native: Mapping[str, Sequence[SweepRow]], models: Mapping[str, Mapping[str, Any]]
) -> str:
    parts, unmeasured = [], []
    for label in labels:
        trained = {tuple(size) for size in models[label]["training_sizes"]}
        home = [row for row in native[label] if tuple(row["size"]) in trained]
        if home:
            best = max(home, key=lambda row: row["top1"])
            parts.append(f"{label} {best['top1']:.1f} % (at {size_label(best['size'])})")
        else:
            unmeasured.append(label)
    reached = f"At the best of its own training sizes each model is right on: {_join(parts)}." if parts else ""
    absent = f"No size that {_join(unmeasured)} was trained at is among the rows." if unmeasured else ""
    return " ".join(part for part in (reached, absent) if part)


def _far_away(
    subject: str,
    labels: Sequence[str],
    native: Mapping[str, Sequence[SweepRow]],
    models: Mapping[str, Mapping[str, Any]],
) -> str:
    if not native[subject]:
        return f"{subject} has no row at the images' own size."
    row = native[subject][-1]
    trained = max((side(size) for size in models[subject]["training_sizes"]), default=0.0)
    beyond = side(row["size"]) / trained if trained else 0.0
    text = f"At {size_label(row['size'])}, the largest size measured for it"
    text += f" and {beyond:.1f} times its largest training size, " if beyond > 1.05 else ", "
    text += f"{subject} keeps {row['top1']:.1f} %"
    there, before = [], []
    for label in labels:
        # models are compared at sizes that both were measured at, the largest of them first
        own = {tuple(mine["size"]): mine for mine in native[subject]}
        common = [other for other in native[label] if tuple(other["size"]) in own] if label != subject else []
        if not common:
            continue
        other, mine = common[-1], own[tuple(common[-1]["size"])]
        result = f"{label} {other['top1']:.1f} %"
        # measured as far as the subject: belongs into the main sentence
        if mine is row:
            there.append(f"{result} for {_times(other['macs'], mine['macs'])}")
        else:
            before.append(
                f"{label} was measured up to {size_label(other['size'])}: {other['top1']:.1f} % for "
                f"{_times(other['macs'], mine['macs'])}, against {mine['top1']:.1f} %"
            )
    text += f", {_join(there)}" if there else ""
    return f"{text}." + "".join(f" {sentence}." for sentence in before)


def _times(other: int, own: int) -> str:
    """The cost of another model in units of the subject's own."""
    if other == own:
        return "the same multiply-accumulates"
    return f"{other / own:.{1 if other > 0.95 * own else 2}f} times the multiply-accumulates"


def _where_it_loses(subject: str, rows: Sequence[SweepRow]) -> str:
    grouped = lines(rows)
    own = {tuple(row["size"]): row for row in grouped.get((subject, NATIVE), [])}
    lost, won = [], []
    for (label, protocol), line in grouped.items():
        if (label, protocol) == (subject, NATIVE):
            continue
        pairs = [(own[tuple(row["size"])], row) for row in line if tuple(row["size"]) in own]
        name = "itself" if label == subject else label
        name = name if protocol == NATIVE else f"{name} {protocol_text(protocol)}"
        worse = [(mine, row) for mine, row in pairs if row["top1"] > mine["top1"] and differs(mine, row)]
        better = [(mine, row) for mine, row in pairs if row["top1"] < mine["top1"] and differs(mine, row)]
        lost += [_against(name, worse, len(pairs))] if worse else []
        won += [_against(name, better, len(pairs))] if better else []
    if not lost and not won:
        return f"No row differs from {subject} at the image's own size by more than the 95 % intervals."
    first = (
        f"Given the images as they are, {subject} loses to {_join(lost)}"
        if lost
        else f"Nothing measured here beats {subject}"
    )
    second = f"It beats {_join(won)}" if won else "It beats nothing measured here"
    return f"{first}. {second}. Only differences beyond the 95 % intervals count here."


def _against(name: str, pairs: Sequence[tuple[SweepRow, SweepRow]], measured: int) -> str:
    gap = max(abs(mine["top1"] - row["top1"]) for mine, row in pairs)
    sizes = [size_label(row["size"]) for _, row in pairs]
    if len(sizes) <= 3:
        where = f"at {_join(sizes)}"
    else:
        share = "all" if len(sizes) == measured else f"{len(sizes)} of"
        where = f"at {share} {measured} sizes ({sizes[0]} to {sizes[-1]})"
    return f"{name} {where}, by up to {gap:.1f} points"


def _join(parts: Sequence[str]) -> str:
    if len(parts) == 1:
        return parts[0]
    comma = "; " if any("," in part for part in parts) else ", "
    return comma.join(parts[:-1]) + ("; and " if comma == "; " else " and ") + parts[-1]
