"""Backbones for detection and segmentation on generated scenes, at equal steps: does merging lose small objects?

    python benchmarks/dense.py [--task detection] [--only vitar-1x1 vit] [--steps 300] [--seeds 2] [--jobs 2]

Mask R-CNN and UperNet on ViTAR with cells of 1x1 and 2x2 patches, an ordinary ViT, ViTDet's windows and ResFormer; and
light heads that carry a grid of 8x8 or 16x16 tokens back to every patch. Every run is an ordinary one of the
engine, on one thread, and goes on where it was stopped; what is measured already is not measured again. Results go to
benchmarks/results/dense.json and dense.md, the picture to docs/images/dense.png: of all that is finished.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import torch
from dense_measure import measure, thirds
from dense_page import figure, section
from dense_setup import Scale, settings, training, write_images
from dense_variants import VARIANTS, Task, Variant

from anyres.errors import unknown
from anyres.files import write_atomically, write_json
from anyres.report.canvas import LIGHT, png
from anyres.settings import differences
from anyres.training import train
from anyres.training.detection.config import DetectionConfig
from anyres.training.segmentation.config import SegmentationConfig


@dataclass(frozen=True)
class Job:
    """One run of one variant."""

    variant: Variant
    seed: int
    scale: Scale
    folder: Path

    @property
    def file(self) -> Path:
        """What was measured of it, beside its run folder."""
        return self.folder / "runs" / f"{self.variant.label}-seed{self.seed}.json"

    def config(self) -> DetectionConfig | SegmentationConfig:
        return training(self.variant, self.scale, self.folder / "data", self.file.with_suffix(""), self.seed)

    def row(self) -> dict[str, Any] | None:
        """What was measured of it, None if that is still to do. ValueError for a run with other settings."""
        if not self.file.is_file():
            return None
        row: dict[str, Any] = json.loads(self.file.read_text())
        other = differences(row.pop("training"), self.config().to_json())
        if other:
            raise ValueError(f"{self.file} is of another run: {'; '.join(other)}; give another --folder, or remove it")
        return row

    def run(self) -> None:
        """Trains and measures."""
        config, variant = self.config(), self.variant
        result = train(config)
        if not result.finished:
            raise KeyboardInterrupt
        row = {"task": variant.task, "name": variant.name, "text": variant.text, "seed": self.seed}
        torch.set_num_threads(1)  # training has put back what was set before
        row |= measure(config, self.scale) | {"training": config.to_json()}
        write_json(self.file, row)
        print(f"{variant.label} seed {self.seed}: {row['minutes']:.1f} min of training", flush=True)


def run_all(jobs: Sequence[Job], processes: int) -> None:
    """Each in a process of its own, so many at a time, or one by one in this process; the first error ends it."""
    if processes == 1:
        for job in jobs:
            job.run()
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context, max_tasks_per_child=1) as pool:
        futures = [pool.submit(job.run) for job in jobs]
        try:
            for future in futures:
                future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def chosen(tasks: Sequence[Task], only: Sequence[str]) -> list[Variant]:
    """The variants of some tasks, or those of them that are named. ValueError for a name that none has."""
    some = [variant for variant in VARIANTS if variant.task in tasks]
    names = [variant.name for variant in some]
    for name in only:
        if name not in names:
            raise unknown("variant", name, dict.fromkeys(names))
    return [variant for variant in some if not only or variant.name in only]


def study(
    scale: Scale, folder: Path, results: Path, image: Path, variants: Sequence[Variant], seeds: int, processes: int
) -> dict[str, Any]:
    """Trains and measures what is not there yet, and writes results, section of the page and picture of all that is."""
    data = write_images(scale, folder / "data")
    jobs = [Job(variant, seed, scale, folder) for seed in range(seeds) for variant in variants]
    run_all([job for job in jobs if job.row() is None], processes)
    known = [Job(variant, seed, scale, folder) for variant in VARIANTS for seed in range(_most_seeds(folder))]
    machine = {"processor": platform.processor() or platform.machine(), "jobs": processes, "torch": torch.__version__}
    found = {
        "machine": machine,
        "scale": settings(scale) | {"sizes": list(scale.sizes())},
        "heights_between_thirds": thirds(data),
        "rows": [row for job in known if (row := job.row()) is not None],
    }
    for path in (results, image):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_json(results, found)
    text = section(found)
    write_atomically(results.with_suffix(".md"), lambda file: file.write(text.encode()))
    picture = png(figure(found, LIGHT))
    write_atomically(image, lambda file: file.write(picture))
    return found


def _most_seeds(folder: Path) -> int:
    numbers = [int(path.stem.rpartition("seed")[2]) for path in (folder / "runs").glob("*-seed*.json")]
    return max(numbers, default=-1) + 1


def main() -> None:
    here = Path(__file__).parent
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", nargs="+", choices=get_args(Task), default=get_args(Task))
    parser.add_argument("--only", nargs="+", default=(), help="names of variants")
    parser.add_argument("--steps", type=int, help="of every run; by default as published")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, each on one thread")
    parser.add_argument("--folder", type=Path, default=Path("dense-study"), help="for images and runs")
    parser.add_argument("--out", type=Path, default=here / "results" / "dense.json")
    parser.add_argument("--image", type=Path, default=here.parent / "docs" / "images" / "dense.png")
    options = parser.parse_args()
    scale = Scale()
    if options.steps is not None:
        scale = replace(scale, steps=dict.fromkeys(scale.steps, options.steps))
    variants = chosen(options.task, options.only)
    study(scale, options.folder, options.out, options.image, variants, options.seeds, options.jobs)
    print(options.out.with_suffix(".md").read_text())


if __name__ == "__main__":
    main()
