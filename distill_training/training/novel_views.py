"""Novel views: a photograph with depth, rendered from a nearby pose without a photograph.

The depth is warped forward into the novel camera with a z-buffer, and colours are sampled in the
photograph. Pixels that the photograph does not show get a fill colour. Cells of unknown depth are
rendered at the depth of their surroundings, but have no depth in the novel view.
"""

import cv2
import numpy as np

from mote_localization.camera import Camera
from mote_localization.geometry import exp_rotation, invert, on_same_surface, rigid

_SURFACE_TOLERANCE = 0.1  # fraction of the depth by which neighbouring cells of a surface differ
_NEAREST = 0.1  # fraction of the median depth: nothing nearer is rendered
_OFF_IMAGE_PX = -9  # coordinate outside every image
_EDGE_CELLS = 0.1  # tolerance of cell positions at the border, cells
_SQUARE = np.ones((3, 3), np.uint8)
_SAMPLES = 2  # depth samples per cell side in the z-buffer


def random_nearby_pose(
    rng: np.random.Generator, depth: float, shift: float, rotation_deg: float
) -> np.ndarray:
    """Return T_cam_novel (4, 4), the pose of a random camera close to the photograph's.

    Args:
        rng: Random generator.
        depth: Median depth of the photograph, metres.
        shift: Standard deviation of the position along each axis, fraction of the depth.
        rotation_deg: Standard deviation of the rotation about the x and the y axis, degrees.
    """
    rotation = np.radians(rotation_deg) * rng.standard_normal(3) * (1, 1, 0)
    return rigid(exp_rotation(rotation), shift * depth * rng.standard_normal(3))


def same_surface(nearest: np.ndarray, farthest: np.ndarray) -> np.ndarray:
    """Return where neighbouring cells are on one surface, by their extreme depths; 0: unknown."""
    return (nearest > 0) & on_same_surface(farthest, nearest, _SURFACE_TOLERANCE)


