"""Where the tokens of a transformer trunk are: what every block is told, whatever it makes of it."""

from typing import NamedTuple

from torch import Tensor

from anyres.layers.merge_plan import Grid


class Places(NamedTuple):
    """The places of tokens (B, P + N, D): P prefix tokens, then N others. A block gives back where its output is."""

    grid: Grid | None = None
    """(rows, cols) of the N tokens, row by row; None where they form no grid, as in a padded batch of several."""
    rotation: Tensor | None = None
    """(2, 1 or B, 1, N, head_dim / 2), cosines and sines of `RotaryPosition`, for rotary attention only."""
    mask: Tensor | None = None
    """(B, 1, 1, P + N), added to attention's logits: minus infinity where a key is padding. Only without a grid."""
    sizes: Tensor | None = None
    """(B, P + N, 1), how many patches are in each token, where blocks merge them (ToMe); None stands for all ones."""
    owner: Tensor | None = None
    """(B, P + N at the start), the token that each token of the start is now in; None stands for itself."""

    def at_start(self, x: Tensor) -> Tensor:
        """One token for each that there was at the start, the one that it is now in: (B, P + N at the start, D)."""
        return x if self.owner is None else x.gather(1, self.owner[..., None].expand(-1, -1, x.shape[-1]))
