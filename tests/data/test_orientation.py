"""Photos that EXIF turns, with labels made on what is shown or on what is stored: both fit, whatever the turn."""

import json

import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin

from anyres.data.coco import CocoImages
from anyres.data.decode import read_image
from anyres.data.detection import AnnotatedReader
from anyres.data.mask_file import read_mask
from anyres.data.orientation import laid_down, read_as, read_header, turned_up
from anyres.data.segmentation import SegmentationFolder
from anyres.errors import UnreadableImageError


def pixels(height, width):
    return np.random.default_rng(height).integers(0, 4, (height, width), dtype=np.uint8)


def exif(orientation):
    found = Image.Exif()
    found[0x0112] = orientation
    return found


def write(path, values, orientation):
    """Lossless; an orientation of 1 is left out."""
    path.parent.mkdir(parents=True, exist_ok=True)
    extra = {"exif": exif(orientation)} if orientation > 1 else {}
    options = {"compression": "tiff_deflate"} if path.suffix == ".tif" else {}
    Image.fromarray(values).save(path, **extra, **options)
    return path


def shown(values, orientation):
    image = Image.fromarray(values)
    image.getexif()[0x0112] = orientation
    return np.array(ImageOps.exif_transpose(image))


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_headers_and_both_readings_of_a_photo(tmp_path, orientation, suffix):
    stored = pixels(5, 9)
    upright = shown(stored, orientation)
    path = write(tmp_path / f"photo.{suffix}", stored, orientation)
    header = read_header(path)
    assert (header.stored, header.shown, header.orientation) == ((5, 9), upright.shape, orientation)
    options = {"max_pixels": 100, "channels": 1}
    assert np.array_equal(np.array(read_as(path, "shown", **options)), upright)
    assert np.array_equal(np.array(read_as(path, "stored", **options)), stored)
    assert np.array_equal(np.array(read_image(path, channels=1)), upright)
    assert np.array_equal(np.array(turned_up(laid_down(Image.fromarray(upright), orientation), orientation)), upright)
    assert np.array_equal(read_mask(path), stored)


@pytest.mark.parametrize("labels_as", ["shown", "stored"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_masks_fit_photos_as_they_are_shown_or_stored(tmp_path, orientation, labels_as):
    """A class is a grey value, so that image and mask are compared pixel by pixel."""
    stored = pixels(6, 6) if orientation % 2 else pixels(5, 9)
    labels = stored if labels_as == "stored" else shown(stored, orientation)
    write(tmp_path / "images/training/a.png", stored, orientation)
    write(tmp_path / "annotations/training/a.png", labels, 1)
    write(tmp_path / "images/training/b.png", stored, orientation)
    write(tmp_path / "annotations/training/b.tif", stored, orientation)  # turned like its photo: fits either way
    folder = SegmentationFolder(tmp_path, "train", num_classes=4, labels_as=labels_as)
    for index in range(2):
        found = folder.read(index, channels=1)
        assert np.array_equal(np.array(found.image), np.array(found.labels))
    assert np.array_equal(np.array(folder.read(0, channels=1).labels), labels)
    report = folder.turned.report("masks", labels_as)
    assert len(report) == (orientation > 1) and folder.turned.misfits == []
    if report:
        assert report[0].startswith("1 of 2 labelled photos are turned by their EXIF data, the first ")
        other = "stored" if labels_as == "shown" else "shown"
        assert report[0].endswith(
            f"masks are taken to fit them as {labels_as}. If they fit them as {other}: labels_as={other}"
        )


def test_a_mask_of_the_other_convention_names_exif_and_the_option(tmp_path):
    write(tmp_path / "images/training/a.png", pixels(5, 9), 6)
    write(tmp_path / "annotations/training/a.png", pixels(5, 9), 1)
    folder = SegmentationFolder(tmp_path, "train", num_classes=4)
    assert "; masks of 1 have the size of stored. If" in folder.turned.report("masks", "shown")[0]
    with pytest.raises(UnreadableImageError, match="5x9 .* image of 9x5; its EXIF orientation is 6.*=stored$"):
        folder.read(0)
    with pytest.raises(ValueError, match="unknown labels_as 'exif'.*Allowed: shown, stored"):
        SegmentationFolder(tmp_path, "train", num_classes=4, labels_as="exif")


def annotated(root, stored, orientation, size):
    write(root / "a.png", np.repeat(stored[..., None], 3, 2), orientation)
    record = {
        "images": [{"id": 1, "file_name": "a.png", "height": size[0], "width": size[1]}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 2, 2]}],
        "categories": [{"id": 1, "name": "corner"}],
    }
    (root / "a.json").write_text(json.dumps(record))
    return root / "a.json", root


@pytest.mark.parametrize("labels_as", ["shown", "stored"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_fit_photos_as_they_are_shown_or_stored(tmp_path, orientation, labels_as):
    stored = pixels(6, 6) if orientation % 2 else pixels(5, 9)
    wanted = stored if labels_as == "stored" else shown(stored, orientation)
    data = CocoImages(*annotated(tmp_path, stored, orientation, wanted.shape), masks=False, labels_as=labels_as)
    assert np.array_equal(AnnotatedReader(data)(0)[0].numpy(), wanted)
    assert len(data.turned().report("annotations", labels_as)) == (orientation > 1)


def test_annotations_of_the_other_convention_name_exif_and_the_option(tmp_path):
    data = CocoImages(*annotated(tmp_path, pixels(5, 9), 8, (5, 9)), masks=False)
    with pytest.raises(UnreadableImageError, match="9x5 pixels, annotated as 5x9; its EXIF orientation is 8.*=stored$"):
        AnnotatedReader(data)(0)
    assert data.turned().misfits == data.paths


def test_a_png_is_not_decoded_for_its_orientation_which_may_stand_after_the_pixels(tmp_path, monkeypatch):
    path = write(tmp_path / "plain.png", pixels(5, 9), 1)
    late = write(tmp_path / "late.png", pixels(5, 9), 6)
    content = late.read_bytes()
    start = content.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(content[start : start + 4], "big")
    chunk, last = content[start:end], content.index(b"IEND") - 4
    late.write_bytes(content[:start] + content[end:last] + chunk + content[last:])
    assert read_header(late).orientation == 6 and np.array(read_image(late)).shape[:2] == (9, 5)
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", None)  # which nothing calls
    assert read_header(path).orientation == 1
