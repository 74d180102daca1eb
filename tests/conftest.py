"""Settings of all tests."""

import pytest
import torch
from hypothesis import settings

settings.register_profile("anyres", deadline=None)  # a busy machine is no failure
settings.load_profile("anyres")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """No test passes or fails by the luck of its draws or by which test ran before it."""
    torch.manual_seed(0)
