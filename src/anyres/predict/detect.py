"""Objects in files and folders of images: COCO's JSON of results, and pictures with boxes, masks and scores."""

from pathlib import Path
from typing import Any

from anyres.data.coco_masks import mask_tools
from anyres.files import check_folder, write_json, write_picture
from anyres.predict.command_files import Entry, checked_paths, entries_of
from anyres.predict.config import DetectConfig
from anyres.predict.objects import write_results
from anyres.predict.predictor import Predictor
from anyres.predict.results import Detections

RESULTS, IMAGES = "results.json", "images.json"


def find_objects(config: DetectConfig, *, progress: bool = True) -> list[Entry]:
    """Writes what is found in every image to one file, and pictures if they are asked for; what was found until then,
    if it is interrupted.

    Returns:
        One entry per image in the order of the inputs: {"index", "path", "height", "width", "objects"}, the number
        found; "window" too if it was looked at by windows; {"path", "reason"} for a file that cannot be read.

    Raises:
        ValueError: bad settings, missing inputs, an unreadable model or too small a memory budget, before any image is
            read.
        ImportError: without faster-coco-eval, if the model has masks.
        UnreadableImageError, SourceError: with `strict`, at the first unreadable file.
    """
    check_folder("out", config.out)
    paths = checked_paths(config, config.out, lambda index, path: [_picture_name(index, path)] if config.draw else [])
    predictor = Predictor(config.run, progress=progress, **config.options())
    if predictor.model.config.masks:
        mask_tools()  # fails now rather than after the first image
    config.out.mkdir(parents=True, exist_ok=True)
    results: dict[int, list[dict[str, Any]]] = {}
    images: dict[int, Entry] = {}

    def entry_of(found: Detections) -> Entry:
        height, width = found.size
        results[found.index] = found.to_coco()
        images[found.index] = {
            "id": found.index, "file_name": str(found.path), "height": int(height), "width": int(width)
        }  # fmt: skip
        if config.draw:
            write_picture(config.out / _picture_name(found.index, found.path or Path()), found.draw())
        return {key: value for key, value in found.to_dict().items() if key != "detections"} | {"objects": len(found)}

    try:
        entries = entries_of(predictor, paths, entry_of)
    except BaseException:
        if images:
            _write(config.out, results, images)
        raise
    _write(config.out, results, images)
    return entries


def _write(out: Path, results: dict[int, list[dict[str, Any]]], images: dict[int, Entry]) -> None:
    done = sorted(images)
    write_results(out / RESULTS, [result for index in done for result in results[index]])
    write_json(out / IMAGES, [images[index] for index in done])


def _picture_name(index: int, path: Path) -> str:
    return f"{index:06d}-{path.stem}.png"
