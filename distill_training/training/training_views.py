"""Batches of random views on the training device: images are augmented, points stay exact.

The image is warped by a random homography, then covered in part, blurred, recoloured and given
noise. The pointmap is not warped: each cell's point is looked up on its pixel's ray in the
unaugmented image, where depth is interpolated. A view may also be rendered from a novel pose first.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from distill_training.training import novel_views
from distill_training.training.augment_config import AugmentConfig
from distill_training.training.depth_lookup import depth_at, nearest_sample, within
from distill_training.training.frame_bank import FrameBank
from distill_training.training.view_parameters import (
    NOISE_OFFSETS,
    Draws,
    ViewParameters,
    draw_parameters,
)
from mote_localization.camera import cell_pixels

_LEAST_W = 1e-6  # of homogeneous pixels in front of the camera; of those at its centre, w is 1
_MAX_NOISE = 4.0  # standard deviations


@dataclass(frozen=True)
class Views:
    """A batch of training examples, on the training device."""

    image_bhw3: Tensor  # RGB uint8
    points_bhw3: Tensor  # m, map frame; 0 where not valid
    valid_bhw: Tensor  # bool, the cell has a teacher's point
    pixels_bhw2: Tensor  # position of each cell in the unaugmented image
    inside_bhw: Tensor  # bool, the cell shows part of the unaugmented image
    T_cam_map_b44: Tensor  # of the unaugmented image
    T_near_map_b44: Tensor  # of a neighbouring image that shows the same points
    sigma_bhw: Tensor  # m, expected error of the teacher's point; 0 where unknown


class ViewMaker:
    """Makes random views of the frames of a bank, a batch at a time.

    A batch is a fixed sequence of operations on whole tensors. The host knows all shapes and which
    views are novel, so that it never waits for the device.
    """

    def __init__(self, bank: FrameBank, config: AugmentConfig) -> None:
        """Store the noise and the positions of the cells on the device."""
        self._bank, self._config = bank, config
        camera = bank.camera
        cells_hw2 = cell_pixels(camera.width, camera.height, bank.stride)
        self._cells_hw2 = torch.from_numpy(cells_hw2).float().to(bank.device)
        x_w, y_h = (
            torch.linspace(-1, 1, size, device=bank.device)
            for size in (camera.width, camera.height)
        )
        self._squared_radius_hw = (x_w**2 + y_h[:, None] ** 2) / 2  # 1 in the corners
        self._row_h = (y_h + 1) / 2
        size = 3 * camera.height * camera.width
        drawn = np.random.default_rng(0).standard_normal(size + NOISE_OFFSETS, np.float32)
        noise = torch.from_numpy(drawn.clip(-_MAX_NOISE, _MAX_NOISE)).to(bank.device)
        # Row i is the noise from position i on. Rows overlap in memory.
        self._noise_on = noise.as_strided((NOISE_OFFSETS, size), (1, 1))

    @torch.no_grad()
    def make(self, names: Sequence[str], draws: Draws) -> Views:
        """Return a random view of each named frame.

        Raises:
            ReconstructionError: A frame cannot be read.
        """
        bank = self._bank
        parameters, poses = draw_parameters(draws, bank, bank.load(names), self._config)
        slot_b = parameters.slot_b.long()
        image_b3hw = bank.image_s3hw.index_select(0, slot_b).float()
        depth_bhw, sigma_bhw = (
            values_shw.index_select(0, slot_b) for values_shw in (bank.depth_shw, bank.sigma_shw)
        )
        if poses and bank.filled_shw is not None:
            n = poses.index_n.long()
            filled_nhw = bank.filled_shw.index_select(0, slot_b[n])
            image_b3hw[n], depth_bhw[n], sigma_bhw[n] = novel_views.render(
                image_b3hw[n], depth_bhw[n], sigma_bhw[n], filled_nhw, poses
            )
        image_bhw3 = self._augment(image_b3hw, parameters)
        return self._with_points(image_bhw3, depth_bhw, sigma_bhw, parameters)

    def _augment(self, image_b3hw: Tensor, parameters: ViewParameters) -> Tensor:
        """Return images (b, h, w, 3) uint8 with changes of geometry, sharpness, colour and noise.

        They are warped with a margin, which the blur takes up.
        """
        batch, _, height, width = image_b3hw.shape
        margin = parameters.kernel_bkk.shape[-1] // 2
        x_w, y_h = (
            torch.arange(-margin, size + margin, dtype=torch.float32, device=image_b3hw.device)
            for size in (width, height)
        )
        grid_bhw2, _ = self._map(parameters.grid_b33, x_w, y_h[:, None])
        fill_b311 = parameters.fill_b3[..., None, None]  # grid_sample pads with 0
        warped_b3hw = F.grid_sample(image_b3hw.sub_(fill_b311), grid_bhw2, align_corners=False)
        if self._config.cutout:
            hidden_b1hw = _covered(parameters, x_w, y_h[:, None])[:, None]
            cover_b3hw = parameters.cutout_b3[..., None, None] - fill_b311
            textured_b111 = parameters.textured_b[:, None, None, None] > 0
            cover_b3hw = torch.where(textured_b111, warped_b3hw.flip(2, 3), cover_b3hw)
            warped_b3hw = torch.where(hidden_b1hw, cover_b3hw, warped_b3hw)
        # Blur in one convolution: each channel of each view has its own kernel.
        image_b3hw = F.conv2d(
            warped_b3hw.flatten(0, 1)[None],
            parameters.kernel_bkk.repeat_interleave(3, 0)[:, None],
            parameters.fill_b3.flatten(),
            groups=3 * batch,
        ).view(batch, 3, height, width)
        self._change_light(image_b3hw, parameters)
        image_b3hw = self._change_colour(image_b3hw, parameters)
        noise_b3hw = self._noise_on[parameters.noise_start_b.long()].view_as(image_b3hw)
        image_b3hw.addcmul_(noise_b3hw, parameters.noise_b[:, None, None, None])
        # 0.5 rounds to the nearest level
        return image_b3hw.add_(0.5).clamp_(0.5, 255.5).to(torch.uint8).permute(0, 2, 3, 1)

    def _change_light(self, image_b3hw: Tensor, parameters: ViewParameters) -> None:
        """Darken the corners and add bands, in place."""
        if not (self._config.vignette or self._config.bands):
            return
        amplitude_b1, frequency_b1, phase_b1 = parameters.bands_b3.split(1, dim=-1)
        bands_bh = 1 + amplitude_b1 * torch.sin(frequency_b1 * self._row_h + phase_b1)
        light_bhw = 1 - parameters.vignette_b[:, None, None] * self._squared_radius_hw
        image_b3hw *= (light_bhw * bands_bh[..., None])[:, None]

    def _change_colour(self, image_b3hw: Tensor, parameters: ViewParameters) -> Tensor:
        """Return images with other colours, exposure and gamma, from 0 to 255."""
        scale = 1 / 255 if self._config.gamma > 1 else 1.0
        changed_b3n = torch.baddbmm(
            parameters.offset_b3[..., None],
            parameters.colour_b33,
            image_b3hw.flatten(2),
            beta=scale,
            alpha=scale,
        )
        changed_b3n.clamp_(0, 255 * scale)
        if self._config.gamma > 1:
            changed_b3n.pow_(parameters.gamma_b[:, None, None]).mul_(255)
        return changed_b3n.view_as(image_b3hw)

    def _with_points(
        self, image_bhw3: Tensor, depth_bhw: Tensor, sigma_bhw: Tensor, parameters: ViewParameters
    ) -> Views:
        """Return views of images with the points of their cells."""
        rows, columns = depth_bhw.shape[1:]
        x_hw, y_hw = self._cells_hw2.unbind(-1)
        pixels_bhw2, w_bhw = self._map(parameters.H_b33, x_hw, y_hw)
        stride = self._bank.stride
        j_bhw, i_bhw = ((pixels_bhw2 - (stride - 1) / 2) / stride).unbind(-1)  # in cells
        inside_bhw = within(j_bhw, columns) & within(i_bhw, rows)
        inside_bhw &= ~_covered(parameters, x_hw, y_hw)
        # Cells of novel views without depth have no image content.
        shown_bhw = nearest_sample(depth_bhw, j_bhw, i_bhw) > 0
        inside_bhw &= shown_bhw | (parameters.novel_b == 0)[:, None, None]
        z_bhw = depth_at(depth_bhw, j_bhw, i_bhw)
        valid_bhw = inside_bhw & (z_bhw > 0)
        rays_b1133 = parameters.rays_b33[:, None, None]
        rays_bhw3 = (
            x_hw[..., None] * rays_b1133[..., 0]
            + y_hw[..., None] * rays_b1133[..., 1]
            + rays_b1133[..., 2]
        )
        points_bhw3 = rays_bhw3 * (z_bhw / w_bhw)[..., None]
        points_bhw3 += parameters.position_b3[:, None, None]
        return Views(
            image_bhw3,
            torch.where(valid_bhw[..., None], points_bhw3, 0),
            valid_bhw,
            pixels_bhw2,
            inside_bhw,
            parameters.T_cam_map_b44,
            parameters.T_near_map_b44,
            nearest_sample(sigma_bhw, j_bhw, i_bhw),
        )

    def _map(self, H_b33: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Map positions (h, w) of views; return them (b, h, w, 2), and their homogeneous w.

        It is written out, because accelerators may round the factors of matrix products to 10 bits.
        """
        (a, b, c), (d, e, f), (g, h, i) = (
            row.unbind(1) for row in H_b33[..., None, None].unbind(1)
        )
        mapped_bhw2 = x.new_empty((*torch.broadcast_shapes((a * x).shape, y.shape), 2))
        torch.add(a * x, b * y + c, out=mapped_bhw2[..., 0])
        torch.add(d * x, e * y + f, out=mapped_bhw2[..., 1])
        if not self._config.tilt_deg:  # affine
            return mapped_bhw2, i
        w_bhw = (g * x + (h * y + i)).clamp(min=_LEAST_W)
        return mapped_bhw2 / w_bhw[..., None], w_bhw


def _covered(parameters: ViewParameters, x: Tensor, y: Tensor) -> Tensor:
    """Return which positions (b, h, w) of views lie in the rectangles without content."""
    # A pixel extends half a pixel beyond its centre.
    (left, top), (right, bottom) = (
        (corner_b2[..., None, None] - 0.5).unbind(1)
        for corner_b2 in (parameters.low_b2, parameters.high_b2)
    )
    return (x > left) & (x < right) & (y > top) & (y < bottom)
