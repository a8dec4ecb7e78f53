"""The machine of a measurement: name, library versions and speed of matrix products."""

import os
import platform
import re
import time
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

_SIDE = 2048  # rows and columns of the matrices that are multiplied
_SECONDS = 1.0  # duration of the measurement
_LIBRARIES = (
    "numpy",
    "onnxruntime",
    "onnxruntime-gpu",
    "opencv-python-headless",
    "poselib",
    "tensorrt",
    "tensorrt-rtx-cu13",
)


def machine() -> str:
    """Return the processor, its cores and the Python version of this machine."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        named = re.search(r"^model name\s*: (.*)$", cpuinfo.read_text(), re.MULTILINE)
        model = named[1].strip() if named else model
    cores = len(os.sched_getaffinity(0))
    return f"{model}, {cores} core{'s' if cores > 1 else ''}, Python {platform.python_version()}"


def versions() -> dict[str, str]:
    """Return the versions of the installed Python packages that affect the speed."""
    found = {}
    for name in _LIBRARIES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def matrix_product_macs_per_s(threads: int = 0) -> float:
    """Return the multiply-adds per second of a large float32 matrix product by ONNX Runtime.

    Args:
        threads: CPU threads; 0: one per core.
    """
    import onnxruntime  # slow to import

    square = [_SIDE, _SIDE]
    a, b, c = (helper.make_tensor_value_info(name, TensorProto.FLOAT, square) for name in "abc")
    product = helper.make_graph([helper.make_node("MatMul", ["a", "b"], ["c"])], "p", [a, b], [c])
    model = helper.make_model(product, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    factors = {name: np.ones(square, np.float32) for name in "ab"}
    session.run(None, factors)
    fastest, until = float("inf"), time.perf_counter() + _SECONDS
    while (started := time.perf_counter()) < until:
        session.run(None, factors)
        fastest = min(fastest, time.perf_counter() - started)
    return _SIDE**3 / fastest


def graph_macs(model: onnx.ModelProto) -> int:
    """Return the multiply-adds of all convolutions and matrix products of one inference."""
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in inferred.initializer}
    for value in (*inferred.value_info, *inferred.input, *inferred.output):
        shapes[value.name] = tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
    total = 0
    for node in inferred.node:
        if node.op_type in ("Conv", "MatMul", "Gemm"):
            outputs = int(np.prod(shapes[node.output[0]]))
            if node.op_type == "Conv":  # weights of one output: channels of a group x kernel
                total += outputs * int(np.prod(shapes[node.input[1]][1:]))
            elif node.op_type == "MatMul":
                total += outputs * shapes[node.input[0]][-1]
            else:
                transposed = any(a.name == "transA" and a.i for a in node.attribute)
                total += outputs * shapes[node.input[0]][0 if transposed else 1]
    return total
