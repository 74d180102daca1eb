"""Folders of masks, what is refused of them, and batches that follow from seed and step alone."""

import numpy as np
import pytest
import torch
from PIL import Image

from anyres.data.augment import SegmentAugment
from anyres.data.class_survey import survey
from anyres.data.schedule import ResolutionSchedule
from anyres.data.segmentation import IGNORE, Labelled, SegmentationFolder, class_names, described, read_mask
from anyres.data.segmentation_stream import SegmentationStream, augmented, bounded_aspect_size, resized_labelled
from anyres.errors import UnreadableImageError
from anyres.seeds import key, seeded
from anyres.spacing import evenly_spaced

STILL = SegmentAugment(scale=(1.0, 1.0), cat_max_ratio=1.0, hflip=0.0, photometric=False)
ZERO, ONE = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)


def add(root, name, labels, *, image=None, split="training"):
    """An image whose red channel is its labels, and its mask."""
    labels = np.asarray(labels, dtype=np.uint8)
    height, width = labels.shape if image is None else image
    for kind, suffix in (("images", "jpg"), ("annotations", "png")):
        (root / kind / split / name).parent.mkdir(parents=True, exist_ok=True)
        path = root / kind / split / f"{name}.{suffix}"
        if kind == "annotations":
            Image.fromarray(labels).save(path)
        else:
            Image.new("RGB", (width, height), (9, 99, 199)).save(path, quality=95)
    return root / "annotations" / split / f"{name}.png"


@pytest.fixture
def root(tmp_path):
    random = np.random.default_rng(3)
    for index, size in enumerate([(13, 9), (8, 21), (30, 7)]):
        add(tmp_path, f"{'deep/' if index else ''}{index}", random.integers(0, 4, size))
    return tmp_path


def folder(root, **changes):
    return SegmentationFolder(root, **({"split": "train", "num_classes": 4} | changes))


def test_images_and_masks_are_found_together(root):
    found = folder(root)
    assert [path.name for path in found.paths] == ["0.jpg", "1.jpg", "2.jpg"] and found.skipped == []
    assert [path.relative_to(root / "annotations/training").as_posix() for path in found.masks] == [
        "0.png", "deep/1.png", "deep/2.png",
    ]  # fmt: skip
    for index, mask in enumerate(found.masks):
        labelled = found.read(index)
        assert np.array_equal(np.array(labelled.labels), np.array(Image.open(mask)))
        assert labelled.image.size == labelled.labels.size
    digest = found.digest()
    (root / "images/training").rename(root / "images/train")
    (root / "annotations/training").rename(root / "annotations/train")
    assert folder(root).digest() == digest
    add(root, "3", np.ones((2, 2)), split="train")
    assert folder(root).digest() != digest


def test_a_zero_label_is_ignored_and_the_others_count_from_zero(tmp_path):
    add(tmp_path, "a", [[0, 1, 2], [4, 255, 3]])
    add(tmp_path, "b", [[1]])
    labels = np.array(folder(tmp_path, reduce_zero_label=True).read(0).labels)
    assert labels.tolist() == [[IGNORE, 0, 1], [3, IGNORE, 2]]
    with pytest.raises(UnreadableImageError, match="1 pixels have labels 4; allowed: 0 to 3; 255 is ignored"):
        folder(tmp_path).read(0)
    with pytest.raises(UnreadableImageError, match="2 pixels have labels 3, 4; allowed: 1 to 2; 0 and 255 are ignored"):
        folder(tmp_path, num_classes=2, reduce_zero_label=True).read(0)


@pytest.mark.parametrize("mode", ["L", "P", "I;16"])
def test_masks_keep_their_numbers(tmp_path, mode):
    labels = np.array([[0, 3, 200], [1, 255, 7]])
    mask = Image.fromarray(labels.astype(np.uint16 if mode == "I;16" else np.uint8))
    if mode == "P":
        mask.putpalette([7, 7, 7] * 256)
    mask.save(tmp_path / "mask.png")
    assert np.array_equal(read_mask(tmp_path / "mask.png"), labels)


def test_what_cannot_be_used_is_counted_and_named(root):
    add(root, "large", np.zeros((5, 6)), image=(5, 7))
    add(root, "lonely", np.zeros((5, 6))).unlink()
    add(root, "torn", np.zeros((5, 6))).write_bytes(b"no image")
    found = folder(root)
    assert len(found) == 3
    reasons = dict(found.skipped)
    wanted = {"large": "a mask of 5x6 pixels for an image of 5x7", "lonely": "no mask .*lonely.png", "torn": "torn.png"}
    for name, reason in wanted.items():
        with pytest.raises(ValueError, match=reason):
            raise ValueError(reasons[root / f"images/training/{name}.jpg"])
    assert described(found.skipped, 6).startswith("3 of 6 images cannot be used:\n")
    with pytest.raises(ValueError, match="3 of 6 images cannot be used"):
        folder(root, strict=True)
    for mask in found.masks:
        mask.unlink()
    with pytest.raises(ValueError, match="6 of 6 images cannot be used:(.|\n)*and 1 more"):
        folder(root)


