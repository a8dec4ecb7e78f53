"""Checks of a map's ONNX graph: inputs, outputs, operators and weights; its memory and its time.

A few bytes can describe a tensor of gigabytes, as by Expand, Range, Tile or Resize. So the shapes
of all tensors are inferred before a backend gets the graph, and memory and time are bounded.
"""

import math
from collections.abc import Iterator

import onnx

from mote_localization.errors import MapFileError, first_line
from mote_localization.map_info import MapInfo

_MIN_OPSET = 17
_DOMAINS = {"", "ai.onnx"}  # of the standard operators
_TENSOR_TYPES = {"image": onnx.TensorProto.UINT8}  # the others are float32
_MAX_NODES = 20_000
_MAX_LIVE_BYTES = 256 << 20  # of the tensors that are needed at the same time
_MAX_TOTAL_BYTES = 1 << 30  # of all tensors of an image
_MAX_OPERATIONS = 1 << 36  # multiplications for an image
_MAX_SHAPE_VALUES = 64  # of a weight that may be the shape of a tensor
# Operators whose time is not in proportion to the sizes of their tensors.
_CONVOLUTIONS = {"Conv": 1, "ConvInteger": 1, "DeformConv": 1, "QLinearConv": 3}  # input of weights
_PRODUCTS = ("Gemm", "MatMul", "MatMulInteger", "QLinearMatMul")
_SLOW = ("Attention", "DFT", "Det", "Einsum", "GRU", "LRN", "LSTM", "MaxRoiPool", "RNN", "RoiAlign",
         "STFT")  # fmt: skip

_Shape = tuple[int | str, ...]
_Sizes = dict[str, tuple[tuple[int, ...], int]]  # name of a tensor -> shape, bytes of a value


def check_graph(model: onnx.ModelProto, info: MapInfo) -> None:
    """Check that a graph has the form of a map, needs no other file, and takes little to run.

    Raises:
        MapFileError: Inputs, outputs, operators or weights are not those of a map; or a tensor has
            no fixed size, or the graph takes too much memory or time.
    """
    graph = model.graph
    if len(graph.node) > _MAX_NODES:
        raise MapFileError(f"found {len(graph.node)} nodes, expected at most {_MAX_NODES}")
    weights = {tensor.name for tensor in graph.initializer}
    found: dict[str, _Shape] = {}
    for value in (*(i for i in graph.input if i.name not in weights), *graph.output):
        tensor = value.type.tensor_type
        shape: _Shape = tuple(d.dim_param or d.dim_value for d in tensor.shape.dim)
        right_type = tensor.elem_type == _TENSOR_TYPES.get(value.name, onnx.TensorProto.FLOAT)
        found[value.name] = shape if right_type else (*shape, "of another type")
    _check_shapes(found, info)
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    domains = {*opsets, *(node.domain for node in graph.node)}
    if domains - _DOMAINS or max(opsets.values(), default=0) < _MIN_OPSET or model.functions:
        raise MapFileError(
            f"found operator sets {str(opsets or domains)[:120]}, expected the standard one, "
            f"version {_MIN_OPSET} or later, and no functions"
        )
    branching = sorted(
        {
            node.op_type
            for node in graph.node
            for attribute in node.attribute
            if attribute.HasField("g") or attribute.graphs
        }
    )
    if branching:
        raise MapFileError(
            f"found control flow ({', '.join(branching)[:120]}), expected a graph without branches"
        )
    for tensor in _tensors(graph):
        _check_tensor(tensor)
    sizes = _inferred_sizes(model)
    computed: dict[str, _Shape] = {
        value.name: _shape_and_item_bytes(value.name, sizes)[0] for value in graph.output
    }
    _check_shapes({"image": info.tensors["image"], **computed}, info)
    _check_cost(graph, sizes)


