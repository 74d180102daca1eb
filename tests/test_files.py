"""One way to write files: whole or as they were before, with the usual permissions, beside other writers."""

import os

import pytest

from anyres.files import read_json, write_atomically, write_json


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
