"""Classifies images of any mix of sizes with an exported model, without PyTorch and without anyres.

    pip install onnxruntime numpy pillow
    python examples/predict_onnx.py --model model.onnx photo.jpg folder

prints the table of `anyres predict --run model.onnx`: every image at its own size, the likeliest classes first.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

ENDINGS = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}


def open_model(path: str) -> tuple[onnxruntime.InferenceSession, dict[str, str]]:
    options = onnxruntime.SessionOptions()
    options.enable_mem_pattern = False  # of one size
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return session, session.get_modelmeta().custom_metadata_map


def read(path: Path, about: dict[str, str]) -> np.ndarray:
    """(1, 3, height, width) as the file takes it."""
    with Image.open(path) as image:
        pixels = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    if max(pixels.shape[:2]) > int(about["largest_side"]):
        raise ValueError(f"{path} is larger than the {about['largest_side']} pixels a side that the file allows")
    if not about["input"].startswith("uint8"):
        pixels = (pixels.astype(np.float32) / 255 - np.float32(json.loads(about["mean"]))) / np.float32(
            json.loads(about["std"])
        )
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="what `anyres export` wrote")
    parser.add_argument("--top", type=int, default=5, help="classes of an image")
    parser.add_argument("inputs", nargs="+", type=Path, help="images, or folders of them")
    options = parser.parse_args(arguments)
    session, about = open_model(options.model)
    classes = json.loads(about["classes"])
    folders = [sorted(path.rglob("*")) if path.is_dir() else [path] for path in options.inputs]
    for path in (path for folder in folders for path in folder if path.suffix.lower() in ENDINGS):
        images = read(path, about)
        logits = session.run(["logits"], {"images": images})[0][0]
        shares = np.exp(logits - logits.max())
        shares /= shares.sum()
        best = np.argsort(-shares)[: options.top]
        words = "  ".join(f"{classes[index]} {shares[index]:.1%}" for index in best)
        print(f"{path}  {images.shape[2]}x{images.shape[3]}  {words}")


if __name__ == "__main__":
    main()
