"""The likeliest classes of files and folders of images: in the terminal, as CSV or as JSON."""

import json
import sys
from typing import TextIO

from anyres.data.folder import find_images
from anyres.files import check_file, write_text
from anyres.predict.class_table import csv_table, show_classes
from anyres.predict.command_files import Entry, entries_of
from anyres.predict.config import ClassifyConfig
from anyres.predict.predictor import Predictor


def classify(config: ClassifyConfig, *, file: TextIO | None = None, progress: bool = True) -> list[Entry]:
    """Classify every image once, print a table, and write the output file if one is asked for.

    Images of different sizes share a batch without influence on one another. Progress goes to stderr, the table to
    stdout (or `file`).

    Returns:
        One entry per image in the order of the inputs: {"index", "path", "height", "width", "top": [{"class",
        "probability"}]}, height and width being those of the upright image in pixels; {"path", "reason"} for a file
        that cannot be read or is refused. An image that was made smaller for a budget has "reduced": [height, width]
        as well.

    Raises:
        ValueError: bad settings, missing inputs or an unreadable model, before any image is read.
        UnreadableImageError, SourceError: with `strict`, at the first unreadable file.
    """
    if config.out is not None:
        check_file("out", config.out)
    paths = find_images(config.inputs)
    predictor = Predictor(config.run, progress=progress, **config.options())
    entries = entries_of(predictor, paths, lambda found: found.to_dict())
    if config.out is not None:
        has_budget = config.limits is not None
        is_json = config.out.suffix.lower() == ".json"
        text = json.dumps(entries, indent=1) + "\n" if is_json else csv_table(entries, with_budget=has_budget)
        write_text(config.out, text)
    show_classes(entries, config.out, file or sys.stdout)
    return entries
