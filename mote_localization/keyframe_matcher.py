"""By keyframes, a pose that a student gave is refined, or not believed.

A student knows a place by heart, and roughly where it was not photographed. From about there, the
keyframes show what the camera should see: they are drawn as seen from the pose, tracked into the
image (Lucas and Kanade 1981), and their own depth gives each point that was found, exactly. So
viewpoints may be far apart: what remains to be tracked are the pixels by which the pose was wrong.
"""

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from mote_localization.camera import Camera, cell_pixels
from mote_localization.geometry import transform
from mote_localization.keyframes import ATLAS_COLUMNS, Keyframe

_CONTRAST_PX = 25  # side of the square whose mean and deviation become those of each pixel
_NOISE = 4.0  # grey levels, deviation below which there is nothing to see
_SAMPLED_CELLS = 9  # of so many cells one tells how much a keyframe shows
_NEAREST_M = 0.01  # from a camera; what is closer is not looked at
_BORDER_PX = 4  # of a keyframe, which is not looked at
_LEAST_COSINE = 0.5  # between the rays of a keyframe and of the camera to the same point
_OTHER_DEPTH = 0.25  # of the logarithm: a keyframe that measured it sees something else there
_DOUBT = 0.3  # what such a keyframe is worth, when there is none that sees it
_LEAST_EIGENVALUE = 1e-3  # of a window's gradients: below, there is nothing to hold on to
_TRACKING = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 10, 0.03)
_BACK_PX = 1.0  # tracked there and back, a point is where it was
_STEEPEST = 0.15  # of the distance: corners farther apart are of two surfaces


class QueryImage(NamedTuple):
    """What a camera sees, and about where it is."""

    grey_hw: np.ndarray  # uint8, of even contrast, canonical camera
    covered_n: np.ndarray  # bool: the live camera sees this cell
    points_n3: np.ndarray  # m, camera frame: the surface that each cell shows, as the student says


class PlaceMatches(NamedTuple):
    """Points of the place, and where the camera sees them."""

    points_n3: np.ndarray  # m, map frame
    pixels_n2: np.ndarray  # of the canonical camera


class _Shown(NamedTuple):
    """Which keyframe shows each cell, and how."""

    keyframe_n: np.ndarray
    pixels_2n: np.ndarray  # where in the keyframe the cell's centre is
    right_2n: np.ndarray  # how that moves with a pixel to the right
    down_2n: np.ndarray  # and down
    drawn_n: np.ndarray  # bool: some keyframe shows it


class _Drawing(NamedTuple):
    """The place as the best keyframe of each cell shows it from a pose."""

    image_hw: np.ndarray  # grey, uint8
    shown: _Shown


@dataclass(frozen=True)
class Search:
    """How far from a pose, and how thoroughly, points are looked for."""

    levels: int  # halvings of the image: each doubles the reach
    window_px: int  # side of what is tracked
    drawings: int  # of the best keyframe of each cell, of the second best, and so on
    shown: int = 12  # keyframes that draw


