"""COCO files: every encoding of a mask gives the same mask, ids become labels, and bad input is counted or refused."""

import json
import os

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as reference

from anyres.data.coco import CocoImages, _refuse_doubles, find_coco_split
from anyres.data.coco_masks import _run_lengths, check_segmentation, decode_mask, encode_mask

BOX = [2.0, 1.0, 6.0, 4.0]
POLYGON = [[2, 1, 8, 1, 8, 5, 2, 5]]  # the same rectangle
CATEGORIES = [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}, {"id": 90, "name": "owl"}]


def annotation(number, image=1, category=7, **changes):
    return {"id": number, "image_id": image, "category_id": category, "bbox": BOX, "segmentation": POLYGON} | changes


@pytest.fixture
def write(tmp_path):
    """`write(annotations, **changes)`: two images of 9x13 pixels and their annotation file; gives both paths."""

    def written(annotations, **changes):
        images = [{"id": n, "file_name": f"{n}.png", "height": 9, "width": 13} for n in (1, 2)]
        record = {"images": images, "annotations": annotations, "categories": CATEGORIES} | changes
        (tmp_path / "train").mkdir(exist_ok=True)
        for each in images:
            Image.new("RGB", (13, 9)).save(tmp_path / "train" / each["file_name"])
        (tmp_path / "train.json").write_text(json.dumps(record))
        return tmp_path / "train.json", tmp_path / "train"

    return written


def plain_runs(mask):
    """Run lengths down the columns, zeros first, by counting."""
    runs, last = [0], 0
    for value in mask.T.flatten().tolist():
        if value != last:
            runs.append(0)
        last = value
        runs[-1] += 1
    return runs


@pytest.mark.parametrize(("height", "width", "share"), [(1, 1, 1.0), (7, 13, 0.5), (31, 5, 0.0), (64, 301, 0.02)])
def test_run_lengths_plain_and_compressed_are_the_mask(height, width, share):
    mask = (np.random.default_rng(height).random((height, width)) < share).astype(np.uint8)
    size = (height, width)
    compressed = reference.encode(np.asfortranarray(mask))
    for counts in (plain_runs(mask), compressed["counts"], compressed["counts"].decode()):
        given = {"size": [height, width], "counts": counts}
        checked, problem = check_segmentation(given, size)
        assert problem is None and np.array_equal(decode_mask(checked, size), mask)
    assert _run_lengths(compressed["counts"]) == plain_runs(mask)
    encoded = encode_mask(mask)
    assert json.loads(json.dumps(encoded)) == {"size": [height, width], "counts": compressed["counts"].decode()}


def test_polygons_are_filled_and_united():
    size = (9, 13)
    mask = np.zeros(size, dtype=np.uint8)
    mask[1:5, 2:8] = 1
    assert np.array_equal(decode_mask(POLYGON, size), mask)
    mask[6:8, 10:13] = 1
    both = [*POLYGON, [10, 6, 13, 6, 13, 8, 10, 8]]
    assert np.array_equal(decode_mask(both, size), mask)
    assert check_segmentation([*both, [1, 2, 3, 4]], size) == (both, None)  # two corners cover nothing
    theirs = reference.decode(reference.merge(reference.frPyObjects([[1.5, 0.5, 11.2, 3.7, 4.1, 8.9]], *size)))
    assert np.array_equal(decode_mask([[1.5, 0.5, 11.2, 3.7, 4.1, 8.9]], size), theirs)


def test_ids_with_holes_become_labels_and_empty_images_stay(write):
    crowd = {"size": [9, 13], "counts": [0, 9, 108]}  # the first column
    annotations = [annotation(5, area=20.5), annotation(6, category=90), annotation(
        8, category=3, iscrowd=1, bbox=[0, 0, 1, 9], segmentation=crowd
    )]  # fmt: skip
    data = CocoImages(*write(annotations))
    assert data.category_ids == (3, 7, 90) and data.classes == ("dog", "cat", "owl") and len(data) == 2
    target = data.target(0)
    assert target["labels"].tolist() == [2, 3, 1] and target["iscrowd"].tolist() == [0, 0, 1]
    assert target["boxes"].tolist() == [[2, 1, 8, 5], [2, 1, 8, 5], [0, 0, 1, 9]]
    assert target["area"].tolist() == [20.5, 24, 9] and target["masks"].dtype == torch.uint8
    assert target["masks"].flatten(1).sum(1).tolist() == [24, 24, 9] and target["masks"][2, :, 0].all()
    assert data.target(0, crowds=False)["labels"].tolist() == [2, 3]
    empty = data.target(1)
    assert {name: tuple(value.shape) for name, value in empty.items()} == {
        "boxes": (0, 4), "labels": (0,), "area": (0,), "iscrowd": (0,), "masks": (0, 9, 13)
    }  # fmt: skip
    assert "masks" not in CocoImages(*write(annotations), masks=False).target(0)
    assert data.report() == []


