"""Changes the frame of a finished map, without training it again.

The graph transforms its points at the end; bounds, drift, keyframes, calibration and self-test are
transformed with them. So poses, clouds and covariances are those of the map before, in the new
frame.
"""

from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import onnx
from onnx import helper, numpy_helper

from mote_localization.drift import Drift, drift_sample
from mote_localization.errors import MapFileError
from mote_localization.geometry import pose_from, transform
from mote_localization.keyframes import Keyframe, rows_of
from mote_localization.map_file import MapFile, MapInfo
from mote_localization.self_test import SelfTest
from mote_localization.validated_poses import ValidatedPose

_MAX_ABS_M = 10_000.0  # of a point: float32 has steps of 1 mm there
_PREFIX = "frame"  # of the names that the graph gets, followed by the number of the change


@dataclass(frozen=True)
class FrameChange:
    """The similarity transform from a map's frame to a new one."""

    T_new_map: np.ndarray  # (4, 4) rigid, for points that are scaled already
    scale: float = 1.0  # m per unit of the map

    def points(self, points: np.ndarray) -> np.ndarray:
        """Return points (..., 3) in the new frame."""
        return transform(self.T_new_map, self.scale * points)

    def pose(self, T_map_cam: np.ndarray) -> np.ndarray:
        """Return the pose (4, 4) of a camera in the new frame."""
        scaled = T_map_cam.copy()
        scaled[:3, 3] *= self.scale
        return self.T_new_map @ scaled


def transform_map(
    map_file: MapFile, change: FrameChange, metric: bool
) -> tuple[onnx.ModelProto, MapInfo]:
    """Return graph and description of a map in a new frame.

    The new bounds hold all of the old ones: they are larger where the rotation is oblique.

    Args:
        map_file: The map.
        change: From the map's frame to the new one.
        metric: Whether the new frame is in metres.

    Raises:
        MapFileError: The map's graph does not have the outputs of a map, or the new frame is too
            far away.
    """
    info = map_file.info
    corners = np.array(list(product(*zip(info.bounds_min, info.bounds_max, strict=True))))
    corners = change.points(corners)
    if np.abs(corners).max() > _MAX_ABS_M:
        raise MapFileError(
            f"found a frame in which the map is {np.abs(corners).max():.0f} m from the origin, "
            f"expected at most {_MAX_ABS_M:.0f} m: single precision loses centimetres beyond; "
            "subtract an offset from the targets"
        )
    moved = replace(
        info,
        bounds_min=tuple(corners.min(axis=0).tolist()),
        bounds_max=tuple(corners.max(axis=0).tolist()),
        metric=metric,
        pose_calibration=info.pose_calibration.in_other_unit(change.scale),
        drift=_moved_drift(info.drift, change) if info.drift else None,
        keyframes=tuple(_moved_keyframe(one, change, info.cells_hw) for one in info.keyframes),
        validation=tuple(_moved_validated(one, change) for one in info.validation),
        self_test=_moved_self_test(info.self_test, change) if info.self_test else None,
    )
    return _moved_graph(onnx.load_model_from_string(map_file.model), change), moved


def camera_poses(info: MapInfo) -> list[np.ndarray]:
    """Return the poses T_map_cam (4, 4) of cameras that a map stores.

    They are those of its keyframes, else those of its drift; empty where it has neither.
    """
    if info.keyframes:
        return [keyframe.pose_44 for keyframe in info.keyframes]
    samples = info.drift.samples if info.drift else ()
    return [pose_from(np.array(s[:3]), np.array(s[3:7])) for s in samples]


def _moved_drift(drift: Drift, change: FrameChange) -> Drift:
    R = change.T_new_map[:3, :3]
    samples = []
    for sample in drift.samples:
        position, q, motion = np.split(np.array(sample), [3, 7])
        # A motion is along the axes of the map: it rotates with them.
        turned = np.concatenate([change.scale * R @ motion[:3], R @ motion[3:]])
        samples.append(drift_sample(change.pose(pose_from(position, q)), turned))
    return Drift(
        tuple(samples), change.scale * drift.length_scale_m, drift.length_scale_deg, drift.noise
    )


def _moved_keyframe(keyframe: Keyframe, change: FrameChange, cells_hw: tuple[int, int]) -> Keyframe:
    T = change.pose(keyframe.pose_44)
    if change.scale != 1:  # storing the depth again rounds it again
        keyframe = keyframe.with_depth(change.scale * keyframe.depth_m().reshape(cells_hw))
    return replace(keyframe, T_map_cam=rows_of(T))


def _moved_validated(validated: ValidatedPose, change: FrameChange) -> ValidatedPose:
    error, deviation = (
        None if v is None else change.scale * v for v in (validated.error, validated.deviation)
    )
    return ValidatedPose.record(change.pose(validated.T_map_cam), error, deviation)


def _moved_self_test(self_test: SelfTest, change: FrameChange) -> SelfTest:
    points_n3 = np.frombuffer(self_test.points, "<f4").reshape(-1, 3).astype(np.float64)
    return replace(self_test, points=change.points(points_n3).astype("<f4").tobytes())


def _moved_graph(model: onnx.ModelProto, change: FrameChange) -> onnx.ModelProto:
    """Return a graph whose points and sigma are in the new frame.

    No matrix product: backends keep all nodes after the last matrix product in float32.
    """
    graph = model.graph
    names = {name for node in graph.node for name in node.output}
    if not {"points", "sigma"} <= names:
        raise MapFileError("found no nodes that compute points and sigma, expected those of a map")
    number = sum(name.startswith(f"{_PREFIX}.") and name.endswith(".points") for name in names)
    prefix = f"{_PREFIX}.{number}"
    for node in graph.node:
        for values in (node.input, node.output):
            values[:] = [
                f"{prefix}.{name}" if name in ("points", "sigma") else name for name in values
            ]
    matrix_33 = change.scale * change.T_new_map[:3, :3]
    sums = []
    for axis, name in enumerate("xyz"):
        graph.initializer.extend(
            [
                numpy_helper.from_array(np.array([axis], np.int64), f"{prefix}.{name}.index"),
                numpy_helper.from_array(
                    matrix_33[:, axis].astype(np.float32), f"{prefix}.{name}.column"
                ),
            ]
        )
        graph.node.extend(
            [
                helper.make_node(
                    "Gather",
                    [f"{prefix}.points", f"{prefix}.{name}.index"],
                    [f"{prefix}.{name}"],
                    axis=3,
                ),
                helper.make_node(
                    "Mul",
                    [f"{prefix}.{name}", f"{prefix}.{name}.column"],
                    [f"{prefix}.{name}.moved"],
                ),
            ]
        )
        sums.append(f"{prefix}.{name}.moved")
    graph.initializer.extend(
        [
            numpy_helper.from_array(
                change.T_new_map[:3, 3].astype(np.float32), f"{prefix}.translation"
            ),
            numpy_helper.from_array(np.float32(change.scale).reshape(1), f"{prefix}.scale"),
        ]
    )
    graph.node.extend(
        [
            helper.make_node("Add", sums[:2], [f"{prefix}.xy"]),
            helper.make_node("Add", [f"{prefix}.xy", sums[2]], [f"{prefix}.xyz"]),
            helper.make_node("Add", [f"{prefix}.xyz", f"{prefix}.translation"], ["points"]),
            helper.make_node("Mul", [f"{prefix}.sigma", f"{prefix}.scale"], ["sigma"]),
        ]
    )
    return model
