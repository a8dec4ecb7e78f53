"""Checks that given poses and measured depth use the expected conventions.

Poses that are inverted or have other axes, and depths in another unit, give a map without an error
message; it localizes nothing. The depth of one frame, projected into another, shows them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from distill_training.common.sampling import thinned
from distill_training.poses.measured_depth import depth_at, readable_depth
from mote_localization.camera import Camera
from mote_localization.errors import SceneError
from mote_localization.geometry import invert, transform
from mote_localization.scenes import Frame, Scene

_PAIRS = 24  # of frames that are compared at each gap, spread evenly over the recording
_GAPS = (2, 4, 8)  # frames between the two of a pair: more motion shows more, and overlaps less
_GRID = (32, 24)  # points across and down an image
_MIN_COMPARED = 0.2  # fraction of a frame's points that another one must show
_NO_OVERLAP = 1.0  # relative difference that counts where it shows fewer
_AGREES = 0.02  # relative difference of depth, median: 0.004 is usual where all is right
_EXPLAINED = 0.4  # of the difference that remains, where another convention explains it
_STILL = 1e6  # factor of the depths at which no motion of the camera is seen
_OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])
_SCALES = (1000.0, 100.0, 10.0, 5.0, 2.0, 0.5, 0.2, 0.1, 0.01, 0.001)  # depths times these
# cause -> what to do
_REMEDY = {
    "the poses are map-to-camera": "write the inverse of each pose",
    "the poses have OpenGL axes": "negate the 2nd and 3rd column of each rotation",
    "the poses are map-to-camera with OpenGL axes": "write the inverse of each pose, with the 2nd "
    "and 3rd column of its rotation negated",
}


@dataclass(frozen=True)
class _Sampled:
    """Points of one frame, and its depth."""

    live: Camera
    depth_hw: np.ndarray
    points_n3: np.ndarray  # m, camera frame
    T_map_cam: np.ndarray


def check_conventions(scene: Scene, poses: Mapping[str, np.ndarray]) -> None:
    """Check given poses against measured depth; scenes without depth pass.

    Args:
        scene: Its training frames may have depth and intrinsics.
        poses: T_map_cam (4, 4) as given.

    Raises:
        SceneError: Depth projected from one frame into another disagrees with the depth there, and
            another convention of the poses or another unit of the depth would agree.
    """
    frames = [frame for frame in scene.frames("train") if frame.name in poses]
    for gap in _GAPS:
        pairs = list(_pairs(frames, poses, gap))
        if not pairs:
            return
        given = _difference(pairs)
        causes = {
            "the poses are map-to-camera": _difference(pairs, inverted=True),
            "the poses have OpenGL axes": _difference(pairs, axes=_OPENGL),
            "the poses are map-to-camera with OpenGL axes": _difference(
                pairs, inverted=True, axes=_OPENGL
            ),
        }
        for scale in _SCALES:
            size = f"{scale:g} times too small" if scale > 1 else f"{1 / scale:g} times too large"
            causes[f"the depths are about {size} for the poses"] = _difference(pairs, scale=scale)
        cause = min(causes, key=lambda name: causes[name])
        # Where the camera hardly moves, or moves along a wall, wrong poses agree too.
        still = _difference(pairs, scale=_STILL)
        if causes[cause] < min(_EXPLAINED * given, _EXPLAINED * still, _AGREES):
            remedy = _REMEDY.get(cause, "write poses in metres and depth in millimetres")
            raise SceneError(
                f"scene {scene.name[:40]}: {cause} (depths of two frames differ by {given:.1%}, "
                f"corrected by {causes[cause]:.1%}); expected camera-to-map, camera axes x right, "
                f"y down, z forward, metres; {remedy}"
            )


def _pairs(
    frames: Sequence[Frame], poses: Mapping[str, np.ndarray], gap: int
) -> Iterator[tuple[_Sampled, _Sampled]]:
    """Yield pairs of frames that have depth."""

    @lru_cache(maxsize=4)
    def sampled(k: int) -> _Sampled | None:
        return _sample(frames[k], poses[frames[k].name])

    for first in thinned(range(len(frames) - gap), _PAIRS):
        one, other = sampled(first), sampled(first + gap)
        if one is not None and other is not None:
            yield one, other


def _sample(frame: Frame, T_map_cam: np.ndarray) -> _Sampled | None:
    """Return points of a frame; None without depth or intrinsics."""
    depth_hw = readable_depth(frame)
    if depth_hw is None or frame.camera is None:
        return None
    live = frame.camera
    pinhole = replace(live, distortion=())
    columns, rows = (
        (np.arange(k) + 0.5) / k * side for k, side in zip(_GRID, depth_hw.shape[::-1], strict=True)
    )
    rays_n3 = pinhole.rays(np.stack(np.meshgrid(columns, rows), axis=-1).reshape(-1, 2))
    depth_n = depth_at(depth_hw, live.project(rays_n3))
    return _Sampled(live, depth_hw, (rays_n3 * depth_n[:, None])[depth_n > 0], T_map_cam)


def _difference(
    pairs: Sequence[tuple[_Sampled, _Sampled]],
    inverted: bool = False,
    axes: np.ndarray | None = None,
    scale: float = 1.0,
) -> float:
    """Return the relative difference of depth between frames, median over the pairs.

    Args:
        pairs: The frames.
        inverted: Take the poses as map-to-camera.
        axes: Transform (4, 4) of the camera's axes; None: as given.
        scale: Factor of the depths.
    """
    differences = []
    for one, other in pairs:
        T_one, T_other = (invert(f.T_map_cam) if inverted else f.T_map_cam for f in (one, other))
        T_other_one = invert(T_other) @ T_one
        if axes is not None:
            T_other_one = axes @ T_other_one @ axes
        points_n3 = transform(T_other_one, scale * one.points_n3)
        points_n3 = points_n3[points_n3[:, 2] > 0]
        if not len(points_n3):  # OpenCV projects no empty arrays
            differences.append(_NO_OVERLAP)
            continue
        measured_n = scale * depth_at(other.depth_hw, other.live.project(points_n3))
        seen = measured_n > 0
        if not seen.sum() >= max(_MIN_COMPARED * len(one.points_n3), 1):
            differences.append(_NO_OVERLAP)
            continue
        relative = np.abs(points_n3[seen, 2] - measured_n[seen]) / measured_n[seen]
        differences.append(float(np.median(relative)))
    return float(np.median(differences))
