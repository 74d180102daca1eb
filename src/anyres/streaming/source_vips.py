"""Images that libvips reads, for what is larger than Pillow opens or of a format that it does not know."""

from contextlib import ExitStack
from pathlib import Path

import numpy as np

from anyres.data.source_base import OpenSource, import_extra
from anyres.errors import UnreadableImageError
from anyres.files import named_in_text

_WHITE = {"grey16": 65535.0, "rgb16": 65535.0, "scrgb": 1.0}  # of the others 255
_COLOURS = ("b-w", "grey16", "srgb", "rgb", "rgb16", "scrgb", "multiband")


class VipsSource(OpenSource):
    """A file that pyvips opens; upright, transparent pixels laid on white.

    Formats that can only be decoded from top to bottom are decoded once, as a whole: into memory up to 100 MB and into
    a temporary file above (libvips: VIPS_DISC_THRESHOLD, TMPDIR).
    """

    def __init__(self, path: Path) -> None:
        pyvips = import_extra("pyvips", "huge-images", f"{path}: this image")
        self.name = str(path)
        self._open = ExitStack()
        readable = self._open.enter_context(named_in_text(path))  # until it is closed: some formats are read later
        try:
            image = pyvips.Image.new_from_file(str(readable), access="random", fail_on="truncated").autorot()
            if image.interpretation not in _COLOURS or image.get("coding") != "none":
                raise UnreadableImageError(
                    path,
                    f"its colours are {image.interpretation}, coding {image.get('coding')}; "
                    f"allowed: {', '.join(_COLOURS)}, not coded",
                )
            if image.hasalpha():
                image = image.flatten(background=_WHITE.get(image.interpretation, 255.0))
        except pyvips.Error as error:
            self._open.close()
            raise UnreadableImageError(path, " ".join(str(error).split())) from error
        self.size = (image.height, image.width)
        self._image = image

    def _read(self, y: int, x: int, height: int, width: int) -> np.ndarray:
        return self._image.crop(x, y, width, height).numpy()

    def close(self) -> None:
        self._image = None
        self._open.close()
