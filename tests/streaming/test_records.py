"""Records on disk: what is written is read back, and whatever is damaged is named."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load, load_file

from anyres.streaming.record_writer import RecordWriter
from anyres.streaming.records import INDEX, Record, Records, shard_path

GRID, WIDTH = (3, 2), 5
SETTINGS = {"model": "abc", "dtype": "float16", "shard_records": 4, "grid": GRID, "width": WIDTH}


def settings(inputs, **changes):
    return SETTINGS | {"inputs": {"files": inputs, "digest": "0"}} | changes


def make(count, dtype=torch.float16):
    generator = torch.Generator().manual_seed(count)
    grids = [(3, 2), (1, 1), (2, 2), (3, 1)]
    return [
        Record(
            tokens=torch.randn(*grids[i % 4], WIDTH, generator=generator).to(dtype),
            source=f"folder/ä {i}.png",
            label=(None, "cat", "dog")[i % 3],
            size=(i + 1, 100_000 - i),
        )
        for i in range(count)
    ]


def write(folder, records, pieces, **changes):
    writer = RecordWriter(folder, settings(len(records), **changes), folder)
    first = 0
    for piece in pieces:
        writer.add(range(first, first + piece), records[first : first + piece], [])
        first += piece
    return writer


def same(one, other):
    assert torch.equal(one.tokens, other.tokens) and one.tokens.dtype == other.tokens.dtype
    assert (one.source, one.label, one.size, one.grid) == (other.source, other.label, other.size, other.grid)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_read_back_in_order(tmp_path, dtype):
    given = make(11, dtype)
    write(tmp_path, given, [4, 3, 1, 3])
    records = Records(tmp_path)
    assert len(records) == 11
    for index in (10, 0, 7, 3, 4, 1, 2, 5, 6, 8, 9):
        same(records.record(index), given[index])
    assert records.sources == [record.source for record in given]
    assert records.labels == [record.label for record in given] and records.classes == ("cat", "dog")
    records.verify()
    expected = torch.stack([record.tokens.double().mean((0, 1)) for record in given])
    assert torch.allclose(records.pooled().double(), expected, atol=1e-6)
    for index in (-1, 11):
        with pytest.raises(IndexError, match="allowed: 0 to 10"):
            records.record(index)


def test_shards_are_of_constant_size_and_padded_with_zeros(tmp_path):
    given = make(9)
    write(tmp_path, given, [4, 4, 1])
    shards = [load_file(shard_path(tmp_path, number)) for number in range(3)]
    assert [tuple(shard["tokens"].shape) for shard in shards] == [(n, *GRID, WIDTH) for n in (4, 4, 1)]
    padded = shards[0]["tokens"][1]  # a grid of 1x1
    assert torch.equal(padded[:1, :1], given[1].tokens) and padded.count_nonzero() == WIDTH


def test_grids_of_several_shapes_lie_in_one_row(tmp_path):
    generator = torch.Generator().manual_seed(0)
    grids = [(2, 3), (3, 2), (1, 7), (7, 1), (1, 1), (2, 2)]
    given = [
        Record(tokens=torch.randn(*grid, WIDTH, generator=generator).half(), source=f"{i}", label=None, size=grid)
        for i, grid in enumerate(grids)
    ]
    write(tmp_path, given[:5], [4, 1], grid=(1, 7))
    with pytest.raises(ValueError, match="other settings"):
        RecordWriter(tmp_path, settings(5), tmp_path)
    RecordWriter(tmp_path, settings(5, grid=(1, 7)), tmp_path).add([5], given[5:], [])  # the last shard is read again
    records = Records(tmp_path)
    records.verify()
    assert records.grid == (1, 7) and [records.record(i).grid for i in range(6)] == grids
    for index, record in enumerate(given):
        same(records.record(index), record)
    expected = torch.stack([record.tokens.double().mean((0, 1)) for record in given])
    assert torch.allclose(records.pooled().double(), expected, atol=1e-6)
    shard = load_file(shard_path(tmp_path, 0))["tokens"]
    assert shard.shape == (4, 1, 7, WIDTH) and not shard[0, 0, 6].any()


def test_however_it_is_cut_the_bytes_are_the_same(tmp_path):
    given = make(10)
    write(tmp_path / "whole", given, [4, 4, 2])
    write(tmp_path / "single", given, [1] * 10)
    for number in range(3):
        one, other = (shard_path(tmp_path / name, number).read_bytes() for name in ("whole", "single"))
        assert one == other


def test_going_on_forgets_what_the_index_does_not_know(tmp_path):
    given = make(10)
    write(tmp_path / "whole", given, [4, 4, 2])
    write(tmp_path / "part", given, [4, 2])
    part = tmp_path / "part"
    index = (part / INDEX).read_text()
    writer = RecordWriter(part, settings(10), tmp_path / "whole")
    assert (writer.done, writer.count, writer.room) == (6, 6, 2)
    writer.add([6, 7], given[6:8], [])
    (part / INDEX).write_text(index)  # killed between the shard and the index
    writer = RecordWriter(part, settings(10), tmp_path / "whole")
    assert (writer.done, writer.room, writer.failures) == (6, 2, [])
    for first in (6, 8):
        writer.add(range(first, first + 2), given[first : first + 2], [])
    assert {path.name: path.read_bytes() for path in part.iterdir()} == {
        path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()
    }


def test_failures_count_as_done(tmp_path):
    given = make(5)
    writer = RecordWriter(tmp_path, settings(7), tmp_path)
    failure = [{"input": place, "path": f"{place}", "reason": "broken"} for place in range(7)]
    writer.add([0], [], failure[:1])
    assert not list(tmp_path.glob("*.safetensors"))
    writer.add(range(1, 5), given[:3], failure[4:5])
    writer = RecordWriter(tmp_path, settings(7), tmp_path)
    assert (writer.done, writer.count, writer.room) == (5, 3, 1)
    with pytest.raises(AssertionError):
        writer.add([5, 6], given[3:], [])
    writer.add([5], given[3:4], [])
    with pytest.raises(ValueError, match="not finished: 6 of 7 inputs"):
        Records(tmp_path)
    writer.add([6], given[4:], [])
    assert Records(tmp_path).failures == json.loads((tmp_path / INDEX).read_text())["failures"]
    assert Records(tmp_path).failures == [failure[0], failure[4]]
    assert [Records(tmp_path).record(i).source for i in range(5)] == [record.source for record in given]


def test_failures_that_are_mended_come_last(tmp_path):
    given = make(4)
    failure = [{"input": place, "path": f"{place}", "reason": "broken"} for place in range(4)]
    RecordWriter(tmp_path, settings(4), tmp_path).add(range(4), given[2:], failure[:2])
    writer = RecordWriter(tmp_path, settings(4), tmp_path)
    assert (writer.done, writer.failures) == (4, failure[:2])
    writer.add([0, 1], given[:1], [failure[1] | {"reason": "still broken"}])
    writer = RecordWriter(tmp_path, settings(4), tmp_path)
    assert (writer.done, writer.count, writer.room) == (4, 3, 1)
    assert [entry["reason"] for entry in writer.failures] == ["still broken"]
    writer.add([1], given[1:2], [])
    records = Records(tmp_path)
    records.verify()
    assert records.failures == [] and records.sources == [given[i].source for i in (2, 3, 0, 1)]


def test_unfinished_work_stays_with_its_records(tmp_path):
    writer = RecordWriter(tmp_path, settings(3), tmp_path)
    one, other = writer.unfinished(tmp_path / "a.tif"), writer.unfinished(tmp_path / "b.tif")
    assert one != other and one.parent == tmp_path
    one.touch()
    RecordWriter(tmp_path, settings(3), tmp_path)
    assert one.exists()
    RecordWriter(tmp_path, settings(3, model="other"), tmp_path)  # begun anew: nothing was done yet
    assert not one.exists()


@pytest.mark.parametrize("changes", [{"model": "other"}, {"dtype": "bfloat16"}, {"shard_records": 5}])
def test_other_settings_are_refused_by_name(tmp_path, changes):
    write(tmp_path, make(3), [2, 1])
    ((name, value),) = changes.items()
    with pytest.raises(ValueError, match=f"other settings .{name}: {SETTINGS[name]} there, {value} here"):
        RecordWriter(tmp_path, settings(3, **changes), tmp_path)


def test_other_folders_are_refused_and_a_start_without_result_is_not(tmp_path):
    RecordWriter(tmp_path / "new", settings(3), tmp_path)
    RecordWriter(tmp_path / "new", settings(3, model="other"), tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is a file"):
        RecordWriter(tmp_path / "file", settings(3), tmp_path)
    with pytest.raises(ValueError, match="holds files but no records.json"):
        RecordWriter(tmp_path, settings(3), tmp_path)
    with pytest.raises(ValueError, match="holds no records.json"):
        Records(tmp_path)


def flip_a_byte(path, offset):
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


def test_damage_is_named(tmp_path):
    given = make(10)
    write(tmp_path / "whole", given, [4, 4, 2])

    def damaged(damage):
        shutil.rmtree(tmp_path / "copy", ignore_errors=True)
        shutil.copytree(tmp_path / "whole", tmp_path / "copy")
        damage(shard_path(tmp_path / "copy", 1))
        return Records(tmp_path / "copy")

    with pytest.raises(ValueError, match="records-00001.safetensors is missing"):
        damaged(lambda path: path.unlink())
    for damage in (lambda path: path.write_bytes(path.read_bytes()[:-3]), lambda path: path.write_bytes(b"")):
        records = damaged(damage)
        same(records.record(3), given[3])
        with pytest.raises(ValueError, match="records-00001.safetensors is damaged"):
            records.record(4)
    records = damaged(lambda path: shutil.copy(shard_path(path.parent, 2), path))
    with pytest.raises(ValueError, match=r"records-00001.safetensors holds .2, 3, 2, 5. tokens where .4, 3, 2, 5. are"):
        records.verify()


def test_every_flipped_byte_is_found(tmp_path):
    given = make(4)
    write(tmp_path, given, [4])
    path = shard_path(tmp_path, 0)
    whole = path.read_bytes()
    start = 8 + int.from_bytes(whole[:8], "little")
    stored = load(whole)
    in_padding = 0
    for offset in range(start, len(whole)):
        flip_a_byte(path, offset)
        others = all(
            torch.equal(value, stored[name]) for name, value in load(path.read_bytes()).items() if name != "tokens"
        )
        if others and torch.equal(real_tokens(path, given), torch.cat([record.tokens.flatten() for record in given])):
            in_padding += 1
        else:
            for read in (Records.verify, Records.pooled):
                with pytest.raises(ValueError, match="records-00000.safetensors is damaged: record [0-3] "):
                    read(Records(tmp_path))
        path.write_bytes(whole)
    assert in_padding == 2 * WIDTH * sum(6 - record.grid[0] * record.grid[1] for record in given)
    Records(tmp_path).verify()


def real_tokens(path, given):
    tokens = load(path.read_bytes())["tokens"]
    return torch.cat([place[: r.grid[0], : r.grid[1]].flatten() for place, r in zip(tokens, given, strict=True)])


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 1}'])
def test_a_damaged_index_is_named(tmp_path, text):
    write(tmp_path, make(3), [3])
    (tmp_path / INDEX).write_text(text)
    with pytest.raises(ValueError, match="records.json"):
        Records(tmp_path)
