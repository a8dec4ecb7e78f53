"""Random parameters of training views: drawn on the host, used on the training device.

Everything here is small: poses, homographies, colours and blur kernels, computed in float64 and
moved to the device together.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation
from torch import Tensor

from distill_training.training.augment_config import AugmentConfig
from distill_training.training.device_arrays import DeviceArrays
from distill_training.training.frame_bank import FrameBank
from distill_training.training.novel_views import NovelPoses, nearby_poses, novel_poses
from mote_localization.camera import Camera

NOISE_OFFSETS = 1 << 16  # start positions of a view's noise in the stored noise
_SHARP_PX = 0.2  # a blur of a smaller standard deviation is not visible
_COLOURS = 256
_LUMA = np.array([0.299, 0.587, 0.114])  # of red, green and blue (ITU-R BT.601)
_TEXTURED = 0.5  # fraction of the rectangles that show a part of the view upside down
_MAX_BANDS = 8.0  # bands in an image


@dataclass(frozen=True)
class ViewParameters(DeviceArrays):
    """What makes the views of a batch from their frames."""

    slot_b: Tensor  # of the frame in the bank
    novel_b: Tensor  # 1 where the frame is first rendered from a novel pose, else 0
    # homogeneous pixels of the view to those of the image that it is made from, up to a factor w
    H_b33: Tensor
    grid_b33: Tensor  # the same to the coordinates of `grid_sample`
    rays_b33: Tensor  # the same to viewing rays in map axes; the ray of depth 1 has w = 1
    position_b3: Tensor  # m, of the image's camera in the map frame
    T_cam_map_b44: Tensor  # of the image's camera
    T_near_map_b44: Tensor  # of a neighbouring image that shows the same points
    fill_b3: Tensor  # colour outside the image
    # a rectangle without content, pixels of the view: low <= pixel < high
    low_b2: Tensor
    high_b2: Tensor
    cutout_b3: Tensor  # colour of the rectangle
    textured_b: Tensor  # 1 where the rectangle shows a part of the view upside down, else 0
    kernel_bkk: Tensor  # blur, of sum 1
    vignette_b: Tensor  # fraction by which the corners are darker
    # factor of the brightness: 1 + amplitude * sin(frequency * row / height + phase)
    bands_b3: Tensor  # amplitude; frequency and phase, rad
    colour_b33: Tensor  # new colour = (colour_b33 @ colour + offset)^gamma, of the full range
    offset_b3: Tensor
    gamma_b: Tensor
    noise_b: Tensor  # standard deviation, of 255
    noise_start_b: Tensor  # start position in the stored noise


class Draws:
    """Random numbers for the views of a training step, of which each process uses its own.

    Each number is drawn whether it is used or not, so that an option changes only what it names.
    """

    def __init__(self, seed: tuple[int, ...], views: int, own: slice = slice(None)) -> None:
        """Seed the random generator.

        Args:
            seed: Seed of the training and of the step.
            views: Views per step, of all processes.
            own: Those of this process.
        """
        self._rng = np.random.default_rng(seed)
        self._views, self._own = views, own

    def uniform(self, low: float, high: float, *shape: int) -> np.ndarray:
        """Return numbers from low to high, (views, *shape)."""
        return self._rng.uniform(low, high, (self._views, *shape))[self._own]

    def integers(self, end: int, *shape: int) -> np.ndarray:
        """Return integers from 0 to below `end`, (views, *shape)."""
        return self._rng.integers(end, size=(self._views, *shape))[self._own]

    def normal(self, *shape: int) -> np.ndarray:
        """Return numbers of mean 0 and standard deviation 1, (views, *shape)."""
        return self._rng.standard_normal((self._views, *shape))[self._own]


def draw_parameters(
    draws: Draws, bank: FrameBank, slot_b: np.ndarray, config: AugmentConfig
) -> tuple[ViewParameters, NovelPoses | None]:
    """Return random parameters of a batch, on the bank's device, and its novel poses, if any.

    Args:
        draws: Random numbers.
        bank: Source of the frames.
        slot_b: Slots of the frames in the bank.
        config: Largest changes.
    """
    camera, source_b = bank.camera, bank.sources_s[slot_b]
    H_b33 = _homographies(draws, config, camera)
    fill_b3, cutout_b3, novel_fill_b3 = (draws.integers(_COLOURS, 3) for _ in range(3))
    low_b2, high_b2 = _rectangles(draws, config.cutout, camera)
    kernel_bkk = _blur_kernels(draws, config.blur)
    colour_b33, offset_b3 = _colour_changes(draws, config)
    textured_b = draws.uniform(0, 1) < _TEXTURED
    gamma_b = config.gamma ** draws.uniform(-1, 1)
    vignette_b = draws.uniform(0, config.vignette)
    amplitude_b = draws.uniform(0, config.bands)
    frequency_b, phase_b = 2 * np.pi * draws.uniform(0, _MAX_BANDS), draws.uniform(0, 2 * np.pi)
    noise_b = 255 * draws.uniform(0, config.noise)
    noise_start_b = draws.integers(NOISE_OFFSETS)
    neighbour_b = (draws.uniform(0, 1) * source_b["neighbours"]).astype(int)
    novel_b = draws.uniform(0, 1) < config.novel_view_fraction
    novel_b &= source_b["median_depth"] > 0
    shift_b3 = config.novel_view_shift * draws.normal(3)
    rotation_b2 = config.novel_view_rotation_deg * draws.normal(2)

    T_map_cam_b44, poses = source_b["T_map_cam"].copy(), None
    if novel_b.any():
        depth_n = source_b["median_depth"][novel_b]
        T_cam_novel_n44 = nearby_poses(shift_b3[novel_b], rotation_b2[novel_b], depth_n)
        T_map_cam_b44[novel_b] = T_map_cam_b44[novel_b] @ T_cam_novel_n44
        index_n, fill_n3 = np.flatnonzero(novel_b), novel_fill_b3[novel_b]
        poses = novel_poses(
            index_n, T_cam_novel_n44, depth_n, fill_n3, camera, bank.stride, bank.device
        )
    # `grid_sample` without align_corners: -1 and 1 are the image's borders, half a pixel outside.
    width, height = camera.width, camera.height
    to_grid_33 = np.array(
        [[2 / width, 0, 1 / width - 1], [0, 2 / height, 1 / height - 1], [0, 0, 1]]
    )
    return ViewParameters.on(
        bank.device,
        slot_b=slot_b,
        novel_b=novel_b,
        H_b33=H_b33,
        grid_b33=to_grid_33 @ H_b33,
        rays_b33=T_map_cam_b44[:, :3, :3] @ np.linalg.inv(camera.K_33) @ H_b33,
        position_b3=T_map_cam_b44[:, :3, 3],
        T_cam_map_b44=np.linalg.inv(T_map_cam_b44),
        T_near_map_b44=source_b["T_near_map"][np.arange(len(slot_b)), neighbour_b],
        fill_b3=fill_b3,
        low_b2=low_b2,
        high_b2=high_b2,
        cutout_b3=cutout_b3,
        textured_b=textured_b,
        kernel_bkk=kernel_bkk,
        vignette_b=vignette_b,
        bands_b3=np.stack([amplitude_b, frequency_b, phase_b], axis=-1),
        colour_b33=colour_b33,
        offset_b3=offset_b3,
        gamma_b=gamma_b,
        noise_b=noise_b,
        noise_start_b=noise_start_b,
    ), poses


def _homographies(draws: Draws, config: AugmentConfig, camera: Camera) -> np.ndarray:
    """Return random maps (b, 3, 3) from the view's pixels to the image's.

    An affine map follows, in the image, the homography K R K^-1 of a rotated camera.
    """
    angle_b = np.radians(draws.uniform(-config.rotation_deg, config.rotation_deg))
    zoom_b = config.zoom ** draws.uniform(-1, 1)
    shift_b2 = camera.width * draws.uniform(-config.shift, config.shift, 2)
    stretch_b = config.stretch ** draws.uniform(0, 1)
    direction_b = draws.uniform(0, np.pi)
    tilt_b2 = np.radians(draws.uniform(-config.tilt_deg, config.tilt_deg, 2))
    zooms_b22 = np.stack([stretch_b**-0.5, stretch_b**0.5], axis=-1)[:, :, None] * np.eye(2)
    zooms_b22 /= zoom_b[:, None, None]
    A_b33 = np.tile(np.eye(3), (len(angle_b), 1, 1))
    A_b33[:, :2, :2] = _rotations(direction_b) @ zooms_b22 @ _rotations(angle_b - direction_b)
    centre_2 = np.array([camera.cx, camera.cy])
    A_b33[:, :2, 2] = centre_2 - (A_b33[:, :2, :2] @ (centre_2 + shift_b2)[..., None])[..., 0]
    if not config.tilt_deg:
        return A_b33
    R_b33 = Rotation.from_rotvec(np.pad(tilt_b2, ((0, 0), (0, 1)))).as_matrix()
    return camera.K_33 @ R_b33 @ np.linalg.inv(camera.K_33) @ A_b33


def _rotations(angle_b: np.ndarray) -> np.ndarray:
    """Return the rotations (b, 2, 2) by angles, rad."""
    cos, sin = np.cos(angle_b), np.sin(angle_b)
    return np.stack([cos, -sin, sin, cos], axis=-1).reshape(-1, 2, 2)


def _rectangles(draws: Draws, max_side: float, camera: Camera) -> tuple[np.ndarray, np.ndarray]:
    """Return low and high corners (b, 2) of random rectangles within the image.

    Their sides are at most the fraction `max_side` of the image width.
    """
    size_2 = np.array([camera.width, camera.height])
    side_b2 = camera.width * draws.uniform(0, max_side, 2)
    corner_b2 = size_2 * draws.uniform(0, 1, 2) - side_b2 / 2
    low_b2, high_b2 = (at.clip(0, size_2).astype(int) for at in (corner_b2, corner_b2 + side_b2))
    return low_b2, high_b2


def _blur_kernels(draws: Draws, max_px: float) -> np.ndarray:
    """Return Gaussian and motion blur (b, k, k), of standard deviations up to `max_px`."""
    sigma_b, angle_b = draws.uniform(0, max_px), draws.uniform(0, np.pi)
    motion_b = draws.uniform(0, 1) < 0.5
    radius = math.ceil(3 * max_px) if max_px >= _SHARP_PX else 0
    at_k = np.arange(-radius, radius + 1)
    gaussian_bk = np.exp(-0.5 * (at_k / np.maximum(sigma_b, _SHARP_PX)[:, None]) ** 2)
    gaussian_bk /= gaussian_bk.sum(axis=1, keepdims=True)
    gaussian_bkk = gaussian_bk[:, :, None] * gaussian_bk[:, None]
    # Motion blur is a line through the centre. Each of its points is distributed over the four
    # pixels around it (bilinear).
    longest_px = math.sqrt(12) * max_px
    line_p = np.linspace(-0.5, 0.5, 1 + 2 * math.ceil(longest_px))
    along_bp = math.sqrt(12) * sigma_b[:, None] * line_p
    x_bkp, y_bkp = (
        np.maximum(0, 1 - np.abs(at_k[:, None] - (f(angle_b)[:, None] * along_bp)[:, None]))
        for f in (np.cos, np.sin)
    )
    motion_bkk = y_bkp @ x_bkp.swapaxes(1, 2) / len(line_p)
    sharp_kk = (at_k == 0) & (at_k == 0)[:, None]
    blurred_bkk = np.where(motion_b[:, None, None], motion_bkk, gaussian_bkk)
    return np.where((sigma_b < _SHARP_PX)[:, None, None], sharp_kk, blurred_bkk)


def _colour_changes(draws: Draws, config: AugmentConfig) -> tuple[np.ndarray, np.ndarray]:
    """Return random linear changes of colours: matrices (b, 3, 3) and offsets (b, 3).

    Exposure, saturation, order of the channels, colour balance, contrast and brightness.
    """
    gain_b3 = 1 + draws.uniform(-config.colour, config.colour, 3)
    contrast_b = 1 + draws.uniform(-config.contrast, config.contrast)
    brightness_b = 255 * draws.uniform(-config.brightness, config.brightness)
    saturation_b = 1 + draws.uniform(-config.saturation, config.saturation)
    saturation_b[draws.uniform(0, 1) < config.grey] = 0
    exposure_b = 2.0 ** draws.uniform(-config.exposure, config.exposure)
    order_b3 = np.argsort(draws.uniform(0, 1, 3))
    order_b3[draws.uniform(0, 1) >= config.swapped] = np.arange(3)
    saturation_b11 = saturation_b[:, None, None]
    mixed_b33 = saturation_b11 * np.eye(3)[order_b3] + (1 - saturation_b11) * _LUMA
    colour_b33 = (exposure_b * contrast_b)[:, None, None] * gain_b3[..., None] * mixed_b33
    return colour_b33, (127.5 * (1 - contrast_b) + brightness_b)[:, None] * np.ones(3)
