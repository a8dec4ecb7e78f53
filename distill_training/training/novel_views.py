"""Views that no photograph was taken from: its pixels, moved to where a near camera sees them.

The teacher's points say where every pixel lies, so what a camera some decimetres beside the
photograph's sees can be drawn. What the photograph does not show stays unknown. What it shows
without a known depth is drawn where its surroundings are, so that the image looks like one; nothing
is learned from there.
"""

import cv2
import numpy as np

from mote_localization.camera import Camera
from mote_localization.geometry import exp_rotation, invert

SAME_SURFACE = 1.1  # ratio of depths between neighbours up to which a surface goes on
_NEAREST = 0.1  # of the median depth: nothing nearer is drawn
_OUTSIDE = -9  # px: shown by no image
_BESIDE = 0.1  # cells: as good as on it
_SQUARE = np.ones((3, 3), np.uint8)
_SAMPLES = 2  # samples of depth across a cell in which what hides what is decided


def random_motion(
    rng: np.random.Generator, depth: float, shift: float, turn_deg: float
) -> np.ndarray:
    """Return T_cam_moved (4, 4) of a camera beside the photograph's.

    Args:
        rng: Says where.
        depth: Median depth of what the photograph shows, metres.
        shift: Standard deviation of the position along each axis, as a share of the depth.
        turn_deg: Standard deviation of the turn about each axis but the optical one, degrees.
    """
    T_cam_moved = np.eye(4)
    turn = np.radians(turn_deg) * rng.standard_normal(3) * (1, 1, 0)
    T_cam_moved[:3, :3] = exp_rotation(turn)
    T_cam_moved[:3, 3] = shift * depth * rng.standard_normal(3)
    return T_cam_moved


