"""Depth images of another size, or of another camera, than their colour image."""

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from mote_localization.camera import Camera
from mote_localization.errors import SceneError

_MAX_ASPECT_DIFFERENCE = 0.01  # relative, of depth and colour images that show the same
_MIN_DEPTH_M = 1e-3  # of a point in front of the colour camera


@dataclass(frozen=True)
class DepthCamera:
    """A depth camera beside the colour camera; undistorted."""

    camera: Camera
    T_colour_depth: np.ndarray  # (4, 4), metres: takes points to the frame of the colour camera

    def depth_in_colour(self, depth_hw: np.ndarray, colour: Camera) -> np.ndarray:
        """Return its depths as the colour camera sees them; the nearest surface hides others.

        Args:
            depth_hw: Metres, 0 = no depth, of the depth camera's size.
            colour: The colour camera.

        Returns:
            Metres (colour.height, colour.width), float32, 0 = no depth.
        """
        # A depth image with fewer pixels per radian is first projected into a smaller colour image,
        # so that no gaps are between its points.
        shrink = min(1, self.camera.fx / colour.fx, self.camera.fy / colour.fy)
        size = colour.width, colour.height
        width, height = (max(1, int(side * shrink)) for side in size)
        colour = colour.resized(width, height)
        valid_hw = depth_hw > 0
        points_n3 = self._colour_rays_hw3[valid_hw] * depth_hw[valid_hw][:, None]
        points_n3 += self.T_colour_depth[:3, 3]
        points_n3 = points_n3[points_n3[:, 2] > _MIN_DEPTH_M]
        x_n, y_n = np.rint(colour.project(points_n3)).T
        seen_n = (x_n >= 0) & (x_n < width) & (y_n >= 0) & (y_n < height)
        pixel_n, z_n = (y_n * width + x_n)[seen_n].astype(int), points_n3[seen_n, 2]
        from_far = np.argsort(-z_n.astype(np.float32))
        seen = np.zeros(height * width, np.float32)
        seen[pixel_n[from_far]] = z_n[from_far]  # of several in one pixel, the last one remains
        return _resized(seen.reshape(height, width), size)

    @cached_property
    def _colour_rays_hw3(self) -> np.ndarray:
        """Rays of the pixels, z = 1 in the depth camera, along the axes of the colour camera."""
        return self.camera.cell_rays(1) @ self.T_colour_depth[:3, :3].T


def scaled_depth(depth_hw: np.ndarray, size: tuple[int, int], where: str) -> np.ndarray:
    """Return a depth image in the size of its colour image, by the nearest pixel.

    Args:
        depth_hw: Depths of any unit.
        size: Width and height of the colour image, px.
        where: For the error message.

    Raises:
        SceneError: The images differ in their aspect ratio by more than 1 %.
    """
    (height, width), (image_width, image_height) = depth_hw.shape, size
    if (width, height) == size:
        return depth_hw
    if abs(width * image_height / (height * image_width) - 1) > _MAX_ASPECT_DIFFERENCE:
        raise SceneError(
            f"{where}: found a depth image of {width}x{height} px beside an image of "
            f"{image_width}x{image_height} px, expected the same aspect ratio"
        )
    return _resized(depth_hw, size)


def _resized(depth_hw: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return an image of another width and height, by the nearest pixel."""
    # cv2's INTER_NEAREST takes the pixel beside the centre; the exact one keeps pixel centres.
    return cv2.resize(depth_hw, size, interpolation=cv2.INTER_NEAREST_EXACT)