class NovelViewRenderer:
    """Renders a photograph with depth from poses near its own."""

    def __init__(
        self, image_hw3: np.ndarray, depth_hw: np.ndarray, sigma_hw: np.ndarray, camera: Camera
    ) -> None:
        """Fill holes of the depth and sample it more finely.

        Args:
            image_hw3: RGB uint8.
            depth_hw: Depth of each cell, metres; 0: unknown.
            sigma_hw: Expected error of each cell's point, metres.
            camera: Canonical camera.
        """
        self._image_hw3, self._sigma_hw = image_hw3, sigma_hw
        self._stride = camera.width // depth_hw.shape[1]
        self._known_hw = (depth_hw > 0).astype(np.uint8)
        self._fine_hw = _upsample_depth(_fill_holes(depth_hw), _SAMPLES)
        self._surface_hw = _is_surface(self._fine_hw).astype(np.uint8)
        known = depth_hw[depth_hw > 0]
        self.median_depth = float(np.median(known)) if len(known) else 0.0
        side = self._stride / _SAMPLES  # px, of a sample
        to_fine_33 = np.array([[1 / side, 0, 0.5 / side - 0.5], [0, 1 / side, 0.5 / side - 0.5]])
        self._K_33, self._fine_K_33 = camera.K_33, np.r_[to_fine_33, [[0, 0, 1]]] @ camera.K_33

    def render(
        self, T_cam_novel: np.ndarray, fill: tuple[int, int, int]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the novel camera's image_hw3, and depth_hw and sigma_hw of its cells.

        Args:
            T_cam_novel: Pose of the novel camera in the frame of the photograph's camera.
            fill: Colour of pixels that the photograph does not show; depth is 0 there.
        """
        fine_hw = self._correct_rounding(self._forward_warp(invert(T_cam_novel)), T_cam_novel)
        dense_hw = _upsample_depth(fine_hw, self._stride // _SAMPLES)
        x_hw, y_hw, z_hw = _reproject(dense_hw, self._K_33, T_cam_novel)
        seen_hw = (dense_hw > 0) & (z_hw > 0)
        x_hw[~seen_hw] = y_hw[~seen_hw] = _OFF_IMAGE_PX
        image_hw3 = cv2.remap(self._image_hw3, x_hw, y_hw, cv2.INTER_LINEAR, borderValue=fill)
        # A cell's centre is the common corner of its four samples; 1/depth is linear on planes.
        # A cell that shows two surfaces gets no depth.
        rows, columns = (n // _SAMPLES for n in fine_hw.shape)
        grid = fine_hw.reshape(rows, _SAMPLES, columns, _SAMPLES)
        samples_hw4 = grid.swapaxes(1, 2).reshape(rows, columns, -1)
        one_surface = same_surface(samples_hw4.min(axis=-1), samples_hw4.max(axis=-1))
        mean_hw = 1 / (1 / np.where(one_surface[..., None], samples_hw4, 1)).mean(axis=-1)
        centre = slice(self._stride // 2, None, self._stride)
        x_cells_hw, y_cells_hw = (at[centre, centre] / self._stride - 0.5 for at in (x_hw, y_hw))
        at_cells = x_cells_hw, y_cells_hw, cv2.INTER_NEAREST
        known_hw, sigma_hw = (
            cv2.remap(values_hw, *at_cells, borderMode=cv2.BORDER_REPLICATE)
            for values_hw in (self._known_hw, self._sigma_hw)
        )
        # Beyond the centres of the outermost cells depth is extrapolated, so it is not used.
        last = np.array(known_hw.shape) - 1 + _EDGE_CELLS
        between = (x_cells_hw >= -_EDGE_CELLS) & (x_cells_hw <= last[1])
        between &= (y_cells_hw >= -_EDGE_CELLS) & (y_cells_hw <= last[0])
        known = one_surface & between & (known_hw > 0)
        return image_hw3, np.where(known, mean_hw, 0), sigma_hw

    def _forward_warp(self, T_novel_cam: np.ndarray) -> np.ndarray:
        """Return the novel camera's depth samples, by a z-buffer; 0: not shown."""
        rows, columns = self._fine_hw.shape
        x_hw, y_hw, z_hw = _reproject(self._fine_hw, self._fine_K_33, T_novel_cam)
        shown_hw = (self._fine_hw > 0) & (z_hw > _NEAREST * self.median_depth)
        shown_hw &= (x_hw > -0.5) & (x_hw < columns - 0.5) & (y_hw > -0.5) & (y_hw < rows - 0.5)
        j, i = np.rint(x_hw[shown_hw]).astype(np.int32), np.rint(y_hw[shown_hw]).astype(np.int32)
        z = z_hw[shown_hw]
        order = np.argsort(-z)  # the nearest point is written last
        depth_hw = np.zeros(self._fine_hw.shape, np.float32)
        depth_hw[i[order], j[order]] = z[order]
        # Rounding leaves holes of one sample; closing fills them with the farther depth.
        closed_hw = cv2.morphologyEx(depth_hw, cv2.MORPH_CLOSE, _SQUARE)
        return np.where(depth_hw > 0, depth_hw, closed_hw)

    def _correct_rounding(self, depth_hw: np.ndarray, T_cam_novel: np.ndarray) -> np.ndarray:
        """Return depths on the samples' own rays, interpolated in the photograph's depth.

        The forward warp rounds points to samples, by up to half a sample. On slanted surfaces that
        is an error of centimetres in depth.
        """
        x_hw, y_hw, _ = _reproject(depth_hw, self._fine_K_33, T_cam_novel)
        x_hw[depth_hw == 0] = y_hw[depth_hw == 0] = _OFF_IMAGE_PX
        surface_hw = cv2.remap(self._surface_hw, x_hw, y_hw, cv2.INTER_NEAREST)
        inverse_hw, at = 1 / np.maximum(self._fine_hw, 1e-3), (x_hw, y_hw, cv2.INTER_LINEAR)
        inverse_hw = cv2.remap(inverse_hw, *at, borderMode=cv2.BORDER_REPLICATE)
        (_, _, (a, b, c)), (_, _, d) = _reprojection_terms(self._fine_K_33, invert(T_cam_novel))
        exact_hw = (a * x_hw + b * y_hw + c) / inverse_hw + d
        ratio_hw, largest = exact_hw / np.maximum(depth_hw, 1e-3), 1 + _SURFACE_TOLERANCE
        same_hw = (surface_hw > 0) & (ratio_hw < largest) & (ratio_hw > 1 / largest)
        return np.where(same_hw, exact_hw, depth_hw)


def _reproject(
    depth_hw: np.ndarray, K_33: np.ndarray, T_to_from: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return x, y (pixels) and z of a depth image's points in another camera: (h, w) float32.

    Both cameras have the same K_33. The point at depth d of the pixel (u, v) projects to
    d K R K^-1 (u, v, 1) + K t, homogeneous. It is written out, because a matrix product would use
    threads that the training needs.
    """
    H_33, t_3 = _reprojection_terms(K_33, T_to_from)
    u = np.arange(depth_hw.shape[1], dtype=np.float32)
    v = np.arange(depth_hw.shape[0], dtype=np.float32)[:, None]
    x_hw, y_hw, z_hw = (
        (a * u + (b * v + c)) * depth_hw + d for (a, b, c), d in zip(H_33, t_3, strict=True)
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        return x_hw / z_hw, y_hw / z_hw, z_hw


def _reprojection_terms(K_33: np.ndarray, T_to_from: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return K R K^-1 and K t, float32."""
    H_33 = K_33 @ T_to_from[:3, :3] @ np.linalg.inv(K_33)
    return H_33.astype(np.float32), (K_33 @ T_to_from[:3, 3]).astype(np.float32)


def _upsample_depth(depth_hw: np.ndarray, factor: int) -> np.ndarray:
    """Return depth at `factor` times the resolution; 0: unknown.

    Within a surface 1/depth is interpolated linearly, which is exact on planes. At edges between
    surfaces the nearest depth is used.
    """
    depth_hw = depth_hw.astype(np.float32)
    size = (depth_hw.shape[1] * factor, depth_hw.shape[0] * factor)
    inverse_hw = 1 / np.maximum(depth_hw, 1e-3)
    smooth_hw = 1 / cv2.resize(inverse_hw, size, interpolation=cv2.INTER_LINEAR)
    nearest_hw = cv2.resize(depth_hw, size, interpolation=cv2.INTER_NEAREST)
    surface_hw = _is_surface(depth_hw).astype(np.uint8)
    on_surface = cv2.resize(surface_hw, size, interpolation=cv2.INTER_NEAREST)
    return np.where(on_surface, smooth_hw, nearest_hw)


def _fill_holes(depth_hw: np.ndarray) -> np.ndarray:
    """Return depths with unknown ones (0) interpolated smoothly from their surroundings."""
    known_hw = (depth_hw > 0).astype(np.float32)
    if not known_hw.any():
        return depth_hw
    return 1 / _pull_push(known_hw / np.maximum(depth_hw, 1e-3), known_hw)


def _pull_push(weighted_hw: np.ndarray, weight_hw: np.ndarray) -> np.ndarray:
    """Return weighted means, from lower resolutions where the weight is 0.

    The pull-push algorithm (Gortler et al., The Lumigraph, SIGGRAPH 1996).
    """
    mean_hw = weighted_hw / np.maximum(weight_hw, 1e-6)
    rows, columns = weight_hw.shape
    if weight_hw.all():
        return mean_hw
    half = ((columns + 1) // 2, (rows + 1) // 2)
    images = weighted_hw, weight_hw
    halved = (cv2.resize(image_hw, half, interpolation=cv2.INTER_AREA) for image_hw in images)
    coarse_hw = _pull_push(*halved)
    smooth_hw = cv2.resize(coarse_hw, (columns, rows), interpolation=cv2.INTER_LINEAR)
    return np.where(weight_hw > 0, mean_hw, smooth_hw)


def _is_surface(depth_hw: np.ndarray) -> np.ndarray:
    """Return which samples are on one surface with all eight around them."""
    return same_surface(cv2.erode(depth_hw, _SQUARE), cv2.dilate(depth_hw, _SQUARE))
