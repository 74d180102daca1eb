"""What the commands do: call, print, and answer with an exit status. Each imports what it needs when it runs."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anyres.ablation.config import AblateConfig
    from anyres.cli.configs import CostOf, Export, Models, PlanImage, Report, Synthesize, Upgrade
    from anyres.costs.largest_config import LargestSizeConfig
    from anyres.evaluation.evaluate_config import EvaluateConfig
    from anyres.evaluation.sweep_config import SweepConfig
    from anyres.predict.config import ClassifyConfig, DetectConfig, SegmentConfig
    from anyres.predict.encode_config import EncodeConfig
    from anyres.recipes.demo_config import DemoConfig
    from anyres.recipes.table import RecipeConfig
    from anyres.training.config import RunConfig

INTERRUPTED = 130


def train(options: RunConfig) -> int:
    from anyres.training.engine import train

    # torchrun would take any other status than 0 for a failure and start all processes again
    return 0 if train(options).finished or int(os.environ.get("WORLD_SIZE", "1")) > 1 else INTERRUPTED


def sweep(options: SweepConfig) -> int:
    from anyres.evaluation.stability import stability_text
    from anyres.evaluation.sweep import sweep

    result = sweep(options)
    print(f"{len(result['rows'])} rows in {options.out}; draw them with: anyres report {options.out}")
    if result.get("stability"):
        print(stability_text(result["stability"]))
    if result["skipped"]:
        print(f"{len(result['skipped'])} files could not be read and were skipped:")
        print("\n".join(f"  {entry['path']}: {entry['reason']}" for entry in result["skipped"]))
    return 0


def evaluate(options: EvaluateConfig) -> int:
    from anyres.evaluation.evaluate import evaluate

    found = evaluate(options)
    print(json.dumps(found, indent=1))
    return int(bool(found["skipped"]))


def report(options: Report) -> int:
    from anyres.report.report import report

    print(report(options.sweeps, options.out, options.title).resolve())
    return 0


def classify(options: ClassifyConfig) -> int:
    from anyres.predict.classify import classify

    return _unless_unreadable(classify(options))


def segment(options: SegmentConfig) -> int:
    from anyres.predict.segment import segment

    entries = segment(options)
    print(json.dumps(entries, indent=1))
    return _unless_unreadable(entries)


def detect(options: DetectConfig) -> int:
    from anyres.predict.detect import find_objects

    entries = find_objects(options)
    print(json.dumps(entries, indent=1))
    return _unless_unreadable(entries)


def _unless_unreadable(entries: Iterable[dict[str, Any]]) -> int:
    return int(any("reason" in entry for entry in entries))


def encode(options: EncodeConfig) -> int:
    from anyres.predict.encode import encode

    return int(bool(encode(options).failures))


def models(options: Models) -> int:
    from anyres.costs.cost import cost, parts_of
    from anyres.models.architectures import get_config, list_models

    names = list_models(options.pattern)
    if not names:
        raise ValueError(f"no model matches {options.pattern!r}. Allowed: {', '.join(list_models())}.")
    print(f"{'model':<31} {'parameters':>11} {'GMACs at 224':>13} {'at 1120':>9}")
    for name in names:
        small, large = cost(name, (224, 224), memory=False), sum(parts_of(get_config(name), (1120, 1120)).values())
        print(f"{name:<31} {small.parameters / 1e6:>9.1f} M {small.macs / 1e9:>13.1f} {large / 1e9:>9.1f}")
    return 0


def cost(options: CostOf) -> int:
    from anyres.costs.cost import cost

    found = cost(options.model, (options.height, options.width), options.convention)
    print(f"{options.model} at {options.height}x{options.width}, {options.convention} convention")
    for part, macs in found.parts.items():
        print(f"  {part:<36} {macs / 1e9:>10.3f} GMACs  {100 * macs / found.macs:>5.1f} %")
    print(f"  {'together':<36} {found.macs / 1e9:>10.3f} GMACs")
    print(f"  {'parameters':<36} {found.parameters / 1e6:>10.3f} M")
    if found.activation_bytes is not None:
        print(f"  {'activations, float32':<36} {found.activation_bytes / 1e6:>10.1f} MB")
    if "first stage" in found.parts:
        print("  of an image that has this size once it is resized, with the most boxes and masks that there may be")
    return 0


def largest_size(options: LargestSizeConfig) -> int:
    from anyres.costs.largest import describe_largest_size

    print(describe_largest_size(options))
    return 0


def plan_image(options: PlanImage) -> int:
    from anyres.data.decode import read_image
    from anyres.files import check_file, demand_folder_of, write_picture
    from anyres.layers.merge_plan import token_grid
    from anyres.models.architectures import VITAR
    from anyres.report.plan_image import draw_plan

    model = VITAR.get_config(options.model)
    if options.height < 1 or options.width < 1:
        raise ValueError(f"an image of {options.height}x{options.width} pixels; both sides must be at least 1.")
    demand_folder_of("out", options.out)
    check_file("out", options.out)
    if options.out.suffix.lower() != ".png":
        raise ValueError(
            f"out is {options.out}; allowed: names ending in .png, such as {options.out.with_suffix('.png')}"
        )
    plan = model.plan(token_grid(options.height, options.width, model.patch_size))
    picture = None if options.image is None else read_image(options.image)
    write_picture(options.out, draw_plan(plan, picture))
    print(f"{plan}\n{options.out.resolve()}")
    return 0


def synthesize(options: Synthesize) -> int:
    from anyres.data.dense_scenes import write_dense
    from anyres.data.glyph_scenes import DIGITS, LETTERS
    from anyres.data.synthetic import write_detail, write_fine, write_glyphs

    makers: dict[str, Any] = {"glyphs": write_glyphs, "detail": write_detail, "fine": write_fine, "dense": write_dense}
    classes = {} if options.kind == "dense" else {"classes": LETTERS if options.classes == "letters" else DIGITS}
    numbers = {"train": options.train, "val": options.val, "size": options.size, "seed": options.seed}
    print(makers[options.kind](options.root, **numbers, **classes).resolve())
    return 0


def ablate(options: AblateConfig) -> int:
    from anyres.ablation.runner import ablate

    print(ablate(options).resolve())
    return 0


def recipe(options: RecipeConfig) -> int:
    from anyres.recipes.table import describe, recipe

    print(describe(options), flush=True)
    return 0 if options.show else train(recipe(options))


def demo(options: DemoConfig) -> int:
    from anyres.recipes.demo import demo

    print(demo(options).resolve())
    return 0


def export(options: Export) -> int:
    from anyres.exporting.export import export
    from anyres.models.weights.files import load

    for folder in (options.data, options.calibration):
        if folder is not None:
            from anyres.data.folder import find_images

            find_images([folder])  # an error now if there are none
    model, info = load(options.run)
    if options.int8 and not info.classes:
        raise ValueError(f"int8 compares classes, and {options.run} has none; leave it out")
    export(
        model, options.out, classes=info.classes, largest=options.largest, uint8=options.uint8, float16=options.float16,
        verify=options.verify, verify_pixels=options.verify_pixels, progress=True,
    )  # fmt: skip
    from anyres.predict.quantized import compare_quantized, megabytes, quantized

    print(f"{options.out}: {megabytes(options.out):.1f} MB, images of up to {options.largest} pixels a side")
    if options.int8 is not None and options.data is not None:
        small = quantized(options.out, options.int8, options.calibration)
        print(compare_quantized(options.out, small, options.data))
    return 0


def upgrade(options: Upgrade) -> int:
    from anyres.models.upgrade import upgrade
    from anyres.models.weights.files import save
    from anyres.models.weights.timm_model import class_folders, class_names, timm_model

    vit = timm_model(options.source, options.architecture)
    model = upgrade(vit, options.start, base_filter=options.base_filter)
    save(
        options.out, model, name=None, classes=class_names(vit), training_sizes=[model.config.own_size],
        extra={"class_folders": class_folders(vit)},
    )  # fmt: skip
    height, width = model.config.own_size
    print(f"{options.out}: {model.config.source['architecture']} for any size; its own is {height}x{width} pixels")
    return 0
