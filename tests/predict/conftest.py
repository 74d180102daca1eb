"""Two small models on disk."""

import pytest
import torch

from anyres.models.architectures import DETECTOR, SEGMENTER
from anyres.models.detector import Detector
from anyres.models.segmenter import Segmenter
from anyres.models.weights.files import save

NAMES = ("ground", "a", "b", "c", "d")


@pytest.fixture(scope="session")
def labeller(tmp_path_factory):
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("labeller")
    options = {"patch_size": 4, "grid": 3, "width": 16, "depth": 4, "heads": 2, "taps": (0, 1, 2, 3)}
    options |= {"num_classes": 5, "head_channels": 8, "auxiliary_channels": 0}
    model = Segmenter(SEGMENTER.get_config("upernet_vitar_small_patch16", **options))
    torch.nn.init.normal_(model.head.classifier.weight, std=2.0)
    save(folder, model, name=None, classes=NAMES, training_sizes=[(24, 24), (8, 40)])
    return folder


@pytest.fixture(scope="session")
def finder(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("finder")
    options = {"patch_size": 8, "grid": 4, "width": 16, "depth": 1, "heads": 2, "num_classes": 3, "channels": 8}
    options |= {"box_features": 16, "anchor_sizes": (8, 16, 32, 64, 128), "train_proposals": 50, "test_proposals": 30}
    options |= {"min_size": 64, "max_size": 96, "detections": 10}
    model = Detector(DETECTOR.get_config("mask_rcnn_vitar_small_patch16", **options))
    torch.nn.init.normal_(model.roi_heads.box_predictor.cls_score.weight, std=0.5)
    extra = {"classes": ("x", "y", "z"), "extra": {"category_ids": (5, 6, 9)}, "training_sizes": [(64, 64)]}
    save(folder, model, name=None, **extra)
    return folder
