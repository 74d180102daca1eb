"""What is on disk of a study -> one JSON: variants with their costs, every measured row, and the statistics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from anyres.ablation.budget import CLASSES, is_trained, largest_side
from anyres.ablation.config import AblateConfig
from anyres.ablation.plan import FAR, FARTHER, NEAR, Job, images_measured, jobs_on_disk, make_jobs
from anyres.ablation.study import Study, Variant
from anyres.ablation.summary import beyond, held, orderings, summarise
from anyres.costs.cost import macs_by_part
from anyres.files import read_json
from anyres.recipes import expected_macs
from anyres.report.paper import PaperTable
from anyres.training.classification.config import TrainConfig
from anyres.training.runlog import STEPS, read_rows

RESULT = "ablation.json"
FORMAT = 1


def collect(config: AblateConfig, study: Study) -> dict[str, Any]:
    """The results of all finished runs in the study's folder, as plain JSON. ValueError if there are none."""
    jobs = [job for job in jobs_on_disk(config, study) if job.is_finished()]
    failed = [job for job in jobs if job.failure.exists()]
    done = [job for job in jobs if job not in failed]
    sweeps = {job.label: [_read_sweep(sweep.out) for sweep in job.sweeps] for job in done}
    rows = [_row(job, row) for job in done for sweep in sweeps[job.label] for row in sweep["rows"]]
    failures = [{"run": job.label, "error": _error(job)} for job in failed]
    left_out = [{"run": job.label, **item} for job in done for s in sweeps[job.label] for item in s["left_out"]]
    if not rows:
        reasons = [f"{item['run']}: {item['error']}" for item in failures]
        reasons += dict.fromkeys(f"{item['run']}: {item['reason']}" for item in left_out)
        raise ValueError(f"no run in {config.folder} has a result ({'; '.join(reasons)}); other settings may give one")
    variants = [_describe(config, study, v, [job for job in done if job.variant == v.name], sweeps)
                for v in study.variants if any(job.variant == v.name for job in jobs)]  # fmt: skip
    first = sweeps[done[0].label][0]
    summary = summarise(rows)
    return {
        "format": FORMAT, "study": study.name, "title": study.title, "question": study.question,
        "command": config.command, "equal_cost": study.equal_cost,
        "settings": {
            "stem": config.stem_of_models, "training images": config.train_images,
            "images measured": _images_measured(config, study, done),
            **{f"runs on {late}": f"begin with the weights of those on {early}"
               for late, early in study.begins_on.items() if any(job.set == late for job in done)},
            "batch size": done[0].training.batch_size, "learning rate": done[0].training.lr,
            "training precision": done[0].training.precision, "preparation": first["protocol"]["preparation"],
        },
        "environment": first["environment"], "paper": _paper(study.table),
        "landmarks": {str(resolution): side for resolution, side in study.landmarks.items()}, "variants": variants,
        "failed": failures, "left_out": left_out, "summary": summary,
        "beyond": beyond(summary, variants), "orderings": orderings(summary, variants, study.landmarks),
        "held": held(summary, variants), "rows": rows,
    }  # fmt: skip


def _images_measured(config: AblateConfig, study: Study, done: Sequence[Job]) -> str:
    """How many images there are at a size, and from which sizes on there are fewer."""
    near, *others = (images_measured(config, study, tier) for tier in (NEAR, FAR, FARTHER))
    sizes = sorted({int(size) for job in done for sweep in job.sweeps for size in sweep.sizes})
    text, last = str(near), near
    for count, least in zip(others, (NEAR.largest, FAR.largest), strict=True):
        first = next((side for side in sizes if side > least), None)
        if first is not None and count != last:
            text, last = f"{text}; {count} from {first} px on", count
    return text


def _error(job: Job) -> str:
    error: str = read_json(job.failure, "the record of a failed run", keys=("error",), remedy="delete it")["error"]
    return error


def _read_sweep(path: Path) -> dict[str, Any]:
    return read_json(path, "the JSON of a sweep", keys=("rows", "models"), remedy="delete it")


def _row(job: Job, row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of a sweep, named after variant and seed; the far sizes' images are the same scenes, so the same set."""
    kept = {name: row[name] for name in ("protocol", "size", "images", "correct", "top1", "macs", "peak_memory_bytes")}
    return {"set": job.set, "variant": job.variant, "seed": job.seed, **kept, "latency_ms": row["latency_ms"]["p50"]}


def _paper(table: PaperTable) -> dict[str, Any]:
    rows = {name: list(values) for name, values in table.rows.items()}
    return {"title": table.title, "resolutions": list(table.resolutions), "rows": rows}


def _describe(
    config: AblateConfig,
    study: Study,
    variant: Variant,
    done: Sequence[Job],
    sweeps: Mapping[str, list[dict[str, Any]]],
) -> dict[str, Any]:
    """What a variant is, what it costs, and which of its runs are done."""
    [job] = make_jobs(config, study, [("ordinary", variant.name, 0)])
    training = job.training
    assert isinstance(training, TrainConfig)
    largest = largest_side(training)
    seconds = {other.label: _seconds(other) for other in done}
    seeds: dict[str, list[int]] = {}
    for other in done:
        seeds.setdefault(other.set, []).append(other.seed)
    measured = sorted({int(size) for sweep in job.sweeps for size in sweep.sizes})
    model = sweeps[done[0].label][0]["models"] if done else {}
    return {
        "name": variant.name, "text": variant.text, "placement": variant.placement, "panel": variant.panel,
        "model": variant.model,
        "options": dict(variant.options), "sizes": list(training.sizes), "training": _shown(training),
        "steps": training.steps, "largest": largest, "far": 4 * largest,
        "trained_at": [side for side in measured if is_trained(training, side)],
        "parameters": next(iter(model.values()))["parameters"] if model else None,
        "training_macs": expected_macs(training, CLASSES),
        "macs": {str(side): _macs(training, side) for side in (largest, 4 * largest)},
        "seeds": seeds, "training_seconds": sum(seconds.values()) / len(seconds) if seconds else None,
        "paper_row": variant.paper,
        "paper": {str(k): v for k, v in study.table.row(variant.paper).items()} if variant.paper else None,
    }  # fmt: skip


def _macs(training: TrainConfig, side: int) -> int:
    model = training.model_settings(CLASSES)
    return sum(macs_by_part(model, (side, side)).values())


def _shown(training: TrainConfig) -> dict[str, Any]:
    """How the training sizes are drawn, as far as it is not the default."""
    plain, default = training.to_json(), TrainConfig(data=training.data, out=training.out).to_json()
    names = ("size_weights", "aspect", "replicas", "consistency")
    return {name: plain[name] for name in names if plain[name] != default[name]}


def _seconds(job: Job) -> float:
    """Of training, over all starts of the run."""
    return float(read_rows(job.training.out / STEPS)[-1]["seconds"])
