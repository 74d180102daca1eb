"""A small Mask R-CNN with a ViTAR backbone learns twenty synthetic images by heart, to see that everything fits
together: data, training, measuring, predicting.

    python examples/overfit_detection.py --out overfit-detection

finds nearly all objects of these very images (box AP50 above 0.9) after five minutes on one core, three on two.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from anyres.data.augment import ScaleJitter
from anyres.data.coco import CocoImages
from anyres.data.dense_scenes import write_dense
from anyres.devices import fast_precision
from anyres.metrics.detection import evaluate_detector
from anyres.models.detector import Detector
from anyres.models.weights.files import load
from anyres.predict.config import DetectConfig
from anyres.predict.detect import find_objects
from anyres.training import train
from anyres.training.detection.config import DetectionConfig

MODEL = {
    "width": 128, "heads": 4, "depth": 4, "stem": "conv", "position": "learned", "drop_path_rate": 0.0,
    "channels": 64, "box_features": 128, "anchor_sizes": (16, 32, 64, 128, 256), "train_proposals": 100,
    "test_proposals": 100, "rpn_samples": 128, "roi_samples": 64,
}  # fmt: skip


def learn(data: Path, run: Path, steps: int, size: int, threads: int | None) -> None:
    """Learns the images as they are: without scaling, flips or any other augmentation."""
    config = DetectionConfig(
        data=data, out=run, model_options=MODEL, sizes=(str(size),), steps=steps, batch_size=4, lr=7e-4,
        warmup_steps=steps // 10, weight_decay=0.01, clip_grad=1.0, augmentation=ScaleJitter(scale=(1.0, 1.0), hflip=0),
        precision=fast_precision(), threads=threads, device="cpu", log_every=10, tensorboard=False,
    )  # fmt: skip
    if not train(config).finished:
        raise SystemExit(130)  # interrupted; the same command goes on


def main(arguments: Sequence[str] | None = None) -> float:
    """Runs the example. Returns box AP50, from 0 to 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("overfit-detection"), help="folder for all that is written")
    parser.add_argument("--images", type=int, default=20, help="how many images to learn")
    parser.add_argument("--size", type=int, default=256, help="their short side in pixels")
    parser.add_argument("--steps", type=int, default=400, help="training steps, of four images each")
    parser.add_argument("--threads", type=int, help="CPU threads; torch's own choice if not given")
    options = parser.parse_args(arguments)

    name = f"{options.images}x{options.size}px"
    data = write_dense(options.out / f"data-{name}", train=options.images, val=0, size=options.size)
    run = options.out / f"run-{name}-{options.steps}-steps"
    learn(data, run, options.steps, options.size, options.threads)

    model, _ = load(run, Detector)
    images = CocoImages(data / "annotations" / "instances_train.json", data / "images" / "train")
    measures = evaluate_detector(model, images).measures
    find_objects(DetectConfig(run=run, inputs=(images.root,), out=options.out / "predictions", draw=True, device="cpu"))
    for kind, value in measures.items():
        print(f"{kind}: {'-' if value is None else f'{value / 100:.3f}'}")
    print(f"pictures of what was found: {options.out / 'predictions'}")
    return (measures["box_ap50"] or 0.0) / 100


if __name__ == "__main__":
    main()
