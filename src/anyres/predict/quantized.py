"""An exported classifier with 8-bit weights beside the file that it is made of: size, speed, and what changes."""

import statistics
import sys
import time
from pathlib import Path

import torch
from tqdm import tqdm

from anyres.data.decode import read_image
from anyres.data.folder import find_images
from anyres.errors import UnreadableImageError
from anyres.exporting.onnx_file import OnnxModel
from anyres.predict.preparation import preparation


@torch.inference_mode()
def compare_quantized(path: Path, data: Path) -> str:
    """Writes NAME-int8.onnx (onnxruntime's dynamic quantisation of products with weights) and says how it differs.

    Images are decoded once and seen at their own size by both files, which take turns in being first.

    Raises:
        ValueError: no images, or none that can be read and is within the limit of the file.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    small = path.with_name(f"{path.stem}-int8.onnx")
    # weights have a scale for each output channel; products inside branches are left as they are
    quantize_dynamic(path, small, op_types_to_quantize=["MatMul"], weight_type=QuantType.QInt8, per_channel=True)
    both = OnnxModel(path), OnnxModel(small)
    prepare = preparation(both[0].config, None, None)
    seconds: tuple[list[float], list[float]] = ([], [])
    same, changes = [], []
    for number, file in enumerate(tqdm(find_images([data]), desc="comparing", unit="image")):
        try:
            image = prepare(read_image(file, channels=both[0].config.in_channels))[None]
            both[0].check_size(image.shape[-2], image.shape[-1])
        except (UnreadableImageError, ValueError) as error:
            tqdm.write(f"left out: {file}: {getattr(error, 'reason', error)}", file=sys.stderr)
            continue
        answers = [torch.empty(0), torch.empty(0)]
        for which in (0, 1) if number % 2 else (1, 0):
            start = time.perf_counter()
            answers[which] = both[which](image)[0].softmax(0)
            seconds[which].append(time.perf_counter() - start)
        same.append(bool(answers[0].argmax() == answers[1].argmax()))
        changes.append((answers[0] - answers[1]).abs().max().item())
    if not same:
        raise ValueError(f"none of the images in {data} can be read and is within the limit of {path}")
    ratio = statistics.median(seconds[1]) / statistics.median(seconds[0])
    sizes = " MB of ".join(f"{each.stat().st_size / 1e6:.1f}" for each in (small, path))
    return (
        f"{small}: {sizes}; on {len(same)} images the same class {100 * sum(same) / len(same):.1f} % of the time, "
        f"probabilities change by {statistics.median(changes):.4f} (median) and at most {max(changes):.4f}, and "
        f"an image takes {ratio:.2f} times as long"
    )
