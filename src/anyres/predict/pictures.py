"""What pictures of predictions share: a colour for each class, and lines, names and legends that can be read."""

import colorsys
import math
import unicodedata
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_LEAST = 480  # pixels of the longer side of a picture: names on smaller ones would hide it
_GOLDEN = 0.6180339887  # of the circle of hues from class to class: neighbours are far apart
_SHADES = ((0.85, 1.0), (0.55, 1.0), (0.9, 0.7))  # saturation and value, in turn every few classes
_EACH = 8

Colour = tuple[int, int, int]


def class_colour(label: int) -> Colour:
    """Red, green and blue of a label from 0 to 255: black for 0, the others bright and apart from their neighbours."""
    if label == 0:
        return 0, 0, 0
    saturation, value = _SHADES[(label - 1) // _EACH % len(_SHADES)]
    colour = colorsys.hsv_to_rgb(_GOLDEN * (label - 1) % 1, saturation, value)
    red, green, blue = (round(255 * channel) for channel in colour)
    return red, green, blue


def palette() -> np.ndarray:
    """The colours of labels, (256, 3) uint8."""
    return np.array([class_colour(label) for label in range(256)], dtype=np.uint8)


def coloured(labels: np.ndarray) -> Image.Image:
    """Labels (H, W) uint8 as an image whose values they are, with the classes' colours as its palette."""
    image = Image.fromarray(labels).convert("L")
    image.putpalette(palette().tobytes())
    return image


def enlarged(image: Image.Image) -> tuple[Image.Image, int]:
    """A copy in colour, small images made a whole number of times larger; and that number."""
    factor = max(1, -(-_LEAST // max(image.size)))
    size = (factor * image.width, factor * image.height)
    return image.convert("RGB").resize(size, Image.Resampling.NEAREST), factor


def line_width(image: Image.Image) -> int:
    """In pixels, of what is drawn on an image."""
    return max(2, round(math.sqrt(max(image.size)) / 12))


def letters(image: Image.Image, most: float = math.inf) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The font for an image, of a size that can be read when all of it is looked at, up to so many pixels."""
    return ImageFont.load_default(size=max(12, round(min(0.6 * math.sqrt(max(image.size)), most))))


def drawable(text: str) -> str:
    """What Pillow's own font has letters for: without accents, and ? for other scripts."""
    parted = unicodedata.normalize("NFKD", text.replace("ß", "ss"))
    return "".join(letter for letter in parted if not unicodedata.combining(letter)).encode("ascii", "replace").decode()


def draw_box(image: Image.Image, box: Sequence[float], colour: Colour) -> None:
    """The outline of x0, y0, x1, y1, with a dark edge, since an image may have the colour itself."""
    draw, width = ImageDraw.Draw(image), line_width(image)
    edge = max(1, width // 3)
    x0, y0, x1, y1 = box
    draw.rectangle((x0 - edge, y0 - edge, x1 + edge, y1 + edge), outline="black", width=width + 2 * edge)
    draw.rectangle((x0, y0, x1, y1), outline=colour, width=width)


def draw_name(image: Image.Image, text: str, box: Sequence[float], colour: Colour) -> None:
    """A name on its colour, above the box x0, y0, x1, y1 or, for want of room, below its upper edge. On small boxes it
    is smaller, so that it hides less of what is around."""
    draw, font, text = ImageDraw.Draw(image), letters(image, most=max(box[3] - box[1], 0) / 2), drawable(text)
    pad = line_width(image)
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    width, height = right - left + 2 * pad, bottom - top + 2 * pad
    x = max(0, min(box[0], image.width - width))
    y = box[1] - height if box[1] >= height else min(max(box[1], 0), max(image.height - height, 0))
    draw.rectangle((x, y, x + width, y + height), fill=colour)
    draw.text((x + pad - left, y + pad - top), text, fill=_ink(colour), font=font)


def with_legend(image: Image.Image, entries: Sequence[tuple[str, Colour]]) -> Image.Image:
    """The image above a strip of names, each after a square of its colour."""
    font = letters(image)
    measure = ImageDraw.Draw(image)
    ascent = round(measure.textbbox((0, 0), "Ag", font=font)[3])
    pad = max(ascent // 2, 3)
    entries = [(drawable(name), colour) for name, colour in entries]
    widths = [ascent + pad // 2 + round(measure.textlength(name, font=font)) for name, _ in entries]
    most = max([image.width, *(width + 2 * pad for width in widths)])
    places, x, y = [], pad, pad
    for width in widths:
        if x > pad and x + width > most - pad:
            x, y = pad, y + ascent + pad
        places.append((x, y))
        x += width + 2 * pad
    whole = Image.new("RGB", (most, image.height + (y + ascent + pad if entries else 0)), "white")
    whole.paste(image, (0, 0))
    draw = ImageDraw.Draw(whole)
    for (name, colour), (x, y) in zip(entries, places, strict=True):
        y += image.height
        draw.rectangle((x, y, x + ascent, y + ascent), fill=colour, outline="grey")
        draw.text((x + ascent + pad // 2, y), name, fill="black", font=font)
    return whole


def draw_labels(image: Image.Image, labels: np.ndarray, classes: Sequence[str], first: int = 0) -> Image.Image:
    """An image half covered by the colours of its labels (H, W) uint8, above the names of those that are in it, the
    most frequent first. Small images are made larger.

    Args:
        first: the value that the first class has in `labels`.
    """
    picture, factor = enlarged(image)
    colours = coloured(labels).convert("RGB").resize(picture.size, Image.Resampling.NEAREST)
    counts = np.bincount(labels.reshape(-1), minlength=first + len(classes))[first:]
    shown = [label for label in np.argsort(-counts, kind="stable").tolist() if counts[label]]
    entries = [(classes[label], class_colour(label + first)) for label in shown]
    return with_legend(Image.blend(picture, colours, 0.5), entries)


def _ink(colour: Colour) -> str:
    """Black or white, whichever is better to read on a colour (luma of ITU-R 601)."""
    return "black" if 299 * colour[0] + 587 * colour[1] + 114 * colour[2] > 128_000 else "white"