def test_colours_and_photos_on_their_side_are_reported_when_read(tmp_path):
    path = add(tmp_path, "a", np.zeros((5, 6)))
    add(tmp_path, "b", np.zeros((5, 6)))
    Image.new("RGB", (6, 5)).save(path)
    with pytest.raises(UnreadableImageError, match="a mask of mode RGB; allowed: one channel"):
        folder(tmp_path).read(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (5, 6)).save(tmp_path / "images/training/a.jpg", exif=exif)
    Image.new("L", (5, 6)).save(path)
    with pytest.raises(UnreadableImageError, match="a mask of 6x5 pixels for an image of 5x6"):
        folder(tmp_path).read(0)
    Image.new("L", (6, 5)).save(path)
    assert folder(tmp_path).read(0).image.size == (6, 5)


def test_impossible_folders_are_refused(root):
    with pytest.raises(ValueError, match="no folder .*images/validation; expected are"):
        folder(root, split="val")
    for count, reduced in ((1, False), (256, False), (255, True)):
        with pytest.raises(ValueError, match="allowed: 2 to 25[45]"):
            folder(root, num_classes=count, reduce_zero_label=reduced)
    (root / "images/train").mkdir()
    with pytest.raises(ValueError, match="exist; allowed: one of them"):
        folder(root)
    assert class_names(root, 3) == ("0", "1", "2")
    assert class_names(root, 3, reduce_zero_label=True) == ("1", "2", "3")
    (root / "classes.txt").write_text("sky\nsea\n\n")
    assert class_names(root, 2) == ("sky", "sea")
    with pytest.raises(ValueError, match="names 2 classes; num_classes is 3"):
        class_names(root, 3)


def labelled(height, width):
    """An image whose three channels are its labels."""
    labels = np.random.default_rng(0).integers(0, 200, (height, width), dtype=np.uint8)
    return Labelled(Image.fromarray(np.repeat(labels[..., None], 3, 2)), Image.fromarray(labels))


def plain(found, size, augment, seed):
    with seeded(seed):
        return augmented(found, size, augment, ZERO, ONE)


@pytest.mark.parametrize("shape", [(20, 20), (31, 20), (20, 53)])
def test_image_and_labels_stay_together(shape):
    found = labelled(*shape)
    flips = SegmentAugment(scale=(1.0, 1.0), cat_max_ratio=1.0, hflip=0.5, photometric=False)
    pixels, seen = np.array(found.labels), set()
    for seed in range(20):
        image, labels = plain(found, (20, 20), flips, seed)
        assert image.shape == (3, 20, 20) and labels.shape == (20, 20)
        assert torch.equal((image[0] * 255).round().to(torch.uint8), labels)
        places = [
            (flipped, top, left)
            for flipped in (False, True)
            for top in range(shape[0] - 19)
            for left in range(shape[1] - 19)
            if np.array_equal(labels.numpy()[:, ::-1] if flipped else labels.numpy(),
                              pixels[top : top + 20, left : left + 20])
        ]  # fmt: skip
        assert len(places) == 1
        seen.update(places)
    assert len(seen) > (1 if shape == (20, 20) else 12)


def test_what_an_image_lacks_is_padding_without_a_class():
    image, labels = plain(labelled(10, 30), (20, 36), SegmentAugment(scale=(0.5, 0.5), photometric=False), 1)
    assert (labels[:10, :30] != IGNORE).all() and (labels[10:] == IGNORE).all() and (labels[:, 30:] == IGNORE).all()
    assert (image[:, 10:] == 0).all() and (image[:, :, 30:] == 0).all() and image[:, :10, :30].std() > 0.1


def test_sizes_keep_the_aspect():
    def size_of(height, width, *size, factor=1.0):
        return bounded_aspect_size((height, width), min(size), factor)

    assert size_of(10, 30, 20, 36) == (20, 60)
    assert size_of(30, 10, 20, 36, factor=0.5) == (30, 10)
    assert size_of(10, 100, 512, 512) == (205, 2048)  # (2048, 512) of mmsegmentation
    assert size_of(1, 1000, 8, 8, factor=0.5) == (1, 16)
    doubled = resized_labelled(labelled(3, 4), (6, 8))
    assert np.array_equal(np.array(doubled.labels), np.array(labelled(3, 4).labels).repeat(2, 0).repeat(2, 1))


