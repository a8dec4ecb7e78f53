"""Refines a pose with the map's keyframes, or gives no matches where they show something else.

A student's pose is precise near the training images and rough farther away. A view is rendered from
the keyframes at that pose, and points of the image are tracked into it (Lucas and Kanade 1981). The
keyframes' depth gives the 3-D point of each tracked point. Only the error of the pose has to be
tracked, so keyframes may be far apart.
"""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import cv2
import numpy as np

from mote_localization.camera import Camera, cell_index, cell_pixels
from mote_localization.geometry import (
    depth_in_camera,
    invert,
    on_same_surface,
    rotation_angles,
    transform,
)
from mote_localization.keyframes import ATLAS_COLUMNS, Keyframe
from mote_localization.view_similarity import similarity

_CONTRAST_PX = 25  # side of the square over which mean and deviation are normalized
_MIN_DEVIATION = 4.0  # grey levels; smaller deviations are noise and are not amplified
_TURN_DEPTHS = 0.5  # distance of a turn by one radian, in median depths of the keyframes
_SURFACE_KEYFRAMES = 12  # nearest ones, which show what a camera sees
_SAMPLED_CELLS = 23  # every 23rd cell counts when the keyframes of a view are chosen
_OUTSIDE_PX = np.float32(-1e4)  # a coordinate outside the atlas
_MIN_DEPTH_M = 0.01  # of points in front of a camera
_AROUND = np.ones((3, 3), np.uint8)  # a cell and its neighbours
_BORDER_PX = 4  # width of a keyframe's border that is not used
_MIN_EIGENVALUE = 1e-3  # of a window's gradient matrix; windows below have too little texture
_STOP = cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS
_CRITERIA = (_STOP, 10, 0.03)  # iterations and px at which the search of a point ends
_BACK_CRITERIA = (_STOP, 3, 0.03)  # of the way back, which starts where it should end


@dataclass(frozen=True)
class TrackingStep:
    """One step of the refinement: render at the current pose, track points, solve the pose."""

    levels: int  # of the image pyramid above the full resolution; each doubles the search radius
    window_px: int  # side of the tracked windows
    views: int  # rendered views: from the best keyframe of each cell, from the second best, ...
    inlier_px: float  # reprojection error up to which a match is an inlier, canonical pixels
    keyframes: int = 12  # keyframes that views are rendered from
    thinning: int = 1  # every n-th cell is tracked


@dataclass(frozen=True)
class KeyframeConfig:
    """How keyframes confirm and refine a pose."""

    min_matches: int = 20  # matches with the keyframes; with fewer, the frame is lost
    min_inlier_ratio: float = 0.4  # gate: fraction of the matches that agree with the pose
    sigma: float = 0.006  # expected error of a keyframe's point, relative to its distance
    steps: tuple[TrackingStep, ...] = (  # one at least
        TrackingStep(levels=3, window_px=9, views=1, inlier_px=6.0, thinning=2),
        TrackingStep(levels=2, window_px=9, views=1, inlier_px=3.0),
    )
    # the only step where the last image gives the pose
    tracked: TrackingStep = TrackingStep(levels=2, window_px=9, views=1, inlier_px=3.0)
    min_cosine: float = 0.5  # of the angle between the rays of keyframe and camera to a point
    max_log_depth_ratio: float = 0.25  # measured to expected depth; beyond, a point is occluded
    occluded_score: float = 0.3  # factor of a keyframe's score for a point that is occluded in it
    max_return_px: float = 1.0  # distance between a point and its position tracked there and back
    max_depth_step: float = 0.15  # relative depth difference of neighbouring cells on one surface
    # keyframes in which an image is searched where the student gives no accepted pose; 0: none
    searched: int = 5


class QueryImage(NamedTuple):
    """An image whose points are tracked into the keyframes."""

    grey_hw: np.ndarray  # uint8, contrast normalized, canonical camera
    cells_c: np.ndarray  # flat indices of the cells that the live camera sees


