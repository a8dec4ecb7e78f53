"""Checks of a map's ONNX graph: fixed inputs and outputs, standard operators, no other files."""

from collections.abc import Iterator

import onnx

from mote_localization.errors import MapFileError
from mote_localization.map_info import MapInfo

_MIN_OPSET = 17
_DOMAINS = {"", "ai.onnx"}  # of the standard operators
_TENSOR_TYPES = {"image": onnx.TensorProto.UINT8}  # the others are float32


def check_graph(model: onnx.ModelProto, info: MapInfo) -> None:
    """Check that a graph has the form of a map and needs no other file.

    Raises:
        MapFileError: Inputs, outputs, operators or weights are not those of a map.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    found = {}
    for value in (*(i for i in model.graph.input if i.name not in weights), *model.graph.output):
        tensor = value.type.tensor_type
        shape: tuple[int | str, ...] = tuple(d.dim_param or d.dim_value for d in tensor.shape.dim)
        right_type = tensor.elem_type == _TENSOR_TYPES.get(value.name, onnx.TensorProto.FLOAT)
        found[value.name] = shape if right_type else (*shape, "of another type")
    if found != info.tensors:
        raise MapFileError(
            f"found inputs and outputs {str(found)[:120]}, expected {info.tensors}; make the map "
            "again"
        )
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    domains = {*opsets, *(node.domain for node in model.graph.node)}
    if domains - _DOMAINS or max(opsets.values(), default=0) < _MIN_OPSET or model.functions:
        raise MapFileError(
            f"found operator sets {str(opsets or domains)[:120]}, expected the standard one, "
            f"version {_MIN_OPSET} or later, and no functions"
        )
    branching = sorted(
        {
            node.op_type
            for node in model.graph.node
            for attribute in node.attribute
            if attribute.HasField("g") or attribute.graphs
        }
    )
    if branching:
        raise MapFileError(
            f"found control flow ({', '.join(branching)[:120]}), expected a graph without branches"
        )
    if any(onnx.external_data_helper.uses_external_data(t) for t in _tensors(model.graph)):
        raise MapFileError(
            "its weights are stored in another file; expected one self-contained file"
        )


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Yield all tensors of a graph without subgraphs."""
    attributes = [a for node in graph.node for a in node.attribute]
    yield from graph.initializer
    for attribute in attributes:
        yield attribute.t
        yield from attribute.tensors
    sparse = [*graph.sparse_initializer, *(a.sparse_tensor for a in attributes)]
    for tensor in (*sparse, *(t for a in attributes for t in a.sparse_tensors)):
        yield tensor.values
        yield tensor.indices
