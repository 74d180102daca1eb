"""A small UperNet with a ViTAR backbone learns twenty synthetic images by heart, to see that everything fits together:
data, training, measuring, predicting.

    python examples/overfit_segmentation.py --out overfit-segmentation

labels the pixels of these very images with a mean intersection over union above 0.9 after ten minutes on one core, six
on two.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from anyres.data.augment import SegmentAugment
from anyres.data.dense_scenes import write_dense
from anyres.data.segmentation import SegmentationFolder
from anyres.devices import fast_precision
from anyres.metrics.segmentation import evaluate_segmenter
from anyres.models.segmenter import Segmenter
from anyres.models.weights.files import load
from anyres.predict.config import SegmentConfig
from anyres.predict.segment import segment
from anyres.training import train
from anyres.training.segmentation.config import SegmentationConfig

CLASSES = 5  # background and four glyphs
MODEL = {
    "width": 128, "heads": 4, "depth": 4, "position": "learned", "drop_path_rate": 0.0, "taps": (0, 1, 2, 3),
    "head_channels": 64, "auxiliary_channels": 0,
}  # fmt: skip
UNCHANGED = SegmentAugment(scale=(1.0, 1.0), cat_max_ratio=1.0, hflip=0.0, photometric=False)


def learn(data: Path, run: Path, steps: int, size: int, threads: int | None) -> None:
    """Learns the images as they are, but for the square that is cut from each along its longer side."""
    config = SegmentationConfig(
        data=data, out=run, num_classes=CLASSES, model_options=MODEL, sizes=(str(size),), steps=steps, batch_size=2,
        lr=1.5e-3, warmup_steps=steps // 20, clip_grad=1.0, augmentation=UNCHANGED, precision=fast_precision(),
        # Once glyphs are told from the background gradients are far smaller: AdamW must soon forget the large ones.
        betas=(0.9, 0.98), threads=threads, device="cpu", log_every=10, tensorboard=False,
    )  # fmt: skip
    if not train(config).finished:
        raise SystemExit(130)  # interrupted; the same command goes on


def main(arguments: Sequence[str] | None = None) -> float:
    """Runs the example. Returns mean intersection over union, from 0 to 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("overfit-segmentation"), help="folder for all that is written")
    parser.add_argument("--images", type=int, default=20, help="how many images to learn")
    parser.add_argument("--size", type=int, default=256, help="their short side in pixels")
    parser.add_argument("--steps", type=int, default=2800, help="training steps, of two images each")
    parser.add_argument("--threads", type=int, help="CPU threads; torch's own choice if not given")
    options = parser.parse_args(arguments)

    name = f"{options.images}x{options.size}px"
    data = write_dense(options.out / f"data-{name}", train=options.images, val=0, size=options.size)
    run = options.out / f"run-{name}-{options.steps}-steps"
    learn(data, run, options.steps, options.size, options.threads)

    model, info = load(run, Segmenter)
    images = SegmentationFolder(data, "train", num_classes=CLASSES)
    confusion, _, _ = evaluate_segmenter(model, images, options.size)
    segment(SegmentConfig(run=run, inputs=(images.root,), out=options.out / "predictions", draw=True, device="cpu"))
    for kind, share in zip(info.classes, confusion.iou().tolist(), strict=True):
        print(f"{kind}: {share:.3f}")
    print(f"mean intersection over union: {confusion.miou():.3f}")
    print(f"label maps and pictures: {options.out / 'predictions'}")
    return confusion.miou()


if __name__ == "__main__":
    main()
