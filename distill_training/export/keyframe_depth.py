"""Completes the depth of keyframes where the teacher has none, with the trained student's points.

Structure from motion gives a point to less than half of the cells, too few for a keyframe that a
robot sees from elsewhere. The student gives one to every cell, but some are wrong: a point is used
where predictions for other images agree with it.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
from torch import nn

from distill_training.common.sampling import thinned
from distill_training.reconstruction import Reconstruction
from distill_training.students.torch_backend import TorchBackend
from distill_training.training.neighbours import neighbours
from mote_localization.camera import cell_index
from mote_localization.geometry import invert, transform
from mote_localization.keyframes import Keyframe
from mote_localization.progress import track

# Teachers that measure few of the cells. Where a dense one has no depth, its student has learned
# nothing.
_SPARSE = ("sfm",)
_CANDIDATES = 500  # frames among which the neighbours of a keyframe are searched
_MIN_CONFIRMATIONS = 2  # other images that must agree with a point
_TOLERANCE = 0.02  # of the depth: largest difference of two predictions that agree
_MAX_OWN_CELLS = 0.5  # sides of a cell by which a point may project beside its cell's centre
_CACHED = 64  # frames whose predictions are kept


def complete_keyframes(
    network: nn.Module,
    reconstruction: Reconstruction,
    names: Sequence[str],
    keyframes: Mapping[str, Keyframe],
) -> tuple[Keyframe, ...]:
    """Return keyframes with depth in more cells; those of dense teachers stay as they are.

    Args:
        network: The trained student, on the CPU, in evaluation mode.
        reconstruction: Images and poses.
        names: The training frames, in recording order, which confirm the student's depth.
        keyframes: By their frames' names, as `choose_keyframes` returns them.
    """
    if reconstruction.teacher not in _SPARSE or not keyframes:
        return tuple(keyframes.values())
    student = _Student(network, reconstruction, names)
    tracked = track(keyframes.items(), "keyframes", len(keyframes))
    return tuple(student.completed(name, keyframe) for name, keyframe in tracked)


class _Student:
    """A student's predictions for frames of a reconstruction."""

    def __init__(
        self, network: nn.Module, reconstruction: Reconstruction, names: Sequence[str]
    ) -> None:
        self._backend, self._reconstruction = TorchBackend(network), reconstruction
        self._others = thinned(names, _CANDIDATES)
        self._poses_n44 = np.array([reconstruction.poses[name] for name in self._others])
        self._rays_hw3 = reconstruction.camera.cell_rays(reconstruction.stride)
        self._points = lru_cache(maxsize=_CACHED)(self._predict)

    def _predict(self, name: str) -> np.ndarray:
        image_hw3 = self._reconstruction.read_frame(name).image_hw3
        return self._backend.predict(image_hw3)[0].astype(np.float64)

    def completed(self, name: str, keyframe: Keyframe) -> Keyframe:
        """Return a keyframe with the student's depth where it has none and others confirm it."""
        T_map_cam, points_hw3 = keyframe.pose_44, self._points(name)
        depth_hw = transform(invert(T_map_cam), points_hw3)[..., 2]
        on_ray_hw3 = transform(T_map_cam, self._rays_hw3 * depth_hw[..., None])
        # A point beside its own ray is wrong, whatever its depth.
        cell = self._reconstruction.stride / self._reconstruction.camera.fx
        beside_hw = np.linalg.norm(points_hw3 - on_ray_hw3, axis=-1)
        sound_hw = (depth_hw > 0) & (beside_hw < _MAX_OWN_CELLS * cell * depth_hw)
        confirmed_hw = np.zeros(depth_hw.shape, int)
        chosen = neighbours(points_hw3, T_map_cam, self._poses_n44, self._reconstruction.camera)
        for k in chosen:
            if self._others[k] != name:
                confirmed_hw += self._agrees(on_ray_hw3, self._others[k])
        depth = keyframe.depth_m().reshape(depth_hw.shape)
        added_hw = np.isnan(depth) & sound_hw & (confirmed_hw >= _MIN_CONFIRMATIONS)
        return keyframe.with_depth(np.where(added_hw, depth_hw, depth))

    def _agrees(self, points_hw3: np.ndarray, other: str) -> np.ndarray:
        """Return whether (h, w) the prediction for another image has the same depth there."""
        camera, stride = self._reconstruction.camera, self._reconstruction.stride
        T_cam_map = invert(self._reconstruction.poses[other])
        seen_hw3 = transform(T_cam_map, points_hw3)
        depth_hw = transform(T_cam_map, self._points(other))[..., 2]
        ahead_hw = seen_hw3[..., 2] > 0
        pixels_hw2 = camera.project(np.where(ahead_hw[..., None], seen_hw3, (0, 0, 1)))
        x_hw, y_hw = pixels_2hw = np.moveaxis(pixels_hw2, -1, 0)
        inside_hw = ahead_hw & (x_hw >= -0.5) & (x_hw < camera.width - 0.5)
        inside_hw &= (y_hw >= -0.5) & (y_hw < camera.height - 0.5)
        expected_hw = depth_hw.take(cell_index(pixels_2hw, camera, stride))
        difference_hw = np.abs(seen_hw3[..., 2] - expected_hw)
        return inside_hw & (difference_hw < _TOLERANCE * seen_hw3[..., 2])
