"""A model for any size as one ONNX graph whose height, width and batch are free.

How many levels the merger has depends on the size, and a level is arithmetic of shapes: an axis of n tokens and a final
grid of g becomes max(ceil(n / 2), min(n, g)), the boundaries of its cells are whole numbers, and a cell that lacks a
second place has it masked. So the graph holds as many levels as its largest image needs. One with nothing to merge
works on a single row of cells and hands on what it was given; there are no ONNX branches, which some runtimes refuse
and OpenVINO 2026.4 answers wrongly the first time. What stands before the trunk is written here node by node and
compared with the model by `verify`; trunk, pooling and head are exported by PyTorch.
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from onnx import TensorProto
from torch import Tensor, nn

from anyres.exporting.graph import OPSET, Graph, Value
from anyres.exporting.resizing import between, edge, edged, means
from anyres.layers.grid_attention import GridAttention
from anyres.layers.merge_plan import MergePlan
from anyres.layers.merging import AdaptiveTokenMerger
from anyres.layers.position import FuzzyPositionalEncoding, NoPosition
from anyres.layers.pyramid_merger import PyramidMerger
from anyres.layers.sincos import TEMPERATURE, SinCosPosition
from anyres.layers.stem import ConvStem, PatchStem
from anyres.models.vitar import ViTAR


@dataclass(frozen=True)
class Grid:
    """Rows and columns in the graph."""

    rows: Value
    cols: Value


def level_count(model: ViTAR, largest: int) -> int:
    """Levels that images of up to `largest` pixels a side can need."""
    if model.merger is None or model.config.keeps_shape:
        return 0
    patches = -(-largest // model.config.patch_size)
    deepest = len(MergePlan.halving((patches, patches), model.config.grid, last_pass=False).levels)
    return deepest + (model.config.grid_shape == "aspect")  # a narrow image's short side is rounded


def make_graph(
    model: ViTAR, largest: int, *, uint8: bool, float16: bool = False, metadata: dict[str, str]
) -> onnx.ModelProto:
    """The graph of a model in evaluation, on the CPU in float32.

    Args:
        model: see `check_exportable`.
        largest: most pixels of a side.
        uint8: images are whole numbers from 0 to 255, normalised in the graph.
        float16: weights that 16 bits hold exactly are stored so.
        metadata: written into the file.
    """
    writer = _Writer(model, largest, uint8)
    writer.write()
    if float16:
        writer.g.halve()
    return writer.g.model(metadata, "anyres")


class _Writer:
    def __init__(self, model: ViTAR, largest: int, uint8: bool) -> None:
        self.model, self.config, self.largest, self.uint8 = model, model.config, largest, uint8
        self.g = Graph()
        self.patch = model.config.patch_size
        self.is_pyramid = isinstance(model.merger, PyramidMerger)
        self.levels = level_count(model, largest)

    def write(self) -> None:
        g, channels = self.g, self.config.in_channels
        kind = TensorProto.UINT8 if self.uint8 else TensorProto.FLOAT
        images = g.input("images", kind, ["batch", channels, "height", "width"])
        height, width = images.size(2), images.size(3)
        limit = g.op("Max", height, width) // (self.largest + 1)  # 0 up to the limit
        self._refuse(limit)
        if self.uint8:
            mean, std = (np.array(each, np.float32).reshape(-1, 1, 1) for each in (self.config.mean, self.config.std))
            images = (images.as_float() / 255.0 - g.constant(mean)) / g.constant(std)
        tokens = self._tokens(images, height, width)
        for name, value in zip(("logits", "pooled", "tokens"), self._after_merging(tokens), strict=True):
            wide = self.config.width
            if name != "logits" or self.config.num_classes:
                shapes: dict[str, list[str | int | None]] = {
                    "logits": ["batch", self.config.num_classes], "pooled": ["batch", wide],
                    "tokens": ["batch", "rows", "cols", wide],
                }  # fmt: skip
                g.output(name, value, shapes[name])

    def _refuse(self, beyond: Value) -> None:
        """Stops a run on a larger image: the graph cannot raise, but reading place 1 of 1 fails with this name."""
        self.guard = self.g.op("Gather", [0], beyond, axis=0, name="image_beyond_the_limit_of_this_file")

    # What stands before the trunk.

    def _tokens(self, images: Value, height: Value, width: Value) -> Value:
        """Merged tokens (B, R, C, D)."""
        patches = [(side + (self.patch - 1)) // self.patch + self.guard for side in (height, width)]
        if self.model.merger is None:
            return self._embed(self._fitted(images, (height, width), patches, enlarges=False), Grid(*patches))
        if self.config.keeps_shape:
            return self._fixed(images, (height, width), patches)
        final = self._final_grid(patches)
        if self.is_pyramid:
            patches = [self.g.op("Max", side, goal) for side, goal in zip(patches, final, strict=True)]
        images = self._fitted(images, (height, width), patches, enlarges=self.is_pyramid)
        tokens = self._embed(images, Grid(*patches))
        chains = [self._chain(side, goal) for side, goal in zip(patches, final, strict=True)]
        merges = [
            self.g.op("Or", before[0] > after[0], before[1] > after[1])
            for before, after in zip(zip(*chains, strict=True), list(zip(*chains, strict=True))[1:], strict=False)
        ]
        state, base = [tokens, images] if self.is_pyramid else [tokens], tokens
        for number, runs in enumerate(merges):
            before, after = (Grid(*(chain[number + at] for chain in chains)) for at in (0, 1))
            weight = self._deep_weight(merges[number:])
            given = [*state, base] if self.is_pyramid else state
            with self.g.scope(f"level_{number + 1}"):
                made = self._if_any(runs.as_int(), given, before, after, weight)
            state, base = made[:2] if self.is_pyramid else made, made[-1]
        tokens = state[0]
        if self.config.last_pass:
            tokens = self._single(tokens, base if self.is_pyramid else tokens)
        return tokens

    def _fixed(self, images: Value, sides: Sequence[Value], patches: list[Value]) -> Value:
        """Cells of 1x1 or 2x2 patches in one pass."""
        cell = int(str(self.config.cells)[0])
        after = [(side + (cell - 1)) // cell for side in patches]
        if self.is_pyramid:
            patches = [side * cell for side in after]
        images = self._fitted(images, sides, patches, enlarges=False)
        tokens = self._embed(images, Grid(*patches))
        if cell == 1:
            return self._single(tokens, tokens)
        given = [tokens, images] if self.is_pyramid else [tokens]
        return self._level(given, Grid(*patches), Grid(*after), after[0], None, stride=2)[0]

    def _final_grid(self, patches: Sequence[Value]) -> list[Value]:
        g, (rows, cols) = self.g, self.config.grid
        if self.config.grid_shape == "fixed":
            return [g.constant(rows), g.constant(cols)]
        area = rows * cols
        most = self.config.most_tokens

        def side(one: Value, other: Value) -> Value:  # see `aspect_grid`
            square = one * (4 * area) // other
            root = g.op("Floor", g.op("Sqrt", square.to(TensorProto.DOUBLE))).as_int()
            return g.op("Max", (root + 1) // 2, 1)

        def held(long: Value, short: Value) -> Value:
            full = (short - 1 + area) // short
            bounded = g.op("Min", g.op("Max", long, full - 1), full)
            return g.op("Min", bounded, g.constant(most) // short)

        first, second = side(patches[0], patches[1]), side(patches[1], patches[0])
        is_wide = first < second
        return [
            g.op("Where", is_wide, first, held(first, second)),
            g.op("Where", is_wide, held(second, first), second),
        ]

    def _chain(self, patches: Value, goal: Value) -> list[Value]:
        """Tokens of an axis before the first level and after each."""
        chain = [patches]
        for _ in range(self.levels):
            half = (chain[-1] + 1) // 2
            chain.append(self.g.op("Max", half, self.g.op("Min", chain[-1], goal)))
        return chain

    def _deep_weight(self, merges: Sequence[Value]) -> Value | None:
        """How much the message of a level counts, with those of it and after it that merge."""
        if not isinstance(self.model.merger, PyramidMerger) or self.model.merger.full_levels is None:
            return None
        to_come = self.g.op("Sum", *(each.as_float() for each in merges))
        beyond = self.g.op("Max", to_come - float(self.model.merger.full_levels), 0.0)
        return self.g.op("Pow", float(self.model.merger.deep_weight), beyond)

    def _if_any(
        self, runs: Value, given: Sequence[Value], before: Grid, after: Grid, weight: Value | None
    ) -> list[Value]:
        """What a level makes if it runs (1), and what it was given if not (0)."""
        g = self.g
        made = self._level(given, before, after, g.op("Max", after.rows * runs, 1), weight)
        found = []
        for one, other, axis, scale in zip(made, given, (1, 2, 1), (1, self.patch, 1), strict=False):
            new = one.cut(axis, after.rows * runs * scale)
            old = other.cut(axis, before.rows * (1 - runs) * scale).cut(axis + 1, after.cols * scale)
            found.append(g.op("Concat", new, old, axis=axis))
        return found

    def _level(
        self,
        given: Sequence[Value],
        before: Grid,
        after: Grid,
        rows: Value,
        weight: Value | None,
        stride: int | None = None,
    ) -> list[Value]:
        """Tokens (B, rows, cols, D) of one grid to the first rows of the next: with a pyramid also image and base."""
        g, tokens = self.g, given[0]
        made = Grid(rows, after.cols)
        sides = [
            self._places(n, m, count, stride)
            for n, m, count in ((before.rows, after.rows, rows), (before.cols, after.cols, after.cols))
        ]
        for axis, (places, _) in enumerate(sides, start=1):
            tokens = tokens.gather(places, axis)  # (B, 2 R, 2 C, D)
        batch, wide = tokens.size(0), self.config.width
        tokens = tokens.reshape(batch, made.rows, 2, made.cols, 2, wide).transpose(0, 1, 3, 2, 4, 5)
        tokens = tokens.reshape(-1, 4, wide)
        absent = sides[0][1].unsqueeze(1, 3) | sides[1][1].unsqueeze(0, 2)  # (R, C, 2, 2)
        absent = absent.reshape(1, -1, 4)
        if not self.is_pyramid:
            present = g.op("Not", absent).as_float().unsqueeze(3)  # (1, R C, 4, 1)
            grouped = tokens.reshape(batch, -1, 4, wide) * present
            base = g.op("ReduceSum", grouped, [2], keepdims=0) / g.op("ReduceSum", present, [2], keepdims=0)
            merged = self._merged(tokens, absent, base.reshape(-1, wide), batch)
            return [merged.reshape(batch, made.rows, made.cols, wide)]
        image = given[1]
        for axis, (n, m, count) in enumerate(
            ((before.rows, after.rows, rows), (before.cols, after.cols, after.cols)), start=2
        ):
            image = means(g, n * self.patch, m * self.patch, count * self.patch).apply(image, axis, 4)
        base = self._embed(image, made)
        merged = self._merged(tokens, absent, base.reshape(-1, wide), batch)
        merged = merged.reshape(batch, made.rows, made.cols, wide)
        if weight is not None:
            merged = base + (merged - base) * weight
        return [merged, image, base]

    def _places(self, tokens: Value, cells: Value, count: Value, stride: int | None) -> tuple[Value, Value]:
        """The two places of so many cells of an axis (2 * count,), and which hold nothing, (count, 2) bool."""
        g = self.g
        if stride is None:
            edges = (g.arange(count + 1) * tokens * 2 + cells) // (cells * 2)
        else:
            edges = g.op("Min", g.arange(count + 1) * stride, tokens)
        low = edges.gather(g.arange(count), 0)
        high = edges.gather(g.arange(count) + 1, 0) - 1
        places = g.op("Concat", low.unsqueeze(1), high.unsqueeze(1), axis=1)  # (count, 2)
        single = g.op("Equal", low, high).unsqueeze(1)
        return places.reshape(-1), g.op("And", single, np.array([[False, True]]))

    # Pieces of the model.

    def _fitted(self, images: Value, sides: Sequence[Value], patches: Sequence[Value], *, enlarges: bool) -> Value:
        g = self.g
        rows, cols = (number * self.patch for number in patches)
        if not enlarges:
            return edged(g, edged(g, images, 2, rows - sides[0]), 3, cols - sides[1])
        less = [side <= (number - 1) * self.patch for side, number in zip(sides, patches, strict=True)]
        some = (less[0] | less[1]).as_int()
        enlarged = images
        for axis, (side, target, is_less) in enumerate(zip(sides, (rows, cols), less, strict=True), start=2):
            count = target * some if axis == 2 else target
            enlarged = between(g, side, target, count, is_less).apply(enlarged, axis, 4)
        completed = edge(g, sides[0], rows * (1 - some)).apply(images, 2, 4)
        return g.op("Concat", enlarged, edged(g, completed, 3, cols - sides[1]), axis=2)

    def _embed(self, images: Value, grid: Grid) -> Value:
        """Patches with positions, (B, rows, cols, D), of images that they cover."""
        return self._positions(self._stem(images, grid), grid)

    def _stem(self, images: Value, grid: Grid) -> Value:
        stem, g, patch = self.model.stem, self.g, self.patch
        if isinstance(stem, ConvStem):
            for conv, norm in zip(stem.convs, stem.norms, strict=True):
                assert isinstance(conv, nn.Conv2d)
                (kernel, _), (stride, _), pad = conv.kernel_size, conv.stride, int(conv.padding[0])
                images = g.op(
                    "Conv", images, g.weight(conv.weight), g.weight(conv.bias),  # type: ignore[arg-type]
                    kernel_shape=[kernel] * 2,
                    strides=[stride] * 2, pads=[pad] * 4,
                )  # fmt: skip
                images = g.op("Gelu", self._norm(images.transpose(0, 2, 3, 1), norm)).transpose(0, 3, 1, 2)
            return self._linear(images.transpose(0, 2, 3, 1), stem.proj)
        assert isinstance(stem, PatchStem)
        channels = self.config.in_channels
        apart = images.reshape(images.size(0), channels, grid.rows, patch, grid.cols, patch)
        return self._linear(
            apart.transpose(0, 2, 4, 1, 3, 5).reshape(images.size(0), grid.rows, grid.cols, channels * patch**2),
            stem.proj,
        )

    def _positions(self, tokens: Value, grid: Grid) -> Value:
        position, g = self.model.position, self.g
        if isinstance(position, NoPosition):
            return tokens
        if isinstance(position, SinCosPosition):
            by_axis = [self._sincos(n, own) for n, own in zip((grid.rows, grid.cols), position.grid, strict=True)]
            rows, cols = by_axis[0].unsqueeze(1), by_axis[1].unsqueeze(0)  # (rows, 1, D / 2), (1, cols, D / 2)
            half = self.config.width // 2
            shape = g.shape(grid.rows, grid.cols, half)
            return tokens + g.op("Concat", g.op("Expand", cols, shape), g.op("Expand", rows, shape), axis=2)
        assert isinstance(position, FuzzyPositionalEncoding)
        down, across = position.grid
        read = self._cubic if position.interpolation == "bicubic" else self._bilinear
        table = g.weight(position.table).reshape(down, -1)
        along = (read(grid.rows, down) @ table).reshape(grid.rows, across, self.config.width)
        return tokens + read(grid.cols, across) @ along

    def _bilinear(self, size: Value, table: int) -> Value:
        """Weights (size, table), see `layers.position.interpolation_matrix`."""
        g = self.g
        place = self._centres(size) * (0.5 * table) + (0.5 * table - 0.5)
        place = g.op("Min", g.op("Max", place, 0.0), float(table - 1))
        apart = g.op("Abs", place.unsqueeze(1) - g.constant(np.arange(table, dtype=np.float32)))
        return g.op("Max", 1.0 - apart, 0.0)

    def _cubic(self, size: Value, table: int) -> Value:
        """The same bicubically without antialiasing (a = -0.75), as torch does it; at its own size it is exact."""
        g = self.g
        place = (g.arange(size).as_float() + 0.5) * float(table) / size.as_float() - 0.5
        below = g.op("Floor", place)
        share = place - below
        total: Value | None = None
        for ahead in range(-1, 3):
            at = g.op("Min", g.op("Max", below + float(ahead), 0.0), float(table - 1))
            x = g.op("Abs", share - float(ahead))
            near = ((x * 1.25 - 2.25) * x) * x + 1.0
            far = ((x * -0.75 + 3.75) * x - 6.0) * x + 3.0
            weight = g.op("Where", x <= 1.0, near, far)
            is_there = g.op("Equal", at.unsqueeze(1), g.constant(np.arange(table, dtype=np.float32)))
            part = is_there.as_float() * weight.unsqueeze(1)
            total = part if total is None else total + part
        assert total is not None
        return total

    def _centres(self, size: Value) -> Value:
        return (self.g.arange(size) * 2 + 1).as_float() / size.as_float() - 1.0

    def _sincos(self, size: Value, own: int) -> Value:
        """(size, D / 2)"""
        g, quarter = self.g, self.config.width // 4
        places = (g.arange(size).as_float() + 0.5) * float(own) / size.as_float() - 0.5
        frequencies = TEMPERATURE ** -(torch.arange(quarter, dtype=torch.float32) / quarter)
        angle = places.unsqueeze(1) * g.constant(frequencies.numpy())
        return g.op("Concat", g.op("Sin", angle), g.op("Cos", angle), axis=1)

    def _linear(self, x: Value, layer: nn.Module) -> Value:
        assert isinstance(layer, nn.Linear)
        x = x @ self._matrix(layer.weight)
        return x if layer.bias is None else x + self.g.weight(layer.bias)

    def _matrix(self, weight: Tensor) -> Value:
        """(inputs, outputs)"""
        key = ("transposed", id(weight))
        return self.g.kept(key, lambda: weight.detach().t().contiguous())

    def _norm(self, x: Value, norm: nn.Module) -> Value:
        assert isinstance(norm, nn.LayerNorm)
        return self.g.op(
            "LayerNormalization", x, self.g.weight(norm.weight), self.g.weight(norm.bias), axis=-1, epsilon=norm.eps
        )

    @property
    def block(self) -> GridAttention:
        assert isinstance(self.model.merger, AdaptiveTokenMerger)
        return self.model.merger.block

    def _merged(self, tokens: Value, absent: Value, base: Value, batch: Value) -> Value:
        """`GridAttention.merge_cells`: tokens (n, 4, D), absent (1, R C, 4), base (n, D) -> (n, D)."""
        g, block, heads, wide = self.g, self.block, self.block.heads, self.config.width
        own = block.head_dim
        tokens = self._norm(tokens, block.norm1)
        asked = self._linear(self._norm(base, block.norm1), block.q).reshape(-1, heads, own).transpose(1, 0, 2)
        keys, values = block.kv.weight.detach().chunk(2)
        into = g.kept(("keys", id(block)), lambda: keys.unflatten(0, (heads, own)).contiguous())  # (heads, d, D)
        out = g.kept(
            ("values", id(block)), lambda: values.unflatten(0, (heads, own)).transpose(1, 2).contiguous()
        )  # (heads, D, d)
        with g.scope("cells"):
            scores = (asked @ into).transpose(1, 0, 2) @ tokens.transpose(0, 2, 1)  # (n, heads, 4)
            scores = (scores * own**-0.5).reshape(batch, -1, heads, 4)
            scores = g.op("Where", absent.unsqueeze(2), -math.inf, scores)
            shares = g.op("Softmax", scores, axis=-1).reshape(-1, heads, 4)
            found = (shares @ tokens).transpose(1, 0, 2)  # (heads, n, D)
            attended = (found @ out).transpose(1, 0, 2).reshape(-1, wide)
        attended = attended + g.kept(("bias", id(block)), lambda: block.kv.bias.detach()[wide:])
        return self._fed(base + self._linear(attended, block.proj))

    def _single(self, x: Value, base: Value) -> Value:
        """`GridAttention.merge_singles`."""
        block, wide = self.block, self.config.width
        values = self._norm(x, block.norm1) @ self.g.kept(
            ("value", id(block)), lambda: block.kv.weight.detach()[wide:].t().contiguous()
        )
        values = values + self.g.kept(("bias", id(block)), lambda: block.kv.bias.detach()[wide:])
        return self._fed(base + self._linear(values, block.proj))

    def _fed(self, x: Value) -> Value:
        mlp = self.block.mlp
        hidden = self.g.op("Gelu", self._linear(self._norm(x, self.block.norm2), mlp.fc1))
        return x + self._linear(hidden, mlp.fc2)

    # What stands behind it.

    def _after_merging(self, tokens: Value) -> list[Value]:
        """Logits, pooled features and tokens."""
        sample = torch.randn(2, 3, 5, self.config.width)
        free = dict.fromkeys(range(3), torch.export.Dim.DYNAMIC)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of PyTorch's own parts
            program = torch.onnx.export(
                _AfterMerging(self.model).eval(), (sample,), dynamo=True, dynamic_shapes=(free,), verbose=False,
                opset_version=OPSET, input_names=["merged"], output_names=["logits", "pooled", "tokens"],
            )  # fmt: skip
        assert program is not None
        return self.g.splice(program.model_proto, "trunk", merged=tokens)


class _AfterMerging(nn.Module):
    """Trunk, pooling and head of a model, as a module of their own."""

    def __init__(self, model: ViTAR) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features = self.model.forward_merged(tokens, MergePlan((1, 1), ()))
        assert isinstance(features.tokens, Tensor)
        return self.model.forward_head(features), features.pooled, features.tokens
