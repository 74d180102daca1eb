import os

import pytest

from anyres.data.folder import ImageFiles, ImageFolder, find_images


def touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def test_classes_labels_and_order(tmp_path):
    touch(tmp_path, "b/2.JPG", "b/1.png", "a/deep/er/9.tiff", "a/0.webp", "b/._1.png", "b/notes.txt", "b/.git/3.png",
          ".cache/5.png", "loose.png")  # fmt: skip
    folder = ImageFolder(tmp_path)
    assert folder.classes == ("a", "b") and folder.root == tmp_path and len(folder) == 4
    names = [str(path.relative_to(tmp_path)) for path in folder.paths]
    assert names == ["a/0.webp", "a/deep/er/9.tiff", "b/1.png", "b/2.JPG"]
    assert folder.labels == [0, 0, 1, 1]


def test_the_digest_is_of_the_names_and_lengths_below_the_folder(tmp_path):
    touch(tmp_path, "one/a/1.png", "one/b/2.png", "two/a/1.png", "two/b/2.png")
    one, two = (ImageFolder(tmp_path / name).digest() for name in ("one", "two"))
    assert one == two and len(one) == 16
    (tmp_path / "two/b/2.png").write_bytes(b"another image")
    assert ImageFolder(tmp_path / "two").digest() != one
    touch(tmp_path, "one/b/3.png")
    assert ImageFolder(tmp_path / "one").digest() != one


def test_demanded_classes_set_the_labels(tmp_path):
    touch(tmp_path, "a/1.png", "b/1.png")
    folder = ImageFolder(str(tmp_path), classes=["b", "a"])
    assert folder.classes == ("b", "a")
    assert [path.parent.name for path in folder.paths] == ["b", "a"] and folder.labels == [0, 1]
    with pytest.raises(ValueError, match="missing: c; extra: b"):
        ImageFolder(tmp_path, classes=["a", "c"])
    with pytest.raises(ValueError, match="once"):
        ImageFolder(tmp_path, classes=["a", "a", "b"])


def test_bad_folders(tmp_path):
    touch(tmp_path, "set/train/a/1.png", "set/val/a/1.png", "empty/a/1.png", "empty/b/readme.txt", "flat/1.png")
    with pytest.raises(ValueError, match="no such folder.*Did you mean 'flat'"):
        ImageFolder(tmp_path / "flaat")
    with pytest.raises(ValueError, match="nor is there"):
        ImageFolder(tmp_path / "x" / "y")
    with pytest.raises(ValueError, match="no class folders"):
        ImageFolder(tmp_path / "flat")
    with pytest.raises(ValueError, match="no images in class folder 'b'"):
        ImageFolder(tmp_path / "empty")
    with pytest.raises(ValueError, match="give .*set.train"):
        ImageFolder(tmp_path / "set")


def test_images_without_labels_are_found_at_any_depth(tmp_path):
    touch(tmp_path, "b/2.png", "a.png", "b/deep/er/1.JPG", "b/._2.png", "notes.txt", ".cache/5.png")
    files = ImageFiles(tmp_path)
    assert [str(path.relative_to(tmp_path)) for path in files.paths] == ["a.png", "b/2.png", "b/deep/er/1.JPG"]
    assert files.labels == [0, 0, 0] and len(files) == 3 and files.root == tmp_path
    touch(tmp_path / "same", "a.png", "b/2.png", "b/deep/er/1.JPG")
    before = files.digest()
    assert ImageFiles(tmp_path / "same").digest() == before
    touch(tmp_path / "same", "c.png")
    assert ImageFiles(tmp_path / "same").digest() != before
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match="no images below .*none; allowed: files ending in"):
        ImageFiles(tmp_path / "none")
    with pytest.raises(ValueError, match="no such folder.*Did you mean 'same'"):
        ImageFiles(tmp_path / "sane")


def test_find_images(tmp_path):
    touch(tmp_path, "x/2.png", "x/1.png", "x/y/3.jpg", "x/z.txt", "odd.dat", "none/a.txt")
    found = find_images([tmp_path / "odd.dat", tmp_path / "x", tmp_path / "x" / "1.png"])
    assert [str(path.relative_to(tmp_path)) for path in found] == ["odd.dat", "x/1.png", "x/2.png", "x/y/3.jpg"]
    assert find_images([]) == []
    with pytest.raises(ValueError, match="no images below"):
        find_images([tmp_path / "none"])
    with pytest.raises(ValueError, match="no such file or folder"):
        find_images([tmp_path / "x" / "4.png"])


def test_links_are_followed_and_loops_end(tmp_path):
    touch(tmp_path, "real/1.png", "other/2.png")
    os.symlink(tmp_path / "real", tmp_path / "real" / "loop")
    os.symlink(tmp_path / "other", tmp_path / "real" / "linked")
    assert [path.name for path in find_images([tmp_path / "real"])] == ["1.png", "2.png"]


@pytest.mark.parametrize("kind", [ImageFiles, ImageFolder])
def test_a_file_in_place_of_a_folder_is_called_so(tmp_path, kind):
    touch(tmp_path, "u/notes.txt", "u/1.png")
    for given in ("u/notes.txt", "u/notes.txt/train"):
        with pytest.raises(ValueError, match="notes.txt is a file; give a folder, such as .*u$") as caught:
            kind(tmp_path / given)
        assert "Did you mean" not in str(caught.value)


def test_the_digest_of_what_cannot_be_read(tmp_path):
    touch(tmp_path, "one/1.png")
    digests = [ImageFiles(tmp_path / "one").digest()]
    os.symlink(tmp_path / "nowhere", tmp_path / "one" / "2.png")
    digests.append(ImageFiles(tmp_path / "one").digest())
    with open(os.fsencode(tmp_path / "one") + b"/\xff.png", "wb"):  # no UTF-8
        pass
    digests.append(ImageFiles(tmp_path / "one").digest())
    assert len(set(digests)) == 3 and len(ImageFiles(tmp_path / "one")) == 3


def test_runs_below_a_folder_are_passed_over(tmp_path):
    run = ("train.json", "log.jsonl", "reconstructions/step-000002.png", "deep/er/1.png")
    touch(tmp_path, "v/1.png", "v/a/2.png", *(f"v/run/{name}" for name in run), *(f"v/a/run/{name}" for name in run))
    assert [path.name for path in ImageFiles(tmp_path / "v").paths] == ["1.png", "2.png"]
    assert ImageFolder(tmp_path / "v").classes == ("a",) and len(ImageFolder(tmp_path / "v")) == 1
    assert len(find_images([tmp_path / "v" / "run"])) == 2  # named outright
    touch(tmp_path, "coco/set/train.json", "coco/set/images/1.png")  # of another kind
    assert len(ImageFiles(tmp_path / "coco")) == 1


class Counted(int):
    """A number that counts how often it is compared."""

    compared = 0

    def __eq__(self, other):
        type(self).compared += 1
        return int(self) == int(other)

    __hash__ = int.__hash__


@pytest.mark.parametrize("count", [60, 600])
def test_a_share_looks_at_each_label_once_however_many_classes_there_are(tmp_path, count):
    touch(tmp_path, *(f"{label:03}/{image}.png" for label in range(count // 6) for image in range(6)))
    folder = ImageFolder(tmp_path)
    folder.labels = [Counted(label) for label in folder.labels]
    Counted.compared = 0
    assert len(folder.share(0.5, 3)) == count // 2
    assert Counted.compared <= count
