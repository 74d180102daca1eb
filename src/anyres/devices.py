"""Names of devices: one vocabulary for training, evaluation and prediction."""

import torch

from anyres.errors import unknown


def resolve_device(text: str) -> torch.device:
    """The device meant by a name: "auto" (cuda where there is one, else cpu), "cpu", "cuda", "cuda:N" or "mps".

    Raises ValueError, with the nearest names, for anything else and for a device that this machine lacks.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if text == "auto":
        return torch.device("cuda" if gpus else "cpu")
    allowed = ["auto", "cpu"]
    allowed += ["cuda", *(f"cuda:{index}" for index in range(gpus))] if gpus else []
    allowed += ["mps"] if torch.backends.mps.is_available() else []
    if text not in allowed:
        raise unknown("device", text, allowed)
    return torch.device(text)
