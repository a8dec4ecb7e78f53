"""A tiny map without a trained network, for tests that need a known pose.

`write_constant_map` writes a real map file whose graph predicts the walls of an empty box room as a
camera at `T_map_cam` sees them, so every image of the canonical camera is localized there. Only two
properties of the image matter, so that a test can distinguish frames:

- a dark image (mean value under `DARK`) gets a sigma of 50 m, so the frame is lost;
- with `colour_shift_m` s, the points are shifted by s * (mean red, mean green, mean blue) / 255
  along x, y and z of the map.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from mote_localization.camera import Camera
from mote_localization.map_file import MapInfo, read_map, write_map

DARK = 8.0  # mean pixel value, of 255
ROOM_M = np.array([6.0, 5.0, 3.0])  # the box, from the origin of the map frame, z up
CAMERA = Camera(width=320, height=240, fx=260.0, fy=260.0, cx=159.5, cy=119.5)
# faces +x of the map, rotated by 0.3 rad to the left: two walls, floor and ceiling are in view
T_MAP_CAM = np.array(
    [
        [np.sin(0.3), 0.0, np.cos(0.3), 1.0],
        [-np.cos(0.3), 0.0, np.sin(0.3), 2.0],
        [0.0, -1.0, 0.0, 1.2],
        [0.0, 0.0, 0.0, 1.0],
    ]
)


def room_points(T_map_cam: np.ndarray, camera: Camera, stride: int) -> np.ndarray:
    """Return points_hw3 (float32, m, map frame): where each cell's ray hits the box room."""
    rays_hw3 = camera.cell_rays(stride) @ T_map_cam[:3, :3].T
    eye = T_map_cam[:3, 3]
    with np.errstate(divide="ignore"):
        depth_hw3 = np.where(rays_hw3 > 0, ROOM_M - eye, -eye) / rays_hw3
    return (eye + rays_hw3 * depth_hw3.min(axis=-1, keepdims=True)).astype(np.float32)


def graph_of(path: Path) -> onnx.GraphProto:
    """Return the graph of a map, with its weights."""
    return onnx.load_model_from_string(read_map(path).model).graph


def with_doubled_points(model: bytes) -> bytes:
    """Return a map's graph that computes twice as many points as it declares."""
    doubled = onnx.load_model_from_string(model)
    for node in doubled.graph.node:
        node.output[:] = ["half" if name == "points" else name for name in node.output]
    doubled.graph.node.append(helper.make_node("Concat", ["half", "half"], ["points"], axis=1))
    return doubled.SerializeToString()


def write_constant_map(
    path: Path | str,
    T_map_cam: np.ndarray = T_MAP_CAM,
    camera: Camera = CAMERA,
    stride: int = 8,
    sigma_m: float = 0.02,
    colour_shift_m: float = 0.0,
    metric: bool = True,
) -> Path:
    """Write the map described in this module's docstring; return its path."""
    points_hw3 = room_points(T_map_cam, camera, stride)
    rows, columns = points_hw3.shape[:2]
    constants = {
        "room": points_hw3[None],
        "colour_shift": np.float32(colour_shift_m / 255),
        "sigma_clear": np.full((1, rows, columns), sigma_m, np.float32),
        "sigma_dark": np.float32(50.0),
        "dark": np.float32(DARK),
        "colour_shape": np.array([1, 1, 1, 3]),
    }
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("ReduceMean", ["planes"], ["colour"], axes=[2, 3]),
        helper.make_node("Reshape", ["colour", "colour_shape"], ["colour_bhw3"]),
        helper.make_node("Mul", ["colour_bhw3", "colour_shift"], ["offset"]),
        helper.make_node("Add", ["room", "offset"], ["points"]),
        helper.make_node("ReduceMean", ["colour"], ["brightness"], keepdims=0),
        helper.make_node("Less", ["brightness", "dark"], ["is_dark"]),
        helper.make_node("Where", ["is_dark", "sigma_dark", "sigma_clear"], ["sigma"]),
    ]
    graph = helper.make_graph(
        nodes,
        "constant_map",
        [
            helper.make_tensor_value_info(
                "image", TensorProto.UINT8, [1, camera.height, camera.width, 3]
            )
        ],
        [
            helper.make_tensor_value_info("points", TensorProto.FLOAT, [1, rows, columns, 3]),
            helper.make_tensor_value_info("sigma", TensorProto.FLOAT, [1, rows, columns]),
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.checker.check_model(model, full_check=True)
    corner = tuple(ROOM_M.tolist())
    info = MapInfo(
        scene="box room",
        camera=camera,
        stride=stride,
        bounds_min=(0.0, 0.0, 0.0),
        bounds_max=corner,
        teacher="none",
        teacher_licence="",
        student="constant",
        metric=metric,
    )
    write_map(path, model, info)
    return Path(path)
