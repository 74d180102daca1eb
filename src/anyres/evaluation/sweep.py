"""The resolution sweep: models x sets x sizes -> accuracy, cost, latency and memory, as JSON for `anyres report`.

Every image is read once per size. It is brought to that size by the evaluation protocol, and given to each model as it
is ("native") and, as the baseline that any claim has to beat, resized to a size that the model was trained at.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from anyres.data.folder import ImageFolder
from anyres.evaluation.identity import identity
from anyres.evaluation.journal import Journal, Part, finished
from anyres.evaluation.measure import make_references, measure_size, protocols
from anyres.evaluation.rows import FORMAT, size_label
from anyres.evaluation.stability import stability
from anyres.evaluation.subject import Subject, load_subjects
from anyres.evaluation.sweep_config import SweepConfig
from anyres.files import check_file, write_json

__all__ = ["SweepConfig", "sweep"]


def sweep(config: SweepConfig) -> dict[str, Any]:
    """Measures everything that `config` asks for, writes it to `config.out` (replaced atomically) and returns it.

    After every size of every set what was measured so far is saved in `config.out`.partial, from which the same call
    goes on after a stop. A finished sweep of the same settings, weights and image files is left alone: delete it to
    measure again. Rows that find no room in memory are listed in "left_out".

    Raises ValueError before any work for runs, sets or sizes that cannot be used, whose classes differ, for a partial
    file of other settings, and for an `out` that is no sweep.
    """
    if not config.out.is_file():  # a finished sweep may be where nobody may write
        check_file("out", config.out)
    subjects = load_subjects(config)
    folders = _folders(config, subjects)
    # a setting of the whole process, put back for those who call this from Python
    threads = torch.get_num_threads()
    torch.set_num_threads(config.threads or threads)
    try:
        about = identity(config, subjects, folders)
        there, changed = finished(config.out, about)
        if there is not None and not changed:
            with suppress(ValueError):  # a partial file of other settings stays
                Journal(config.out, about).close()  # left by a stop between the last two steps
            return _left_alone(there, config)
        check_file("out", config.out)
        config.out.parent.mkdir(parents=True, exist_ok=True)
        journal = Journal(config.out, about)
        _say_what_is_there(journal, changed, config)
        _recall(journal.parts, subjects, config)
        for name, folder in folders.items():
            _sweep_set(name, folder, subjects, config, journal)
    finally:
        torch.set_num_threads(threads)
    result = {"format": FORMAT, "title": config.title, **about, **_together(journal.parts, subjects, folders, config)}
    write_json(config.out, result)
    journal.close()
    return result


def _left_alone(there: dict[str, Any], config: SweepConfig) -> dict[str, Any]:
    _say(f"{config.out} is finished, with these very settings, weights and files. Delete it to measure again.", config)
    if there["title"] != config.title:
        there["title"] = config.title
        write_json(config.out, there)
    return there


def _say_what_is_there(journal: Journal, changed: Sequence[str], config: SweepConfig) -> None:
    if changed:
        others = f"{'; '.join(changed[:3])}{'; ...' if len(changed) > 3 else ''}"
        _say(f"{config.out} is of other settings ({others}) and will be replaced when this sweep is complete.", config)
    if journal.parts:
        total = len(config.data) * len(config.sizes)
        _say(f"Going on with {journal.path}: {len(journal.parts)} of {total} sizes are done.", config)


def _say(text: str, config: SweepConfig) -> None:
    if config.progress:
        tqdm.write(text, file=sys.stderr)


def _recall(parts: Sequence[Part], subjects: Sequence[Subject], config: SweepConfig) -> None:
    """Latencies that an earlier start measured are not measured again."""
    for subject in subjects:
        targets = dict(protocols(subject, config))
        for row in (row for part in parts for row in part["rows"] if row["model"] == subject.label):
            size = targets[row["protocol"]] or (row["size"][0], row["size"][1])
            subject.speeds[size] = (row["latency_ms"], row["peak_memory_bytes"])


def _together(
    parts: Sequence[Part], subjects: Sequence[Subject], folders: Iterable[str], config: SweepConfig
) -> dict[str, list[Any]]:
    """Rows (by set, model, protocol and size), examples, skipped files and rows left out of all parts."""
    order = [(subject.label, protocol) for subject in subjects for protocol, _ in protocols(subject, config)]
    found: dict[str, list[Any]] = {"rows": [], "examples": [], "skipped": [], "left_out": []}
    for name in folders:
        own = [part for part in parts if part["set"] == name]
        rows = [row for part in own for row in part["rows"]]
        found["rows"] += sorted(rows, key=lambda row: order.index((row["model"], row["protocol"])))
        found["examples"] += [example for part in own for example in part["examples"]]
        found["left_out"] += [item for part in own for item in part["left_out"]]
        skipped = {path: reason for part in own for path, reason in part["skipped"].items()}
        found["skipped"] += [{"set": name, "path": path, "reason": skipped[path]} for path in sorted(skipped)]
        if config.stability:
            answers = {(part["size"][0], part["size"][1]): part["answers"] for part in own if part["answers"]}
            references = {subject.label: subject.largest_size for subject in subjects}
            found.setdefault("stability", []).extend(stability(rows, answers, references, name))
    return found


def _folders(config: SweepConfig, subjects: Sequence[Subject]) -> dict[str, ImageFolder]:
    """Name of the set -> its images, after checking that every model knows exactly its classes."""
    folders: dict[str, ImageFolder] = {}
    for path in map(Path, config.data):
        root = path / "val" if (path / "val").is_dir() else path
        for subject in subjects:
            try:
                folder = ImageFolder(root, classes=sorted(subject.info.classes))
            except ValueError as error:
                raise ValueError(f"{subject.run} cannot be measured on {path}: {error}") from error
        name = path.resolve().name
        name = f"{path.resolve().parent.name}/{name}" if name in folders else name
        if name in folders:
            raise ValueError(f"the set {name} is given twice; allowed: each once")
        folders[name] = folder
    return folders


def _sweep_set(
    name: str, folder: ImageFolder, subjects: Sequence[Subject], config: SweepConfig, journal: Journal
) -> None:
    """Adds the parts of one set that the journal lacks."""
    done, images = journal.done(name), min(len(folder), config.limit or len(folder))
    left = [size for size in config.parsed_sizes if size not in done]
    references = make_references(folder, subjects, config) if config.stability and left else {}
    with tqdm(
        total=images * len(config.sizes),
        initial=images * len(done),
        desc=name,
        unit="image",
        disable=not config.progress,
    ) as bar:
        for size in left:
            bar.set_postfix_str(size_label(size))
            journal.add(measure_size(name, size, folder, subjects, config, bar, references))
