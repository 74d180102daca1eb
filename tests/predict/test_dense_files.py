"""Label maps and objects of files: by windows equal to the whole, mixed sizes in a batch, memory budgets, failures."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import ExifTags, Image

from anyres.amounts import parse_bytes, show_bytes
from anyres.costs.memory import peak_tensor_bytes
from anyres.data.coco_masks import decode_mask, encode_mask
from anyres.models.architectures import DETECTOR, SEGMENTER
from anyres.models.detector import Detector
from anyres.models.segmenter import Segmenter
from anyres.models.weights.files import load, save
from anyres.predict import finder as finder_module
from anyres.predict.config import DetectConfig, LookOptions, SegmentConfig
from anyres.predict.detect import IMAGES, RESULTS, find_objects
from anyres.predict.detect_needs import DetectNeeds
from anyres.predict.label_file import bands, write_label_rows
from anyres.predict.label_maps import Inference, label_map
from anyres.predict.memory_budget import fitting_windows
from anyres.predict.merge_windows import is_cut
from anyres.predict.objects import Objects, objects_in
from anyres.predict.overview import overview
from anyres.predict.pictures import class_colour, drawable, with_legend
from anyres.predict.segment import segment
from anyres.predict.segment_needs import SegmentNeeds
from anyres.streaming.source_array import ArraySource
from anyres.streaming.sources import open_source

NAMES = ("ground", "a", "b", "c", "d")


@pytest.fixture(scope="module")
def labeller(tmp_path_factory):
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("labeller")
    options = {"patch_size": 4, "grid": 3, "width": 16, "depth": 4, "heads": 2, "taps": (0, 1, 2, 3)}
    options |= {"num_classes": 5, "head_channels": 8, "auxiliary_channels": 0}
    model = Segmenter(SEGMENTER.get_config("upernet_vitar_small_patch16", **options))
    torch.nn.init.normal_(model.head.classifier.weight, std=2.0)
    save(folder, model, name=None, classes=NAMES, training_sizes=[(24, 24), (8, 40)])
    return folder


@pytest.fixture(scope="module")
def finder(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("finder")
    options = {"patch_size": 8, "grid": 4, "width": 16, "depth": 1, "heads": 2, "num_classes": 3, "channels": 8}
    options |= {"box_features": 16, "anchor_sizes": (8, 16, 32, 64, 128), "train_proposals": 50, "test_proposals": 30}
    options |= {"min_size": 64, "max_size": 96, "detections": 10}
    model = Detector(DETECTOR.get_config("mask_rcnn_vitar_small_patch16", **options))
    torch.nn.init.normal_(model.roi_heads.box_predictor.cls_score.weight, std=0.5)
    extra = {"classes": ("x", "y", "z"), "extra": {"category_ids": (5, 6, 9)}, "training_sizes": [(64, 64)]}
    save(folder, model, name=None, **extra)
    return folder


def pixels(height, width, seed=0):
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 6 + 1, width // 6 + 1, 3), np.uint8)
    return coarse.repeat(6, axis=0).repeat(6, axis=1)[:height, :width]


def labels_of(entry):
    return np.array(Image.open(entry["labels"]))


@pytest.mark.parametrize("size", [(61, 97), (23, 149), (24, 24), (17, 5)])
@pytest.mark.parametrize("at_once", [1, 3])
def test_rows_of_a_huge_image_are_those_of_its_windows(labeller, tmp_path, size, at_once):
    image = pixels(*size)
    tifffile.imwrite(tmp_path / "huge.tif", image, photometric="rgb", tile=(16, 16), compression="zlib")
    settings = {"run": labeller, "inputs": (tmp_path / "huge.tif",), "device": "cpu", "window": "24x16"}
    huge = SegmentConfig(**settings, out=tmp_path / "a", max_pixels=60, batch_size=at_once, draw=True)
    (entry,) = segment(huge, progress=False)
    model, _ = load(labeller, Segmenter)
    expected = label_map(model, Image.fromarray(image), Inference(window=(24, 16))).numpy()
    found = labels_of(entry)
    assert entry["labels"].endswith("huge.tif") and found.shape == size and len(np.unique(found)) > 1
    assert (found != expected).mean() < 1e-3  # ties by rounding
    with tifffile.TiffFile(entry["labels"]) as file:
        assert file.pages[0].is_tiled and file.pages[0].compression == 8
        assert file.pages[0].colormap[:, 1].tolist() == [257 * channel for channel in class_colour(1)]
    assert entry["share"] == pytest.approx(
        {name: (found == label).mean() for label, name in enumerate(NAMES) if (found == label).any()}, abs=1e-5
    )
    assert (entry["height"], entry["width"], entry["window"]) == (*size, [24, 16])
    (whole,) = segment(SegmentConfig(**settings, out=tmp_path / "b"), progress=False)  # decoded, by the same windows
    assert whole["labels"].endswith(".png") and (labels_of(whole) != found).mean() < 1e-3
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["huge.drawn.png", "huge.tif"]


def test_auto_looks_at_small_images_whole_and_at_large_ones_by_windows(labeller, tmp_path):
    paths = (tmp_path / "large.tif", tmp_path / "small.png")
    for path, size in zip(paths, ((53, 31), (19, 30)), strict=True):
        Image.fromarray(pixels(*size)).save(path)
    settings = {"run": labeller, "inputs": paths, "out": tmp_path / "out", "device": "cpu", "max_pixels": 1000}
    large, small = segment(SegmentConfig(**settings), progress=False)
    assert large["window"] == [24, 24] and "window" not in small
    large, small = segment(SegmentConfig(**settings, window="none"), progress=False)
    assert "1643; allowed: 1000" in large["reason"] and "labels" in small
    large, small = segment(SegmentConfig(**settings, flip=True), progress=False)
    assert "flip needs whole images" in large["reason"] and "labels" in small
    with pytest.raises(ValueError, match="flip needs whole"):
        segment(SegmentConfig(**settings, flip=True, strict=True), progress=False)


def test_what_has_no_known_range_is_not_read_by_windows(labeller, tmp_path):
    tifffile.imwrite(tmp_path / "floats.tif", np.ones((30, 40, 3), np.float32), photometric="rgb")
    tifffile.imwrite(tmp_path / "wide.tif", pixels(30, 40).astype(np.uint16) * 257, photometric="rgb")
    np.save(tmp_path / "array.npy", pixels(30, 40))
    paths = tuple(tmp_path / name for name in ("floats.tif", "wide.tif", "array.npy"))
    settings = {"run": labeller, "inputs": paths, "out": tmp_path / "out", "device": "cpu", "max_pixels": 100}
    floats, wide, array = segment(SegmentConfig(**settings), progress=False)
    assert "pixels are float32" in floats["reason"]
    assert (labels_of(wide) == labels_of(array)).mean() > 0.99


@pytest.mark.parametrize("tile", [0, -3])
def test_what_fails_on_the_way_leaves_no_file(labeller, tmp_path, tile):
    tifffile.imwrite(tmp_path / "cut.tif", pixels(90, 64), photometric="rgb", tile=(16, 16), compression="zlib")
    with tifffile.TiffFile(tmp_path / "cut.tif") as file:
        offset = file.pages[0].dataoffsets[tile]
    with open(tmp_path / "cut.tif", "r+b") as file:
        file.seek(offset)
        file.write(b"\xff" * 40)
    config = SegmentConfig(
        run=labeller, inputs=(tmp_path / "cut.tif",), out=tmp_path / "out", device="cpu", max_pixels=99
    )
    assert segment(config, progress=False)[0].keys() == {"path", "reason"}
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("size", [(1, 1), (256, 256), (257, 300), (700, 3), (511, 512)])
def test_rows_become_tiles(tmp_path, size):
    labels = np.random.default_rng(0).integers(0, 9, size, np.uint8)
    cuts = sorted(np.random.default_rng(1).integers(0, size[0] + 1, 5).tolist())
    write_label_rows(tmp_path / "x.tif", np.split(labels, cuts), size)
    assert (tifffile.imread(tmp_path / "x.tif").reshape(size) == labels).all()
    with open_source(tmp_path / "x.tif") as source:
        assert source.size == size
    assert [len(band) for band in bands(np.split(labels, cuts), 100)][:-1] == [100] * ((size[0] - 1) // 100)


def test_pictures_of_huge_images_are_every_so_many_pixels():
    array = np.arange(5000 * 7, dtype=np.uint16).reshape(5000, 7)
    picture = np.asarray(overview(ArraySource(array)))
    assert (picture == (array >> 8).astype(np.uint8)[::3, ::3, None]).all() and picture.shape == (1667, 3, 3)


def written(config):
    entries = find_objects(config, progress=False)
    return entries, json.loads((config.out / RESULTS).read_text())


@pytest.mark.parametrize("kind", [SegmentConfig, DetectConfig])
def test_no_input_is_replaced(kind, labeller, finder, tmp_path):
    call, run = (segment, labeller) if kind is SegmentConfig else (find_objects, finder)
    for name in ("a", "000000-a"):
        Image.fromarray(pixels(20, 30)).save(tmp_path / f"{name}.png")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    inputs = (tmp_path / "a.png", tmp_path / "000000-a.png")
    with pytest.raises(ValueError, match="would replace the input .*; give another out"):
        call(kind(run=run, inputs=inputs, out=tmp_path, draw=True, device="cpu"), progress=False)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_two_images_never_share_a_file(labeller, tmp_path):
    for name in ("a.png", "a.drawn.png"):
        Image.fromarray(pixels(20, 30)).save(tmp_path / name)
    settings = {"run": labeller, "inputs": (tmp_path / "a.png", tmp_path / "a.drawn.png"), "out": tmp_path / "out"}
    with pytest.raises(ValueError, match="a.png and .*a.drawn.png would both be written to a.drawn.png"):
        segment(SegmentConfig(**settings, draw=True, device="cpu"), progress=False)
    assert len(segment(SegmentConfig(**settings, device="cpu"), progress=False)) == 2


def test_a_decoded_image_has_a_png_by_windows_too(labeller, tmp_path, monkeypatch):
    Image.fromarray(pixels(40, 50)).save(tmp_path / "a.jpg")
    monkeypatch.setitem(sys.modules, "tifffile", None)
    settings = {"run": labeller, "out": tmp_path / "out", "max_pixels": 500, "device": "cpu"}
    (entry,) = segment(SegmentConfig(inputs=(tmp_path / "a.jpg",), **settings), progress=False)
    assert entry["labels"].endswith("a.png") and labels_of(entry).shape == (40, 50) and entry["window"] == [24, 24]


def test_objects_name_their_images_and_stay_when_interrupted(finder, tmp_path, monkeypatch):
    paths = [tmp_path / f"{side}.png" for side in (40, 50, 60)]
    for path in paths:
        Image.fromarray(pixels(int(path.stem), 30)).save(path)
    config = DetectConfig(run=finder, inputs=tuple(paths), out=tmp_path / "out", threshold=0.0, device="cpu")
    find_objects(config, progress=False)
    images, results = (json.loads((config.out / name).read_text()) for name in (IMAGES, RESULTS))
    told = [(each["id"], each["file_name"], each["height"], each["width"]) for each in images]
    assert told == [(i, str(path), 40 + 10 * i, 30) for i, path in enumerate(paths)]
    assert {each["image_id"] for each in results} <= {0, 1, 2}
    done = []

    def objects(model, images, device):
        if done:
            raise KeyboardInterrupt
        done.append(images)
        return objects_in(model, images, device)

    monkeypatch.setattr(finder_module, "objects_in", objects)
    with pytest.raises(KeyboardInterrupt):
        find_objects(config, progress=False)
    assert [each["id"] for each in json.loads((config.out / IMAGES).read_text())] == [0]
    left = json.loads((config.out / RESULTS).read_text())
    assert left == [each for each in results if each["image_id"] == 0]


def test_names_are_drawn_in_letters_that_the_font_has():
    assert drawable("größe 猫") == "grosse ?" and drawable("A-7") == "A-7"
    narrow = with_legend(Image.new("RGB", (6, 480)), [("a rather long name", (9, 8, 7))])
    assert narrow.width > 100 and narrow.getpixel((10, 480 + 12)) == (9, 8, 7)


@pytest.mark.parametrize("task", ["segmentation", "detection"])
def test_files_of_several_sizes_at_once_give_what_they_give_alone(labeller, finder, tmp_path, task):
    (tmp_path / "in").mkdir()
    for index, size in enumerate([(41, 67), (90, 33), (64, 64), (40, 66), (64, 64)]):
        Image.fromarray(pixels(*size, index)).save(tmp_path / f"in/{index}.png")
    (tmp_path / "in/2a.png").write_bytes(b"torn")
    found = []
    for batch_size in (1, 4):
        options = {"inputs": (tmp_path / "in",), "out": tmp_path / str(batch_size), "batch_size": batch_size}
        options |= {"device": "cpu", "draw": True}
        if task == "segmentation":
            entries = segment(SegmentConfig(run=labeller, **options), progress=False)
            maps = [labels_of(entry) for entry in entries if "labels" in entry]
            found.append(([(entry["path"], "reason" in entry) for entry in entries], maps))
        else:
            found.append(written(DetectConfig(run=finder, **options, threshold=0.0)))
    (entries, one), (others, other) = found
    assert entries == others and sum("reason" in entry for entry in entries if task == "detection") in (0, 1)
    assert len(one) == len(other) > 4
    for first, second in zip(one, other, strict=True):
        if task == "segmentation":
            assert (first != second).mean() < 1e-3
        else:
            assert (first["image_id"], first["category_id"]) == (second["image_id"], second["category_id"])
            assert first["bbox"] == pytest.approx(second["bbox"], abs=1e-3)
            assert first["score"] == pytest.approx(second["score"], abs=1e-4)


def rectangles_in(model, images, device):
    """Finds every patch of one of three colours, as a perfect detector would: what of it is in the window."""
    found = []
    for image in images:
        boxes, labels, masks = [], [], []
        for label, level in enumerate((80, 160, 240), start=1):
            for number in range(1, 256):  # the second channel tells objects apart, the third is that of objects
                is_it = ((image * 255).round() == torch.tensor([level, number, 200.0])[:, None, None]).all(0)
                if is_it.any():
                    rows, cols = is_it.any(1).nonzero()[:, 0], is_it.any(0).nonzero()[:, 0]
                    boxes.append([float(cols[0]), float(rows[0]), float(cols[-1]) + 1, float(rows[-1]) + 1])
                    labels.append(label)
                    masks.append(torch.ones(28, 28))
        scores = 1 - 0.001 * torch.arange(len(boxes))
        found.append(
            Objects(
                tuple(image.shape[-2:]), torch.tensor(boxes).view(-1, 4), scores, torch.tensor(labels).long(),
                torch.stack(masks) if masks else torch.zeros(0, 28, 28),
            )
        )  # fmt: skip
    return found


def scene(size, objects):
    """An image of rectangles (label, y, x, height, width)."""
    image = np.full((*size, 3), 20, np.uint8)
    for number, (label, y, x, height, width) in enumerate(objects, start=1):
        image[y : y + height, x : x + width] = (80 * label, number, 200)
    return image


def boxes_found(finder, tmp_path, monkeypatch, size, objects, **options):
    monkeypatch.setattr(finder_module, "objects_in", rectangles_in)
    tifffile.imwrite(tmp_path / "x.tif", scene(size, objects), photometric="rgb", tile=(32, 32))
    settings = {"window": "48x60", "max_pixels": 99, "device": "cpu", "threshold": 0.0} | options
    config = DetectConfig(run=finder, inputs=(tmp_path / "x.tif",), out=tmp_path / "out", **settings)
    (entry,), results = written(config)
    assert entry["objects"] == len(results)
    return results


@pytest.mark.parametrize("seed", range(4))
def test_every_object_no_larger_than_the_overlap_is_found_once(finder, tmp_path, monkeypatch, seed):
    random = np.random.default_rng(seed)
    size = (int(random.integers(60, 180)), int(random.integers(60, 230)))
    objects, taken = [], np.zeros(size, bool)
    for _ in range(60):
        height, width = int(random.integers(3, 13)), int(random.integers(3, 17))
        y, x = int(random.integers(0, size[0] - height)), int(random.integers(0, size[1] - width))
        if not taken[y : y + height, x : x + width].any():
            taken[y : y + height, x : x + width] = True
            objects.append((int(random.integers(1, 4)), y, x, height, width))
    results = boxes_found(finder, tmp_path, monkeypatch, size, objects, draw=True, batch_size=1 + seed)
    ids = {5: 1, 6: 2, 9: 3}
    found = [(ids[each["category_id"]], *np.rint(each["bbox"]).astype(int).tolist()) for each in results]
    assert sorted(found) == sorted((label, x, y, width, height) for label, y, x, height, width in objects)
    for (_, x, y, width, height), each in zip(found, results, strict=True):
        mask = decode_mask(each["segmentation"], size)
        rows, cols = np.nonzero(mask)
        assert abs(rows.min() - y) <= 1 and abs(cols.max() + 1 - x - width) <= 1
        assert width * height <= mask.sum() <= (width + 2) * (height + 2)
        assert each["segmentation"] == encode_mask(mask)
    picture = Image.open(tmp_path / "out/000000-x.png")
    assert picture.width % size[1] == 0


def test_neighbours_stay_two_and_what_no_window_sees_whole_is_kept(finder, tmp_path, monkeypatch):
    side_by_side = [(1, 30, 50, 10, 10), (1, 30, 60, 10, 10), (1, 40, 50, 10, 10)]
    results = boxes_found(finder, tmp_path, monkeypatch, (100, 150), side_by_side)
    assert len(results) == 3
    results = boxes_found(finder, tmp_path, monkeypatch, (100, 150), [(2, 20, 5, 10, 140)])
    pieces = [(each["bbox"][0], each["bbox"][0] + each["bbox"][2]) for each in results]
    assert len(pieces) > 1 and min(pieces)[0] == 5 and max(end for _, end in pieces) >= 140
    results = boxes_found(finder, tmp_path, monkeypatch, (100, 150), [(2, 20, 5, 10, 140)], window="99x150")
    assert [each["bbox"] for each in results] == [[5.0, 20.0, 140.0, 10.0]]


def test_a_box_at_a_border_is_left_to_the_neighbour_that_sees_more_of_it():
    begins, window = ([0], [0, 40, 60]), (30, 60)
    boxes = torch.tensor([[45.0, 3, 60, 9], [30.0, 3, 60, 9], [45.0, 3, 55, 9], [0.0, 0, 9, 30]])
    assert is_cut(boxes, (0, 0), begins, window).tolist() == [True, False, False, False]
    boxes = torch.tensor([[40.0, 3, 50, 9], [40.0, 3, 60, 9], [70.0, 3, 100, 9], [50.0, 3, 100, 9]])
    assert is_cut(boxes, (0, 1), begins, window).tolist() == [True, False, True, False]
    boxes = torch.tensor([[60.0, 3, 90, 9], [110.0, 3, 120, 30]])
    assert is_cut(boxes, (0, 2), begins, window).tolist() == [True, False]


@pytest.mark.parametrize(("text", "count"), [("2GB", 2 * 10**9), ("1.5 mb", 1_500_000), ("1GiB", 2**30), ("7b", 7)])
def test_memory_is_read(text, count):
    assert parse_bytes(text) == count and parse_bytes(show_bytes(count + 10**6)) >= count


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "2", "2 XB", "0GB", "nanGB"])
def test_what_is_no_memory_is_refused(text):
    with pytest.raises(ValueError, match="allowed: a number with a unit"):
        parse_bytes(text)


class Needs:
    def windows(self, size, window, at_once):
        return window[0] * window[1] * at_once + size[1]

    def smaller_window(self, part):
        return (round(80 * part), round(80 * part))


def test_the_largest_windows_that_fit_are_taken_and_then_as_many_as_fit():
    def fit(budget, window=None, held=0):
        return fitting_windows(Needs(), (500, 100), window, 4, budget, held=held)

    assert fit(6499) == ((60, 60), 1) and fit(6500) == ((80, 80), 1) and fit(2 * 6400 + 100) == ((80, 80), 2)
    assert fit(10**6) == ((80, 80), 4) and fit(6500, held=1) == ((60, 60), 1) and fit(500, (20, 20)) == ((20, 20), 1)
    with pytest.raises(ValueError, match="by windows of 10x10 pixels needs 0.000201MB; allowed: at least that"):
        fit(199)
    with pytest.raises(ValueError, match="by windows of 20x20"):
        fit(499, (20, 20))


def test_a_memory_budget_chooses_windows_and_refuses_before_it_reads(labeller, finder, tmp_path):
    tifffile.imwrite(tmp_path / "x.tif", pixels(300, 400), photometric="rgb", tile=(32, 32))
    common = {"inputs": (tmp_path / "x.tif",), "device": "cpu"}
    needs = SegmentNeeds(load(labeller, Segmenter)[0], Inference(), None, [(24, 24)])
    assert needs.windows((300, 400), (24, 24), 1) < needs.windows((300, 400), (24, 24), 9) < needs.whole((300, 400))
    for config, call in (
        (SegmentConfig(run=labeller, out=tmp_path / "a", memory_budget="75MB", **common), segment),
        (DetectConfig(run=finder, out=tmp_path / "b", memory_budget="75MB", **common), find_objects),
    ):
        (entry,) = call(config, progress=False)
        assert "window" in entry or call is find_objects
    for kind, run, call in ((SegmentConfig, labeller, segment), (DetectConfig, finder, find_objects)):
        with pytest.raises(ValueError, match="x.tif: memory_budget is 20MB, but .*allowed: at least that"):
            call(kind(run=run, out=tmp_path / "c", memory_budget="20MB", **common), progress=False)
    assert not list((tmp_path / "c").iterdir())


def test_a_detector_needs_more_for_images_that_it_sees_larger(finder):
    model, image = load(finder, Detector)[0], torch.rand(3, 50, 70)
    needed, taken = [], []
    for limits in ((64, 96), (400, 500)):
        model.set_size(*limits)
        needed.append(DetectNeeds(model, scales=False).whole((50, 70)))
        with torch.no_grad():
            taken.append(peak_tensor_bytes(lambda: model([image])))
    assert needed[1] - needed[0] >= taken[1] - taken[0] > 10**6


PEAK = """
import sys
from pathlib import Path
from anyres.predict import segment as module
from anyres.predict.config import SegmentConfig
from anyres.predict.segment import segment

