"""A simulated pair predictor: true depth and poses, with the errors of a network.

It tests the alignment of pairs against known truth, and needs no checkpoint.
"""

import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import cv2
import numpy as np
import torch
from numpy.typing import ArrayLike

from distill_training.teachers.pairwise.pair_predictor import Encoded, PairPointmaps, Pointmap
from distill_training.teachers.teacher_config import SimulatedConfig
from mote_localization.camera import Camera, cell_pixels
from mote_localization.errors import SceneError
from mote_localization.geometry import invert, rigid, transform
from mote_localization.scenes import Frame

_DESCRIPTOR_M = 0.5  # m, side of the voxels whose points a descriptor counts
_DESCRIPTOR_BINS = 512
_EDGE = 0.08  # of the depth: a larger difference between neighbours is a depth edge
_WARP_KNOTS = (3, 4)  # rows and columns of the coarse grid that a smooth warp interpolates
_MIN_OVERLAP = 0.1  # fraction of an image: pairs with less in common get a wrong relative pose


class Simulated:
    """Predicts pointmaps of pairs like a network, from measured depth and poses."""

    name = "simulated"
    licence = ""

    def __init__(self, config: SimulatedConfig) -> None:
        self._config = config
        self.settings: dict[str, float | int | str] = asdict(config)

    def camera(self, live: Camera) -> Camera:
        """Return the camera of the predicted pointmaps; see `PairPredictor.camera`."""
        width = self._config.width
        return live.resized(width, max(1, round(live.height * width / live.width)))

    def encode(self, frame: Frame, image_hw3: np.ndarray, live: Camera) -> Encoded:
        """Return depth, pose and name of a frame; see `PairPredictor.encode`.

        Raises:
            SceneError: The frame has no depth, no pose or no camera.
        """
        depth_hw = frame.depth()
        if depth_hw is None or frame.T_map_cam is None or frame.camera is None:
            raise SceneError(
                f"frame {frame.name[:60]}: lacks depth, pose or intrinsics; the simulated teacher "
                "needs all of them"
            )
        camera = self.camera(live)
        true_camera = self.camera(frame.camera)
        pixels_hw2 = frame.camera.project(
            true_camera.rays(cell_pixels(camera.width, camera.height, 1))
        )
        depth_hw = _fill_holes(_interpolate(depth_hw, pixels_hw2))
        values: list[ArrayLike] = [
            [zlib.crc32(frame.name.encode()) >> 16, zlib.crc32(frame.name.encode()) & 0xFFFF],
            [true_camera.fx, true_camera.fy, true_camera.cx, true_camera.cy],
            frame.T_map_cam[:3].ravel(),
            depth_hw.ravel(),
        ]
        # float32 values, stored as the bytes of float16 ones
        return Encoded(np.concatenate(values).astype(np.float32).view(np.float16), camera)

    def descriptor(self, encoded: Encoded) -> np.ndarray:
        """Return a histogram of the voxels that an image shows; see `PairPredictor.descriptor`."""
        truth = _Truth.of(encoded)
        seen_n3 = transform(truth.T_map_cam, truth.sample_points_n3())
        corners = np.floor(seen_n3 / _DESCRIPTOR_M).astype(np.int64)
        bins = corners @ np.array([73856093, 19349663, 83492791]) % _DESCRIPTOR_BINS
        counts = np.bincount(bins, minlength=_DESCRIPTOR_BINS).astype(np.float32)
        return np.sqrt(counts / counts.sum())

    def decode(
        self, ones: Sequence[Encoded], others: Sequence[Encoded]
    ) -> tuple[PairPointmaps, PairPointmaps]:
        """Predict a batch of pairs in both orders; see `PairPredictor.decode`."""
        pairs = list(zip(map(_Truth.of, ones), map(_Truth.of, others), strict=True))
        forward = [self._predict(one, other) for one, other in pairs]
        backward = [self._predict(other, one) for one, other in pairs]
        return _stack(forward), _stack(backward)

    def _predict(self, first: "_Truth", second: "_Truth") -> list[np.ndarray]:
        """Return points and confidence of the first image, then those of the second."""
        config = self._config
        rng = np.random.default_rng((config.seed, first.key, second.key))
        T_first_second = invert(first.T_map_cam) @ second.T_map_cam
        # One random number for both orders: a pair is wrong in both or in none.
        draw = np.random.default_rng((config.seed, *sorted((first.key, second.key)))).random()
        wrong = draw < config.wrong_pairs or (
            first.overlap(transform(T_first_second, second.sample_points_n3())) < _MIN_OVERLAP
        )
        if wrong:
            R_wrong = cv2.Rodrigues(rng.standard_normal(3))[0]
            t_wrong = np.median(first.depth_hw) * rng.standard_normal(3)
            T_first_second = rigid(R_wrong, t_wrong) @ T_first_second
        scale = np.exp(config.pair_scale * rng.standard_normal())
        maps = []
        for truth, T in ((first, np.eye(4)), (second, T_first_second)):
            points_hw3, error_hw = self._add_errors(truth, rng, wrong)
            certainty_hw = 0.05 * np.exp(0.5 * rng.standard_normal(error_hw.shape, np.float32))
            confidence_hw = np.log1p((0.5 if wrong else 5.0) * certainty_hw / (0.02 + error_hw))
            maps += [
                (scale * transform(T, points_hw3)).astype(np.float32),
                confidence_hw.astype(np.float32),
            ]
        return maps

    def _add_errors(
        self, truth: "_Truth", rng: np.random.Generator, wrong: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return points with errors, camera frame of the image, and the errors over the depth."""
        config = self._config
        size = truth.depth_hw.shape[::-1]
        near_hw = cv2.erode(truth.depth_hw, np.ones((3, 3)))
        far_hw = cv2.dilate(truth.depth_hw, np.ones((3, 3)))
        edge_hw = far_hw - near_hw > _EDGE * near_hw
        flying_hw = near_hw + rng.random(edge_hw.shape, np.float32) * (far_hw - near_hw)
        depth_hw = np.where(edge_hw, flying_hw, truth.depth_hw)
        knots = rng.standard_normal((*_WARP_KNOTS, 3)).astype(np.float32)
        warp_hw3 = cv2.resize(knots, size, interpolation=cv2.INTER_CUBIC)
        warp_hw3 *= (0.3 if wrong else config.warp) / warp_hw3.std()
        noise_hw3 = config.noise * rng.standard_normal(warp_hw3.shape, np.float32)
        points_hw3 = truth.rays_hw3 * depth_hw[..., None]
        points_hw3 += (warp_hw3 + noise_hw3) * truth.depth_hw[..., None]
        error_hw3 = points_hw3 - truth.points_hw3
        return points_hw3, np.linalg.norm(error_hw3, axis=-1) / truth.depth_hw


@dataclass(frozen=True)
class _Truth:
    """Truth of one image, which an `Encoded` of the simulation stores."""

    key: int
    T_map_cam: np.ndarray
    rays_hw3: np.ndarray
    depth_hw: np.ndarray
    camera: Camera

    @classmethod
    def of(cls, encoded: Encoded) -> "_Truth":
        values = encoded.features.view(np.float32)
        high, low, fx, fy, cx, cy = (float(v) for v in values[:6])
        size = encoded.camera.width, encoded.camera.height
        camera = Camera(*size, fx, fy, cx, cy)
        T_map_cam = np.vstack([values[6:18].reshape(3, 4).astype(float), (0, 0, 0, 1)])
        rays_hw3 = camera.rays(cell_pixels(*size, 1)).astype(np.float32)
        key = (int(high) << 16) + int(low)
        return cls(key, T_map_cam, rays_hw3, values[18:].reshape(size[::-1]), camera)

    @property
    def points_hw3(self) -> np.ndarray:
        """True points (h, w, 3), camera frame."""
        return self.rays_hw3 * self.depth_hw[..., None]

    def sample_points_n3(self) -> np.ndarray:
        """Return a sample of the true points, camera frame."""
        return self.points_hw3[::8, ::8].reshape(-1, 3)

    def overlap(self, points_n3: np.ndarray) -> float:
        """Return the fraction of points (n, 3), in this camera's frame, inside its image."""
        z = points_n3[:, 2]
        pixels = points_n3[:, :2] / np.maximum(z, 1e-6)[:, None]
        pixels = pixels * (self.camera.fx, self.camera.fy) + (self.camera.cx, self.camera.cy)
        size = (self.camera.width, self.camera.height)
        return float(((z > 0) & ((pixels >= 0) & (pixels < size)).all(axis=-1)).mean())


def _interpolate(depth_hw: np.ndarray, pixels_hw2: np.ndarray) -> np.ndarray:
    """Return depth (h, w) at pixels, exact on planes; 0 where no neighbour is measured."""
    measured_hw = (depth_hw > 0).astype(np.float32)
    inverse_hw = np.divide(1, depth_hw, np.zeros_like(measured_hw), where=depth_hw > 0)
    columns, rows = np.moveaxis(pixels_hw2.astype(np.float32), -1, 0)
    weight_hw, inverse_hw = (
        cv2.remap(image, columns, rows, cv2.INTER_LINEAR) for image in (measured_hw, inverse_hw)
    )
    return np.divide(weight_hw, inverse_hw, np.zeros_like(weight_hw), where=inverse_hw > 0)


def _fill_holes(depth_hw: np.ndarray) -> np.ndarray:
    """Return depth with holes filled by the nearest pixel; a network predicts there too."""
    hole_hw = (depth_hw <= 0).astype(np.uint8)
    if hole_hw.all():
        return np.ones_like(depth_hw)
    _, nearest_hw = cv2.distanceTransformWithLabels(
        hole_hw, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    measured = np.zeros(nearest_hw.max() + 1, np.float32)
    measured[nearest_hw[hole_hw == 0]] = depth_hw[hole_hw == 0]
    return measured[nearest_hw]


def _stack(predicted: list[list[np.ndarray]]) -> PairPointmaps:
    """Return the predictions of pairs as one batch."""
    first, first_confidence, second, second_confidence = (
        torch.from_numpy(np.stack(maps)) for maps in zip(*predicted, strict=True)
    )
    return PairPointmaps(Pointmap(first, first_confidence), Pointmap(second, second_confidence))
