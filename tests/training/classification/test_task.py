"""Classification: targets, mixing, validation, and data that cannot be learned from."""

import numpy as np
import pytest
import torch

from anyres.data.decode import read_image
from anyres.data.transforms import eval_transform
from anyres.models.vitar import ViTAR
from anyres.models.weights.files import load
from anyres.training.classification.task import ClassificationTask

CPU = torch.device("cpu")


def first_batch(task):
    return next(task.batches(0, 1))


def test_without_mixing_targets_are_smoothed_labels_and_images_untouched(make_config):
    task = ClassificationTask(make_config(mixup=0.0, cutmix=0.0, smoothing=0.3))
    batch = first_batch(task)
    prepared = task.prepare(batch, CPU)
    expected = torch.full((4, 3), 0.1)
    expected[torch.arange(4), batch.labels] = 0.8
    torch.testing.assert_close(prepared.targets, expected)
    (view,) = prepared.views
    assert torch.equal(view.images, batch.images)
    assert torch.equal(view.keys, batch.keys)


@pytest.mark.parametrize("mixing", [{"cutmix": 0.0}, {"mixup": 0.0}, {}])
def test_mixing_is_a_function_of_the_step_and_leaves_numpy_alone(make_config, mixing):
    task = ClassificationTask(make_config(**mixing))
    np.random.seed(0)
    state = np.random.get_state()[1].copy()
    one = task.prepare(first_batch(task), CPU)
    assert np.array_equal(np.random.get_state()[1], state)
    np.random.seed(99)
    other = task.prepare(first_batch(task), CPU)
    assert torch.equal(one.views[0].images, other.views[0].images) and torch.equal(one.targets, other.targets)
    assert not torch.equal(one.views[0].images, first_batch(task).images)
    torch.testing.assert_close(one.targets.sum(1), torch.ones(4))
    flipped = first_batch(task).labels.flip(0)
    pairs = {frozenset(pair) for pair in zip(first_batch(task).labels.tolist(), flipped.tolist(), strict=True)}
    for row in one.targets:  # nothing but the two classes of a pair rises above the smoothing
        assert frozenset((row > 0.1 / 3 + 1e-6).nonzero().flatten().tolist()) in pairs


def test_loss_equals_cross_entropy_with_soft_targets(plain):
    task = ClassificationTask(plain())
    task.model.eval()
    prepared = task.prepare(first_batch(task), CPU)
    with torch.no_grad():
        logits = task.model(prepared.views[0].images)
    expected = torch.nn.functional.cross_entropy(logits, prepared.targets)
    torch.testing.assert_close(task.loss(prepared, slice(0, 4)), expected)
    torch.testing.assert_close(
        task.loss(prepared, slice(1, 3)), torch.nn.functional.cross_entropy(logits[1:3], prepared.targets[1:3])
    )


def test_validation_equals_a_plain_loop(make_config):
    task = ClassificationTask(make_config(batch_size=4))
    task.model.train()
    rows = task.validate(task.model, CPU)
    assert task.model.training
    task.model.eval()
    for row, size in zip(rows, [(13, 13), (16, 23)], strict=True):
        settings = task.model.config
        transform = eval_transform(size, settings.mean, settings.std, crop_ratio=0.875)
        images = [transform(read_image(path)) for path in task.validation.paths]
        with torch.no_grad():
            guesses = [task.model(image[None]).argmax().item() for image in images]
        correct = sum(guess == label for guess, label in zip(guesses, task.validation.labels, strict=True))
        assert row == {
            "size": list(size),
            "images": 9,
            "correct": correct,
            "top1": pytest.approx(100 * correct / 9),
        } | {"skipped": []}


def test_validation_can_be_limited(make_config):
    task = ClassificationTask(make_config(validate_limit=4))
    assert [row["images"] for row in task.validate(task.model, CPU)] == [4, 4]


def test_initial_weights_follow_from_the_seed_alone(make_config):
    weights = []
    for seed, before in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(before)
        state = torch.get_rng_state()
        weights.append(ClassificationTask(make_config(seed=seed)).model.head.weight.detach())
        assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_saved_model_knows_classes_and_sizes(make_config, tmp_path):
    task = ClassificationTask(make_config())
    task.save(tmp_path / "saved", task.model, {"steps": 3})
    model, info = load(tmp_path / "saved", ViTAR)
    assert (info.name, info.classes) == ("vitar_tiny_patch16", ("blue", "green", "red"))
    assert info.training_sizes == ((13, 13), (16, 23)) and info.extra == {"steps": 3}
    assert torch.equal(model.head.weight, task.model.head.weight)


def test_ranges_are_validated_and_recorded_by_their_ends(make_config, tmp_path):
    task = ClassificationTask(make_config(sizes=("9-16", "16", "8x5"), aspect=(0.5, 2.0)))
    assert [row["size"] for row in task.validate(task.model, CPU)] == [[9, 9], [16, 16], [8, 5]]
    task.save(tmp_path / "saved", task.model, {})
    assert load(tmp_path / "saved", ViTAR)[1].training_sizes == ((9, 9), (16, 16), (8, 5))
    sizes = {batch.size for batch in task.batches(0, 12)}
    assert len(sizes) > 9 and max(map(max, sizes)) > 16


def test_identity_follows_the_files(make_config, write_data, tmp_path):
    here = ClassificationTask(make_config()).identity()
    same = ClassificationTask(make_config(data=write_data(tmp_path / "same"))).identity()
    more = ClassificationTask(make_config(data=write_data(tmp_path / "more", train=6))).identity()
    assert here == same != more
    assert here["classes"] == ["blue", "green", "red"]


def test_one_class_is_refused(make_config, write_data, tmp_path):
    root = write_data(tmp_path / "data")
    for folder in (root / "train" / "blue", root / "train" / "green", root / "val"):
        for path in sorted(folder.rglob("*.png")):
            path.unlink()
        for path in [*sorted(folder.glob("*")), folder]:
            path.rmdir()
    with pytest.raises(ValueError, match="has the one class 'red'; at least 2"):
        ClassificationTask(make_config(data=root))


def test_other_validation_classes_are_refused(make_config, write_data, tmp_path):
    root = write_data(tmp_path / "data")
    (root / "val" / "red").rename(root / "val" / "rouge")
    with pytest.raises(ValueError, match="missing: red; extra: rouge"):
        ClassificationTask(make_config(data=root))


def test_validation_without_images_is_refused_if_asked_for(make_config, write_data, tmp_path):
    root = write_data(tmp_path / "data")
    (root / "val").rename(tmp_path / "elsewhere")
    assert not ClassificationTask(make_config(data=root)).validates()
    for name, given in (("validate_every", 2), ("validate_limit", 3), ("validate_crop_ratio", 1.0)):
        with pytest.raises(ValueError, match=f"{name} is {given}, but .*val does not exist; .*leave {name} at"):
            ClassificationTask(make_config(data=root, **{name: given}))