def test_boxes_that_do_not_fit_are_clipped_or_dropped_and_counted(write):
    boxes = {
        1: [10, 5, 30, 30], 2: [20, 0, 5, 5], 3: [3, 3, 0, 5], 4: [3, 3, 5, -2], 5: [1, 1, float("nan"), 2],
        6: [-0.4, 0, 13.9, 9.3], 7: [1, 2, 3], 8: [13, 9, 4, 4], 9: [-3, 2, 5, 5], 10: None, 11: ["a", 1, 2, 3],
    }  # fmt: skip
    data = CocoImages(*write([annotation(n, bbox=box) for n, box in boxes.items()]))
    kept = data.target(0)["boxes"]
    assert kept.tolist() == [[10, 5, 13, 9], [0, 0, 13, 9], [0, 2, 2, 7]]
    counts = {what: [name.split()[0] for name in names] for what, names in data.findings.items()}
    assert counts == {
        "boxes that reach over the edge of their image, clipped": ["1", "9"],
        "boxes outside their image, dropped": ["2", "8"],
        "boxes without area, dropped": ["3", "4"],
        "boxes that are not four finite numbers, dropped": ["5", "7", "10", "11"],
    }
    assert any("2 boxes outside their image, dropped: 2 (image 1), 8 (image 1)" in line for line in data.report())


def test_masks_that_cover_nothing_are_dropped_and_odd_areas_replaced(write):
    nothing = [MASK, {"size": [9, 13], "counts": "e3"}, [[14, 1, 20, 1, 20, 5]], [[1, -9, 5, -9, 3, 0]]]
    annotations = [annotation(n, segmentation=mask) for n, mask in enumerate(nothing, start=1)]
    areas = {5: float("nan"), 6: "large", 7: -5, 8: 0, 9: None, 10: 20.5}
    annotations += [annotation(n, area=area) for n, area in areas.items()]
    data = CocoImages(*write(annotations))
    assert data.target(0)["area"].tolist() == [24, 24, 24, 24, 24, 20.5]
    assert {what: len(names) for what, names in data.findings.items()} == {
        "masks that cover nothing, dropped": 4, "areas that are no numbers above 0, replaced by that of the box": 3,
    }  # fmt: skip
    assert not decode_mask(MASK, (9, 13)).any() and not decode_mask(nothing[1], (9, 13)).any()


MASK = {"size": [9, 13], "counts": [117]}


