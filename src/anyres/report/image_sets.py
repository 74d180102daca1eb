"""Sweeps brought together by set of images, with one label for each model over all of them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from anyres.evaluation.rows import SweepRow, distinct_labels, size_label

_Key = tuple[str, str, str]  # set, protocol, size


@dataclass(kw_only=True)
class ImageSet:
    """Everything that the given sweeps say about one set of images.

    `anchor` names its pictures and its place on the page; `sources` hold file, title, environment and protocol.
    """

    name: str
    anchor: str
    rows: list[SweepRow] = field(default_factory=list)
    models: dict[str, dict[str, Any]] = field(default_factory=dict)
    examples: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[dict[str, str]] = field(default_factory=list)
    left_out: list[dict[str, Any]] = field(default_factory=list)
    stability: list[dict[str, Any]] = field(default_factory=list)
    sources: list[dict[str, Any]] = field(default_factory=list)


@dataclass(kw_only=True)
class _Model:
    """What all the sweeps say about one model."""

    label: str
    about: Mapping[str, Any]
    rows: dict[_Key, SweepRow]

    def is_that_of(self, about: Mapping[str, Any], rows: Mapping[_Key, SweepRow]) -> bool:
        """By the digest of the weights; where a sweep has none, by all else, unless equal rows hold other numbers."""
        if "weights" in self.about and "weights" in about:
            return bool(self.about["weights"] == about["weights"])
        alike = all(self.about[name] == about[name] for name in self.about.keys() & about.keys())
        return alike and all(self.rows[key] == row for key, row in rows.items() if key in self.rows)


def merge(sweeps: Sequence[dict[str, Any]], names: Sequence[str]) -> list[ImageSet]:
    """The sweeps by set of images, also sets of which every row was left out; `names` are those of their files.

    A model is known by the digest of its weights, whatever its label. Different models of one label get their parent
    folder before it, or a number. Raises ValueError if a row of one model is given twice.
    """
    sets: dict[str, ImageSet] = {}
    for sweep, labels, file in zip(sweeps, _labels(sweeps), names, strict=True):
        listed = (item for part in ("rows", "left_out") for item in sweep.get(part, []) if "set" in item)
        for name in dict.fromkeys(item["set"] for item in listed):
            if name not in sets:
                sets[name] = ImageSet(name=name, anchor=_anchor(name, {group.anchor for group in sets.values()}))
            group = sets[name]
            rows: list[SweepRow] = [_relabelled(row, labels) for row in sweep["rows"] if row["set"] == name]
            seen = {(row["model"], *_key(row)) for row in group.rows}
            for row in rows:
                given = (row["model"], *_key(row))
                if given in seen:
                    raise ValueError(f"{file}: the row {given} is given twice; allowed: once over all files")
                seen.add(given)
            group.rows += rows
            own = {row["model"] for row in rows}
            group.models |= {
                labels[label]: about
                for label, about in sweep["models"].items()
                if labels[label] in own and labels[label] not in group.models
            }
            group.examples += _merge_examples(group.examples, sweep["examples"], name, labels)
            group.skipped += [
                item for item in sweep["skipped"] if item.get("set", name) == name and item not in group.skipped
            ]
            left_out = [item for item in sweep.get("left_out", []) if item.get("set", name) == name]
            group.left_out += [_relabelled(item, labels) for item in left_out]
            stable = [entry for entry in sweep.get("stability", []) if entry["set"] == name]
            group.stability += [_relabelled(entry, labels) for entry in stable]
            how = {"environment": sweep["environment"], "protocol": sweep.get("protocol", {})}
            group.sources.append({"file": file, "title": sweep["title"], **how})
    return list(sets.values())


def _labels(sweeps: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """For each sweep: its own label of a model -> the model's label over all sweeps."""
    models: list[_Model] = []
    found: list[dict[str, int]] = []  # own label -> place in `models`
    for sweep in sweeps:
        places: dict[str, int] = {}
        for label, about in sweep["models"].items():
            rows = {_key(row): _relabelled(row, {label: ""}) for row in sweep["rows"] if row["model"] == label}
            known = (place for place, model in enumerate(models) if model.is_that_of(about, rows))
            place = next((place for place in known if place not in places.values()), len(models))
            if place == len(models):
                models.append(_Model(label=label, about=about, rows={}))
            models[place].rows |= rows
            places[label] = place
        found.append(places)
    labels = distinct_labels([model.label for model in models], [model.about.get("parent", "") for model in models])
    return [{label: labels[place] for label, place in places.items()} for places in found]


def _relabelled(item: Any, labels: Mapping[str, str]) -> Any:
    """A row, or a row left out, with its model's label replaced."""
    return {**item, "model": labels.get(item["model"], item["model"])}


def _anchor(name: str, taken: set[str]) -> str:
    """A file name and HTML id from the name of a set, different from those taken."""
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "set"
    return next(a for a in (plain, *(f"{plain}-{n}" for n in range(2, len(taken) + 3))) if a not in taken)


def _merge_examples(
    known: list[dict[str, Any]], new: Sequence[dict[str, Any]], name: str, labels: dict[str, str]
) -> list[dict[str, Any]]:
    """The new examples of one set; predictions on a picture that is known already are added to it instead."""
    added = []
    for example in (example for example in new if example["set"] == name):
        predictions = {labels.get(label, label): guess for label, guess in example["predictions"].items()}
        same = [old for old in known if (old["size"], old["png"]) == (example["size"], example["png"])]
        if same:
            same[0]["predictions"] |= predictions
        else:
            added.append({**example, "predictions": predictions})
    return added


def _key(row: SweepRow) -> _Key:
    return row["set"], row["protocol"], size_label(row["size"])
