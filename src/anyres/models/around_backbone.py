"""What the training engine expects of a model around a ViTAR: everything follows from where the backbone is."""

from typing import Any

from anyres.models.architectures import architecture_of, backbone_of


class AroundBackbone:
    """Part of a model around a ViTAR, such as a segmenter. The table of architectures says where in it the ViTAR is."""

    @property
    def _inner(self) -> Any:
        return backbone_of(self)  # type: ignore[call-overload]

    def no_weight_decay(self) -> set[str]:
        """Names of parameters without weight decay: the backbone's. Vectors never decay."""
        return {f"{architecture_of(self).backbone}.{name}" for name in self._inner.no_weight_decay()}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Layers for layer-wise learning rates: those of `ViTAR.group_matcher`; all else is above them, the top layer.

        So with a factor d on the learning rate from layer to layer, block i of n (from 0) has d ** (n - i), as in BEiT
        and ViTDet, the merger d ** (n + 1), and stem and positions one factor more; heads and pyramid have 1.
        """
        within = "^" + architecture_of(self).backbone.replace(".", r"\.") + r"\."
        found: dict[str, Any] = {}
        for group, patterns in self._inner.group_matcher().items():
            if isinstance(patterns, str):
                found[group] = patterns.replace("^", within)
            else:
                found[group] = [(pattern.replace("^", within), order) for pattern, order in patterns]
        return found

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recomputes the backbone's passes and blocks in the backward pass instead of keeping their activations."""
        self._inner.set_grad_checkpointing(enable)
