"""Files with 8-bit weights, made of files that `anyres.export` wrote."""

import logging
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import numpy as np

from anyres.exporting.export import move


class Images(Protocol):
    """Arrays that can be gone through more than once."""

    def __iter__(self) -> Iterator[np.ndarray]: ...

    def __len__(self) -> int: ...


def quantize_dynamic(path: Path, out: Path) -> None:
    """onnxruntime's dynamic quantisation of products with weights, which have a scale for each output channel; those
    within cells are left, as it has none for one matrix to each head."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic as quantize

    nodes = onnx.load(path, load_external_data=False).graph.node
    quantize(
        path, out, op_types_to_quantize=["MatMul"], weight_type=QuantType.QInt8, per_channel=True,
        nodes_to_exclude=[node.name for node in nodes if "cells/" in node.name],
    )  # fmt: skip


def quantize_static(path: Path, out: Path, images: Images, levels: int) -> None:
    """NNCF's quantisation of weights and activations, the ranges of which are those of images.

    Args:
        path: .onnx or .xml; `out` has the same ending.
        images: as the file takes them, (1, C, H, W); they are gone through several times.
        levels: of the merger that at least one of them runs. Deeper ones are left as they are: nothing is known of
            them, and guessed ranges change logits by a quarter of the greatest (a photograph of 1120 px after
            calibration up to 500 px; left, by 0.03). So are the small products within cells.

    Raises:
        ImportError: nncf, or the runtime of the file, is missing.
    """
    try:
        import nncf
    except ImportError as error:
        raise ImportError('static quantisation needs NNCF: pip install "anyres[openvino]"') from error
    nncf.set_log_level(logging.ERROR)
    known = "|".join(map(str, range(1, levels + 1))) or "none"
    options: dict[str, Any] = {
        "subset_size": len(images), "model_type": nncf.ModelType.TRANSFORMER,
        "ignored_scope": nncf.IgnoredScope(patterns=[".*cells/.*", rf".*level_(?!(?:{known})/).*"], validate=False),
    }  # fmt: skip
    with TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as folder:
        part = Path(folder) / out.name
        if path.suffix == ".xml":
            import openvino

            made = nncf.quantize(openvino.Core().read_model(path), nncf.Dataset(images), **options)
            openvino.save_model(made, part, compress_to_fp16=False)
        else:
            import onnx

            given = nncf.Dataset(images, lambda image: {"images": image})
            onnx.save(nncf.quantize(onnx.load(path), given, **options), part)
        move(part, out)