class KeyframeMatches(NamedTuple):
    """3-D points of keyframes and their pixels in an image."""

    points_n3: np.ndarray  # m, map frame
    pixels_n2: np.ndarray  # of the canonical camera


class KeyframeTracks(NamedTuple):
    """Pixels of an image, and the pixels of keyframes that show the same points."""

    pixels_n2: np.ndarray  # centres of cells, canonical camera
    keyframe_n: np.ndarray  # indices of the keyframes
    keyframe_pixels_n2: np.ndarray  # in the keyframes


_NO_TRACKS = KeyframeTracks(np.zeros((0, 2)), np.zeros(0, int), np.zeros((0, 2)))


class _View(NamedTuple):
    """A rendered view: for each cell the keyframe, and an affine map to the keyframe's pixels."""

    keyframe_n: np.ndarray  # index of the keyframe
    pixels_2n: np.ndarray  # pixel in the keyframe for the cell's centre
    dx_2n: np.ndarray  # derivative of that pixel by the view's column
    dy_2n: np.ndarray  # and by the view's row
    valid_n: np.ndarray  # bool: a keyframe shows the cell


class _Neighbours(NamedTuple):
    """For each cell the cells before and after it along an axis; itself at the image border."""

    before_n: np.ndarray
    after_n: np.ndarray
    distance_n: np.ndarray  # float32, px, between the two

    @classmethod
    def along(cls, pixels_hw2: np.ndarray, axis: int) -> "_Neighbours":
        """Return the neighbours of cells with these centres, along axis 0 (rows) or 1."""
        n_hw = np.arange(pixels_hw2[..., 0].size).reshape(pixels_hw2.shape[:2])
        last = n_hw.shape[axis] - 1
        before, after = (
            n_hw.take((np.arange(last + 1) + shift).clip(0, last), axis).ravel()
            for shift in (-1, 1)
        )
        pixels_n2 = pixels_hw2.reshape(-1, 2)
        distance_n2 = pixels_n2[after] - pixels_n2[before]
        return cls(before, after, distance_n2.sum(axis=1).astype(np.float32))


