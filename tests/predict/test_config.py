"""Options that cannot be."""

import pytest

from anyres.predict.config import DetectConfig, LookOptions, SegmentConfig


@pytest.mark.parametrize("kind", [SegmentConfig, DetectConfig])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inputs": ()}, "no inputs"),
        ({"window": "sometimes"}, "window: cannot read 'sometimes'.*or auto, or none"),
        ({"memory_budget": "much"}, "cannot read 'much' as memory"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"max_pixels": 0}, "max_pixels is 0"),
    ],
)
def test_impossible_settings_are_refused(kind, changes, message, tmp_path):
    assert issubclass(kind, LookOptions)
    with pytest.raises(ValueError, match=message):
        kind(**({"run": tmp_path, "inputs": (tmp_path,), "out": tmp_path / "out"} | changes))
