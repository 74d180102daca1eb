"""One way to write files: whole or as they were before, with the usual permissions, beside other writers."""

import errno
import os
import resource
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from anyres.files import (
    check_file,
    check_folder,
    is_lfs_pointer,
    naming,
    read_json,
    write_atomically,
    write_json,
    write_text,
)


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
@pytest.mark.parametrize("old", [None, b"old"])
def test_a_write_that_fails_changes_nothing(tmp_path, error, old):
    path = tmp_path / "file"
    if old is not None:
        path.write_bytes(old)

    def fail_halfway(file):
        file.write(b"ne")
        raise error

    with pytest.raises(type(error)):
        write_atomically(path, fail_halfway)
    assert [entry.read_bytes() for entry in tmp_path.iterdir()] == [old] * (old is not None)


def test_writers_of_one_path_do_not_meet(tmp_path):
    path, seen = tmp_path / "file", []

    def slowly(file):
        file.write(b"sl")
        write_atomically(path, lambda other: other.write(b"quick"))
        seen.append(path.read_bytes())
        file.write(b"ow")

    write_atomically(path, slowly)
    assert seen == [b"quick"] and path.read_bytes() == b"slow"
    assert list(tmp_path.iterdir()) == [path]


def test_the_permissions_are_the_usual_ones(tmp_path):
    (tmp_path / "plain").write_bytes(b"")
    write_atomically(tmp_path / "file", lambda file: None)
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_the_content_is_on_disk_before_the_name_and_the_name_before_the_return(tmp_path, monkeypatch):
    calls = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *given, name=name, real=real: (calls.append(name), real(*given)))
    write_atomically(tmp_path / "file", lambda file: file.write(b"new"))
    assert calls == ["fsync", "replace", "fsync"]


def test_a_missing_folder_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        write_atomically(tmp_path / "nowhere" / "file", lambda file: None)


def test_json_is_read_back_as_it_was_written_also_names_that_are_no_text(tmp_path):
    content = {"name": "Überlingen", "path": "a\udcff.png", "sizes": [[32, 48]]}
    for indent in (1, None):
        write_json(tmp_path / "a.json", content, indent=indent)
        assert read_json(tmp_path / "a.json", "a file", remedy="delete it") == content
    assert "Überlingen" in (tmp_path / "a.json").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"{", "Expecting"), (b"\xff", "decode"), (b"[1]", "no JSON object"), (b'{"a": 1}', "b, c missing")],
)
def test_json_that_is_something_else_names_the_file_the_reason_and_the_remedy(tmp_path, content, reason):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"a\.json is not a list of apples \(.*{reason}.*\); delete it$"):
        read_json(path, "a list of apples", keys=("a", "b", "c"), remedy="delete it")


@contextmanager
def files_of_at_most(length):
    """As on a full disk: the system refuses to write more to any file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (length, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    "write", [lambda file: file.write(bytes(10**6)), lambda file: torch.save({"a": torch.zeros(10**6)}, file)]
)
def test_a_full_disk_names_the_file_whatever_the_writer_makes_of_it_and_leaves_the_old_one(tmp_path, write):
    path = tmp_path / "file.pt"
    path.write_bytes(b"old")
    with files_of_at_most(4096), pytest.raises(OSError, match="cannot be written .File too large.*file.pt") as caught:
        write_atomically(path, write)
    assert caught.value.errno == errno.EFBIG and caught.value.filename == str(path)
    assert [entry.read_bytes() for entry in tmp_path.iterdir()] == [b"old"]


def no_room(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_disk_that_is_full_when_the_content_is_to_be_there_is_named_too(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", no_room)
    with pytest.raises(OSError, match="cannot be written .No space left on device") as caught:
        write_atomically(path, lambda file: file.write(b"new"))
    assert caught.value.errno == errno.ENOSPC and caught.value.filename == str(path)
    assert [entry.read_bytes() for entry in tmp_path.iterdir()] == [b"old"]
    with pytest.raises(OSError, match="log"), naming(tmp_path / "log"):
        no_room()


def test_an_error_of_reading_while_a_file_is_written_stays_what_it_is(tmp_path):
    def read_and_write(file):
        file.write((tmp_path / "missing").read_bytes())

    with pytest.raises(FileNotFoundError, match="missing"):
        write_atomically(tmp_path / "file", read_and_write)


def test_the_longest_name_that_a_folder_takes_can_be_written(tmp_path):
    path = tmp_path / ("n" * 251 + ".csv")
    write_text(path, "text")
    assert path.read_text() == "text"


def test_text_keeps_names_that_are_no_text_as_their_bytes(tmp_path):
    write_text(tmp_path / "a.csv", f"Überlingen,{os.fsdecode(b'caf' + bytes([0xE9]))}")
    assert (tmp_path / "a.csv").read_bytes() == "Überlingen,caf".encode() + b"\xe9"
    write_text(tmp_path / "a.csv", "half a letter: \ud83d")  # as Windows has it


@pytest.mark.parametrize(("check", "kind"), [(check_file, "file"), (check_folder, "folder")])
def test_a_place_where_nothing_can_be_written_is_found_out_at_once(tmp_path, monkeypatch, check, kind):
    (tmp_path / "file").write_bytes(b"")
    before = sorted(tmp_path.iterdir())
    check("out", tmp_path / "new")
    check("out", tmp_path / "not" / "there" / "yet")
    monkeypatch.chdir(tmp_path)
    check("out", Path("new"))
    assert sorted(tmp_path.iterdir()) == before  # nothing is left behind
    for below in ("file/new", "file/new/newer"):
        with pytest.raises(ValueError, match=f"out is .*{below}, but .*file is no folder"):
            check("out", tmp_path / below)
    with pytest.raises(ValueError, match="out is the folder" if kind == "file" else "out is .*file, which is a file"):
        check("out", tmp_path if kind == "file" else tmp_path / "file")
    monkeypatch.setattr(Path, "touch", lambda *_, **__: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
    with pytest.raises(ValueError, match=r"out is .*new, but nothing can be written in .* \(Permission denied\)"):
        check("out", tmp_path / "new")


def test_a_folder_that_cannot_be_made_is_found_out(tmp_path):
    with pytest.raises(ValueError, match="results is /proc/self/new/a.json, but nothing can be written in /proc"):
        check_file("results", Path("/proc/self/new/a.json"))


def test_a_pointer_of_git_lfs_is_called_that(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")
    assert is_lfs_pointer(path)
    with pytest.raises(
        ValueError, match="a.json is a Git LFS pointer, not the file itself; fetch it with git lfs pull"
    ):
        read_json(path, "a list of apples", remedy="delete it")
    path.write_text("{}")
    assert not is_lfs_pointer(path)