def test_a_crop_of_one_class_is_drawn_anew():
    labels = np.zeros((20, 80), dtype=np.uint8)
    labels[:, 60:], labels[:10, :] = 1, IGNORE
    found = Labelled(Image.new("RGB", (80, 20)), Image.fromarray(labels))
    shares = {}
    for most in (1.0, 0.75):
        augment = SegmentAugment(scale=(1.0, 1.0), cat_max_ratio=most, hflip=0.0, photometric=False)
        crops = [plain(found, (20, 20), augment, seed)[1] for seed in range(60)]
        shares[most] = np.mean([((crop == 0).sum() / (crop != IGNORE).sum()).item() in (0.0, 1.0) for crop in crops])
    assert shares[1.0] > 0.5 and shares[0.75] < 0.3


def test_colours_change_and_labels_do_not():
    found, bright = labelled(16, 16), SegmentAugment(scale=(1.0, 1.0), cat_max_ratio=1.0, hflip=0.0)
    still, labels = plain(found, (16, 16), STILL, 0)
    tinted = [plain(found, (16, 16), bright, seed) for seed in range(8)]
    assert sum(not torch.equal(image, still) for image, _ in tinted) >= 5
    assert all(torch.equal(each, labels) for _, each in tinted)


@pytest.fixture
def stream(root):
    def made(**changes):
        settings = {
            "batch_size": 4, "schedule": ResolutionSchedule([(12, 12), (9, 16)], 5), "augment": SegmentAugment(),
            "mean": ZERO, "std": ONE, "seed": 5,
        }  # fmt: skip
        return SegmentationStream(folder(root), **(settings | changes))

    return made


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_follow_from_seed_and_step_alone(stream, workers):
    torch.manual_seed(workers)
    batches = list(stream(num_workers=workers).batches(2, 6))
    assert {batch.size for batch in batches} == {(12, 12), (9, 16)}
    for batch in batches:
        again = stream().batch(batch.step)
        assert torch.equal(batch.images, again.images) and torch.equal(batch.labels, again.labels)
        assert torch.equal(batch.keys, again.keys)
        assert batch.images.shape == (4, 3, *batch.size) and batch.labels.shape == (4, *batch.size)
        assert not torch.equal(batch.images, stream(seed=6, schedule=stream().schedule).batch(batch.step).images)


def test_a_position_is_what_it_would_be_in_a_smaller_epoch(stream):
    """Each place of a batch has its own draws: the first one's do not depend on the others."""
    made = stream(schedule=ResolutionSchedule([(12, 12)], 5))
    batch, epoch = made.batch(0), torch.randperm(3, generator=torch.Generator().manual_seed(key(5, 0x5045524D, 0)))
    for position in range(3):
        with seeded(key(5, 0, position)):
            image, labels = augmented(made.folder.read(int(epoch[position])), (12, 12), made.augment, ZERO, ONE)
        assert torch.equal(batch.images[position], image) and torch.equal(batch.labels[position], labels)


def test_a_mask_with_other_labels_is_replaced_and_named(root, stream):
    mask = add(root, "0", np.full((13, 9), 77))
    batch = stream(batch_size=3).batch(0)
    ((path, reason),) = batch.skipped
    assert path.name == "0.jpg" and f"{mask}: 117 pixels have labels 77; allowed: 0 to 3" in reason
    assert set(batch.labels.unique().tolist()) <= {0, 1, 2, 3, IGNORE}
    with pytest.raises(UnreadableImageError, match="labels 77"):
        list(stream(strict=True, num_workers=1).batches(0, 1))
    for name in ("deep/1", "deep/2"):
        add(root, name, np.full((4, 4), 99))
    with pytest.raises(ValueError, match="3 of 3 images cannot be used:(.|\n)*labels 77"):  # before any step
        stream()


