"""Conversion of a map's graph to the numbers an engine computes in: float16 or 8-bit integers.

The first and the last nodes stay in float32: positions are finer than float16 or 8 bits.
"""

from collections.abc import Iterable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

STORED_HALF = ".half"  # suffix of the names of weights that a map stores in float16
_FLOAT16 = ".float16"  # suffix of the names of values converted here
_LAYERS = ("Conv", "Gemm", "MatMul")
_HALF = TensorProto.FLOAT16


def single_precision_nodes(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Return the nodes that stay in float32: before the first layer, and from the last layer on.

    A layer is a convolution or a matrix product. A cast of the last layer's input belongs to it.
    """
    nodes = list(graph.node)
    layers = [i for i, node in enumerate(nodes) if node.op_type in _LAYERS]
    if not layers:
        return []
    first, last = layers[0], layers[-1]
    weights = {tensor.name for tensor in graph.initializer}
    inputs = {value.name for value in graph.input} - weights
    casts = [n for n in nodes if n.op_type == "Cast" and nodes[last].input[0] in n.output]
    before = _dependent_nodes(nodes[:first], inputs)
    after = _dependent_nodes(nodes[last + 1 :], nodes[last].output)
    return [*before, *casts, nodes[last], *after]


def _dependent_nodes(nodes: list[onnx.NodeProto], names: Iterable[str]) -> list[onnx.NodeProto]:
    """Return the nodes, in order, that depend on named values."""
    dependent, values = [], set(names)
    for node in nodes:
        if values.intersection(node.input):
            dependent.append(node)
            values.update(node.output)
    return dependent


def in_half_precision(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a map's graph that computes in float16, except for its first and last nodes.

    Points and sigma are computed in float32: float16 has steps of 4 mm at 4 to 8 m. All types are
    explicit, as strongly typed engines require.
    """
    halved = onnx.ModelProto()
    halved.CopyFrom(model)
    graph = halved.graph
    constants = _constants(graph)
    single = {node.output[0] for node in single_precision_nodes(graph)}
    halves: dict[str, str] = {}  # names of float32 values -> names of their float16 versions
    computed: set[str] = set()  # values that are computed in float16
    nodes: list[onnx.NodeProto] = []

    def half_of(name: str) -> str:
        """Return the name of a value's float16 version; its own name if it needs no conversion."""
        value = constants.get(name)
        if not name or name in computed or (value is not None and value.dtype.kind != "f"):
            return name
        if name not in halves:
            halves[name] = f"{name}{_FLOAT16}"
            if value is None:
                nodes.append(helper.make_node("Cast", [name], [halves[name]], to=_HALF))
            else:
                half = numpy_helper.from_array(value.astype(np.float16), halves[name])
                graph.initializer.append(half)
        return halves[name]

    for node in graph.node:
        if node.output[0] not in constants and node.output[0] not in single:
            # the other inputs of Resize are its scales and sizes
            count = 1 if node.op_type == "Resize" else len(node.input)
            node.input[:count] = [half_of(name) for name in node.input[:count]]
            if node.op_type == "Cast":
                node.attribute[0].i = _HALF
            computed.update(node.output)
        nodes.append(node)
    for name in computed.intersection(value.name for value in graph.output):
        half = f"{name}{_FLOAT16}"
        nodes.append(helper.make_node("Cast", [half], [name], to=TensorProto.FLOAT))
        for node in nodes[:-1]:
            for names in (node.input, node.output):
                names[:] = [half if one == name else one for one in names]
    _set_needed_nodes(graph, nodes)
    return halved


def _constants(graph: onnx.GraphProto) -> dict[str, np.ndarray]:
    """Return weights and constants by name; weights stored in float16 by the name of their cast."""
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
        elif node.op_type == "Cast" and node.input[0].endswith(STORED_HALF):
            constants[node.output[0]] = constants[node.input[0]]
    return constants


def _set_needed_nodes(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    """Set the nodes of the graph, without nodes and weights that its outputs do not need."""
    needed = {value.name for value in graph.output}
    kept = []
    for node in reversed(nodes):
        if needed.intersection(node.output):
            needed.update(node.input)
            kept.append(node)
    weights = [tensor for tensor in graph.initializer if tensor.name in needed]
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(reversed(kept))
    graph.initializer.extend(weights)


def is_quantized(model: onnx.ModelProto) -> bool:
    """Return whether a graph computes in 8-bit integers."""
    return any(node.op_type == "QuantizeLinear" for node in model.graph.node)


def with_signed_integers(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a quantized graph with signed integers and zero points of 0, as TensorRT requires.

    Maps have unsigned integers, which are fastest on CPUs. The signed ones cover the same range, so
    their steps are up to twice as large.
    """
    signed = onnx.ModelProto()
    signed.CopyFrom(model)
    weights = {tensor.name: tensor for tensor in signed.graph.initializer}
    for node in signed.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        scale, zero = (weights[name] for name in node.input[1:3])
        if zero.data_type == TensorProto.UINT8:
            zero_point = numpy_helper.to_array(zero).astype(np.float32)
            ratio = np.maximum(zero_point, 255 - zero_point) / 127
            larger = numpy_helper.to_array(scale) * ratio
            scale.CopyFrom(numpy_helper.from_array(larger.astype(np.float32), scale.name))
            zero.CopyFrom(numpy_helper.from_array(np.zeros(zero_point.shape, np.int8), zero.name))
    return signed