def of(name):
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return 1000 * int(line.split()[1])

def measured(*given, _whole=module.entries_of, **more):
    Path("/proc/self/clear_refs").write_text("5")
    before = of("VmRSS")
    found = _whole(*given, **more)
    print(of("VmHWM") - before)
    return found

module.entries_of = measured
run, image, out, budget = sys.argv[1:]
config = SegmentConfig(run=Path(run), inputs=(Path(image),), out=Path(out), memory_budget=budget, device="cpu")
print("window" in segment(config, progress=False)[0])
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs the kernel to tell the peak")
def test_a_process_stays_within_the_least_budget_that_is_allowed(tmp_path):
    options = {"width": 48, "heads": 3, "depth": 2, "patch_size": 8, "grid": 4, "head_channels": 16, "num_classes": 5}
    model = Segmenter(SEGMENTER.get_config("unmerge_vitar_small_patch16", **options))
    save(tmp_path, model, name=None, classes=NAMES, training_sizes=[(256, 256)])
    picture = Image.fromarray(pixels(2600, 3900))
    picture.save(tmp_path / "plain.jpg")
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    picture.save(tmp_path / "turned.jpg", exif=exif)
    Image.merge("RGBA", (*picture.split(), picture.getchannel(0))).save(tmp_path / "alpha.png", compress_level=1)
    picture.crop((0, 0, 1500, 1300)).save(tmp_path / "whole.png")
    needs = SegmentNeeds(model, Inference(), None, [(256, 256)])
    budgets = {"whole.png": needs.whole((1300, 1500))}
    for name in ("plain.jpg", "turned.jpg", "alpha.png"):
        config = SegmentConfig(run=tmp_path, inputs=(tmp_path / name,), out=tmp_path / "out", memory_budget="1MB")
        with pytest.raises(ValueError, match="allowed: at least that") as refused:
            segment(config, progress=False)
        budgets[name] = parse_bytes(re.search(r"needs (\S+);", str(refused.value))[1])
    for name, budget in budgets.items():
        arguments = [str(tmp_path), str(tmp_path / name), str(tmp_path / "out"), f"{budget}B"]
        done = subprocess.run([sys.executable, "-c", PEAK, *arguments], capture_output=True, text=True, check=True)
        peak, by_windows = done.stdout.split()
        assert int(peak) < budget, (name, budget, done.stdout)
        assert by_windows == str(name != "whole.png")


