"""Pictures of reconstructions: the right pixels in the right places, whatever the sizes."""

import numpy as np
import pytest
import torch
from PIL import Image

from anyres.data.transforms import to_tensor
from anyres.files import write_picture
from anyres.training.pretraining.reconstructions import Block, Restored, draw_blocks, to_picture

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.1)
HEADER, GAP = 2 * 22 + 12, 12


def flat(colour, height, width):
    return to_tensor(Image.new("RGB", (width, height), colour), MEAN, STD)


def row(height, width):
    return Restored(*(flat(colour, height, width) for colour in ((200, 10, 10), (10, 200, 10), (10, 10, 200))))


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_normalising_is_undone_exactly(mode):
    pixels = np.random.default_rng(0).integers(0, 256, (7, 5, 3) if mode == "RGB" else (7, 5), dtype=np.uint8)
    mean, std = (MEAN, STD) if mode == "RGB" else ((0.3,), (0.2,))
    picture = to_picture(to_tensor(Image.fromarray(pixels), mean, std), mean, std)
    assert np.array_equal(np.asarray(picture.convert(mode)), pixels) and picture.mode == "RGB"


def test_what_is_out_of_range_is_cut_off():
    values = torch.tensor([[[-99.0, 99.0]]]).expand(3, 1, 2)
    assert np.asarray(to_picture(values, MEAN, STD)).tolist() == [[[0, 0, 0], [255, 255, 255]]]
    assert to_picture(values.bfloat16(), MEAN, STD).size == (2, 1)


def test_sizes_and_places():
    """16x16 is enlarged 14 times to 224; 448x224 is halved; rows are aligned between blocks."""
    blocks = [
        Block((16, 16), 0.5, [row(16, 16), row(8, 32)]),  # own aspect: the second image is 56 x 224
        Block((448, 224), 1.25, [row(448, 224), row(448, 224)]),
    ]
    sheet = draw_blocks(blocks, MEAN, STD)
    first, second = 3 * (224 + GAP) + GAP, 3 * (112 + GAP) + GAP
    assert sheet.size == (GAP + first + second, HEADER + 2 * (224 + GAP))
    pixels = np.asarray(sheet)
    colours = [(200, 10, 10), (10, 200, 10), (10, 10, 200)]
    for left, width, heights in ((GAP, 224, (224, 56)), (GAP + first, 112, (224, 224))):
        for line, height in enumerate(heights):
            top = HEADER + line * (224 + GAP)
            for place, colour in enumerate(colours):
                start = left + place * (width + GAP)
                part = pixels[top : top + height, start : start + width]
                assert (part == colour).all()
                assert (pixels[top, start + width] == 255).all() and (pixels[top + height, start] == 255).all()
    assert (pixels[:20, :first] != 255).any() and (pixels[:20, first:] != 255).any()  # captions


def test_captions_say_size_and_loss(monkeypatch):
    said = []
    monkeypatch.setattr("PIL.ImageDraw.ImageDraw.text", lambda self, place, text, **_: said.append(text))
    draw_blocks([Block((13, 8), 0.41234, [row(13, 8)])], MEAN, STD)
    assert said == ["13x8   loss 0.412", "input", "masked", "output"]


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 997), (997, 1), (2, 3)])
def test_any_shape_can_be_drawn(height, width):
    sheet = draw_blocks([Block((height, width), 0.0, [row(height, width)])], MEAN, STD)
    assert max(sheet.size) < 800


def test_pictures_are_whole_or_absent(tmp_path):
    path = tmp_path / "reconstructions" / "step-000001.png"
    write_picture(path, draw_blocks([Block((4, 4), 0.0, [row(4, 4)])], MEAN, STD))
    with Image.open(path) as picture:
        assert picture.format == "PNG" and picture.convert("RGB").size == (GAP + 3 * (224 + GAP) + GAP, HEADER + 236)
    before = path.read_bytes()

    class Failing:
        def save(self, file, format):
            file.write(b"half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_picture(path, Failing())
    assert path.read_bytes() == before and [entry.name for entry in path.parent.iterdir()] == [path.name]
