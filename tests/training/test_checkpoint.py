"""Checkpoints: whole or absent, and damage is never mistaken for weights."""

import pickle

import pytest
import torch

from anyres.training.checkpoint import FORMAT, load_checkpoint, refuse_earlier_format, refuse_other_run, save_checkpoint


@pytest.fixture
def state():
    generator = torch.Generator().manual_seed(0)
    return {"step": 3, "model": {"weight": torch.randn(40, 30, generator=generator)}, "skipped": {"a.png": "cut"}}


def test_what_is_saved_is_loaded(tmp_path, state):
    save_checkpoint(tmp_path / "c.pt", state)
    loaded = load_checkpoint(tmp_path / "c.pt")
    assert loaded["step"] == 3 and loaded["skipped"] == {"a.png": "cut"}
    assert torch.equal(loaded["model"]["weight"], state["model"]["weight"])
    assert [path.name for path in tmp_path.iterdir()] == ["c.pt"]


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.9, 0.999])
def test_truncated_files_are_refused(tmp_path, state, share):
    path = tmp_path / "c.pt"
    save_checkpoint(path, state)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ValueError, match=r"c\.pt is damaged or no checkpoint.*delete it"):
        load_checkpoint(path)


def test_a_flipped_bit_in_the_weights_is_refused(tmp_path, state):
    path = tmp_path / "c.pt"
    save_checkpoint(path, state)
    whole = bytearray(path.read_bytes())
    place = whole.find(state["model"]["weight"].numpy().tobytes())
    assert place > 0
    whole[place + 100] ^= 1
    path.write_bytes(whole)
    assert torch.load(path, weights_only=True)["step"] == 3  # torch alone does not notice
    with pytest.raises(ValueError, match="damaged"):
        load_checkpoint(path)


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    torch.save({"format": FORMAT, "model": Trap()}, tmp_path / "c.pt")
    with pytest.raises(ValueError, match="damaged or no checkpoint"):
        load_checkpoint(tmp_path / "c.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(ValueError, match="damaged or no checkpoint"):
        load_checkpoint(tmp_path / "plain.pt")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("content", [{"format": FORMAT + 1}, {}, [1, 2]])
def test_another_format_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "c.pt")
    with pytest.raises(ValueError, match=f"format.*allowed: {FORMAT}; delete it"):
        load_checkpoint(tmp_path / "c.pt")


def test_an_earlier_version_s_checkpoint_is_refused_with_the_ways_to_go_on(tmp_path):
    torch.save({"format": 1, "step": 3}, tmp_path / "c.pt")
    state = load_checkpoint(tmp_path / "c.pt")
    assert state["step"] == 3
    with pytest.raises(ValueError, match="format 1; .* step 0, .* finish the run with the version of anyres"):
        refuse_earlier_format(tmp_path / "c.pt", state)


def test_another_run_is_named_by_its_fields(tmp_path):
    refuse_other_run(tmp_path, [])
    changed = ["lr: 0.1 there, 0.2 here", "task.classes: ['a', 'b'] there, ['a'] here"]
    with pytest.raises(ValueError, match=r"lr: 0\.1 there, 0\.2 here; task\.classes: \['a', 'b'\] there, \['a'\] here"):
        refuse_other_run(tmp_path, changed)