class KeyframeMatcher:
    """Matches images of roughly known pose with a map's keyframes."""

    def __init__(self, keyframes: tuple[Keyframe, ...], camera: Camera, stride: int) -> None:
        """Decode the keyframes into one atlas image.

        Args:
            keyframes: All keyframes of a map, one at least.
            camera: The canonical camera.
            stride: Pixels of the canonical image per cell side.

        Raises:
            MapFileError: A keyframe cannot be decoded.
        """
        self._camera, self._stride = camera, stride
        self._pixels_hw2 = cell_pixels(camera.width, camera.height, stride)
        self._pixels_n2 = self._pixels_hw2.reshape(-1, 2)
        self._rays_n3 = camera.rays(self._pixels_n2)
        self._neighbours_x = _Neighbours.along(self._pixels_hw2, axis=1)
        self._neighbours_y = _Neighbours.along(self._pixels_hw2, axis=0)
        self._T_k44 = np.array([keyframe.pose_44 for keyframe in keyframes])
        self._R_k33 = np.swapaxes(self._T_k44[:, :3, :3], 1, 2)  # map to keyframe
        self._depth_kn = np.array([keyframe.depth_m() for keyframe in keyframes], np.float32)
        width, height = camera.width, camera.height
        row_k, column_k = np.divmod(np.arange(len(keyframes)), ATLAS_COLUMNS)
        self._corner_k2 = np.stack([column_k * width, row_k * height], axis=1)
        size = (height * (row_k[-1] + 1), width * min(len(keyframes), ATLAS_COLUMNS))
        self._atlas_hw = np.zeros(size, np.uint8)
        for keyframe, (x, y) in zip(keyframes, self._corner_k2, strict=True):
            grey_hw = _normalize_contrast(keyframe.grey_hw())
            self._atlas_hw[y : y + height, x : x + width] = grey_hw
        known_kn = np.isfinite(self._depth_kn)
        depth = np.median(self._depth_kn[known_kn]) if known_kn.any() else 0.0
        self._turn_m = _TURN_DEPTHS * float(depth)

    def without(self, removed: Sequence[int]) -> "KeyframeMatcher":
        """Return a matcher without the keyframes of these indices; both share the images."""
        other = copy(self)
        for name in ("_T_k44", "_R_k33", "_depth_kn", "_corner_k2"):
            setattr(other, name, np.delete(getattr(self, name), removed, axis=0))
        return other

    def distances(self, T_map_cam: np.ndarray) -> np.ndarray:
        """Return the distance (k,) of a camera from each keyframe, m.

        The distance between the positions, plus half the median depth of the keyframes for each
        radian between the orientations.
        """
        shift_k = np.linalg.norm(self._T_k44[:, :3, 3] - T_map_cam[:3, 3], axis=1)
        return shift_k + self._turn_m * rotation_angles(self._T_k44[:, :3, :3], T_map_cam[:3, :3])

    def query(self, grey_hw: np.ndarray, covered_hw: np.ndarray) -> QueryImage:
        """Return an image prepared for `match`.

        Args:
            grey_hw: Uint8, canonical camera.
            covered_hw: Bool, the live camera sees this cell.
        """
        return QueryImage(_normalize_contrast(grey_hw), np.flatnonzero(covered_hw))

    def cell_points(self, points_hw3: np.ndarray, T_map_cam: np.ndarray) -> np.ndarray:
        """Return the surface point of each cell (n, 3), camera frame.

        Args:
            points_hw3: A point of each cell, m, map frame; only its depth is used.
            T_map_cam: The pose (4, 4) at which the points were found.
        """
        depth_hw = np.maximum(depth_in_camera(points_hw3, T_map_cam), _MIN_DEPTH_M).astype(
            np.float32
        )
        known_hw = np.isfinite(depth_hw)
        if not known_hw.all():
            depth_hw[~known_hw] = np.median(depth_hw[known_hw]) if known_hw.any() else _MIN_DEPTH_M
        return self._rays_n3 * cv2.medianBlur(depth_hw, 5).reshape(-1, 1)

    def surface(self, T_map_cam: np.ndarray) -> np.ndarray:
        """Return the surface point (rows, columns, 3) of each cell of a camera, m, map frame.

        The foremost points of the nearest keyframes; cells that show none have the depth of the
        nearest cell that does. NaN if no keyframe shows anything that the camera sees.

        Args:
            T_map_cam: The camera's pose (4, 4).
        """
        return self._surface(self._shown_depth(T_map_cam), T_map_cam)

    def _surface(self, depth_hw: np.ndarray, T_map_cam: np.ndarray) -> np.ndarray:
        """Return the points of `surface` for the depth of `_shown_depth`."""
        unknown_hw = np.isinf(depth_hw).astype(np.uint8)
        rows, columns = depth_hw.shape
        if unknown_hw.all():
            return np.full((rows, columns, 3), np.nan)
        _, label_hw = cv2.distanceTransformWithLabels(
            unknown_hw, cv2.DIST_L2, 3, labelType=cv2.DIST_LABEL_PIXEL
        )
        depth_of_label = np.zeros(label_hw.max() + 1)
        depth_of_label[label_hw[unknown_hw == 0]] = depth_hw[unknown_hw == 0]
        rays_hw3 = self._rays_n3.reshape(rows, columns, 3)
        return transform(T_map_cam, rays_hw3 * depth_of_label[label_hw][..., None])

    def _shown_depth(self, T_map_cam: np.ndarray) -> np.ndarray:
        """Return the depth (rows, columns) of the foremost points of the nearest keyframes.

        Infinite in cells that show none.
        """
        camera = self._camera
        keyframes_k = np.argsort(self.distances(T_map_cam))[:_SURFACE_KEYFRAMES]
        local_kn3 = self._rays_n3 * self._depth_kn[keyframes_k][..., None]
        T_cam_k44 = invert(T_map_cam) @ self._T_k44[keyframes_k]
        pairs = zip(T_cam_k44, local_kn3, strict=True)
        points_n3 = np.concatenate([transform(T, points) for T, points in pairs])
        points_n3 = points_n3[points_n3[:, 2] > _MIN_DEPTH_M]
        pixels_2n = camera.project(points_n3).T
        x_n, y_n = pixels_2n
        inside_n = (x_n > -0.5) & (x_n < camera.width - 0.5)
        inside_n &= (y_n > -0.5) & (y_n < camera.height - 0.5)
        cell_n = cell_index(pixels_2n[:, inside_n], camera, self._stride)
        depth_n = np.full(len(self._rays_n3), np.inf)
        np.minimum.at(depth_n, cell_n, points_n3[inside_n, 2])
        return depth_n.reshape(self._pixels_hw2.shape[:2])

    def similarity(
        self, query: QueryImage, T_map_cam: np.ndarray, config: KeyframeConfig
    ) -> np.ndarray:
        """Return how similar an image is to the view of the keyframes at a pose (4, 4).

        Returns:
            Correlation (rows, columns), see `view_similarity`; NaN in cells that the camera or no
            keyframe sees.
        """
        depth_hw = self._shown_depth(T_map_cam)
        # points of a keyframe that is farther away than the camera leave gaps of a cell
        known_n = cv2.dilate(np.isfinite(depth_hw).astype(np.uint8), _AROUND).ravel() > 0
        if not known_n.any():
            return np.full(depth_hw.shape, np.nan, np.float32)
        local_n3 = self.cell_points(self._surface(depth_hw, T_map_cam), T_map_cam)
        points_n3 = transform(T_map_cam, local_n3)
        # what a keyframe shows in place of an occluded point would count as a difference
        config = replace(config, occluded_score=0.0)
        view = self._render(T_map_cam, points_n3, replace(config.tracked, views=1), config)[0]
        found_n = similarity(query.grey_hw, self._image(view), self._pixels_hw2).ravel()
        shown_n = np.zeros(len(found_n), bool)
        shown_n[query.cells_c] = True
        shown_n &= view.valid_n & known_n
        return np.where(shown_n, found_n, np.nan).reshape(depth_hw.shape)

    def match(
        self,
        query: QueryImage,
        points_n3: np.ndarray,
        T_map_cam: np.ndarray,
        step: TrackingStep,
        config: KeyframeConfig,
    ) -> KeyframeMatches:
        """Return the matches of an image with the keyframes rendered at a pose (4, 4).

        `points_n3` are the surface points of the cells, see `cell_points`.
        """
        tracks = self.track(query, points_n3, T_map_cam, step, config)
        points_m3 = self._points_at(tracks, config)
        known_m = np.isfinite(points_m3[:, 0])
        return KeyframeMatches(points_m3[known_m], tracks.pixels_n2[known_m])

    def track(
        self,
        query: QueryImage,
        points_n3: np.ndarray,
        T_map_cam: np.ndarray,
        step: TrackingStep,
        config: KeyframeConfig,
    ) -> KeyframeTracks:
        """Return where keyframes, rendered at a pose (4, 4), show points of an image.

        `points_n3` are the surface points of the cells, see `cell_points`.
        """
        views = self._render(T_map_cam, transform(T_map_cam, points_n3), step, config)
        found = [_NO_TRACKS, *(self._track_view(query, view, step, config) for view in views)]
        return KeyframeTracks(*map(np.concatenate, zip(*found, strict=True)))

    def _render(
        self,
        T_map_cam: np.ndarray,
        points_n3: np.ndarray,
        step: TrackingStep,
        config: KeyframeConfig,
    ) -> list[_View]:
        """Return views at a pose: from the best keyframe of each cell, the second best, ...

        `points_n3` are the surface points of the cells, m, map frame.
        """
        all_k = np.arange(len(self._T_k44))
        sampled_n3 = points_n3[::_SAMPLED_CELLS]
        score_k = self._scores(T_map_cam, sampled_n3, all_k, config)[0].sum(axis=1)
        chosen_k = np.argsort(-score_k, kind="stable")[: step.keyframes]
        score_kn, pixels_2kn = self._scores(T_map_cam, points_n3, chosen_k, config)
        n = np.arange(len(points_n3))
        views = []
        for _ in range(min(step.views, len(chosen_k))):
            best_n = score_kn.argmax(axis=0)
            dx_2n = _derivative(pixels_2kn, best_n, self._neighbours_x)
            dy_2n = _derivative(pixels_2kn, best_n, self._neighbours_y)
            valid_n = (score_kn[best_n, n] > 0) & np.isfinite(dx_2n[0] + dy_2n[0])
            views.append(_View(chosen_k[best_n], pixels_2kn[:, best_n, n], dx_2n, dy_2n, valid_n))
            score_kn[best_n, n] = -1
        return views

    def _scores(
        self,
        T_map_cam: np.ndarray,
        points_n3: np.ndarray,
        keyframes_k: np.ndarray,
        config: KeyframeConfig,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return how well keyframes show points of a view (k, n), and their pixels (2, k, n).

        A score is 0 where the keyframe does not see the point. It is larger, the more similar the
        keyframe's ray and distance are to the view's, and smaller where the point is occluded.
        """
        camera, R_k33 = self._camera, self._R_k33[keyframes_k]
        # coordinates relative to the camera are small enough for single precision
        relative_3n = (points_n3 - T_map_cam[:3, 3]).T.astype(np.float32)
        camera_k31 = R_k33 @ (T_map_cam[:3, 3] - self._T_k44[keyframes_k, :3, 3])[..., None]
        camera_k31 = camera_k31.astype(np.float32)
        local_k3n = R_k33.astype(np.float32) @ relative_3n + camera_k31
        x_kn, y_kn, z_kn = local_k3n[:, 0], local_k3n[:, 1], local_k3n[:, 2]
        depth_kn = np.where(z_kn > _MIN_DEPTH_M, z_kn, np.float32(np.nan))
        pixels_2kn = np.empty((2, *depth_kn.shape), np.float32)
        np.divide(x_kn, depth_kn, out=pixels_2kn[0])
        np.divide(y_kn, depth_kn, out=pixels_2kn[1])
        pixels_2kn *= np.array([camera.fx, camera.fy], np.float32)[:, None, None]
        pixels_2kn += np.array([camera.cx, camera.cy], np.float32)[:, None, None]
        u_kn, v_kn = pixels_2kn
        inside_kn = (u_kn >= _BORDER_PX) & (u_kn <= camera.width - 1 - _BORDER_PX)
        inside_kn &= (v_kn >= _BORDER_PX) & (v_kn <= camera.height - 1 - _BORDER_PX)
        squared_kn = np.einsum("kin,kin->kn", local_k3n, local_k3n)
        # dot product of the rays from the keyframe and from the camera
        dot_kn = squared_kn - (np.swapaxes(camera_k31, 1, 2) @ local_k3n)[:, 0]
        distance_n = np.sqrt(np.einsum("in,in->n", relative_3n, relative_3n))
        distance_kn = np.sqrt(squared_kn)
        cell_kn = cell_index(np.where(inside_kn, pixels_2kn, 0), camera, self._stride)
        measured_kn = self._depth_kn[keyframes_k[:, None], cell_kn]
        largest_ratio = np.float32(np.exp(config.max_log_depth_ratio))
        with np.errstate(divide="ignore", invalid="ignore"):
            cosine_kn = dot_kn / (distance_n * distance_kn)
            zoom_kn = distance_n / distance_kn
            visible_kn = measured_kn < depth_kn * largest_ratio
            visible_kn &= measured_kn * largest_ratio > depth_kn
            score_kn = np.maximum(cosine_kn - np.float32(config.min_cosine), 0)
            score_kn *= np.minimum(zoom_kn, 1 / zoom_kn)
        score_kn[~visible_kn] *= np.float32(config.occluded_score)
        score_kn[~(inside_kn & np.isfinite(measured_kn) & np.isfinite(score_kn))] = 0
        return score_kn, pixels_2kn

    def _image(self, view: _View) -> np.ndarray:
        """Return the image of a view, grey uint8: each cell is a patch of its keyframe."""
        columns_hw, rows_hw = (self._atlas_coordinates(view, axis) for axis in (0, 1))
        return cv2.remap(self._atlas_hw, columns_hw, rows_hw, cv2.INTER_LINEAR, borderValue=128)

    def _atlas_coordinates(self, view: _View, axis: int) -> np.ndarray:
        """Return the atlas column (axis 0) or row (axis 1) of each pixel of a rendered view."""
        (rows, columns), side = self._pixels_hw2.shape[:2], self._stride
        offset_p = np.arange(side, dtype=np.float32) - (side - 1) / np.float32(2)
        centre_n = view.pixels_2n[axis] + self._corner_k2[view.keyframe_n, axis]
        centre_n = np.where(view.valid_n, centre_n, _OUTSIDE_PX).astype(np.float32)  # drawn grey
        across_np = centre_n[:, None] + view.dx_2n[axis, :, None] * offset_p
        down_hw = np.repeat(view.dy_2n[axis], side).reshape(rows, 1, columns * side)
        source_hpw = down_hw * offset_p[:, None]
        source_hpw += across_np.reshape(rows, 1, columns * side)
        return source_hpw.reshape(rows * side, columns * side)

    def _track_view(
        self, query: QueryImage, view: _View, step: TrackingStep, config: KeyframeConfig
    ) -> KeyframeTracks:
        """Return where a rendered view shows points of an image."""
        cells_m = query.cells_c[view.valid_n[query.cells_c]]
        if step.thinning > 1:  # on a lattice whose rows are shifted
            row_m, column_m = np.divmod(cells_m, self._pixels_hw2.shape[1])
            cells_m = cells_m[(column_m + row_m) % step.thinning == 0]
        start_m12 = self._pixels_n2[cells_m, None].astype(np.float32)
        if not len(start_m12):
            return _NO_TRACKS
        track = partial(
            cv2.calcOpticalFlowPyrLK,
            winSize=(step.window_px, step.window_px),
            flags=cv2.OPTFLOW_USE_INITIAL_FLOW,
            minEigThreshold=_MIN_EIGENVALUE,
        )
        query_hw, view_hw, levels = query.grey_hw, self._image(view), step.levels
        # OpenCV overwrites the start of the search, the fourth argument.
        forward_m12, forward_m1, _ = track(
            query_hw, view_hw, start_m12, start_m12.copy(), maxLevel=levels, criteria=_CRITERIA
        )
        # The way back starts at its expected end, so that the full resolution suffices.
        back_m12, back_m1, _ = track(
            view_hw, query_hw, forward_m12, start_m12.copy(), maxLevel=0, criteria=_BACK_CRITERIA
        )
        distance_m = np.linalg.norm(back_m12 - start_m12, axis=-1)[:, 0]
        found_m2 = forward_m12[:, 0].astype(np.float64)
        last = np.array([self._camera.width, self._camera.height]) - 1
        inside_m = ((found_m2 >= 0) & (found_m2 <= last)).all(axis=1)
        kept_m = (forward_m1[:, 0] > 0) & (back_m1[:, 0] > 0) & inside_m
        kept_m &= distance_m < config.max_return_px
        return self._keyframe_tracks(
            start_m12[kept_m, 0].astype(np.float64), found_m2[kept_m], view
        )

    def _keyframe_tracks(
        self, start_m2: np.ndarray, found_m2: np.ndarray, view: _View
    ) -> KeyframeTracks:
        """Return the tracks from pixels of an image to the keyframes, by those to a view of them.

        Args:
            start_m2: Pixels of the image.
            found_m2: Where the view shows the same points.
            view: Rendered from the keyframes.
        """
        camera = self._camera
        cell_m = cell_index(found_m2.T, camera, self._stride)
        x_m, y_m = (found_m2 - self._pixels_n2[cell_m]).T
        offset_2m = view.dx_2n[:, cell_m] * x_m + view.dy_2n[:, cell_m] * y_m
        pixels_m2 = (view.pixels_2n[:, cell_m] + offset_2m).T
        with np.errstate(invalid="ignore"):
            inside_m = (pixels_m2 >= 0) & (pixels_m2 <= (camera.width, camera.height))
        usable_m = view.valid_n[cell_m] & inside_m.all(axis=1)
        return KeyframeTracks(
            start_m2[usable_m], view.keyframe_n[cell_m[usable_m]], pixels_m2[usable_m]
        )

    def _points_at(self, tracks: KeyframeTracks, config: KeyframeConfig) -> np.ndarray:
        """Return the points (m, 3), map frame, that keyframes show; NaN where unknown."""
        camera, stride = self._camera, self._stride
        rows, columns = self._pixels_hw2.shape[:2]
        _, keyframe_m, pixels_m2 = tracks
        # bilinear interpolation between the four cells around
        x_m, y_m = ((pixels_m2 - (stride - 1) / 2) / stride).T
        left_m = np.floor(x_m).astype(int).clip(0, columns - 2)
        top_m = np.floor(y_m).astype(int).clip(0, rows - 2)
        corner_m = top_m * columns + left_m
        x_m, y_m = x_m - left_m, y_m - top_m
        corners_4m = self._depth_kn[
            keyframe_m, corner_m + np.array([[0], [1], [columns], [columns + 1]])
        ]
        weights_4m = np.array([(1 - x_m) * (1 - y_m), x_m * (1 - y_m), (1 - x_m) * y_m, x_m * y_m])
        depth_m = (weights_4m * corners_4m).sum(axis=0)
        with np.errstate(invalid="ignore"):
            one_surface_4m = on_same_surface(corners_4m, depth_m, config.max_depth_step)
        local_m3 = camera.rays(pixels_m2) * depth_m[:, None]
        T_m44 = self._T_k44[keyframe_m]
        points_m3 = (T_m44[:, :3, :3] @ local_m3[..., None])[..., 0] + T_m44[:, :3, 3]
        return np.where(one_surface_4m.all(axis=0)[:, None], points_m3, np.nan)


def _derivative(pixels_2kn: np.ndarray, best_n: np.ndarray, neighbours: _Neighbours) -> np.ndarray:
    """Return the derivative (2, n) of a keyframe's pixel by the view's pixel along an axis."""
    before_n, after_n, distance_n = neighbours
    of_keyframes_2m = pixels_2kn.reshape(2, -1)
    first_n = best_n * pixels_2kn.shape[2]
    after_2n = of_keyframes_2m.take(first_n + after_n, axis=1)
    return (after_2n - of_keyframes_2m.take(first_n + before_n, axis=1)) / distance_n


def _normalize_contrast(grey_hw: np.ndarray) -> np.ndarray:
    """Return the image, uint8, with the same local mean and deviation everywhere.

    Images of different lighting become comparable.
    """
    height, width = grey_hw.shape
    # The statistics vary slowly, so half the resolution suffices.
    half_hw = cv2.resize(grey_hw, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    size = (_CONTRAST_PX // 2 + 1, _CONTRAST_PX // 2 + 1)
    mean_hw = cv2.boxFilter(half_hw, cv2.CV_32F, size)
    square_hw = cv2.sqrBoxFilter(half_hw, cv2.CV_32F, size)
    variance_hw = np.maximum(square_hw - mean_hw * mean_hw, 0)
    gain_hw = 40 / np.sqrt(variance_hw + _MIN_DEVIATION**2)
    offset_hw = cv2.resize(128 - gain_hw * mean_hw, (width, height))
    values_hw = cv2.resize(gain_hw, (width, height)) * grey_hw
    values_hw += offset_hw
    return np.clip(values_hw, 0, 255, out=values_hw).astype(np.uint8)
