"""`anyres.export`: a model as one file for every size, ONNX or OpenVINO, compared with it before it is given."""

import copy
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from anyres.exporting.exportable import check_exportable
from anyres.exporting.exported import KINDS, RT_INFO, metadata_of
from anyres.exporting.verify import TOLERANCE, Difference, compare, draw_sizes, table
from anyres.files import check_file
from anyres.models.vitar import ViTAR

LARGEST = 7168
MOST_PIXELS = 2**20


def export(
    model: ViTAR,
    path: Path | str,
    *,
    classes: Sequence[str] = (),
    largest: int = LARGEST,
    uint8: bool = False,
    float16: bool = False,
    verify: int = 50,
    verify_pixels: int = MOST_PIXELS,
    progress: bool = False,
) -> list[Difference]:
    """Writes a model as one file, ONNX or OpenVINO: input `images` (batch, C, height, width), all but C free, outputs
    `logits` (batch, classes), `pooled` (batch, D) and `tokens` (batch, rows, cols, D).

    Args:
        model: a `ViTAR` with either merger or none, or what `anyres.upgrade` made; it is left as it is.
        path: of the file: .onnx, or .xml for OpenVINO, which has its weights in a .bin beside it.
        classes: names in the order of the logits; their numbers if not given.
        largest: most pixels of a side; the graph holds as many levels as that needs, and refuses larger images.
        uint8: images are whole numbers from 0 to 255, normalised in the graph; else float32, already normalised.
        float16: .onnx: weights are rounded to 16 bits, which halves the file, and it is compared with the model so
            rounded; computed is in float32.
        verify: number of random sizes at which the answers of the file's runtime are compared with the model's.
        verify_pixels: of the largest of these images.
        progress: shows a bar.

    Returns:
        The differences that were found.

    Raises:
        ImportError: onnx, onnxscript, or onnxruntime or openvino is missing.
        ValueError: a model that cannot be exported, with the alternative; bad options; or a file that differs by more
            than 1e-4 of an output's greatest value, which then is not left behind.
    """
    path = Path(path)
    _check_options(path, float16, largest=largest, verify=verify, verify_pixels=verify_pixels)
    make_graph = _graph_maker(path.suffix)
    check_exportable(model)
    if len(classes) not in (0, model.config.num_classes):
        raise ValueError(f"there are {len(classes)} class names for {model.config.num_classes} outputs.")
    classes = classes or [str(label) for label in range(model.config.num_classes)]
    twin = as_exported(model, float16)
    metadata = metadata_of(twin, classes, largest, uint8)
    made = make_graph(twin, largest, uint8=uint8, float16=float16, metadata=metadata)
    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        part = Path(folder) / path.name
        written = part.with_suffix(".onnx")
        written.write_bytes(made.SerializeToString())
        del made
        if path.suffix == ".xml":
            as_openvino(written, part, metadata)
        found = []
        if verify:
            sizes = draw_sizes(verify, largest, verify_pixels)
            found = compare(twin, KINDS[path.suffix](part).run, sizes, uint8=uint8, progress=progress)
            if not max(each.worst for each in found) <= TOLERANCE:
                raise ValueError(f"{path} would not be the model, so it was not written:\n{table(found)}")
        move(part, path)
    if progress and found:
        print(table(found), file=sys.stderr)
    return found


def _check_options(path: Path, float16: bool, *, largest: int, verify: int, verify_pixels: int) -> None:
    check_file("path", path)
    if path.suffix not in KINDS:
        raise ValueError(f"path is {path}; allowed: a name that ends with {' or '.join(KINDS)}.")
    for name, value, least in (("largest", largest, 1), ("verify", verify, 0), ("verify_pixels", verify_pixels, 1)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name} is {value!r}; allowed: whole numbers from {least} up.")
    if float16 and path.suffix != ".onnx":
        raise ValueError("float16 is given but is for .onnx alone, which OpenVINO reads too; leave it out.")


def _graph_maker(suffix: str) -> Callable[..., Any]:
    """`make_graph`, if all that a file of this kind needs is installed."""
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401

        if suffix == ".xml":
            import openvino  # noqa: F401

        from anyres.exporting.to_onnx import make_graph
    except ImportError as error:
        extra = "openvino" if error.name == "openvino" else "export"
        raise ImportError(f'exporting needs {error.name}: pip install "anyres[{extra}]"') from error
    return make_graph


def as_openvino(source: Path, path: Path, metadata: Mapping[str, str]) -> None:
    """Writes an ONNX file as OpenVINO's."""
    import openvino

    network = openvino.convert_model(source)
    for key, value in metadata.items():
        network.set_rt_info(value, [RT_INFO, key])
    openvino.save_model(network, path, compress_to_fp16=False)


def move(source: Path, path: Path) -> None:
    """A written file to its place, weights beside it first."""
    if path.suffix == ".xml":
        source.with_suffix(".bin").replace(path.with_suffix(".bin"))
    source.replace(path)


@torch.no_grad()
def as_exported(model: ViTAR, float16: bool = False) -> ViTAR:
    """A copy in evaluation, on the CPU, in float32, with weights of 16 bits if so told."""
    twin = copy.deepcopy(model).cpu().float().eval()
    if float16:
        for parameter in twin.parameters():
            parameter.copy_(parameter.half())
        if not all(parameter.isfinite().all() for parameter in twin.parameters()):
            raise ValueError("the model has weights that 16 bits do not hold; leave float16 out.")
    twin.set_grad_checkpointing(False)
    return twin