class KeyframeMatcher:
    """Finds points of a map's keyframes in images whose pose is roughly known."""

    def __init__(self, keyframes: tuple[Keyframe, ...], camera: Camera, stride: int) -> None:
        """Decode the keyframes.

        Args:
            keyframes: Of one map.
            camera: The canonical camera.
            stride: Pixels of the canonical image per cell side.

        Raises:
            MapFileError: One of them cannot be decoded.
        """
        self._camera, self._stride = camera, stride
        self._pixels_hw2 = cell_pixels(camera.width, camera.height, stride)
        self._rays_n3 = camera.rays(self._pixels_hw2).reshape(-1, 3)
        side = np.arange(stride, dtype=np.float32) - (stride - 1) / 2
        # where the pixels of a cell are, from its centre, row by row
        self._within_cell_p2 = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
        self._T_k44 = np.array([keyframe.pose_44 for keyframe in keyframes])
        self._depth_kn = np.array([keyframe.depth_m() for keyframe in keyframes])
        width, height = camera.width, camera.height
        row_k, column_k = np.divmod(np.arange(len(keyframes)), ATLAS_COLUMNS)
        self._corner_k2 = np.stack([column_k * width, row_k * height], axis=1)
        size = (height * (row_k[-1] + 1), width * min(len(keyframes), ATLAS_COLUMNS))
        self._atlas_hw = np.zeros(size, np.uint8)
        for keyframe, (x, y) in zip(keyframes, self._corner_k2, strict=True):
            self._atlas_hw[y : y + height, x : x + width] = _even_contrast(keyframe.grey_hw())

    def see(
        self,
        image_hw3: np.ndarray,
        covered_hw: np.ndarray,
        T_map_cam: np.ndarray,
        points_hw3: np.ndarray,
    ) -> QueryImage:
        """Return what is to be found again.

        Args:
            image_hw3: RGB uint8, canonical camera.
            covered_hw: Bool, the live camera sees this cell.
            T_map_cam: Where it was taken, by the student (4, 4).
            points_hw3: What the student says of it, m, map frame: its depth is believed.
        """
        depth_hw = (points_hw3 - T_map_cam[:3, 3]) @ T_map_cam[:3, 2]
        depth_hw = np.maximum(depth_hw, _NEAREST_M).astype(np.float32)
        if not np.isfinite(depth_hw).all():
            depth_hw = np.nan_to_num(depth_hw, nan=np.nanmedian(depth_hw), posinf=_NEAREST_M)
        depth_n = cv2.medianBlur(depth_hw, 5).reshape(-1).astype(np.float64)
        grey_hw = _even_contrast(cv2.cvtColor(image_hw3, cv2.COLOR_RGB2GRAY))
        return QueryImage(grey_hw, covered_hw.reshape(-1), self._rays_n3 * depth_n[:, None])

    def match(self, sight: QueryImage, T_map_cam: np.ndarray, search: Search) -> PlaceMatches:
        """Return what of the place is found in an image near where it is from a pose (4, 4)."""
        points, pixels = [np.zeros((0, 3))], [np.zeros((0, 2))]
        for drawing in self._draw(T_map_cam, transform(T_map_cam, sight.points_n3), search):
            cell_m, found_m2 = self._track(sight, drawing, search)
            points_m3 = self._lift(drawing.shown, found_m2)
            known_m = np.isfinite(points_m3).all(axis=1)
            points.append(points_m3[known_m])
            pixels.append(self._pixels_hw2.reshape(-1, 2)[cell_m[known_m]])
        return PlaceMatches(np.concatenate(points), np.concatenate(pixels))

    def _draw(self, T_map_cam: np.ndarray, points_n3: np.ndarray, search: Search) -> list[_Drawing]:
        """Draw the place as seen from a pose, by its best keyframes, its second best, and so on."""
        everyone_k = np.arange(len(self._T_k44))
        sampled_n3 = points_n3[::_SAMPLED_CELLS]
        shown_k = self._worth(T_map_cam, sampled_n3, everyone_k)[0].sum(axis=1)
        chosen_k = np.argsort(-shown_k, kind="stable")[: search.shown]
        worth_kn, pixels_2kn = self._worth(T_map_cam, points_n3, chosen_k)
        rows, columns = self._pixels_hw2.shape[:2]
        grid_2khw = pixels_2kn.reshape(2, -1, rows, columns)
        down_2kn, right_2kn = (
            moved.reshape(pixels_2kn.shape)
            for moved in np.gradient(grid_2khw, self._stride, axis=(2, 3))
        )
        order_kn = np.argsort(-worth_kn, axis=0, kind="stable")
        n = np.arange(len(points_n3))
        drawings = []
        for best_n in order_kn[: search.drawings]:
            pixels_2n, right_2n, down_2n = (
                values_2kn[:, best_n, n] for values_2kn in (pixels_2kn, right_2kn, down_2kn)
            )
            drawn_n = (worth_kn[best_n, n] > 0) & np.isfinite(right_2n[0] + down_2n[0])
            shown = _Shown(chosen_k[best_n], pixels_2n, right_2n, down_2n, drawn_n)
            drawings.append(_Drawing(self._image(shown), shown))
        return drawings

    def _worth(
        self, T_map_cam: np.ndarray, points_n3: np.ndarray, keyframes_k: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return how well keyframes show points (k, n), 0: not; and at which pixels (2, k, n)."""
        camera, stride = self._camera, self._stride
        T_k44 = self._T_k44[keyframes_k]
        R_k33 = np.swapaxes(T_k44[:, :3, :3], 1, 2)  # to the keyframes' own axes
        # single precision from here on: lengths are counted from the keyframe
        local_k3n = (R_k33 @ (points_n3[None] - T_k44[:, None, :3, 3]).swapaxes(1, 2)).astype("f4")
        camera_k3 = (R_k33 @ (T_map_cam[:3, 3] - T_k44[:, :3, 3])[..., None]).astype("f4")
        x_kn, y_kn, z_kn = np.moveaxis(local_k3n, 1, 0)
        ahead_kn = np.where(z_kn > _NEAREST_M, z_kn, np.float32(np.nan))
        u_kn = x_kn / ahead_kn * np.float32(camera.fx) + np.float32(camera.cx)
        v_kn = y_kn / ahead_kn * np.float32(camera.fy) + np.float32(camera.cy)
        seen_kn = (u_kn >= _BORDER_PX) & (u_kn <= camera.width - 1 - _BORDER_PX)
        seen_kn &= (v_kn >= _BORDER_PX) & (v_kn <= camera.height - 1 - _BORDER_PX)
        squared_kn = x_kn * x_kn + y_kn * y_kn + z_kn * z_kn
        along_kn = squared_kn - (np.swapaxes(camera_k3, 1, 2) @ local_k3n)[:, 0]
        distance_n = np.linalg.norm(points_n3 - T_map_cam[:3, 3], axis=1).astype(np.float32)
        distance_kn = np.sqrt(squared_kn)
        rows, columns = self._pixels_hw2.shape[:2]
        column_kn = np.where(seen_kn, u_kn / stride, 0).astype(np.intp)
        row_kn = np.where(seen_kn, v_kn / stride, 0).astype(np.intp)
        cell_kn = np.minimum(row_kn, rows - 1) * columns + np.minimum(column_kn, columns - 1)
        known_kn = self._depth_kn[keyframes_k[:, None], cell_kn].astype(np.float32)
        with np.errstate(divide="ignore", invalid="ignore"):
            cosine_kn = along_kn / (distance_n * distance_kn)
            zoom_kn = distance_n / distance_kn
            same_kn = np.abs(np.log(known_kn / ahead_kn)) < _OTHER_DEPTH
        facing_kn = np.maximum(cosine_kn - _LEAST_COSINE, 0) * np.minimum(zoom_kn, 1 / zoom_kn)
        trust_kn = np.where(same_kn, 1, np.where(np.isfinite(known_kn), np.float32(_DOUBT), 0))
        worth_kn = np.where(seen_kn, facing_kn * trust_kn, 0)
        return np.nan_to_num(worth_kn, copy=False), np.stack([u_kn, v_kn])

    def _image(self, shown: _Shown) -> np.ndarray:
        """Return a drawing's image: each cell is a piece of its keyframe."""
        columns_hw = self._sources(shown, 0, self._camera.width)
        rows_hw = self._sources(shown, 1, self._camera.height)
        return cv2.remap(self._atlas_hw, columns_hw, rows_hw, cv2.INTER_LINEAR, borderValue=128)

    def _sources(self, shown: _Shown, axis: int, side: int) -> np.ndarray:
        """Return from which column or row of the atlas each pixel of a drawing comes."""
        stride = self._stride
        rows, columns = self._pixels_hw2.shape[:2]
        right_p, down_p = self._within_cell_p2.T
        source_np = shown.right_2n[axis, :, None] * right_p + shown.down_2n[axis, :, None] * down_p
        source_np += shown.pixels_2n[axis, :, None]
        np.clip(source_np, 0, side - 1, out=source_np)
        source_np += self._corner_k2[shown.keyframe_n, axis, None].astype(np.float32)
        source_np[~shown.drawn_n] = -2  # outside
        source_hw = source_np.reshape(rows, columns, stride, stride).swapaxes(1, 2)
        return source_hw.reshape(rows * stride, columns * stride)

    def _track(
        self, sight: QueryImage, drawing: _Drawing, search: Search
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the cells (m) of an image that are found in a drawing, and where (m, 2)."""
        cell_m = np.flatnonzero(drawing.shown.drawn_n & sight.covered_n)
        if not len(cell_m):
            return cell_m, np.zeros((0, 2))
        start_m12 = self._pixels_hw2.reshape(-1, 1, 2)[cell_m].astype(np.float32)
        size = (search.window_px, search.window_px)

        def track(
            first_hw: np.ndarray, second_hw: np.ndarray, points_m12: np.ndarray, levels: int
        ) -> tuple[np.ndarray, np.ndarray]:
            """Return where points are in a second image, sought from `start_m12`; 1: found."""
            moved_m12, there_m1, _ = cv2.calcOpticalFlowPyrLK(
                first_hw,
                second_hw,
                points_m12,
                start_m12.copy(),
                winSize=size,
                maxLevel=levels,
                criteria=_TRACKING,
                flags=cv2.OPTFLOW_USE_INITIAL_FLOW,
                minEigThreshold=_LEAST_EIGENVALUE,
            )
            return moved_m12, there_m1

        found_m12, there_m1 = track(sight.grey_hw, drawing.image_hw, start_m12, search.levels)
        # Back from where it came: without the coarse levels, which would take as long again.
        again_m12, back_m1 = track(drawing.image_hw, sight.grey_hw, found_m12, 0)
        returned_m = np.linalg.norm(again_m12 - start_m12, axis=-1)[:, 0] < _BACK_PX
        found_m2 = found_m12[:, 0].astype(np.float64)
        last = np.array([self._camera.width, self._camera.height]) - 1
        inside_m = ((found_m2 >= 0) & (found_m2 <= last)).all(axis=1)
        kept_m = (there_m1[:, 0] > 0) & (back_m1[:, 0] > 0) & returned_m & inside_m
        return cell_m[kept_m], found_m2[kept_m]

    def _lift(self, shown: _Shown, found_m2: np.ndarray) -> np.ndarray:
        """Return the points (m, 3), map frame, at pixels of a drawing; NaN where unknown."""
        camera, stride = self._camera, self._stride
        rows, columns = self._pixels_hw2.shape[:2]
        column_m, row_m = (found_m2 // stride).astype(int).T
        cell_m = row_m.clip(0, rows - 1) * columns + column_m.clip(0, columns - 1)
        right_m, down_m = (found_m2 - self._pixels_hw2.reshape(-1, 2)[cell_m]).T
        moved_2m = shown.right_2n[:, cell_m] * right_m + shown.down_2n[:, cell_m] * down_m
        pixels_m2 = (shown.pixels_2n[:, cell_m] + moved_2m).T
        inside_m = ((pixels_m2 >= 0) & (pixels_m2 <= (camera.width, camera.height))).all(axis=1)
        usable_m = shown.drawn_n[cell_m] & inside_m
        pixels_m2 = np.where(usable_m[:, None], pixels_m2, 0)
        keyframe_m = shown.keyframe_n[cell_m]
        # between the four cells around
        x_m, y_m = ((pixels_m2 - (stride - 1) / 2) / stride).T
        left_m = np.floor(x_m).astype(int).clip(0, columns - 2)
        top_m = np.floor(y_m).astype(int).clip(0, rows - 2)
        corner_m = top_m * columns + left_m
        right_m, down_m = x_m - left_m, y_m - top_m
        corners_4m = self._depth_kn[
            keyframe_m, corner_m + np.array([[0], [1], [columns], [columns + 1]])
        ]
        shares_4m = np.array(
            [
                (1 - right_m) * (1 - down_m),
                right_m * (1 - down_m),
                (1 - right_m) * down_m,
                right_m * down_m,
            ]
        )
        depth_m = (shares_4m * corners_4m).sum(axis=0)
        with np.errstate(invalid="ignore"):
            smooth_m = np.abs(corners_4m - depth_m).max(axis=0) < _STEEPEST * depth_m
        local_m3 = camera.rays(pixels_m2) * depth_m[:, None]
        T_m44 = self._T_k44[keyframe_m]
        points_m3 = (T_m44[:, :3, :3] @ local_m3[..., None])[..., 0] + T_m44[:, :3, 3]
        return np.where((usable_m & smooth_m)[:, None], points_m3, np.nan)


def _even_contrast(grey_hw: np.ndarray) -> np.ndarray:
    """Return an image, uint8, of the same mean and deviation everywhere, whatever the light."""
    values_hw = grey_hw.astype(np.float32)
    size = (_CONTRAST_PX, _CONTRAST_PX)
    mean_hw, square_hw = cv2.blur(values_hw, size), cv2.sqrBoxFilter(values_hw, cv2.CV_32F, size)
    variance_hw = np.maximum(square_hw - mean_hw * mean_hw, 0)
    deviation_hw = np.sqrt(variance_hw + _NOISE**2)
    return np.clip(128 + 40 * (values_hw - mean_hw) / deviation_hw, 0, 255).astype(np.uint8)