def test_the_memory_of_windows_does_not_grow_with_the_height(labeller):
    needs = SegmentNeeds(load(labeller, Segmenter)[0], Inference(), None, [(24, 24)])
    assert needs.windows((10**6, 400), (24, 24), 1) == needs.windows((2 * 10**6, 400), (24, 24), 1)


def test_windows_of_a_detector_see_pixels_as_they_are(finder, tmp_path, monkeypatch):
    seen = []

    def looked(model, images, device):
        seen.extend((tuple(image.shape[-2:]), model.transform.limits) for image in images)
        return rectangles_in(model, images, device)

    monkeypatch.setattr(finder_module, "objects_in", looked)
    tifffile.imwrite(tmp_path / "x.tif", pixels(150, 200), photometric="rgb", tile=(32, 32))
    config = DetectConfig(
        run=finder, inputs=(tmp_path / "x.tif",), out=tmp_path / "a", device="cpu", max_pixels=99, threshold=0.0
    )
    (entry,) = find_objects(config, progress=False)
    assert entry["window"] == [64, 96] and set(seen) == {((64, 96), (64, 96))}


@pytest.mark.parametrize("kind", [SegmentConfig, DetectConfig])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inputs": ()}, "no inputs"),
        ({"window": "sometimes"}, "window: cannot read 'sometimes'.*or auto, or none"),
        ({"memory_budget": "much"}, "cannot read 'much' as memory"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"max_pixels": 0}, "max_pixels is 0"),
    ],
)
def test_impossible_settings_are_refused(kind, changes, message, tmp_path):
    assert issubclass(kind, LookOptions)
    with pytest.raises(ValueError, match=message):
        kind(**({"run": tmp_path, "inputs": (tmp_path,), "out": tmp_path / "out"} | changes))
