"""The command line: parse, call, print."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import Positional, subcommand

from anyres.ablation.config import AblateConfig
from anyres.ablation.runner import ablate
from anyres.costs.cost import Convention, cost
from anyres.costs.largest import describe_largest_size
from anyres.costs.largest_config import LargestSizeConfig
from anyres.data import synthetic
from anyres.data.decode import read_image
from anyres.data.dense_scenes import write_dense
from anyres.errors import check_choice
from anyres.evaluation.evaluate import EvaluateConfig, evaluate
from anyres.evaluation.sweep import SweepConfig, sweep
from anyres.layers.merge_plan import token_grid
from anyres.models.presets import get_config, list_models
from anyres.predict.classify import PredictConfig, predict
from anyres.predict.detect import DetectConfig, find_objects
from anyres.predict.encode import EncodeConfig, encode
from anyres.predict.segment import SegmentConfig, segment
from anyres.recipes import DemoConfig, RecipeConfig, describe, recipe
from anyres.recipes.demo import demo
from anyres.report.plan_image import draw_plan
from anyres.training.classification.config import TrainConfig
from anyres.training.config import RunConfig
from anyres.training.detection.config import DetectionConfig
from anyres.training.engine import train
from anyres.training.pretraining.config import PretrainConfig
from anyres.training.segmentation.config import SegmentationConfig


@dataclass(frozen=True, kw_only=True)
class Report:
    """Draw sweeps as one offline HTML page with its PNGs."""

    sweeps: Positional[tuple[Path, ...]]
    """JSON files written by `anyres sweep`."""
    out: Path = Path("report")
    """Folder for index.html and the pictures."""
    title: str | None = None
    """Title of the page; that of the first sweep by default."""


@dataclass(frozen=True, kw_only=True)
class Models:
    """List the named models with their size and cost."""

    pattern: Positional[str] = "*"
    """Shell-style pattern, such as "vitar*"."""


@dataclass(frozen=True, kw_only=True)
class CostOf:
    """Say what one image costs: parameters, multiply-accumulates by part, memory."""

    model: Positional[str]
    """Name of a model."""
    height: Positional[int]
    """Pixels."""
    width: Positional[int]
    """Pixels."""
    convention: Convention = "executed"
    """"executed": equal to torch's flop counter / 2; "plain": as grid attention is written rather than computed;
    "paper": as the ViTAR paper counts."""


@dataclass(frozen=True, kw_only=True)
class PlanImage:
    """Draw how the patches of an image are merged, level by level."""

    height: Positional[int]
    """Pixels."""
    width: Positional[int]
    """Pixels."""
    model: str = "vitar_base_patch16"
    """Name of a model, for its patch size and grid."""
    image: Path | None = None
    """A picture to put behind the final cells."""
    out: Path = Path("plan.png")
    """The PNG to write."""


@dataclass(frozen=True, kw_only=True)
class Synthesize:
    """Write a synthetic set of real image files: glyphs, detail (a small glyph on a large canvas), or dense (several
    glyphs with boxes, masks and a label for every pixel, in COCO's and ADE20K's formats)."""

    kind: Positional[Literal["glyphs", "detail", "dense"]]
    """Which set."""
    root: Positional[Path]
    """Folder to write train/ and val/ into."""
    train: int = 2000
    """Training images."""
    val: int = 400
    """Validation images."""
    size: int = 672
    """Least side in pixels; the largest that will be evaluated."""
    seed: int = 0
    """From which all scenes follow."""


def _train(config: RunConfig) -> int:
    return 0 if train(config).finished else 130


def _sweep(config: SweepConfig) -> int:
    result = sweep(config)
    print(f"{len(result['rows'])} rows in {config.out}; draw them with: anyres report {config.out}")
    if result["skipped"]:
        print(f"{len(result['skipped'])} files could not be read and were skipped:")
        print("\n".join(f"  {entry['path']}: {entry['reason']}" for entry in result["skipped"]))
    return 0


def _predict(config: PredictConfig) -> int:
    return int(any("error" in entry for entry in predict(config)))


def _encode(config: EncodeConfig) -> int:
    return int(bool(encode(config).failures))


def _report(config: Report) -> int:
    from anyres.report.report import report

    print(report(config.sweeps, config.out, config.title).resolve())
    return 0


def _models(config: Models) -> int:
    names = list_models(config.pattern)
    if not names:
        raise ValueError(f"no model matches {config.pattern!r}. Allowed: {', '.join(list_models())}.")
    print(f"{'model':<31} {'parameters':>11} {'GMACs at 224':>13} {'at 1120':>9}")
    for name in names:
        small, large = (cost(name, (side, side), memory=False) for side in (224, 1120))
        print(f"{name:<31} {small.parameters / 1e6:>9.1f} M {small.macs / 1e9:>13.1f} {large.macs / 1e9:>9.1f}")
    return 0


def _cost(config: CostOf) -> int:
    found = cost(config.model, (config.height, config.width), config.convention)
    print(f"{config.model} at {config.height}x{config.width}, {config.convention} convention")
    for part, macs in found.parts.items():
        print(f"  {part:<36} {macs / 1e9:>10.3f} GMACs  {100 * macs / found.macs:>5.1f} %")
    print(f"  {'together':<36} {found.macs / 1e9:>10.3f} GMACs")
    print(f"  {'parameters':<36} {found.parameters / 1e6:>10.3f} M")
    if found.activation_bytes is not None:
        print(f"  {'activations, float32':<36} {found.activation_bytes / 1e6:>10.1f} MB")
    if "first stage" in found.parts:
        print("  of an image that has this size once it is resized, with the most boxes and masks that there may be")
    return 0


def _largest_size(config: LargestSizeConfig) -> int:
    print(describe_largest_size(config))
    return 0


def _plan_image(config: PlanImage) -> int:
    model = get_config(config.model)
    if config.height < 1 or config.width < 1:
        raise ValueError(f"an image of {config.height}x{config.width} pixels; both sides must be at least 1.")
    plan = model.plan(token_grid(config.height, config.width, model.patch_size))
    picture = None if config.image is None else read_image(config.image)
    draw_plan(plan, picture).save(config.out)
    print(f"{plan}\n{config.out.resolve()}")
    return 0


def _synthesize(config: Synthesize) -> int:
    write: Any = {"glyphs": synthetic.write_glyphs, "detail": synthetic.write_detail, "dense": write_dense}[config.kind]
    print(write(config.root, train=config.train, val=config.val, size=config.size, seed=config.seed).resolve())
    return 0


def _recipe(config: RecipeConfig) -> int:
    print(describe(config), flush=True)
    if config.show:
        return 0
    return _train(recipe(config))


def _demo(config: DemoConfig) -> int:
    print(demo(config).resolve())
    return 0


def _ablate(config: AblateConfig) -> int:
    print(ablate(config).resolve())
    return 0


def _segment(config: SegmentConfig) -> int:
    entries = segment(config)
    print(json.dumps(entries, indent=1))
    return int(any("error" in entry for entry in entries))


def _detect(config: DetectConfig) -> int:
    entries = find_objects(config)
    print(json.dumps(entries, indent=1))
    return int(any("error" in entry for entry in entries))


def _evaluate(config: EvaluateConfig) -> int:
    found = evaluate(config)
    print(json.dumps(found, indent=1, default=str))
    return int(bool(found["skipped"]))


COMMANDS: dict[str, tuple[type, Any, str]] = {
    "train": (TrainConfig, _train, "Train a model at several sizes, or go on with a run that was stopped."),
    "pretrain": (PretrainConfig, _train, "Pre-train a model on images without labels, masked auto-encoding."),
    "sweep": (SweepConfig, _sweep, "Measure models at many sizes: accuracy, cost, latency, memory."),
    "evaluate": (EvaluateConfig, _evaluate, "Measure a segmenter (mIoU) or a detector (AP) on a data set."),
    "report": (Report, _report, "Draw sweeps as one offline HTML page."),
    "predict": (PredictConfig, _predict, "Classify images of any mix of sizes."),
    "encode": (EncodeConfig, _encode, "Write the features of images of any size, huge ones too, to disk."),
    "models": (Models, _models, "List the named models."),
    "cost": (CostOf, _cost, "Say what one image costs."),
    "largest-size": (LargestSizeConfig, _largest_size, "Say which is the largest size that fits a budget."),
    "plan-image": (PlanImage, _plan_image, "Draw how the patches of an image are merged."),
    "synthesize": (Synthesize, _synthesize, "Write a synthetic set of image files."),
    "ablate": (AblateConfig, _ablate, "Train and measure the variants of a study: the paper's tables in miniature."),
    "recipe": (RecipeConfig, _recipe, "Train on ImageNet-1k, COCO or ADE20K as the papers do, or say how long."),
    "demo": (DemoConfig, _demo, "Data, training, sweep and report in minutes."),
}


TASKS: dict[str, dict[str, tuple[type, Any, str]]] = {
    "train": {
        "segmentation": (SegmentationConfig, _train, "Train a model that labels every pixel."),
        "detection": (DetectionConfig, _train, "Train a model that finds objects, with boxes and masks."),
    },
    "predict": {
        "segmentation": (SegmentConfig, _segment, "Label every pixel of images."),
        "detection": (DetectConfig, _detect, "Find objects in images."),
    },
}
"""Commands that other tasks than classification have too, chosen by `--task`."""


def _commands(arguments: list[str]) -> tuple[dict[str, tuple[type, Any, str]], list[str]]:
    """The commands, with that of the task that `--task` names in its place; and the arguments without that option."""
    command = arguments[:1]
    rest = [part for each in arguments[1:] for part in (each.split("=", 1) if each.startswith("--task=") else [each])]
    commands = dict(COMMANDS)
    for name, tasks in TASKS.items():
        kind, run, text = COMMANDS[name]
        commands[name] = (kind, run, f"{text} Other tasks: --task {' or --task '.join(tasks)}.")
    if command and command[0] in TASKS and "--task" in rest:
        place = rest.index("--task")
        task, (name,) = " ".join(rest[place + 1 : place + 2]), command
        check_choice("task", task, ("classification", *TASKS[name]))
        rest = rest[:place] + rest[place + 2 :]
        if task != "classification":
            commands[name] = TASKS[name][task]
    return commands, command + rest


def main(arguments: list[str] | None = None) -> int:
    """Runs a command. Exit status: 0, 1 with files that could not be read, 2 for bad input, 130 when interrupted."""
    try:
        commands, arguments = _commands(sys.argv[1:] if arguments is None else list(arguments))
    except ValueError as error:
        print(f"anyres: {error}", file=sys.stderr)
        return 2
    choices: Any = None
    for name, (kind, _, text) in commands.items():
        choice: Any = Annotated[kind, subcommand(name, description=text, prefix_name=False)]
        choices = choice if choices is None else choices | choice
    about = "Vision transformers for images of any resolution. `anyres COMMAND --help` lists a command's options."
    try:
        chosen: Any = tyro.cli(choices, prog="anyres", args=arguments, description=about)
        run = next(run for kind, run, _ in commands.values() if isinstance(chosen, kind))
        return int(run(chosen))
    except (ValueError, FloatingPointError, ImportError, OSError, MemoryError) as error:
        print(f"anyres: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("anyres: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
