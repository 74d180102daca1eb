"""A small writer of ONNX graphs: values with operators, and weights that are shared."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

OPSET = 20  # the first with GELU; onnxruntime 1.17, OpenVINO 2024


class Value:
    """What a node gives. Numbers beside it in arithmetic become constants: whole ones int64, others float32."""

    def __init__(self, graph: "Graph", name: str) -> None:
        self.graph, self.name = graph, name

    def __add__(self, other: Any) -> "Value":
        return self.graph.op("Add", self, other)

    def __sub__(self, other: Any) -> "Value":
        return self.graph.op("Sub", self, other)

    def __rsub__(self, other: Any) -> "Value":
        return self.graph.op("Sub", other, self)

    def __mul__(self, other: Any) -> "Value":
        return self.graph.op("Mul", self, other)

    def __truediv__(self, other: Any) -> "Value":
        return self.graph.op("Div", self, other)

    def __floordiv__(self, other: Any) -> "Value":
        """Of whole numbers from 0 up: ONNX rounds towards zero."""
        return self.graph.op("Div", self, other)

    def __matmul__(self, other: Any) -> "Value":
        return self.graph.op("MatMul", self, other)

    def __gt__(self, other: Any) -> "Value":
        return self.graph.op("Greater", self, other)

    def __lt__(self, other: Any) -> "Value":
        return self.graph.op("Less", self, other)

    def __le__(self, other: Any) -> "Value":
        return self.graph.op("LessOrEqual", self, other)

    def __or__(self, other: Any) -> "Value":
        return self.graph.op("Or", self, other)

    def to(self, kind: int) -> "Value":
        return self.graph.op("Cast", self, to=kind)

    def as_float(self) -> "Value":
        return self.to(TensorProto.FLOAT)

    def as_int(self) -> "Value":
        return self.to(TensorProto.INT64)

    def gather(self, index: Any, axis: int) -> "Value":
        return self.graph.op("Gather", self, index, axis=axis)

    def reshape(self, *shape: "Value | int") -> "Value":
        return self.graph.op("Reshape", self, self.graph.shape(*shape))

    def transpose(self, *order: int) -> "Value":
        return self.graph.op("Transpose", self, perm=list(order))

    def unsqueeze(self, *axes: int) -> "Value":
        return self.graph.op("Unsqueeze", self, self.graph.constant(list(axes)))

    def cut(self, axis: int, count: "Value") -> "Value":
        """The first so many along an axis."""
        return self.graph.op("Slice", self, [0], count.unsqueeze(0), [axis])

    def size(self, axis: int) -> "Value":
        """A whole number without axes."""
        return self.graph.op("Squeeze", self.graph.op("Shape", self, start=axis, end=axis + 1), [0])


class Graph:
    """Nodes, weights, inputs and outputs of a model that is being written."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, onnx.TensorProto] = {}
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []
        self._by_id: dict[Any, Value] = {}
        self._kept: list[Any] = []  # what ids are of must live as long as they count
        self._count = 0
        self._scope = ""

    @contextmanager
    def scope(self, name: str) -> Iterator[None]:
        """Names of the nodes that are made within begin with this one."""
        outer, self._scope = self._scope, f"{self._scope}{name}/"
        yield
        self._scope = outer

    def name(self, what: str) -> str:
        self._count += 1
        return f"{self._scope}{what}_{self._count}"

    def op(self, kind: str, *inputs: Any, name: str = "", **attributes: Any) -> Value:
        """A node with one output; an input that is "" is left out."""
        given = [self.value(each).name if not isinstance(each, str) else "" for each in inputs]
        made = self.name(kind.lower())
        self.nodes.append(helper.make_node(kind, given, [made], name=name or made, **attributes))
        return Value(self, made)

    def value(self, given: Any) -> Value:
        return given if isinstance(given, Value) else self.constant(given)

    def constant(self, given: Any) -> Value:
        """Numbers, or an array."""
        array = np.asarray(given)
        if array.dtype.kind == "i":
            array = array.astype(np.int64)
        elif array.dtype == np.float64 and not isinstance(given, np.ndarray):
            array = array.astype(np.float32)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._by_id:
            self._by_id[key] = self._weight("constant", array)
        return self._by_id[key]

    def weight(self, tensor: Tensor) -> Value:
        """A parameter, once however often it is used."""
        if id(tensor) not in self._by_id:
            self._kept.append(tensor)
            self._by_id[id(tensor)] = self._weight("weight", tensor.detach().cpu().float().contiguous().numpy())
        return self._by_id[id(tensor)]

    def kept(self, key: Any, make: Callable[[], Tensor]) -> Value:
        """A weight that is made of parameters, once for each key."""
        if key not in self._by_id:
            self._by_id[key] = self._weight("weight", make().cpu().float().contiguous().numpy())
        return self._by_id[key]

    def _weight(self, what: str, array: np.ndarray) -> Value:
        self._count += 1
        name = f"{what}_{self._count}"  # without a scope: others may use it too
        self.weights[name] = numpy_helper.from_array(array, name)
        return Value(self, name)

    def shape(self, *sizes: Value | int) -> Value:
        """Whole numbers as one list of them."""
        if all(isinstance(size, int) for size in sizes):
            return self.constant(list(sizes))
        parts = [size.unsqueeze(0) if isinstance(size, Value) else self.constant([size]) for size in sizes]
        return self.op("Concat", *parts, axis=0)

    def arange(self, count: Value) -> Value:
        return self.op("Range", 0, count, 1)

    def input(self, name: str, kind: int, shape: Sequence[str | int]) -> Value:
        self.inputs.append(helper.make_tensor_value_info(name, kind, shape))
        return Value(self, name)

    def output(self, name: str, value: Value, shape: Sequence[str | int | None]) -> None:
        self.nodes.append(helper.make_node("Identity", [value.name], [name], name=f"give_{name}"))
        self.outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))

    def splice(self, other: onnx.ModelProto, scope: str, **inputs: Value) -> list[Value]:
        """The nodes of a model that was exported otherwise, which get these inputs. What it gives."""
        prefix = f"{scope}/"
        names = {name: value.name for name, value in inputs.items()}
        for tensor in other.graph.initializer:
            names[tensor.name] = prefix + tensor.name
            copied = onnx.TensorProto()
            copied.CopyFrom(tensor)
            copied.name = names[tensor.name]
            self.weights[copied.name] = copied
        for node in other.graph.node:
            if any(attribute.type in (5, 10) for attribute in node.attribute):
                raise ValueError(f"{node.op_type} has graphs of its own")
            copied = onnx.NodeProto()
            copied.CopyFrom(node)
            copied.name = prefix + node.name
            del copied.input[:], copied.output[:]
            copied.input.extend(names.get(name, prefix + name) if name else "" for name in node.input)
            copied.output.extend(prefix + name if name else "" for name in node.output)
            self.nodes.append(copied)
        return [Value(self, names.get(each.name, prefix + each.name)) for each in other.graph.output]

    def model(self, metadata: dict[str, str], producer: str) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes, "any_size", self.inputs, self.outputs, initializer=list(self.weights.values())
        )
        made = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name=producer, ir_version=10
        )
        helper.set_model_props(made, metadata)
        return made

    def halve(self) -> None:
        """Large weights that 16 bits hold exactly are stored so, and read as float32."""
        nodes = []
        for name, tensor in list(self.weights.items()):
            array = numpy_helper.to_array(tensor)
            half = array.astype(np.float16) if array.dtype == np.float32 and array.size >= 256 else None
            if half is not None and np.array_equal(half, array):
                del self.weights[name]
                self.weights[f"{name}_half"] = numpy_helper.from_array(half, f"{name}_half")
                nodes.append(
                    helper.make_node("Cast", [f"{name}_half"], [name], name=f"widen_{name}", to=TensorProto.FLOAT)
                )
        self.nodes[:0] = nodes