def test_a_folder_without_any_known_label_is_refused(tmp_path):
    add(tmp_path, "a", np.full((5, 6), IGNORE))
    with pytest.raises(ValueError, match="1 of 1 images cannot be used:(.|\n)*a.png: no pixel has a known label"):
        folder(tmp_path)
    add(tmp_path, "b", np.zeros((5, 6)))
    with pytest.raises(ValueError, match="2 of 2 images cannot be used"):
        folder(tmp_path, reduce_zero_label=True)
    assert len(folder(tmp_path)) == 2
    (tmp_path / "classes.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="classes.txt is not text in UTF-8"):
        class_names(tmp_path, 4)


def test_images_that_cannot_be_decoded_are_named_even_if_they_are_all(tmp_path):
    add(tmp_path, "a", np.zeros((64, 64)))
    path = tmp_path / "images/training/a.jpg"
    Image.effect_noise((64, 64), 90).save(path)
    path.write_bytes(path.read_bytes()[:-600])  # the header is whole
    stream = SegmentationStream(
        folder(tmp_path), batch_size=1, schedule=ResolutionSchedule([(9, 9)], 0), augment=STILL, mean=ZERO, std=ONE,
        seed=0,
    )  # fmt: skip
    with pytest.raises(ValueError, match="none of the 1 images .* can be read; the first: .*a.jpg"):
        stream.batch(0)


@pytest.mark.parametrize("changes", [{"scale": (2, 1)}, {"scale": (0, 1)}, {"cat_max_ratio": 0}, {"hflip": 1.5}])
def test_impossible_augmentation_is_refused(changes):
    with pytest.raises(ValueError, match=f"{next(iter(changes))} is .*; allowed"):
        SegmentAugment(**changes)


BLACK_AND_WHITE = [[0, 255, 0], [255, 255, 0]]


def test_black_and_white_masks_are_refused_until_somebody_says_what_white_is(tmp_path):
    add(tmp_path, "a", BLACK_AND_WHITE)
    add(tmp_path, "b", np.zeros((4, 5)))
    with pytest.raises(ValueError, match=r"all 2 .*hold 0 and 255, .*class 1 has no pixel; .*--mask-values 0 255"):
        folder(tmp_path, num_classes=2)
    white = folder(tmp_path, num_classes=2, mask_values=(0, 255))
    assert np.array(white.read(0).labels).tolist() == [[0, 1, 0], [1, 1, 0]] and white.survey.absent == ()
    unknown = folder(tmp_path, num_classes=2, mask_values=(0, 1))
    assert np.array(unknown.read(0).labels).tolist() == BLACK_AND_WHITE and unknown.survey.absent == (1,)
    assert np.array(folder(tmp_path, num_classes=2, mask_values=(255, 0)).read(0).labels).tolist() == [
        [1, 0, 1], [0, 0, 1],
    ]  # fmt: skip
    add(tmp_path, "c", [[1, 0]])
    assert folder(tmp_path, num_classes=2).survey.absent == ()


def test_stored_values_become_labels_by_their_place(tmp_path):
    add(tmp_path, "a", [[7, 70], [255, 0]])
    found = folder(tmp_path, num_classes=3, mask_values=(70, 0, 7)).read(0)
    assert np.array(found.labels).tolist() == [[2, 0], [IGNORE, 1]]
    with pytest.raises(ValueError, match="1 pixels have labels 7; allowed: 70, 0, 9; 255 is ignored$"):
        folder(tmp_path, num_classes=3, mask_values=(70, 0, 9))
    with pytest.raises(ValueError, match="labels 7, 70; allowed: 0 to 2; 255 is ignored; .*mask_values"):
        folder(tmp_path, num_classes=3)
    Image.fromarray(np.array([[65535, 3], [255, 300]], dtype=np.uint16)).save(tmp_path / "annotations/training/a.png")
    found = folder(tmp_path, num_classes=3, mask_values=(3, 300, 65535)).read(0)
    assert np.array(found.labels).tolist() == [[2, 0], [IGNORE, 1]]
    assert class_names(tmp_path, 3, mask_values=(3, 300, 65535)) == ("3", "300", "65535")
    for values in ((0,), (0, 1, 1), (0, 1, -1), (0, 1, 65536), (0, 1, True)):
        with pytest.raises(ValueError, match="mask_values is .*; allowed: 3 different whole numbers from 0 to 65535"):
            folder(tmp_path, num_classes=3, mask_values=values)
    with pytest.raises(ValueError, match="reduce_zero_label is True but has no effect"):
        folder(tmp_path, num_classes=3, mask_values=(1, 2, 3), reduce_zero_label=True)


def test_classes_without_a_pixel_are_found_by_a_look_at_evenly_spaced_masks(tmp_path):
    for index in range(7):
        add(tmp_path, str(index), np.full((3, 3), index % 3))
    seen = folder(tmp_path, num_classes=4).survey
    assert (seen.looked_at, seen.of, seen.absent) == (7, 7, (3,))
    assert seen.report("there", "abcd") == ["No pixel in 7 masks in there is of class d."]
    assert folder(tmp_path, num_classes=3).survey.looked_at == 3  # no further than the last class
    read = []

    def labels_of(index):
        read.append(index)
        return np.full((2, 2), len(read) % 2, dtype=np.uint8)

    far = survey(labels_of, 10**6, 9, IGNORE, most=5)
    assert read == evenly_spaced(10**6, 5) and not far.is_of_all
    assert far.report("there", "abcdefghi") == [
        "No pixel in the 5 of 1000000 masks that were looked at in there is of classes c, d, e, f, g and 2 more."
    ]
