"""Label maps of images of several sizes, mirror images and scales, against the slow way."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from anyres.models.segmenter import Segmenter
from anyres.models.weights.files import load
from anyres.predict.label_maps import Inference, label_map, label_maps, probabilities
from anyres.predict.sliding import sliding_logits


@pytest.fixture(scope="module")
def model(labeller):
    return load(labeller, Segmenter)[0]


@torch.no_grad()
def test_images_of_several_sizes_at_once_give_what_they_give_alone(model):
    random = np.random.default_rng(2)
    sizes = [(13, 30), (17, 9), (13, 30), (26, 60)]
    images = [Image.fromarray(random.integers(0, 255, (*size, 3), dtype=np.uint8)) for size in sizes]
    for how, short_side in ((Inference(), None), (Inference(flip=True), 13), (Inference(window=(8, 8)), None)):
        for image, found in zip(images, label_maps(model, images, how, short_side), strict=True):
            assert (found == label_map(model, image, how, short_side)).float().mean() > 0.99
            assert found.shape == (image.height, image.width)


@torch.no_grad()
def test_mirror_images_and_scales_are_averaged_as_probabilities(model):
    image = torch.randn(1, 3, 18, 10)
    found = probabilities(model, image, Inference(ratios=(0.5, 1.0, 1.3), flip=True), (9, 11))
    parts = []
    for size in ((9, 5), (18, 10), (23, 13)):
        scaled = F.interpolate(image, size, mode="bilinear")
        for logits in (model(scaled), model(scaled.flip(3)).flip(3)):
            parts.append(F.interpolate(logits, (9, 11), mode="bilinear").softmax(1))
    torch.testing.assert_close(found, torch.stack(parts).mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.sum(1), torch.ones(1, 9, 11))
    mirrored = probabilities(model, image.flip(3), Inference(flip=True))
    torch.testing.assert_close(mirrored.flip(3), probabilities(model, image, Inference(flip=True)))
    windows = probabilities(model, image, Inference(window=(12, 8)))
    torch.testing.assert_close(windows, sliding_logits(model, image, (12, 8), (8, 5)).softmax(1))


def test_a_map_has_the_size_of_its_image(model):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (13, 30, 3), dtype=np.uint8))
    for short_side in (None, 9, 40):
        assert label_map(model, image, Inference(), short_side).shape == (13, 30)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ratios": ()}, "ratios are"),
        ({"ratios": (1.0, 0.0)}, "ratios are"),
        ({"step": (3, 3)}, "step is .* no effect"),
        ({"window": (0, 4)}, "window is"),
        ({"window": (4, 4), "step": (4, 5)}, "or pixels are lost"),
    ],
)
def test_impossible_inference_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Inference(**changes)
