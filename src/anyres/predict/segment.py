"""A class for every pixel of files and folders of images: label maps, and pictures with the classes' colours."""

from pathlib import Path

from anyres.files import check_folder, write_picture
from anyres.predict.command_files import Entry, checked_paths, entries_of
from anyres.predict.config import SegmentConfig
from anyres.predict.pictures import coloured
from anyres.predict.predictor import Predictor
from anyres.predict.results import LabelMap


def segment(config: SegmentConfig, *, progress: bool = True) -> list[Entry]:
    """Writes a label map of every image, each file atomically.

    Images by windows are averaged as `sliding_logits` says, rows of a huge image being written as they are finished.

    Returns:
        One entry per image in the order of the inputs: {"index", "path", "height", "width", "labels", "share"}, the
        path of its label map and the share of its pixels by class name; "window" too if it was looked at by windows;
        {"path", "reason"} for a file that cannot be read.

    Raises:
        ValueError: bad settings, missing inputs, inputs of one name, files that would replace an input, an unreadable
            model or too small a memory budget, before any image is read.
        ImportError: without tifffile, if an image needs it, before any image is read.
        UnreadableImageError, SourceError: with `strict`, at the first unreadable file.
    """
    check_folder("out", config.out)
    paths = checked_paths(config, config.out, lambda _, path: _written(path, config.draw))
    predictor = Predictor(config.run, label_folder=config.out, progress=progress, **config.options())
    config.out.mkdir(parents=True, exist_ok=True)

    def entry_of(found: LabelMap) -> Entry:
        name = Path(found.path or "").stem
        file = found.file or config.out / f"{name}.png"
        if found.values is not None:
            write_picture(file, coloured(found.values))
        if config.draw:
            write_picture(config.out / f"{name}.drawn.png", found.draw())
        return found.to_dict() | {"labels": str(file)}

    return entries_of(predictor, paths, entry_of)


def _written(path: Path, draws: bool) -> list[str]:
    """Names of all files that may be written of an image."""
    return [f"{path.stem}{suffix}" for suffix in (".png", ".tif", *((".drawn.png",) if draws else ()))]
