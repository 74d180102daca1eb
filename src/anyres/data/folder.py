"""Folders of image files: one folder per class, or any mix of files and folders."""

import copy
import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from anyres.data.decode import IMAGE_SUFFIXES
from anyres.errors import unknown
from anyres.seeds import key

_SPLITS = {"train", "val", "valid", "validation", "test"}
_RUN = {"train.json", "log.jsonl"}  # the files of every run that has begun; both, since COCO may have the first
_SHARE = 0x53484152  # keeps the draws of images apart from all others


class ImageFiles:
    """The image files below a folder, at any depth, without labels; nothing is opened.

    Left out are hidden ones, and the pictures in the folders of runs below it.

    Attributes:
        paths: sorted.
        labels: one 0 for each, since what makes batches asks for them.

    Raises:
        ValueError: no such folder, or no images in it.
    """

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise _missing(self.root, "no such folder")
        self.paths = find_images([self.root])
        self.labels = [0] * len(self.paths)

    def __len__(self) -> int:
        return len(self.paths)

    def digest(self) -> str:
        """Sixteen hexadecimal digits of the files' names below `root` and their lengths, to know other files there."""
        names = [f"{path.relative_to(self.root).as_posix()}\t{_length(path)}\n" for path in self.paths]
        return hashlib.sha256(os.fsencode("".join(names))).hexdigest()[:16]


class ImageFolder(ImageFiles):
    """The image files below root/<class>/, found by suffix, hidden ones left out, nothing opened.

    Args:
        root: a folder with one folder per class; class folders may have folders of their own.
        classes: the classes that must be there, neither more nor fewer, in the order of their labels (those of a
            model, say); by default the sorted names of the folders.

    Attributes:
        classes: names, label i is classes[i].
        paths, labels: one entry per image, sorted by label, then by path.

    Raises:
        ValueError: no such folder, no class folders, a class without images, or classes other than those demanded.
    """

    def __init__(self, root: Path | str, *, classes: Sequence[str] | None = None) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise _missing(self.root, "no such folder")
        found = sorted(entry.name for entry in self.root.iterdir() if _may_be_class(entry))
        if not found:
            raise ValueError(f"{self.root} holds no class folders; allowed: {self.root}/<class name>/<image files>")
        if set(found) <= _SPLITS and any(entry.is_dir() for name in found for entry in (self.root / name).iterdir()):
            raise ValueError(f"{self.root} holds {', '.join(found)} instead of classes: give {self.root / found[0]}")
        if classes is not None:
            _check_classes(self.root, found, classes)
        self.classes: tuple[str, ...] = tuple(classes) if classes is not None else tuple(found)
        self.paths: list[Path] = []
        self.labels: list[int] = []
        empty = []
        for label, name in enumerate(self.classes):
            paths = sorted(_images_below(self.root / name))
            self.paths += paths
            self.labels += [label] * len(paths)
            if not paths:
                empty.append(name)
        if empty:
            raise ValueError(
                f"no images in class folder {', '.join(repr(name) for name in empty)} of {self.root}; "
                f"allowed: files ending in {_suffixes()}"
            )

    def share(self, fraction: float, seed: int) -> "ImageFolder":
        """The folder with this share of the images of every class, rounded, and of each at least one.

        Which they are depends on the seed and on the number of a class' images alone; a smaller share is part of a
        larger one.

        Raises:
            ValueError: a fraction that is not above 0, or above 1.
        """
        if not 0 < fraction <= 1:
            raise ValueError(f"fraction is {fraction}; allowed: above 0 up to 1")
        import torch  # here, so that a list of files is made without it

        by_label: list[list[int]] = [[] for _ in self.classes]
        for place, label in enumerate(self.labels):
            by_label[label].append(place)
        chosen: list[int] = []
        for label, places in enumerate(by_label):
            # the first of a permutation, so that a smaller share is part of a larger one
            drawn = torch.randperm(len(places), generator=torch.Generator().manual_seed(key(seed, _SHARE, label)))
            count = max(1, round(fraction * len(places)))
            chosen += [places[i] for i in sorted(drawn[:count].tolist())]
        part = copy.copy(self)
        part.paths, part.labels = [self.paths[i] for i in chosen], [self.labels[i] for i in chosen]
        return part


def find_images(paths: Iterable[Path | str]) -> list[Path]:
    """The image files of any mix of files and folders, each once, in the order given and sorted within a folder.

    Folders are searched to any depth for the known suffixes, but for the folders of runs that are not named outright;
    a file named outright is taken whatever its suffix.

    Raises:
        ValueError: for a path that does not exist and for a folder without images.
    """
    found: dict[Path, None] = {}
    for path in map(Path, paths):
        if path.is_dir():
            below = sorted(_images_below(path))
            if not below:
                raise ValueError(f"no images below {path}; allowed: files ending in {_suffixes()}")
            found.update(dict.fromkeys(below))
        elif path.exists():
            found[path] = None
        else:
            raise _missing(path, "no such file or folder")
    return list(found)


def _images_below(folder: Path) -> Iterator[Path]:
    seen = set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:  # a link that leads back up
            folders.clear()
            continue
        seen.add(real)
        if set(files) >= _RUN and Path(parent) != folder:
            folders.clear()
            continue
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in files:
            # hidden files include the "._" twins that macOS leaves beside every image
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES:
                yield Path(parent, name)


def _may_be_class(entry: Path) -> bool:
    return entry.is_dir() and not entry.name.startswith(".") and not all((entry / name).is_file() for name in _RUN)


def _length(path: Path) -> int:
    """In bytes; -1 for a link to nothing, which whoever reads it finds unreadable."""
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _check_classes(root: Path, found: Sequence[str], wanted: Sequence[str]) -> None:
    if len(set(wanted)) != len(wanted):
        raise ValueError(f"classes is {tuple(wanted)}; allowed: each once")
    missing, extra = sorted(set(wanted) - set(found)), sorted(set(found) - set(wanted))
    if missing or extra:
        named = (("missing", missing), ("extra", extra))
        parts = [f"{what}: {', '.join(names[:20])}" for what, names in named if names]
        raise ValueError(
            f"the classes of {root} are not those expected ({len(found)} found, {len(wanted)} expected); "
            + "; ".join(parts)
        )


def _missing(path: Path, what: str) -> ValueError:
    file = next((each for each in (path, *path.parents) if each.is_file()), None)
    if file is not None:
        return ValueError(f"{path}: {file} is a file; give a folder, such as {file.parent}")
    parent = path.parent
    if not parent.is_dir():
        return ValueError(f"{what}: {path} (nor is there a folder {parent})")
    siblings = sorted(entry.name for entry in parent.iterdir() if not entry.name.startswith("."))[:1000]
    hint = str(unknown("name", path.name, siblings)) if 0 < len(siblings) <= 20 else ""
    return ValueError(f"{what}: {path}. {hint}".rstrip())


def _suffixes() -> str:
    return ", ".join(sorted(IMAGE_SUFFIXES))
