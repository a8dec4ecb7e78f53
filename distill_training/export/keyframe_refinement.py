"""Refines the depth of keyframes, so that it agrees with the poses.

Depth cameras have smooth errors of a few percent, which differ from place to place in the image.
Points of a keyframe are tracked into other training images of known pose: these show at which depth
each point lies. Depth moves towards that, smoothly on each surface.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import spsolve

from distill_training.common.sampling import thinned
from distill_training.export.keyframe_selection import covering_poses
from distill_training.reconstruction import Reconstruction
from mote_localization.camera import Camera, cell_index
from mote_localization.geometry import invert, on_same_surface, rotation_angles, transform
from mote_localization.keyframe_matcher import KeyframeConfig, KeyframeMatcher, TrackingStep
from mote_localization.keyframes import Keyframe
from mote_localization.progress import track_if_slow

_CANDIDATES = 500  # frames among which those that a keyframe is tracked into are searched
_FRAMES = 8  # that each keyframe is tracked into, at most
# They are this far from the keyframe, in its median depths: nearer ones show no depth, and to
# farther ones most points are not tracked.
_BASELINE = (0.04, 0.25)
_ROTATION = np.radians(25)  # from the keyframe, at most
_CACHED = 64  # frames kept in memory
_MIN_TRACKS = 50  # of a keyframe; with fewer, single wrong ones would change much
_OUTLIER_PX = 8.0  # reprojection error beyond which a track is not used
_NOISE_PX = 0.35  # expected error of a track; scale of the Cauchy weight
# standard deviations of the logarithm of a depth's correction
_CORRECTION = 0.1  # itself
_STEP = 0.003  # between neighbouring cells of one surface
_ITERATIONS = 5  # of the robust weights


def refine_keyframes(
    reconstruction: Reconstruction, names: Sequence[str], keyframes: Sequence[Keyframe]
) -> list[Keyframe]:
    """Return keyframes whose depth agrees with what other frames show.

    Args:
        reconstruction: Images, points and poses of the frames.
        names: Frames that keyframes are tracked into.
        keyframes: Their depth is that of the reconstruction.
    """
    if not (names and keyframes):
        return list(keyframes)
    refinement = _Refinement(reconstruction, names)
    tracked = track_if_slow(keyframes, "keyframes", len(keyframes))
    return [refinement.refined(keyframe) for keyframe in tracked]


class _Refinement:
    """Tracks keyframes into the frames of a reconstruction."""

    def __init__(self, reconstruction: Reconstruction, names: Sequence[str]) -> None:
        self._reconstruction, self._others = reconstruction, thinned(names, _CANDIDATES)
        self._poses_n44 = np.array([reconstruction.poses[name] for name in self._others])
        self._rays_hw3 = reconstruction.camera.cell_rays(reconstruction.stride)
        self._frame = lru_cache(maxsize=_CACHED)(self._read)

    def _read(self, name: str) -> Keyframe:
        frame = self._reconstruction.read_frame(name)
        T_map_cam = self._reconstruction.poses[name]
        return Keyframe.record(T_map_cam, frame.image_hw3, frame.points_hw3)

    def _around(self, T_map_cam: np.ndarray, depth_n: np.ndarray) -> list[str]:
        """Return frames around a camera, spread evenly; none where its depth is unknown."""
        if not np.isfinite(depth_n).any():
            return []
        T_n44, unit = self._poses_n44, np.nanmedian(depth_n)
        baseline_n = np.linalg.norm(T_n44[:, :3, 3] - T_map_cam[:3, 3], axis=1) / unit
        near_n = (baseline_n > _BASELINE[0]) & (baseline_n < _BASELINE[1])
        near_n &= rotation_angles(T_n44[:, :3, :3], T_map_cam[:3, :3]) < _ROTATION
        (found,) = np.nonzero(near_n)
        if not len(found):
            return []
        spread = covering_poses(T_n44[found], unit * _BASELINE[0], _ROTATION, _FRAMES)
        return [self._others[found[i]] for i in spread]

    def refined(self, keyframe: Keyframe) -> Keyframe:
        """Return a keyframe with the depth that its tracks and their smoothness give."""
        camera, stride = self._reconstruction.camera, self._reconstruction.stride
        T_map_cam, depth_n = keyframe.pose_44, keyframe.depth_m()
        frames = tuple(self._frame(name) for name in self._around(T_map_cam, depth_n))
        if not frames:
            return keyframe
        depth_hw = depth_n.reshape(self._rays_hw3.shape[:2])
        known_hw = np.isfinite(depth_hw)
        points_hw3 = transform(T_map_cam, self._rays_hw3 * depth_hw[..., None])
        matcher = KeyframeMatcher(frames, camera, stride)
        count = len(frames)
        step = TrackingStep(levels=1, window_px=9, views=count, inlier_px=0, keyframes=count)
        surface_n3 = matcher.cell_points(points_hw3, T_map_cam)
        query = matcher.query(keyframe.grey_hw(), known_hw)
        tracks = matcher.track(query, surface_n3, T_map_cam, step, KeyframeConfig())
        cell_m = cell_index(tracks.pixels_n2.T, camera, stride)
        T_m44 = np.array([invert(frame.pose_44) for frame in frames])[tracks.keyframe_n]
        shift_m2, derivative_m2 = _linearized(
            camera,
            T_m44[:, :3, :3] @ T_map_cam[:3, :3],
            (T_m44 @ T_map_cam)[:, :3, 3],
            self._rays_hw3.reshape(-1, 3)[cell_m] * depth_n[cell_m, None],
            tracks.keyframe_pixels_n2,
        )
        used_m = np.linalg.norm(shift_m2, axis=1) < _OUTLIER_PX
        if np.count_nonzero(used_m) < _MIN_TRACKS:
            return keyframe
        correction_n = _corrections(
            depth_hw, cell_m[used_m], shift_m2[used_m], derivative_m2[used_m]
        )
        return keyframe.with_depth(depth_hw * np.exp(correction_n.reshape(depth_hw.shape)))


def _linearized(
    camera: Camera,
    R_m33: np.ndarray,
    t_m3: np.ndarray,
    points_m3: np.ndarray,
    pixels_m2: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Return how far pixels are from those of points, px, and the derivative of the latter.

    The derivative (m, 2) is that by the logarithm of the point's depth in the keyframe.

    Args:
        camera: Of all frames.
        R_m33: Rotation from the keyframe to the other frame.
        t_m3: Position of the keyframe in the other frame, m.
        points_m3: Points in the keyframe's camera frame, m.
        pixels_m2: Where the other frame shows them.
    """
    moved_m3 = (R_m33 @ points_m3[..., None])[..., 0]
    x, y, z = (moved_m3 + t_m3).T
    dx, dy, dz = moved_m3.T
    with np.errstate(divide="ignore", invalid="ignore"):
        u, v = camera.fx * x / z + camera.cx, camera.fy * y / z + camera.cy
        du, dv = camera.fx * (dx * z - x * dz) / z**2, camera.fy * (dy * z - y * dz) / z**2
    ahead_m = z > 0
    shift_m2 = np.where(ahead_m[:, None], pixels_m2 - np.stack([u, v], axis=1), np.inf)
    return shift_m2, np.stack([du, dv], axis=1)


