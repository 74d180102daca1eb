"""`anyres.export`: a model as one ONNX file for every size, compared with the model before it is given."""

import copy
import sys
from collections.abc import Sequence
from pathlib import Path

from anyres.exporting.onnx_file import OnnxModel, metadata_of
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
    verify: int = 50,
    verify_pixels: int = MOST_PIXELS,
    progress: bool = False,
) -> list[Difference]:
    """Writes a model as one ONNX file: input `images` (batch, C, height, width), all but C free, outputs `logits`
    (batch, classes), `pooled` (batch, D) and `tokens` (batch, rows, cols, D).

    Args:
        model: a `ViTAR` with either merger or none, or what `anyres.upgrade` made; it is left as it is.
        path: of the file, .onnx.
        classes: names in the order of the logits; their numbers if not given.
        largest: most pixels of a side; the graph holds as many levels as that needs, and refuses larger images.
        uint8: images are whole numbers from 0 to 255, normalised in the graph; else float32, already normalised.
        verify: number of random sizes at which onnxruntime's answers are compared with the model's.
        verify_pixels: of the largest of these images.
        progress: shows a bar.

    Returns:
        The differences that were found.

    Raises:
        ImportError: onnx, onnxscript or onnxruntime is missing.
        ValueError: a model that cannot be exported, with the alternative; bad options; or a file that differs by more
            than 1e-4 of an output's greatest value, which then is not left behind.
    """
    path = Path(path)
    check_file("path", path)
    if path.suffix != ".onnx":
        raise ValueError(f"path is {path}; allowed: a name that ends with .onnx.")
    for name, value, least in (("largest", largest, 1), ("verify", verify, 0), ("verify_pixels", verify_pixels, 1)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name} is {value!r}; allowed: whole numbers from {least} up.")
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401

        from anyres.exporting.to_onnx import check_exportable, make_graph
    except ImportError as error:
        raise ImportError(f'exporting needs {error.name}: pip install "anyres[export]"') from error
    check_exportable(model)
    if len(classes) not in (0, model.config.num_classes):
        raise ValueError(f"there are {len(classes)} class names for {model.config.num_classes} outputs.")
    classes = classes or [str(label) for label in range(model.config.num_classes)]
    twin = as_exported(model)
    made = make_graph(twin, largest, uint8=uint8, metadata=metadata_of(twin, classes, largest, uint8))
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_bytes(made.SerializeToString())
        del made
        found = []
        if verify:
            run = OnnxModel(part).run
            sizes = draw_sizes(verify, largest, verify_pixels)
            found = compare(twin, run, sizes, uint8=uint8, progress=progress)
            if not max(each.worst for each in found) <= TOLERANCE:
                raise ValueError(f"{path} would not be the model, so it was not written:\n{table(found)}")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    if progress and found:
        print(table(found), file=sys.stderr)
    return found


def as_exported(model: ViTAR) -> ViTAR:
    """A copy in evaluation, on the CPU, in float32."""
    twin = copy.deepcopy(model).cpu().float().eval()
    twin.set_grad_checkpointing(False)
    return twin