@pytest.mark.parametrize(
    ("annotations", "changes", "message"),
    [
        ([annotation(1), annotation(4, category=8)], {}, "unknown category ids 8; known are 3, 7, 90"),
        ([annotation(1, category="3")], {}, "unknown category ids '3'; known are 3, 7, 90"),
        ([annotation(1, bbox=[1, 1, 10**400, 3])], {}, "not in COCO's format: OverflowError"),
        ([annotation(1, image=5)], {}, "1 annotations are of images that are not listed: 1"),
        ([annotation(1, segmentation=MASK | {"size": [13, 9]})], {}, r"another size than their image: 1 \(image 1\)"),
        ([annotation(1, segmentation=MASK | {"counts": [5, 9]})], {}, "runs do not cover their image"),
        ([annotation(1, segmentation=MASK | {"counts": "PP~"})], {}, "runs do not cover their image"),
        ([annotation(1, segmentation=MASK | {"counts": "zz"})], {}, "runs do not cover their image"),
        ([annotation(1, segmentation=[])], {}, "1 annotations have no mask, which the model option masks=False"),
        ([annotation(1, segmentation=[[1, 2, 3, 4, 5, 6, 7]])], {}, "not three or more pairs"),
        ([annotation(1, segmentation=[[1, 2, 3, 4, 5, float("inf")]])], {}, "not three or more pairs"),
        ([annotation(1, segmentation=[["a"] * 6])], {}, "not three or more pairs"),
        ([annotation(1, segmentation=[[[0, 0]] * 6])], {}, "not three or more pairs"),
        ([annotation(1, segmentation=[[-1e12, 0, 1e12, 0, 1e12, 1e12]])], {}, "corners are far from their image"),
        ([annotation(1, segmentation=MASK | {"counts": ["a", "b"]})], {}, "runs do not cover their image"),
        ([annotation(1, segmentation=MASK | {"size": None})], {}, "another size than their image"),
        ([annotation(1, iscrowd="no")], {}, r"have an iscrowd that is neither 0 nor 1: 1 \(image 1\)"),
        ([annotation(1, segmentation="box")], {}, "neither polygons nor run lengths"),
        ([], {}, "no annotation of a single object"),
        ([annotation(1, iscrowd=1)], {}, "no annotation of a single object"),
        ([annotation(1, bbox=[50, 50, 1, 1])], {}, "no annotation of a single object"),
        ([{"id": 1, "image_id": 1, "category_id": 7}], {}, "not in COCO's format: an entry has no 'bbox'"),
        ([annotation(1)], {"categories": [*CATEGORIES, {"id": 7, "name": "cow"}]}, "categories with the same id: 7"),
        ([annotation(1)], {"images": []}, "images that are not listed"),
        (
            [annotation(1)],
            {"images": [{"id": 1, "file_name": "1.png", "height": "9", "width": 13}]},
            "not in COCO's format: TypeError..'9' is no whole number from 1 up",
        ),
        ([annotation(1)], {"images": [{"id": 1, "file_name": "", "height": 9, "width": 13}]}, "1 of 1 images .*: ''$"),
        ([annotation(1)], {"images": 5}, "needs the lists images, annotations, categories"),
        (
            [annotation(1)],
            {"images": [{"id": n, "file_name": f"a/{n}.png", "height": 9, "width": 13} for n in range(1, 9)]},
            "8 of 8 images in .* are not in .*: a/1.png, a/2.png, .* and 3 more",
        ),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(write, annotations, changes, message):
    with pytest.raises(ValueError, match=message):
        CocoImages(*write(annotations, **changes))


def test_run_lengths_may_tell_their_size_in_floats(write):
    data = CocoImages(*write([annotation(1, segmentation={"size": [9.0, 13.0], "counts": [8, 3, 106]})]))
    assert data.target(0)["masks"].sum() == 3


def test_another_split_must_have_the_same_categories(write):
    paths = write([annotation(1)], categories=CATEGORIES[:1])
    data = CocoImages(*paths, categories={3: "dog", 7: "cat"})
    assert data.classes == ("dog", "cat") and data.target(0)["labels"].tolist() == [2]
    with pytest.raises(ValueError, match=r"categories 7 \(cat\); those of training are 7 \(dog\)"):
        CocoImages(*paths, categories={7: "dog"})


def test_files_that_are_no_annotations(tmp_path):
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
    for text, message in (
        (None, "no such annotation file"),
        ("{", "is not JSON"),
        ("[]", "not in COCO's format"),
        (pointer, "a.json is a Git LFS pointer"),
    ):
        if text is not None:
            (tmp_path / "a.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            CocoImages(tmp_path / "a.json", tmp_path)


def test_names_that_are_no_text_are_those_of_the_files(write):
    annotations, images = write([annotation(1)])
    name = os.fsdecode(b"caf\xe9.png")
    (images / "1.png").rename(images / name)
    content = json.loads(annotations.read_text())
    content["images"][0]["file_name"] = name
    for is_escaped in (True, False):  # as JSON writes them, and as the bytes that the system has
        annotations.write_bytes(os.fsencode(json.dumps(content, ensure_ascii=is_escaped)))
        assert CocoImages(annotations, images).paths[0] == images / name


def test_the_digest_follows_the_annotations(write):
    first = CocoImages(*write([annotation(1)])).digest()
    assert first == CocoImages(*write([annotation(1)])).digest()
    assert first != CocoImages(*write([annotation(1), annotation(2)])).digest()


@pytest.mark.parametrize(
    ("file", "folder"),
    [
        ("annotations/instances_train2017.json", "train2017"),
        ("annotations/instances_train2017.json", "images/train2017"),
        ("annotations/instances_train2017.json", "train"),
        ("annotations/train.json", "images/train"),
        ("train.json", "images"),
    ],
)
def test_where_a_split_is_found(tmp_path, file, folder):
    assert find_coco_split(tmp_path, "train") is None
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text("{}")
    with pytest.raises(ValueError, match="no images for .*; expected is one of .*train"):
        find_coco_split(tmp_path, "train")
    (tmp_path / folder).mkdir(parents=True)
    assert find_coco_split(tmp_path, "train") == (tmp_path / file, tmp_path / folder)
    assert find_coco_split(tmp_path, "val") is None
    (tmp_path / file).with_name((tmp_path / file).name.replace("train", "train_b")).write_text("{}")
    if "annotations" in file:
        with pytest.raises(ValueError, match="several annotation files for train"):
            find_coco_split(tmp_path, "train")
    with pytest.raises(ValueError, match="no such folder"):
        find_coco_split(tmp_path / "nowhere", "train")


class Counted(int):
    """A number that counts how often it is compared."""

    compared = 0

    def __eq__(self, other):
        type(self).compared += 1
        return int(self) == int(other)

    __hash__ = int.__hash__


@pytest.mark.parametrize("count", [500, 4000])
def test_ids_are_compared_a_few_times_each_also_where_they_are_double(count):
    ids = [Counted(each // 2) for each in range(count)]
    Counted.compared = 0
    with pytest.raises(ValueError, match="lists images with the same id: 0, 1, 10, "):
        _refuse_doubles("a.json", "images", ids)
    assert Counted.compared <= 4 * count


def test_classes_without_an_object_are_named(write):
    data = CocoImages(*write([annotation(1), annotation(2, image=2, category=90)]))
    assert data.absent == ("dog",) and data.classes_in([0]) == {"cat"} and data.classes_in([]) == set()
