"""Settings of a training run: what is refused, and with which words."""

import pytest


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sizes": ()}, "sizes is empty"),
        ({"sizes": ("large",)}, "large"),
        ({"sizes": ("0",)}, "0"),
        ({"sizes": ("224", "224x224")}, "sizes names 224x224 twice"),
        ({"sizes": ("32-96", "48", "32-96")}, "sizes names 32-96 twice"),
        ({"sizes": ("96-32",)}, "'96-32' as a range.*nearest: 32-96"),
        ({"sizes": ("a-b",)}, "'a-b' as a range"),
        ({"aspect": (2.0, 0.5)}, "aspect is 2.0 0.5.*nearest: 0.5 2.0"),
        ({"replicas": True, "sizes": ("32-96", "16")}, "range 32-96, but replicas need fixed sizes; nearest: 32 96"),
        ({"replicas": True, "sizes": ("32",)}, "replicas at the one size 32 .*two sizes or more"),
        ({"replicas": True, "size_weights": (1.0, 2.0)}, r"size_weights is \(1.0, 2.0\) but has no effect.*at None"),
        ({"replicas": True, "aspect": (0.5, 2.0)}, "aspect is .* no effect, because replicas"),
        ({"consistency": 1.0}, "consistency is 1.0 but has no effect, because there are no replicas; leave it at 0.0"),
        ({"replicas": True, "consistency": -1.0}, "consistency is -1.0; allowed: from 0"),
        ({"repeats": 0}, "repeats is 0; allowed: whole numbers from 1 up"),
        ({"size_weights": (1.0,)}, "weights has 1 entries for 2 sizes"),
        ({"steps": 0}, "steps is 0; allowed: whole numbers from 1 up; nearest: 1"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"batch_size": 7}, "batch_size is 7.*even.*nearest: 8"),
        ({"accumulate": 5}, "accumulate is 5 for a batch of 4"),
        ({"warmup_steps": 6}, "warmup_steps is 6 of 6 steps; allowed: 0 to 5; nearest: 5"),
        ({"lr": 0.0}, "lr is 0.0; allowed: above 0; the default is 0.001"),
        ({"lr": float("nan")}, "lr is nan"),
        ({"lr": None}, "lr is None"),
        ({"min_lr": 1.0}, "min_lr is 1, above lr"),
        ({"lr_schedule": "linear"}, "lr_schedule 'linear'.*cosine"),
        ({"lr_power": 0.9}, "lr_power is 0.9 but has no effect, because lr_schedule is 'cosine'; leave it at 1.0"),
        ({"lr_schedule": "poly", "lr_power": 0.0}, "lr_power is 0.0; allowed: above 0"),
        ({"lr_drops": (4,)}, r"lr_drops is \(4,\) but has no effect, because lr_schedule is 'cosine'"),
        ({"lr_schedule": "step"}, r"lr_drops is \(\) with lr_schedule .step.; allowed: .*from 3 .* to 5; usual: 4 5"),
        ({"lr_schedule": "step", "lr_drops": (5, 4)}, "allowed: rising whole numbers from 3"),
        ({"lr_schedule": "step", "lr_drops": (4, 4)}, "allowed: rising whole numbers"),
        ({"lr_schedule": "step", "lr_drops": (2,)}, "rising whole numbers from 3 .after the warm-up"),
        ({"lr_schedule": "step", "lr_drops": (6,)}, "rising whole numbers from 3 .* to 5"),
        ({"lr_schedule": "step", "lr_drops": (4,), "min_lr": 1e-4}, "min_lr is 0.0001 but has no effect.*'step'"),
        ({"betas": (0.9, 1.0)}, "betas is 1.0; allowed: from 0 to below 1"),
        ({"layer_decay": 1.5}, "layer_decay is 1.5; allowed: above 0 up to 1"),
        ({"ema": 1.0}, "ema is 1.0"),
        ({"smoothing": 1.0}, "smoothing is 1.0"),
        ({"mixup": -0.1}, "mixup is -0.1"),
        ({"mixup": 0.0, "mixup_switch_prob": 0.9}, "mixup_switch_prob is 0.9 but has no effect.*mixup is 0"),
        ({"mixup_prob": 0.0, "mixup_switch_prob": 0.9}, "no effect, because mixup_prob is 0"),
        ({"mixup_prob": 0.0, "mixup": 0.3}, "mixup is 0.3 but has no effect, because mixup_prob is 0"),
        ({"mixup_prob": 0.0, "cutmix": 0.3}, "cutmix is 0.3 but has no effect, because mixup_prob is 0"),
        ({"sizes": ("32",), "size_weights": (5.0,)}, "no effect, because there is one size"),
        (
            {"mixup": 0.0, "cutmix": 0.0, "mixup_prob": 0.5},
            "mixup_prob is 0.5 but has no effect, because mixup and cutmix",
        ),
        ({"ema": None, "save_ema": False}, "save_ema is False but has no effect.*without ema; leave it at True"),
        ({"cache_bytes": 10**9}, "cache_bytes is 1000000000 but has no effect, because there is no cache"),
        ({"precision": "float16"}, "precision 'float16'.*bfloat16"),
        ({"device": "gpu"}, "unknown device 'gpu'.*Allowed: auto, cpu"),
        ({"threads": 0}, "threads is 0"),
        ({"model": "vitar_tiny_patch61"}, "Did you mean 'vitar_tiny_patch16'"),
        ({"model_options": {"widht": 32}}, "'widht'.*Did you mean 'width'"),
        ({"model_options": ("width=32",)}, r"model_options is \('width=32',\); allowed: a mapping"),
        ({"model_options": {"num_classes": 5}}, "num_classes.*data folder"),
        ({"model_options": {"heads": 5}}, "heads is 5, which does not divide"),
    ],
)
def test_impossible_settings_are_refused_by_name(make_config, changes, message):
    with pytest.raises(ValueError, match=message):
        make_config(**changes).check()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"batch_size": 7, "mixup_prob": 0.0},
        {"batch_size": 1, "mixup": 0.0, "cutmix": 0.0},
        {"cache": True, "cache_bytes": 10**9},
        {"save_ema": False},
        {"sizes": ("32-96", "96", "40-64"), "aspect": (0.5, 2.0), "size_weights": (1.0, 2.0, 0.0)},
        {"replicas": True},
        {"replicas": True, "consistency": 0.5, "repeats": 3},
        {"lr_schedule": "poly", "lr_power": 0.9, "min_lr": 1e-4},
        {"lr_schedule": "step", "lr_drops": (3, 5)},
    ],
)
def test_possible_settings_pass(make_config, changes):
    make_config(**changes).check()


def test_sizes_to_validate_are_those_of_training_and_the_ends_of_ranges(make_config):
    config = make_config(sizes=("32-96", "24x10", "96"), aspect=(0.5, 2.0))
    assert config.parsed_sizes() == [(32, 32), (96, 96), (24, 10)]
    assert make_config(sizes=("9", "30x2", "8"), replicas=True).schedule().sizes_at(3) == ((9, 9), (8, 8), (30, 2))
