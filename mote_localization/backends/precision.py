"""What a map's network computes in, as engines of a GPU want it.

First and last layers stay in single precision throughout.
"""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

_HALF = TensorProto.FLOAT16
STORED_HALF = ".half"  # ends the names of weights that a map stores in half precision
SINGLE = ("/input/", "/head/")  # names of the layers that stay in single precision begin so


def in_half_precision(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a map's graph whose trunk computes in float16.

    Points and sigma are made in float32, from the head on: steps of float16 are 4 mm at 4 to 8 m.
    So is what makes numbers of pixels. Types are explicit all through, as strongly typed engines
    want them.
    """
    halved = onnx.ModelProto()
    halved.CopyFrom(model)
    graph = halved.graph
    known = _known_values(graph)
    halves: dict[str, str] = {}  # names of float32 values -> names of the same in float16
    made: set[str] = set()  # by layers of the trunk: float16 already
    nodes: list[onnx.NodeProto] = []

    def half_of(name: str) -> str:
        """Return the name of a value in float16, itself where it is that or no such number."""
        value = known.get(name)
        if not name or name in made or (value is not None and value.dtype.kind != "f"):
            return name
        if name not in halves:
            halves[name] = f"{name}.trunk"
            if value is None:
                nodes.append(helper.make_node("Cast", [name], [halves[name]], to=_HALF))
            else:
                half = numpy_helper.from_array(value.astype(np.float16), halves[name])
                graph.initializer.append(half)
        return halves[name]

    for node in graph.node:
        if node.output[0] not in known and not node.name.startswith(SINGLE):
            # what Resize is told besides the image are scales and sizes
            numbers = 1 if node.op_type == "Resize" else len(node.input)
            node.input[:numbers] = [half_of(name) for name in node.input[:numbers]]
            if node.op_type == "Cast":
                node.attribute[0].i = _HALF
            made.update(node.output)
        nodes.append(node)
    for name in made.intersection(value.name for value in graph.output):
        nodes.append(helper.make_node("Cast", [f"{name}.trunk"], [name], to=TensorProto.FLOAT))
        for node in nodes[:-1]:
            for names in (node.input, node.output):
                names[:] = [f"{name}.trunk" if one == name else one for one in names]
    _keep_what_is_used(graph, nodes)
    return halved


def _known_values(graph: onnx.GraphProto) -> dict[str, np.ndarray]:
    """Return weights and constants by name; one stored in half has the name of its widened form."""
    known = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            known[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
        elif node.op_type == "Cast" and node.input[0].endswith(STORED_HALF):
            known[node.output[0]] = known[node.input[0]]
    return known


def _keep_what_is_used(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    """Make the graph of these nodes, in order, without those whose outputs nobody wants."""
    wanted = {value.name for value in graph.output}
    kept = []
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            wanted.update(node.input)
            kept.append(node)
    weights = [tensor for tensor in graph.initializer if tensor.name in wanted]
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(reversed(kept))
    graph.initializer.extend(weights)


def is_quantized(model: onnx.ModelProto) -> bool:
    """Return whether a graph computes in 8-bit integers."""
    return any(node.op_type == "QuantizeLinear" for node in model.graph.node)


def with_signed_integers(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a quantized graph whose integers are signed with 0 at 0, which TensorRT alone knows.

    Maps hold unsigned ones, which processors multiply fastest. The signed ones reach as far, with
    steps up to twice as wide.
    """
    signed = onnx.ModelProto()
    signed.CopyFrom(model)
    known = {tensor.name: tensor for tensor in signed.graph.initializer}
    for node in signed.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        scale, zero = (known[name] for name in node.input[1:3])
        if zero.data_type == TensorProto.UINT8:
            at_zero = numpy_helper.to_array(zero).astype(np.float32)
            steps = np.maximum(at_zero, 255 - at_zero) / 127
            wider = numpy_helper.to_array(scale) * steps
            scale.CopyFrom(numpy_helper.from_array(wider.astype(np.float32), scale.name))
            nought = np.zeros(at_zero.shape, np.int8)
            zero.CopyFrom(numpy_helper.from_array(nought, zero.name))
    return signed
