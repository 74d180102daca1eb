"""ToMe (arXiv 2210.09461): every block merges the pairs of tokens that are most alike, whatever their place.

A control for grid attention on a plain ViT: its merging depends on the content, the adaptive token merger's on the
place alone. Facts from the paper, section 3, and its authors' code (facebookresearch/ToMe, tome/merge.py).

Tokens are (B, N, D): P prefix tokens, which are never merged, then G = N - P others. With them travel their sizes
(B, N, 1), the number of patches in each, in float32 at least; None stands for all ones. After the last block the sizes
of the G tokens add up to the number of patches. They are no longer a grid; `Places.at_start` gives every patch the
token that it ended in, so that there is a map, and its mean is the mean of the tokens weighted by their sizes.
"""

from typing import Any, NamedTuple

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from anyres.layers.options import check_amount
from anyres.layers.places import Places
from anyres.layers.plain_linear import is_plain_linear
from anyres.layers.position import full_precision


class Matching(NamedTuple):
    """Which tokens of the first set are merged into which of the second. The sets are those of `two_sets`."""

    kept: Tensor
    """(B, A - r) places in the first set of the tokens that stay, ascending."""
    going: Tensor
    """(B, r) places in the first set of the tokens that go, the most similar pair first."""
    target: Tensor
    """(B, r) the places in the second set that they are merged into; several may share one."""


