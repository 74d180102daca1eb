"""An exported classifier with 8-bit weights beside the file that it is made of: size, speed, and what changes."""

import statistics
import time
from pathlib import Path

from tqdm import tqdm

from anyres.data.folder import find_images
from anyres.errors import Unreadable
from anyres.predict.predictor import Predictor
from anyres.predict.results import Classification


def compare_quantized(path: Path, data: Path) -> str:
    """Writes NAME-int8.onnx (onnxruntime's dynamic quantisation of products with weights) and says how it differs.

    Images are seen at their own size, one by one, by both in turn.

    Raises:
        ValueError: no images, or none that can be read.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    small = path.with_name(f"{path.stem}-int8.onnx")
    # symmetric weights, for each output channel its own scale; products inside branches are left as they are
    quantize_dynamic(path, small, weight_type=QuantType.QInt8, per_channel=True)
    both = [Predictor(each, batch_size=1, top_k=2**31) for each in (path, small)]
    seconds: list[list[float]] = [[], []]
    same, changes = [], []
    for image in tqdm(find_images([data]), desc="comparing", unit="image"):
        answers = []
        for predictor, times in zip(both, seconds, strict=True):
            start = time.perf_counter()
            [found] = predictor(image)
            times.append(time.perf_counter() - start)
            answers.append(found)
        if any(isinstance(each, Unreadable) for each in answers):
            continue
        one, other = (_by_class(each) for each in answers)  # type: ignore[arg-type]
        same.append(max(one, key=one.__getitem__) == max(other, key=other.__getitem__))
        changes.append(max(abs(one[name] - other[name]) for name in one))
    if not same:
        raise ValueError(f"none of the images in {data} can be read")
    ratio = statistics.median(seconds[1]) / statistics.median(seconds[0])
    sizes = " MB of ".join(f"{each.stat().st_size / 1e6:.1f}" for each in (small, path))
    return (
        f"{small}: {sizes}; on {len(same)} images the same class {100 * sum(same) / len(same):.1f} % of the time, "
        f"probabilities change by {statistics.median(changes):.4f} (median) and at most {max(changes):.4f}, and "
        f"an image takes {ratio:.2f} times as long"
    )


def _by_class(found: Classification) -> dict[str, float]:
    return dict(zip(found.classes, found.probabilities, strict=True))