class MovableFrame:
    """A photograph with the depth of its cells, as other cameras near it see it."""

    def __init__(
        self, image_hw3: np.ndarray, depth_hw: np.ndarray, sigma_hw: np.ndarray, camera: Camera
    ) -> None:
        """Spread its depth.

        Args:
            image_hw3: RGB uint8.
            depth_hw: Of each cell, metres; 0: not known.
            sigma_hw: Expected error of each cell's point, metres.
            camera: Canonical.
        """
        self._image_hw3, self._sigma_hw = image_hw3, sigma_hw
        self._stride = camera.width // depth_hw.shape[1]
        self._known_hw = (depth_hw > 0).astype(np.uint8)
        self._fine_hw = refined(_completed(depth_hw), _SAMPLES)
        self._surface_hw = _is_surface(self._fine_hw).astype(np.uint8)
        known = depth_hw[depth_hw > 0]
        self.depth = float(np.median(known)) if len(known) else 0.0
        side = self._stride / _SAMPLES  # px, of a sample
        to_fine_33 = np.array([[1 / side, 0, 0.5 / side - 0.5], [0, 1 / side, 0.5 / side - 0.5]])
        self._K_33, self._fine_K_33 = camera.K_33, np.r_[to_fine_33, [[0, 0, 1]]] @ camera.K_33

    def seen_from(
        self, T_cam_moved: np.ndarray, fill: tuple[int, int, int]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return what a moved camera sees: image_hw3, and depth_hw and sigma_hw of its cells.

        Args:
            T_cam_moved: Its pose in the axes of the photograph's.
            fill: Colour of what the photograph does not show; depth is 0 there.
        """
        fine_hw = self._sharpened(self._hidden_removed(invert(T_cam_moved)), T_cam_moved)
        dense_hw = refined(fine_hw, self._stride // _SAMPLES)
        x_hw, y_hw, z_hw = _reprojected(dense_hw, self._K_33, T_cam_moved)
        seen_hw = (dense_hw > 0) & (z_hw > 0)
        x_hw[~seen_hw] = y_hw[~seen_hw] = _OUTSIDE
        image_hw3 = cv2.remap(
            self._image_hw3,
            x_hw,
            y_hw,
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=fill,
        )
        # A cell's middle is the corner of its four middle samples; 1/depth is linear on planes.
        # What shows two surfaces has no depth.
        rows, columns = (n // _SAMPLES for n in fine_hw.shape)
        grid = fine_hw.reshape(rows, _SAMPLES, columns, _SAMPLES)
        samples_hw4 = grid.swapaxes(1, 2).reshape(rows, columns, -1)
        nearest_hw = samples_hw4.min(axis=-1)
        one_surface = (nearest_hw > 0) & (samples_hw4.max(axis=-1) < SAME_SURFACE * nearest_hw)
        mean_hw = 1 / (1 / np.where(one_surface[..., None], samples_hw4, 1)).mean(axis=-1)
        middle = slice(self._stride // 2, None, self._stride)
        x_cells_hw, y_cells_hw = (at[middle, middle] / self._stride - 0.5 for at in (x_hw, y_hw))
        known_hw, sigma_hw = (
            cv2.remap(
                of_cells_hw,
                x_cells_hw,
                y_cells_hw,
                cv2.INTER_NEAREST,
                borderMode=cv2.BORDER_REPLICATE,
            )
            for of_cells_hw in (self._known_hw, self._sigma_hw)
        )
        # Beyond the middles of the outermost cells depth is guessed.
        last = np.array(known_hw.shape) - 1 + _BESIDE
        between = (x_cells_hw >= -_BESIDE) & (x_cells_hw <= last[1])
        between &= (y_cells_hw >= -_BESIDE) & (y_cells_hw <= last[0])
        known = one_surface & between & (known_hw > 0)
        return image_hw3, np.where(known, mean_hw, 0), sigma_hw

    def _hidden_removed(self, T_moved_cam: np.ndarray) -> np.ndarray:
        """Return the depth of what is nearest along each of the moved camera's rays; 0: nothing."""
        rows, columns = self._fine_hw.shape
        x_hw, y_hw, z_hw = _reprojected(self._fine_hw, self._fine_K_33, T_moved_cam)
        drawn_hw = (self._fine_hw > 0) & (z_hw > _NEAREST * self.depth)
        drawn_hw &= (x_hw > -0.5) & (x_hw < columns - 0.5) & (y_hw > -0.5) & (y_hw < rows - 0.5)
        j, i = np.rint(x_hw[drawn_hw]).astype(np.int32), np.rint(y_hw[drawn_hw]).astype(np.int32)
        z = z_hw[drawn_hw]
        order = np.argsort(-z)  # what is nearest is written last
        depth_hw = np.zeros(self._fine_hw.shape, np.float32)
        depth_hw[i[order], j[order]] = z[order]
        # Rounding leaves holes a sample wide; what stands farther away fills them.
        return np.where(
            depth_hw > 0, depth_hw, cv2.morphologyEx(depth_hw, cv2.MORPH_CLOSE, _SQUARE)
        )

    def _sharpened(self, depth_hw: np.ndarray, T_cam_moved: np.ndarray) -> np.ndarray:
        """Return depths anew, of the points that the photograph shows where the samples look.

        Rounding has put them up to half a sample beside their rays. On surfaces seen at a slant
        that would be centimetres.
        """
        x_hw, y_hw, _ = _reprojected(depth_hw, self._fine_K_33, T_cam_moved)
        x_hw[depth_hw == 0] = y_hw[depth_hw == 0] = _OUTSIDE
        surface_hw = cv2.remap(self._surface_hw, x_hw, y_hw, cv2.INTER_NEAREST)
        inverse_hw = cv2.remap(
            1 / np.maximum(self._fine_hw, 1e-3),
            x_hw,
            y_hw,
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )
        (_, _, (a, b, c)), (_, _, d) = _mapping(self._fine_K_33, invert(T_cam_moved))
        sharp_hw = (a * x_hw + b * y_hw + c) / inverse_hw + d
        ratio_hw = sharp_hw / np.maximum(depth_hw, 1e-3)
        same_hw = (surface_hw > 0) & (ratio_hw < SAME_SURFACE) & (ratio_hw > 1 / SAME_SURFACE)
        return np.where(same_hw, sharp_hw, depth_hw)


def _reprojected(
    depth_hw: np.ndarray, K_33: np.ndarray, T_to_from: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return where points stand in another camera of the same K_33: x, y and z (h, w), float32.

    The point at depth d of the pixel (u, v) stands at d K R K^-1 (u, v, 1) + K t, homogeneous. It
    is written out: a matrix product would wake threads that the training needs.
    """
    H_33, h_3 = _mapping(K_33, T_to_from)
    u = np.arange(depth_hw.shape[1], dtype=np.float32)
    v = np.arange(depth_hw.shape[0], dtype=np.float32)[:, None]
    x_hw, y_hw, z_hw = (
        (a * u + (b * v + c)) * depth_hw + d for (a, b, c), d in zip(H_33, h_3, strict=True)
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        return x_hw / z_hw, y_hw / z_hw, z_hw


def _mapping(K_33: np.ndarray, T_to_from: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return K R K^-1 and K t, float32."""
    H_33 = K_33 @ T_to_from[:3, :3] @ np.linalg.inv(K_33)
    return H_33.astype(np.float32), (K_33 @ T_to_from[:3, 3]).astype(np.float32)


def refined(depth_hw: np.ndarray, factor: int) -> np.ndarray:
    """Return depth sampled `factor` times as finely; 0: not known.

    1/depth is interpolated linearly, exact on planes, where neighbours lie on one surface; surfaces
    are not bridged.
    """
    depth_hw = depth_hw.astype(np.float32)
    size = (depth_hw.shape[1] * factor, depth_hw.shape[0] * factor)
    inverse_hw = 1 / np.maximum(depth_hw, 1e-3)
    smooth_hw = 1 / cv2.resize(inverse_hw, size, interpolation=cv2.INTER_LINEAR)
    nearest_hw = cv2.resize(depth_hw, size, interpolation=cv2.INTER_NEAREST)
    on_surface = cv2.resize(
        _is_surface(depth_hw).astype(np.uint8), size, interpolation=cv2.INTER_NEAREST
    )
    return np.where(on_surface, smooth_hw, nearest_hw)


def _completed(depth_hw: np.ndarray) -> np.ndarray:
    """Return depths with those that are not known (0) as smooth as their surroundings allow."""
    known_hw = (depth_hw > 0).astype(np.float32)
    if not known_hw.any():
        return depth_hw
    return 1 / _pulled(known_hw / np.maximum(depth_hw, 1e-3), known_hw)


def _pulled(weighted_hw: np.ndarray, weight_hw: np.ndarray) -> np.ndarray:
    """Return weighted means; where the weight is 0, those of half the resolution, and so on."""
    mean_hw = weighted_hw / np.maximum(weight_hw, 1e-6)
    rows, columns = weight_hw.shape
    if weight_hw.all():
        return mean_hw
    half = ((columns + 1) // 2, (rows + 1) // 2)
    coarse_hw = _pulled(
        *(
            cv2.resize(of_hw, half, interpolation=cv2.INTER_AREA)
            for of_hw in (weighted_hw, weight_hw)
        )
    )
    smooth_hw = cv2.resize(coarse_hw, (columns, rows), interpolation=cv2.INTER_LINEAR)
    return np.where(weight_hw > 0, mean_hw, smooth_hw)


def _is_surface(depth_hw: np.ndarray) -> np.ndarray:
    """Return which samples lie on one surface with all around them."""
    nearest_hw = cv2.erode(depth_hw, _SQUARE)
    return (nearest_hw > 0) & (cv2.dilate(depth_hw, _SQUARE) < SAME_SURFACE * nearest_hw)
