"""Files that are either whole or as they were before."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import BufferedWriter, FileIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from PIL.Image import Image

LFS_POINTER = "is a Git LFS pointer, not the file itself; fetch it with git lfs pull"
_LFS_START = b"version https://git-lfs"


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Calls write(file) on a temporary neighbour and puts it in place of `path` in one step.

    Whenever the machine stops, `path` holds the old content or the new one, never a part: the content is on disk
    before the name changes, and the changed name is on disk before this returns. Processes that write the same path
    at once do not meet: the last to finish wins. Nothing is left behind if `write` fails; a process that is killed
    while writing leaves a hidden file `.NAME.*.tmp`, which may be deleted.

    Raises:
        OSError: what the system says of a full disk, say, naming `path`; whoever calls `write` in between may have told
            it in other words.
    """
    # Not tempfile: its files are for their owner alone, and these are to have the usual permissions.
    temporary = path.with_name(_temporary_name(path.name))
    try:
        raw = _Watched(temporary, "x")
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        with BufferedWriter(raw) as file:
            write(file)
            file.flush()
            raw.sync()
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if raw.failure is not None and isinstance(error, Exception):
            raise _unwritable(path, raw.failure) from error
        raise
    if hasattr(os, "O_DIRECTORY"):  # Windows cannot open a folder, and needs no sync of it
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


class _Watched(FileIO):
    """Keeps why it could not be written: torch.save tells of a full disk as an unexpected position."""

    failure: OSError | None = None

    def write(self, data: Any) -> int:
        with self._noting():
            return super().write(data)

    def sync(self) -> None:
        """On disk when this returns."""
        with self._noting():
            os.fsync(self.fileno())

    @contextmanager
    def _noting(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.failure = error
            raise


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """An error of writing to a file that is open already names it, which the system's own does not."""
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            raise
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> OSError:
    """Of the same kind, by its number."""
    reason = f"cannot be written ({error.strerror or error})"
    return OSError(error.errno, reason, str(path)) if error.errno else OSError(f"{path} {reason}")


def _temporary_name(name: str) -> str:
    return f".{name[:40]}.{secrets.token_hex(4)}.tmp"  # cut, since systems have a longest name


def check_file(option: str, path: Path) -> None:
    """That a file can be written, found out before the work that ends with it. Nothing is left behind.

    Its folder need not be there if it can be made.

    Raises:
        ValueError: naming the option and what is in the way.
    """
    if path.is_dir():
        raise ValueError(f"{option} is the folder {path}; allowed: a file, such as {path / 'out'}{path.suffix}")
    _check_place(option, path, path.absolute().parent)


def demand_folder_of(option: str, path: Path) -> None:
    """ValueError unless the folder of a file is there."""
    folder = path.absolute().parent
    if not folder.is_dir():
        raise ValueError(f"{option} is {path}, but there is no folder {folder}; allowed: names in an existing folder")


def check_folder(option: str, path: Path) -> None:
    """The same of a folder that files will be written into."""
    if path.exists() and not path.is_dir():
        raise ValueError(f"{option} is {path}, which is a file; give a folder")
    _check_place(option, path, path.absolute())


def _check_place(option: str, path: Path, folder: Path) -> None:
    """ValueError unless something can be made in the folder, or in the nearest that is there above it."""
    nearest = next(each for each in (folder, *folder.parents) if os.path.lexists(each))
    if not nearest.is_dir():
        raise ValueError(f"{option} is {path}, but {nearest} is no folder; give a place in one")
    temporary = nearest / _temporary_name(path.name)
    try:
        temporary.touch(exist_ok=False)
        temporary.unlink()
    except OSError as error:
        raise ValueError(
            f"{option} is {path}, but nothing can be written in {nearest} ({error.strerror}); give a place in another "
            "folder"
        ) from error


def write_bytes(path: Path, content: bytes) -> None:
    """Content that is in memory already, atomically."""
    write_atomically(path, lambda file: file.write(content))


def write_text(path: Path, text: str) -> None:
    """Text in UTF-8, atomically. Names of files that are no text become the bytes that they are on disk."""
    try:
        content = text.encode(errors="surrogateescape")
    except UnicodeEncodeError:  # Windows, where such names are halves of letters and not bytes
        content = text.encode(errors="surrogatepass")
    write_bytes(path, content)


def write_picture(path: Path, picture: Image) -> None:
    """A PNG, atomically; its folder is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda file: picture.save(file, format="PNG"))


def write_json(path: Path, content: Any, *, indent: int | None = 1) -> None:
    """Plain JSON in UTF-8, atomically; None for `indent` puts all of it on one line."""
    text = json.dumps(content, indent=indent, ensure_ascii=False) + "\n"
    # Names of files that are no text come from the system with surrogates, which UTF-8 does not have. What a
    # backslash replaces them with is JSON's own way to write them, so that they are read back as they were.
    write_bytes(path, text.encode(errors="backslashreplace"))


def read_json(path: Path, what: str, *, keys: Sequence[str] = (), remedy: str) -> dict[str, Any]:
    """The JSON object in a file.

    Args:
        what: the file should be, such as "the settings of a run".
        keys: that it must have.
        remedy: what to do if it is something else.

    Raises:
        ValueError: the file is no JSON object, or lacks a key; names the file, the reason and the remedy.
        OSError: it cannot be read at all.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # of JSON or of the encoding
        if is_lfs_pointer(path):
            raise ValueError(f"{path} {LFS_POINTER}") from error
        raise ValueError(f"{path} is not {what} ({error}); {remedy}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} is not {what} (it holds no JSON object); {remedy}")
    missing = [key for key in keys if key not in found]
    if missing:
        raise ValueError(f"{path} is not {what} ({', '.join(missing)} missing); {remedy}")
    return found


@contextmanager
def named_in_text(path: Path) -> Iterator[Path]:
    """The path of a file, for libraries that open none whose name is no text: a link to it, as long as this lasts."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        with TemporaryDirectory() as folder:
            link = Path(folder, "link" + (path.suffix if path.suffix.isascii() else ""))
            link.symlink_to(path.absolute())
            yield link
    else:
        yield path


def is_lfs_pointer(path: Path | str) -> bool:
    """Whether a file only says where Git LFS keeps the real one."""
    with open(path, "rb") as file:
        return file.read(len(_LFS_START)) == _LFS_START
