"""The trunk: prefix tokens, transformer blocks and the final norm. Behind a merger it costs the same at every size."""

from collections.abc import Collection, Sequence

import torch
from timm.models import checkpoint
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from anyres.layers.merge_plan import Grid
from anyres.layers.places import Places
from anyres.models.config import ViTARConfig
from anyres.models.parts import layer_norm, make_blocks, make_rotary
from anyres.models.trunk_block import TrunkBlock


class Trunk(nn.Module):
    """Grid tokens (B, rows, cols, D) -> grid tokens of that shape and prefix tokens (B, P, D), both normalised.

    All blocks are told the places of the tokens (`layers.places`); what merges tokens on the way (ToMe) says there
    where they went, so that what leaves the trunk is one token for each that entered it.
    """

    prefix: nn.Parameter | None

    def __init__(self, config: ViTARConfig) -> None:
        super().__init__()
        self.num_prefix_tokens = config.prefix_tokens
        self.grad_checkpointing = False
        # Without prefix tokens there is no parameter at all, so that a distributed run has none that is never used.
        prefix = nn.Parameter(torch.empty(config.prefix_tokens, config.width)) if config.prefix_tokens else None
        self.register_parameter("prefix", prefix)  # (P, D)
        self.rotary = make_rotary(config)
        self.blocks = make_blocks(config)
        self.needs_grid = any(block.needs_grid for block in self.blocks)
        self.norm = layer_norm(config.width)

    def init_weights(self) -> None:
        """Initialises prefix tokens and what belongs to positions; the model initialises linear layers and norms."""
        for block in self.blocks:
            if isinstance(block, TrunkBlock):
                block.init_weights()
        if self.prefix is not None:
            nn.init.normal_(self.prefix, std=0.02)

    def forward(self, tokens: Tensor, keys: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Grid tokens (B, rows, cols, D) -> the same, and prefix tokens (B, P, D).

        Args:
            tokens: (B, rows, cols, D).
            keys: (B,) int64, of which the rotary factor of an image in training is a pure function.
        """
        x, places = self._begin(tokens, keys)
        for block in self.blocks:
            x, places = self._run(block, x, places)
        return self.split(self.norm(places.at_start(x)), _grid_of(tokens))

    def forward_sets(
        self, sets: Sequence[Tensor], centres: Sequence[Tensor] | None = None, keys: Tensor | None = None
    ) -> Tensor:
        """Sets of tokens (n_i, D) that form no grid, as one padded batch whose padding is never a key.

        Args:
            sets: the tokens of each image.
            centres: (n_i, 2), coordinates (y, x) of the tokens in the grid of their own image, see `grid_centres`.
                Rotary positions need them, all others can do without.
            keys: (B,) int64, as in `forward`.

        Returns:
            (B, P + most n_i, D), the prefix tokens first; what stands behind the n_i-th is padding.

        Raises:
            ValueError: rotary positions without the centres of the tokens.
        """
        x, mask = _padded([self.with_prefix(each[None])[0] for each in sets])
        places = Places(rotation=self._rotation_of_sets(x, centres, keys), mask=mask)
        for block in self.blocks:
            x, places = self._run(block, x, places)
        return self.norm(x)

    def choose(self, indices: int | Sequence[int] | None, *, stop_early: bool) -> tuple[list[int], int]:
        """Blocks as timm chooses them, the last n if a number and all if None, and the last one that is to run."""
        depth = len(self.blocks)
        try:
            take, last = feature_take_indices(depth, indices)  # type: ignore[arg-type]
        except AssertionError as error:
            raise ValueError(f"indices are {indices}; the trunk has blocks 0 to {depth - 1}.") from error
        return take, last if stop_early else depth - 1

    def forward_intermediates(
        self, tokens: Tensor, take: Collection[int], last: int, keys: Tensor | None = None, *, norm: bool = False
    ) -> tuple[tuple[Tensor, Tensor], list[tuple[Tensor, Tensor]]]:
        """`forward` up to block `last`, and grid and prefix tokens as some blocks leave them, normalised or not."""
        x, places = self._begin(tokens, keys)
        found = []
        for index, block in enumerate(self.blocks[: last + 1]):
            x, places = self._run(block, x, places)
            if index in take:
                given = places.at_start(x)  # (B, P + N, D)
                found.append(self.split(self.norm(given) if norm else given, _grid_of(tokens)))
        return self.split(self.norm(places.at_start(x)), _grid_of(tokens)), found

    def split(self, x: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
        """(B, P + N, D) -> grid tokens (B, rows, cols, D) and prefix tokens (B, P, D)."""
        prefix, tokens = x[:, : self.num_prefix_tokens], x[:, self.num_prefix_tokens :]
        return tokens.unflatten(1, grid), prefix

    def _begin(self, tokens: Tensor, keys: Tensor | None) -> tuple[Tensor, Places]:
        """What the first block gets: prefix and grid tokens (B, P + N, D), and their places."""
        rotation = None if self.rotary is None else self.rotary(tokens, keys)
        return self.with_prefix(tokens.flatten(1, 2)), Places(_grid_of(tokens), rotation)

    def _rotation_of_sets(self, x: Tensor, centres: Sequence[Tensor] | None, keys: Tensor | None) -> Tensor | None:
        """The rotation (2, B, 1, N, head_dim / 2) of the tokens in a padded batch (B, P + N, D), if there is any."""
        if self.rotary is None:
            return None
        if centres is None:
            raise ValueError('position is "rotary" and tokens form no grid; give their centres, see grid_centres.')
        return self.rotary.of_centres(nn.utils.rnn.pad_sequence(list(centres), batch_first=True), x, keys)

    def with_prefix(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, P + N, D), what the first block gets"""
        if self.prefix is None:
            return x
        return torch.cat([self.prefix.to(x.dtype).expand(len(x), -1, -1), x], dim=1)

    def _run(self, block: nn.Module, x: Tensor, places: Places) -> tuple[Tensor, Places]:
        if self.grad_checkpointing and torch.is_grad_enabled():
            return checkpoint(block, x, places)
        return block(x, places)


def as_output(tokens: Tensor, output_fmt: str) -> Tensor:
    """Grid tokens (B, rows, cols, D) as timm's formats: "NCHW" (B, D, rows, cols), "NLC" (B, N, D)."""
    return tokens.permute(0, 3, 1, 2).contiguous() if output_fmt == "NCHW" else tokens.flatten(1, 2)


def _grid_of(tokens: Tensor) -> Grid:
    """(rows, cols) of tokens (B, rows, cols, D)."""
    return tokens.shape[1], tokens.shape[2]


def _padded(sets: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
    """Sets of tokens (n_i, D) as one batch (B, N, D), and what keeps its padding from being a key, if there is any."""
    lengths = [len(each) for each in sets]
    x = nn.utils.rnn.pad_sequence(list(sets), batch_first=True)  # (B, N, D)
    if min(lengths) == max(lengths):
        return x, None
    places = torch.arange(x.shape[1], device=x.device)
    is_padding = places >= torch.tensor(lengths, device=x.device)[:, None]  # (B, N)
    return x, torch.zeros_like(is_padding, dtype=x.dtype).masked_fill(is_padding, float("-inf"))[:, None, None]