def _check_shapes(found: dict[str, _Shape], info: MapInfo) -> None:
    """Check that inputs and outputs have the names and shapes of a map."""
    if found != info.tensors:
        raise MapFileError(
            f"found inputs and outputs {str(found)[:120]}, expected {info.tensors}; make the map "
            "again"
        )


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Yield all tensors of a graph without subgraphs."""
    attributes = [a for node in graph.node for a in node.attribute]
    sparse = [a for a in attributes if a.HasField("sparse_tensor") or a.sparse_tensors]
    if sparse or graph.sparse_initializer:  # a few values may stand for many zeros
        raise MapFileError("found sparse weights, expected dense ones; make the map again")
    yield from graph.initializer
    for attribute in attributes:
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors


def _check_tensor(tensor: onnx.TensorProto) -> None:
    """Check that a weight is in this file, and has as many values as its shape."""
    if onnx.external_data_helper.uses_external_data(tensor):
        raise MapFileError(
            "its weights are stored in another file; expected one self-contained file"
        )
    try:
        fits = onnx.numpy_helper.to_array(tensor).shape == tuple(tensor.dims)  # dims may be -1
    except Exception:  # the errors of NumPy and onnx have no common base class
        fits = False
    if not fits:
        raise MapFileError(
            f"found the weight {tensor.name[:40]} with data that do not fit its shape "
            f"{str(list(tensor.dims))[:60]}; copy the map again, or make it again"
        )


def _inferred_sizes(model: onnx.ModelProto) -> _Sizes:
    """Return the sizes of all tensors that follow from operators, weights and the image.

    The shapes that the graph declares are not used: nothing checks them before it runs. Neither are
    values of shapes that the graph computes: they may grow without limit.
    """
    unshaped = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    unshaped.graph.name, weights = model.graph.name, set()
    for tensor in model.graph.initializer:
        weights.add(tensor.name)
        if math.prod(tensor.dims) <= _MAX_SHAPE_VALUES:
            unshaped.graph.initializer.append(tensor)
        else:
            kind = onnx.helper.make_tensor_type_proto(tensor.data_type, tensor.dims)
            unshaped.graph.input.add(name=tensor.name, type=kind)
    unshaped.graph.input.extend(value for value in model.graph.input if value.name not in weights)
    unshaped.graph.node.extend(model.graph.node)
    for value in model.graph.output:
        declared = unshaped.graph.output.add(name=value.name)
        declared.type.tensor_type.elem_type = value.type.tensor_type.elem_type
    try:
        inferred = onnx.shape_inference.infer_shapes(unshaped, strict_mode=True).graph
    except Exception as error:  # the errors of onnx have no common base class
        raise MapFileError(
            f"its graph is damaged ({first_line(error, 120)}); copy the map again, or make it again"
        ) from error
    types = {
        value.name: value.type.tensor_type
        for value in (*inferred.input, *inferred.value_info, *inferred.output)
    } | {
        tensor.name: onnx.helper.make_tensor_type_proto(tensor.data_type, tensor.dims).tensor_type
        for tensor in inferred.initializer
    }
    sizes: _Sizes = {"": ((), 0)}  # an optional input or output that is left out
    for name, kind in types.items():
        dims = kind.shape.dim
        if kind.elem_type and kind.HasField("shape") and all(d.HasField("dim_value") for d in dims):
            dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
            if dtype.kind != "O":  # tensors of texts, which may have any length
                sizes[name] = tuple(d.dim_value for d in dims), dtype.itemsize
    return sizes


def _shape_and_item_bytes(name: str, sizes: _Sizes) -> tuple[tuple[int, ...], int]:
    """Return shape and bytes per value of a tensor; raise `MapFileError` if they are not fixed."""
    if name not in sizes:
        raise MapFileError(
            f"found a tensor without a fixed size ({name[:60]}), expected a graph whose shapes do "
            "not depend on values; export it for one size of images"
        )
    return sizes[name]


def _check_cost(graph: onnx.GraphProto, sizes: _Sizes) -> None:
    """Check memory and time of a graph, where its nodes run in their order."""
    last_use = {name: i for i, node in enumerate(graph.node) for name in node.input}
    live, total, operations = 0, 0, 0
    computed: dict[str, int] = {}  # bytes of the tensors that are live
    for i, node in enumerate(graph.node):
        for name in node.output:
            shape, itemsize = _shape_and_item_bytes(name, sizes)
            computed[name] = math.prod(shape) * itemsize
            live, total = live + computed[name], total + computed[name]
        operations += _operations(node, sizes)
        if live > _MAX_LIVE_BYTES or total > _MAX_TOTAL_BYTES or operations > _MAX_OPERATIONS:
            raise MapFileError(
                f"its graph takes {live >> 20} MiB at once, {total >> 20} MiB in total or "
                f"{operations:.1e} multiplications up to {node.op_type[:30]}, expected at most "
                f"{_MAX_LIVE_BYTES >> 20}, {_MAX_TOTAL_BYTES >> 20} and {_MAX_OPERATIONS:.1e}"
            )
        for name in {*node.input}:
            if last_use[name] == i:
                live -= computed.pop(name, 0)


def _operations(node: onnx.NodeProto, sizes: _Sizes) -> int:
    """Return an upper bound of the multiplications of a node."""
    inputs = [_shape_and_item_bytes(name, sizes)[0] for name in node.input]
    result = sum(math.prod(_shape_and_item_bytes(name, sizes)[0]) for name in node.output)
    # values that pooling reads for one result; other operators have no such attribute
    window = math.prod(v for a in node.attribute if a.name == "kernel_shape" for v in a.ints)
    if node.op_type in _CONVOLUTIONS:
        return result * math.prod(inputs[_CONVOLUTIONS[node.op_type]][1:])
    if node.op_type == "ConvTranspose":
        return math.prod(inputs[0]) * math.prod(inputs[1][1:])
    if node.op_type in _PRODUCTS:
        return result * (max(inputs[0]) if node.op_type == "Gemm" else inputs[0][-1])
    if node.op_type in _SLOW:
        return result * max(map(math.prod, inputs), default=1)
    return result * window
