"""One optimiser step: pieces equal the whole, the average equals a hand computation, bad numbers change nothing."""

import copy

import pytest
import torch
from hypothesis import given, strategies as st

from anyres.training.classification.task import ClassificationTask
from anyres.training.trainer import Trainer, pieces, torch_settings


def make_trainer(config):
    return Trainer(config, ClassificationTask(config), torch.device("cpu"))


def run(trainer, start, stop):
    return [trainer.update(batch) for batch in trainer.task.batches(start, stop)]


@given(st.integers(1, 200), st.integers(1, 200))
def test_pieces_cover_every_row_once(count, parts):
    found = pieces(count, parts)
    assert [row for piece in found for row in range(piece.start, piece.stop)] == list(range(count))
    lengths = [piece.stop - piece.start for piece in found]
    assert len(lengths) == min(count, parts) and max(lengths) - min(lengths) <= 1


@pytest.mark.parametrize("replicas", [{}, {"replicas": True, "consistency": 1.0}])
@pytest.mark.parametrize("accumulate", [2, 3, 6])
def test_accumulated_gradients_equal_those_of_the_whole_batch(plain, accumulate, replicas):
    whole = make_trainer(plain(batch_size=6, clip_grad=None, **replicas))
    parts = make_trainer(plain(batch_size=6, clip_grad=None, accumulate=accumulate, **replicas))
    for _ in range(2):
        (one,), (other,) = (run(trainer, trainer.step, trainer.step + 1) for trainer in (whole, parts))
        assert other.loss == pytest.approx(one.loss, rel=1e-5)
        assert other.grad_norm == pytest.approx(one.grad_norm, rel=1e-5)
        for (name, a), b in zip(whole.model.named_parameters(), parts.model.parameters(), strict=True):
            scale = max(a.grad.abs().max().item(), 1e-3)
            assert (a.grad - b.grad).abs().max().item() <= 1e-5 * scale, name
        parts.load_state_dict(copy.deepcopy(whole.state_dict()))  # Adam magnifies rounding where gradients are near 0


def test_average_equals_a_hand_computation(make_config):
    trainer = make_trainer(make_config(ema=0.6, steps=8))
    expected = None
    for step in range(8):
        run(trainer, step, step + 1)
        weights = {name: value.clone() for name, value in trainer.model.state_dict().items()}
        # timm: the first update copies, then the decay rises as 1 - (1 + n) ** (-2 / 3) up to the one asked for
        decay = min(0.6, 1 - (1 + step) ** (-2 / 3)) if step else 0.0
        expected = weights if expected is None else {k: decay * expected[k] + (1 - decay) * weights[k] for k in weights}
    for name, value in trainer.ema.module.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-7)
    assert not torch.equal(trainer.ema.module.head.weight, trainer.model.head.weight)
    assert trainer.final_model() is trainer.ema.module


def test_the_last_weights_are_kept_on_request(make_config):
    trainer = make_trainer(make_config(save_ema=False))
    assert trainer.final_model() is trainer.model
    assert make_trainer(make_config(ema=None)).ema is None


@pytest.mark.parametrize("where", ["loss", "gradient norm"])
def test_bad_numbers_stop_before_any_weight_changes(make_config, where):
    trainer = make_trainer(make_config())
    run(trainer, 0, 2)
    before = copy.deepcopy(trainer.state_dict())
    if where == "loss":
        task_loss = trainer.task.loss
        trainer.task.loss = lambda prepared, rows: task_loss(prepared, rows) * float("nan")
    else:  # a finite loss can have an infinite gradient, which would poison every weight
        trainer.model.head.bias.register_hook(lambda grad: grad * float("inf"))
    batch = next(trainer.task.batches(2, 3))
    with pytest.raises(FloatingPointError, match=rf"the {where} is (nan|inf) at step 3 of 6, size \d+x\d+") as caught:
        trainer.update(batch)
    assert f"size {batch.size[0]}x{batch.size[1]}" in str(caught.value)
    after = trainer.state_dict()
    for name, value in before["model"].items():
        assert torch.equal(value, after["model"][name]), name
        assert torch.equal(before["ema"][name], after["ema"][name]), name
    assert after["step"] == 2


def test_bfloat16_follows_float32_roughly_and_keeps_float32_weights(plain):
    exact = run(make_trainer(plain()), 0, 3)
    trainer = make_trainer(plain(precision="bfloat16"))
    rough = run(trainer, 0, 3)
    assert [result.loss for result in rough] == pytest.approx([result.loss for result in exact], rel=0.03)
    assert [result.loss for result in rough] != [result.loss for result in exact]
    assert {parameter.dtype for parameter in trainer.model.parameters()} == {torch.float32}


@pytest.mark.parametrize("name", ["grad_checkpointing", "grad_pieces"])
def test_recomputing_activations_changes_nothing(make_config, name):
    kept = make_trainer(make_config())
    recomputed = make_trainer(make_config(**{name: True}))
    assert any(getattr(module, name, False) for module in recomputed.model.modules())
    for one, other in zip(run(kept, 0, 3), run(recomputed, 0, 3), strict=True):
        assert other.loss == pytest.approx(one.loss, rel=1e-5)
        assert other.grad_norm == pytest.approx(one.grad_norm, rel=1e-4)


def test_attention_is_plain_on_the_cpu(make_config):
    trainer = make_trainer(make_config())
    flags = [module.fused_attn for module in trainer.model.modules() if hasattr(module, "fused_attn")]
    assert flags and not any(flags)


def test_a_step_does_not_depend_on_the_generator_before_it(make_config):
    losses = []
    for seed in (1, 2):
        trainer = make_trainer(make_config())
        torch.manual_seed(seed)
        losses.append([result.loss for result in run(trainer, 0, 3)])
    assert losses[0] == losses[1]


def test_torch_is_left_as_it_was_found(make_config):
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    with torch_settings(make_config(threads=threads + 1, deterministic=True), torch.device("cpu")):
        assert torch.get_num_threads() == threads + 1
        assert torch.are_deterministic_algorithms_enabled()
        torch.manual_seed(5)
    assert torch.get_num_threads() == threads
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.equal(torch.get_rng_state(), state)


def test_weights_of_another_model_are_refused(make_config):
    state = make_trainer(make_config()).state_dict()
    other = make_trainer(
        make_config(model_options={"patch_size": 4, "grid": (3, 3), "width": 16, "depth": 1, "heads": 2})
    )
    with pytest.raises(ValueError, match="does not fit this model"):
        other.load_state_dict(state)
