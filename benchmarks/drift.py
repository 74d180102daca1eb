"""How far the tokens of trained models drift with the size of an image: at the trunk's input, and level by level.

    python benchmarks/drift.py --runs runs/anyres runs/vitar --data data/ordinary [--out benchmarks/results/drift.json]

Every image is given at each size and, brought to the largest training size, once more. Compared at the trunk's input,
cell by cell: cosine, shift of the mean in standard deviations, and norm. Then the norm of the tokens after each level,
the finest first. A minute on one core.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import anyres
from anyres.data.decode import read_image
from anyres.data.folder import find_images
from anyres.evaluation.rows import distinct_labels
from anyres.files import write_json
from anyres.layers.averaged import resize_to
from anyres.layers.merging import AdaptiveTokenMerger
from anyres.layers.pyramid_merger import PyramidMerger, bases_of
from anyres.models.bases import fitted, make_bases
from anyres.models.vitar import ViTAR

SIZES = (32, 64, 96, 128, 192, 256, 384, 768)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, nargs="+", required=True, help="folders of trained models")
    parser.add_argument("--data", type=Path, required=True, help="folder with val/<class>/")
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--reference", type=int, default=96, help="largest training size in pixels")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "drift.json")
    options = parser.parse_args()
    files = find_images([options.data / "val"])
    chosen = files[:: max(len(files) // options.images, 1)][: options.images]
    pictures = [read_image(path) for path in chosen]
    labels = distinct_labels([run.name for run in options.runs], [run.parent.name for run in options.runs])
    found = {label: measure(run, pictures, options.reference) for label, run in zip(labels, options.runs, strict=True)}
    write_json(options.out, {"images": len(pictures), "reference": options.reference, "runs": found})
    for name, rows in found.items():
        for row in rows:
            levels = " ".join(f"{norm:.1f}" for norm in row["level_norms"])
            print(f"{name} {row['size']:4d} px: cosine {row['cosine']:.2f}, shift {row['shift']:.2f}, levels {levels}")


def measure(run: Path, pictures: list[Image.Image], reference: int) -> list[dict[str, Any]]:
    """The drift of one model, a row for each size."""
    model, _ = anyres.load(run)
    assert isinstance(model, ViTAR)
    model.eval()
    rows = []
    for side in SIZES:
        pairs = [_compared(model, picture, side, reference) for picture in pictures]
        tokens, references = (torch.cat(each) for each in zip(*(pair[:2] for pair in pairs), strict=True))  # (n, D)
        shift = (tokens.mean(0) - references.mean(0)).abs() / references.std(0)
        norms = torch.tensor([pair[2] for pair in pairs]).mean(0).tolist()
        cosine = torch.nn.functional.cosine_similarity(tokens, references).mean().item()
        rows.append({"size": side, "cosine": cosine, "shift": shift.mean().item(), "level_norms": norms})
    return rows


@torch.inference_mode()
def _compared(model: ViTAR, picture: Image.Image, side: int, reference: int) -> tuple[Tensor, Tensor, list[float]]:
    """Tokens at the trunk's input at a size and resized from it, (cells, D) each, and the norms after each level."""
    values = np.asarray(picture.resize((side, side), Image.Resampling.BICUBIC)) / 255
    normalised = (values - np.array(model.config.mean)) / np.array(model.config.std)
    image = torch.from_numpy(normalised).float().permute(2, 0, 1)[None]
    found = _levels(model, image)
    smaller = _levels(model, resize_to(image, reference, reference))
    return found[-1].flatten(0, 2), smaller[-1].flatten(0, 2), [x.norm(dim=-1).mean().item() for x in found]


def _levels(model: ViTAR, image: Tensor) -> list[Tensor]:
    """The patch tokens and those after each level of a plan, (1, rows, cols, D)."""
    plan, image = model.plan(*image.shape[-2:]), fitted(model, image)
    found = [model.position(model.stem(image))]
    assert isinstance(model.merger, AdaptiveTokenMerger)
    own = make_bases(model, image, found[0], plan, None) if isinstance(model.merger, PyramidMerger) else []
    for index, base in enumerate(bases_of(model.merger, own, plan)):
        found.append(model.merger.step(found[-1], plan, index, plan.levels[index], base=base)[0])
    return found


if __name__ == "__main__":
    main()