def _corrections(
    depth_hw: np.ndarray, cell_m: np.ndarray, shift_m2: np.ndarray, derivative_m2: np.ndarray
) -> np.ndarray:
    """Return the correction (n,) of each cell's logarithm of the depth.

    Least squares with Cauchy weights (iteratively reweighted), with a weak prior at 0 and equal
    corrections of neighbours on one surface.
    """
    count = depth_hw.size
    smooth = _smoothness(depth_hw) / _STEP**2
    correction_n = np.zeros(count)
    for _ in range(_ITERATIONS):
        error_m2 = shift_m2 - derivative_m2 * correction_n[cell_m, None]
        weight_m = 1 / (_NOISE_PX**2 + (error_m2**2).sum(axis=1))
        information_n = np.bincount(cell_m, weight_m * (derivative_m2**2).sum(axis=1), count)
        right_n = np.bincount(cell_m, weight_m * (derivative_m2 * shift_m2).sum(axis=1), count)
        H = sparse.diags_array(information_n + 1 / _CORRECTION**2) + smooth
        correction_n = spsolve(H.tocsc(), right_n)
    return correction_n


def _smoothness(depth_hw: np.ndarray) -> sparse.csr_array:
    """Return the Laplacian matrix (n, n) of the graph of neighbouring cells on one surface."""
    n_hw = np.arange(depth_hw.size).reshape(depth_hw.shape)
    first_e = np.concatenate([n_hw[:, :-1].ravel(), n_hw[:-1].ravel()])
    second_e = np.concatenate([n_hw[:, 1:].ravel(), n_hw[1:].ravel()])
    depth_n = depth_hw.ravel()
    same_e = on_same_surface(depth_n[first_e], depth_n[second_e], KeyframeConfig().max_depth_step)
    first_e, second_e = first_e[same_e], second_e[same_e]
    ones_e = np.ones(len(first_e))
    shape = (depth_hw.size, depth_hw.size)
    adjacent = sparse.coo_array((ones_e, (first_e, second_e)), shape=shape)
    adjacent = (adjacent + adjacent.T).tocsr()
    return sparse.csr_array(sparse.diags_array(adjacent.sum(axis=1)) - adjacent)