def merge_count(amount: float, tokens: int) -> int:
    """How many of the G = `tokens` a block merges away.

    `amount` is a share of them below 1 (rounded to the nearest number), or that many from 1 on (the paper's r); 0 is
    none. Never more than half, since every merged token needs another set to go to.
    """
    count = round(amount * tokens) if amount < 1 else int(amount)
    return min(count, tokens // 2)


def two_sets(x: Tensor, prefix: int) -> tuple[Tensor, Tensor]:
    """The tokens at even and at odd places of x (B, N, ...), prefix tokens counted but left out."""
    tokens, first = x[:, prefix:], prefix % 2
    return tokens[:, first::2], tokens[:, 1 - first :: 2]


@torch.no_grad()
def match_tokens(metric: Tensor, count: int, prefix: int = 0) -> Matching:
    """Bipartite soft matching: each token of the first set picks its best of the second, the best `count` picks merge.

    Ties go to the earlier token, so that equal input gives an equal matching.

    Args:
        metric: (B, N, d); tokens are alike where the cosine between their rows is high.
        count: r, from 1 to half the tokens that are not prefix tokens.
        prefix: P.
    """
    with full_precision(metric.device):  # in bfloat16 most similarities would be ties
        metric = nn.functional.normalize(metric.to(_exact(metric.dtype)), dim=-1)
        first, second = two_sets(metric, prefix)  # (B, A, d), (B, A', d)
        best, target = (first @ second.transpose(1, 2)).max(dim=-1)  # (B, A) each
    order = best.argsort(dim=-1, descending=True, stable=True)
    going, kept = order[:, :count], order[:, count:]
    return Matching(kept.sort(dim=-1).values, going, target.gather(1, going))


def merge_tokens(x: Tensor, sizes: Tensor | None, matching: Matching, prefix: int = 0) -> tuple[Tensor, Tensor]:
    """The mean of merged tokens, weighted by their sizes: (B, N, D), (B, N, 1) -> (B, N - r, D), (B, N - r, 1).

    The order is prefix, what stays of the first set, the second set, as the authors have it with a class token; it
    decides who meets whom in the next block.
    """
    exact = _exact(x.dtype)
    if sizes is None:
        sizes = torch.ones(*x.shape[:2], 1, dtype=exact, device=x.device)
    total = _summed(sizes, matching, prefix)
    return (_summed(x.to(exact) * sizes, matching, prefix) / total).to(x.dtype), total


def moved(matching: Matching, tokens: int, prefix: int) -> Tensor:
    """Where each of N = `tokens` tokens is after the merge: (B, N) places in 0 .. N - r - 1."""
    kept, going, target = matching
    batch, device = len(kept), kept.device
    place = torch.arange(tokens, device=device).repeat(batch, 1)
    first, second = two_sets(place, prefix)  # views: what is written there is written into `place`
    seconds = prefix + kept.shape[1]  # where the second set begins
    second.copy_(seconds + torch.arange(second.shape[1], device=device))
    stay = prefix + torch.arange(kept.shape[1], device=device).expand(batch, -1)
    first.scatter_(1, kept, stay).scatter_(1, going, seconds + target)
    return place


def _summed(x: Tensor, matching: Matching, prefix: int) -> Tensor:
    """(B, N, D) -> (B, N - r, D), each target with the tokens that are merged into it added."""
    first, second = two_sets(x, prefix)
    kept, going, target = (index[..., None].expand(-1, -1, x.shape[-1]) for index in matching)
    second = second.scatter_add(1, target, first.gather(1, going))
    return torch.cat([x[:, :prefix], first.gather(1, kept), second], dim=1)


def _exact(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


class ToMeBlock(Block):
    """timm's transformer block that merges tokens between attention and feed-forward network (ToMe, figure 1).

    Attention is proportional: the logarithm of a token's size is added to all logits of its key, as if the token were
    there that many times (equation 1). Parameters and their names are those of timm's block, and with nothing to merge
    so are the results.

    Args:
        amount: see `merge_count`.
        prefix_tokens: P, the tokens in front that are never merged.
        *args, **options: those of timm's block, but for `qk_norm`.
    """

    needs_grid = True  # or rather: padding, of which these blocks know nothing, would be merged like tokens

    def __init__(self, *args: Any, amount: float, prefix_tokens: int = 0, **options: Any) -> None:
        check_amount(amount)
        if options.get("qk_norm"):
            raise ValueError("qk_norm is True; ToMe compares the keys as they are, so leave qk_norm out.")
        super().__init__(*args, **options)
        self.amount, self.prefix_tokens = amount, prefix_tokens

    def forward(self, x: Tensor, places: Places) -> tuple[Tensor, Places]:  # type: ignore[override]
        """Tokens (B, N, D) -> fewer of them, (B, N - r, D), and their sizes and owners."""
        sizes, owner = places.sizes, places.owner
        normed = self.norm1(x)
        bias = None if sizes is None else sizes.log().to(x.dtype).transpose(1, 2)[:, None]  # (B, 1, 1, N)
        x = x + self.drop_path1(self.ls1(self.attn(normed, attn_mask=bias)))
        count = merge_count(self.amount, x.shape[1] - self.prefix_tokens)
        if count:
            matching = match_tokens(self._mean_key(normed), count, self.prefix_tokens)
            place = moved(matching, x.shape[1], self.prefix_tokens)
            owner = place if owner is None else place.gather(1, owner)
            x, sizes = merge_tokens(x, sizes, matching, self.prefix_tokens)
        x = x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))
        return x, places._replace(sizes=sizes, owner=owner)

    @torch.no_grad()
    def _mean_key(self, normed: Tensor) -> Tensor:
        """The mean of the keys over the heads, (B, N, d). Keys are linear, so it is one map by the mean matrix; unless
        the layer must be called, which then is done a second time."""
        attn: Any = self.attn
        exact, heads = _exact(normed.dtype), (attn.num_heads, -1)
        if not is_plain_linear(attn.qkv):
            with full_precision(normed.device):
                keys = attn.qkv(normed).chunk(3, dim=-1)[1]  # (B, N, D)
            return keys.to(exact).unflatten(-1, heads).mean(-2)
        weight = attn.qkv.weight.chunk(3)[1].to(exact).unflatten(0, heads).mean(0)  # (d, D)
        bias = attn.qkv.bias
        bias = None if bias is None else bias.chunk(3)[1].to(exact).unflatten(0, heads).mean(0)  # (d,)
        with full_precision(normed.device):
            return nn.functional.linear(normed.to(exact), weight, bias)
