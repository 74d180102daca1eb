"""The commands: a line of help, options and an action each. They are named, so that nothing is imported before one is
chosen; modules of options import no torch, so that the help of a command is there at once.

To add a command: a dataclass of its options, a function in `actions.py`, and an entry here.
"""

import importlib
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Command:
    """What a command is told, and what it does."""

    about: str
    """One line of help."""
    options: str
    """"module:class" of its options."""
    action: str
    """Name of the function in `anyres.cli.actions`: options -> exit status."""

    @property
    def options_class(self) -> type:
        """Imports no torch."""
        module, name = self.options.split(":")
        return getattr(importlib.import_module(module), name)

    def run(self, options: Any) -> int:
        """Carries it out; the exit status."""
        from anyres.cli import actions

        return getattr(actions, self.action)(options)


TRAIN = {
    "classification": Command(
        "Train a model at several sizes, or go on with a run that was stopped.",
        "anyres.training.classification.config:TrainConfig",
        "train",
    ),
    "segmentation": Command(
        "Train a model that labels every pixel.",
        "anyres.training.segmentation.config:SegmentationConfig",
        "train",
    ),
    "detection": Command(
        "Train a model that finds objects, with boxes and masks.",
        "anyres.training.detection.config:DetectionConfig",
        "train",
    ),
}
"""The kinds of `train`, by task."""

HEAD_ON_RECORDS = Command(
    "Train a head on features that `anyres encode` wrote, or go on with a run that was stopped.",
    "anyres.training.records.config:RecordsConfig",
    "train",
)
"""What `train` is with --from-records."""

_CLASSIFY = Command("Classify images of any mix of sizes.", "anyres.predict.config:ClassifyConfig", "classify")
PREDICT = {
    "ViTAR": _CLASSIFY,
    "UpgradedViT": _CLASSIFY,
    "Segmenter": Command("Label every pixel of images.", "anyres.predict.config:SegmentConfig", "segment"),
    "Detector": Command("Find objects in images.", "anyres.predict.config:DetectConfig", "detect"),
}
"""The kinds of `predict`, by the architecture of the run."""

COMMANDS = {
    "train": replace(
        TRAIN["classification"],
        about=f"{TRAIN['classification'].about} Other tasks than classification: "
        f"{' or '.join(f'--task {task}' for task in TRAIN if task != 'classification')}. "
        "With --from-records in place of --data: a head on what `anyres encode` wrote.",
    ),
    "pretrain": Command(
        "Pre-train a model on images without labels, masked auto-encoding.",
        "anyres.training.pretraining.config:PretrainConfig",
        "train",
    ),
    "sweep": Command(
        "Measure models at many sizes: accuracy, cost, latency, memory.",
        "anyres.evaluation.sweep_config:SweepConfig",
        "sweep",
    ),
    "evaluate": Command(
        "Measure a segmenter (mIoU) or a detector (AP) on a data set.",
        "anyres.evaluation.evaluate_config:EvaluateConfig",
        "evaluate",
    ),
    "report": Command("Draw sweeps as one offline HTML page.", "anyres.cli.configs:Report", "report"),
    "predict": replace(
        _CLASSIFY,
        about="Classify images, label their pixels or find objects in them, as the run was trained for. "
        "`anyres predict --run RUN --help` lists the options for that run, without one those for a classifier.",
    ),
    "encode": Command(
        "Write the features of images of any size, huge ones too, to disk.",
        "anyres.predict.encode_config:EncodeConfig",
        "encode",
    ),
    "upgrade": Command(
        "Make a plain ViT of timm a model for any size, with the answers that it had.",
        "anyres.cli.configs:Upgrade",
        "upgrade",
    ),
    "export": Command(
        "Write a model as one ONNX file for every size, compared with the model.", "anyres.cli.configs:Export", "export"
    ),
    "models": Command("List the named models.", "anyres.cli.configs:Models", "models"),
    "cost": Command("Say what one image costs.", "anyres.cli.configs:CostOf", "cost"),
    "largest-size": Command(
        "Say which is the largest size that fits a budget.",
        "anyres.costs.largest_config:LargestSizeConfig",
        "largest_size",
    ),
    "plan-image": Command("Draw how the patches of an image are merged.", "anyres.cli.configs:PlanImage", "plan_image"),
    "synthesize": Command("Write a synthetic set of image files.", "anyres.cli.configs:Synthesize", "synthesize"),
    "ablate": Command(
        "Train and measure the variants of a study: the paper's tables in miniature.",
        "anyres.ablation.config:AblateConfig",
        "ablate",
    ),
    "recipe": Command(
        "Train on ImageNet-1k, COCO or ADE20K as the papers do, or say how long.",
        "anyres.recipes.table:RecipeConfig",
        "recipe",
    ),
    "demo": Command("Data, training, sweep and report in minutes.", "anyres.recipes.demo_config:DemoConfig", "demo"),
}
