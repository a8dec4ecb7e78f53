"""Novel views: photographs with depth, rendered from nearby poses without a photograph.

The depth is warped forward into the novel camera with a z-buffer, and colours are sampled in the
photograph. Pixels that the photograph does not show get a fill colour. Cells of unknown depth are
rendered at the depth of their surroundings, but have no depth in the novel view.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from scipy.spatial.transform import Rotation
from torch import Tensor

from distill_training.training.depth_lookup import depth_at, nearest_sample, same_surface, within
from distill_training.training.device_arrays import DeviceArrays
from mote_localization.camera import Camera

_NEAREST = 0.1  # fraction of the median depth: nothing nearer is rendered
_OFF_IMAGE_PX = -9  # coordinate outside every image
_EDGE_CELLS = 0.1  # tolerance of cell positions at the border, cells
_SAMPLES = 2  # depth samples per cell side in the z-buffer


@dataclass(frozen=True)
class NovelPoses(DeviceArrays):
    """Projections between photographs and their novel cameras.

    A projection (3, 4) takes u d, v d, d, 1 of the pixel (u, v) at depth d in one camera to
    x z, y z, z of the pixel (x, y) at depth z in the other one.
    """

    index_n: Tensor  # of the views that are novel, in the batch
    forward_n34: Tensor  # photograph to novel camera, pixels are depth samples
    backward_n34: Tensor  # novel camera to photograph, pixels are depth samples
    pixels_n34: Tensor  # novel camera to photograph, pixels are those of the images
    nearest_n: Tensor  # least depth that is rendered, m
    fill_n3: Tensor  # colour of what the photograph does not show


def nearby_poses(
    shift_n3: np.ndarray, rotation_n2: np.ndarray, median_depth_n: np.ndarray
) -> np.ndarray:
    """Return T_cam_novel (n, 4, 4), the poses of cameras close to the photographs'.

    Args:
        shift_n3: Positions, fractions of the median depth.
        rotation_n2: Rotations about the x and the y axis, degrees.
        median_depth_n: Median depths of the photographs, metres.
    """
    omega_n3 = np.radians(np.pad(rotation_n2, ((0, 0), (0, 1))))
    T_n44 = np.tile(np.eye(4), (len(shift_n3), 1, 1))
    T_n44[:, :3, :3] = Rotation.from_rotvec(omega_n3).as_matrix()
    T_n44[:, :3, 3] = shift_n3 * median_depth_n[:, None]
    return T_n44


def novel_poses(
    index_n: np.ndarray,
    T_cam_novel_n44: np.ndarray,
    median_depth_n: np.ndarray,
    fill_n3: np.ndarray,
    camera: Camera,
    stride: int,
    device: torch.device,
) -> NovelPoses:
    """Return what `render` needs of novel poses, on the device.

    Args:
        index_n: Indices of the novel views in the batch.
        T_cam_novel_n44: Poses of the novel cameras in the frames of the photographs' cameras.
        median_depth_n: Median depths of the photographs, metres.
        fill_n3: Colours of what the photographs do not show.
        camera: Canonical camera.
        stride: Pixels per cell side.
        device: Where views are made.
    """
    side = stride / _SAMPLES  # px, of a sample
    to_samples_33 = np.array([[1 / side, 0, 0.5 / side - 0.5], [0, 1 / side, 0.5 / side - 0.5]])
    K_samples_33 = np.r_[to_samples_33, [[0, 0, 1]]] @ camera.K_33
    return NovelPoses.on(
        device,
        index_n=index_n,
        forward_n34=_projections(K_samples_33, np.linalg.inv(T_cam_novel_n44)),
        backward_n34=_projections(K_samples_33, T_cam_novel_n44),
        pixels_n34=_projections(camera.K_33, T_cam_novel_n44),
        nearest_n=_NEAREST * median_depth_n,
        fill_n3=fill_n3,
    )


def _projections(K_33: np.ndarray, T_to_from_n44: np.ndarray) -> np.ndarray:
    """Return the projections (n, 3, 4) between two cameras of the same K: K R K^-1 and K t."""
    R_n33, t_n31 = T_to_from_n44[:, :3, :3], T_to_from_n44[:, :3, 3:]
    return np.concatenate([K_33 @ R_n33 @ np.linalg.inv(K_33), K_33 @ t_n31], axis=-1)


def render(
    image_n3hw: Tensor, depth_nhw: Tensor, sigma_nhw: Tensor, filled_nhw: Tensor, poses: NovelPoses
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the novel cameras' image_n3hw, and depth_nhw and sigma_nhw of their cells.

    Args:
        image_n3hw: Photographs, float32.
        depth_nhw: Depth of each cell, metres; 0: unknown.
        sigma_nhw: Expected error of each cell's point, metres.
        filled_nhw: Depth of each cell without holes, see `fill_holes`.
        poses: Novel cameras.
    """
    stride = image_n3hw.shape[-1] // depth_nhw.shape[-1]
    photograph_nhw = _upsample_depth(filled_nhw, _SAMPLES)
    warped_nhw = _forward_warp(photograph_nhw, poses)
    fine_nhw = _correct_rounding(warped_nhw, photograph_nhw, poses)
    dense_nhw = _upsample_depth(fine_nhw, stride // _SAMPLES)
    x_nhw, y_nhw, z_nhw = _reproject(dense_nhw, poses.pixels_n34)
    seen_nhw = (dense_nhw > 0) & (z_nhw > 0)
    x_nhw, y_nhw = (torch.where(seen_nhw, at, _OFF_IMAGE_PX) for at in (x_nhw, y_nhw))
    height, width = image_n3hw.shape[2:]
    grid_nhw2 = torch.stack([(2 * x_nhw + 1) / width - 1, (2 * y_nhw + 1) / height - 1], dim=-1)
    fill_n311 = poses.fill_n3[..., None, None]  # grid_sample pads with 0
    rendered_n3hw = F.grid_sample(image_n3hw - fill_n311, grid_nhw2, align_corners=False)
    # A cell's centre is the common corner of its four samples; 1/depth is linear on planes. A cell
    # that shows two surfaces gets no depth.
    samples_4nhw = torch.stack(
        [fine_nhw[:, i::_SAMPLES, j::_SAMPLES] for i in range(_SAMPLES) for j in range(_SAMPLES)]
    )
    one_surface = same_surface(samples_4nhw.amin(0), samples_4nhw.amax(0))
    mean_nhw = samples_4nhw.reciprocal().mean(0).reciprocal()
    centre = slice(stride // 2, None, stride)
    # Position of each cell's point in the photograph, in cells.
    j_nhw, i_nhw = (at_nhw[:, centre, centre] / stride - 0.5 for at_nhw in (x_nhw, y_nhw))
    known_nhw = one_surface & (nearest_sample(depth_nhw, j_nhw, i_nhw) > 0)
    # Beyond the centres of the outermost cells depth is extrapolated, so it is not used.
    rows, columns = depth_nhw.shape[1:]
    for at_nhw, last in ((j_nhw, columns - 1), (i_nhw, rows - 1)):
        known_nhw &= (at_nhw >= -_EDGE_CELLS) & (at_nhw <= last + _EDGE_CELLS)
    return (
        rendered_n3hw + fill_n311,
        torch.where(known_nhw, mean_nhw, 0),
        nearest_sample(sigma_nhw, j_nhw, i_nhw),
    )


def _forward_warp(depth_nhw: Tensor, poses: NovelPoses) -> Tensor:
    """Return the novel cameras' depth samples, by a z-buffer; 0: not shown."""
    rows, columns = depth_nhw.shape[1:]
    x_nhw, y_nhw, z_nhw = _reproject(depth_nhw, poses.forward_n34)
    shown_nhw = (depth_nhw > 0) & (z_nhw > poses.nearest_n[:, None, None])
    shown_nhw &= within(x_nhw, columns) & within(y_nhw, rows)
    j, i = x_nhw.round().clamp(0, columns - 1).long(), y_nhw.round().clamp(0, rows - 1).long()
    z_nk = torch.where(shown_nhw, z_nhw, torch.inf).flatten(1)
    nearest_nk = torch.full_like(z_nk, torch.inf)
    nearest_nk.scatter_reduce_(1, (i * columns + j).flatten(1), z_nk, "amin")
    warped_nhw = torch.where(nearest_nk < torch.inf, nearest_nk, 0).view_as(depth_nhw)
    # Rounding leaves holes of one sample; closing fills them with the farther depth.
    closed_nhw = _smallest_around(_largest_around(warped_nhw))
    return torch.where(warped_nhw > 0, warped_nhw, closed_nhw)


def _correct_rounding(depth_nhw: Tensor, photograph_nhw: Tensor, poses: NovelPoses) -> Tensor:
    """Return depths on the samples' own rays, interpolated in the photographs' depth.

    The forward warp rounds points to samples, by up to half a sample. On slanted surfaces that is
    an error of centimetres in depth.
    """
    rows, columns = depth_nhw.shape[1:]
    x_nhw, y_nhw, z_nhw = _reproject(depth_nhw, poses.backward_n34)
    surface_nhw = nearest_sample(_is_surface(photograph_nhw), x_nhw, y_nhw)
    a, b, c, d = poses.forward_n34[:, 2, :, None, None].unbind(1)
    exact_nhw = (a * x_nhw + b * y_nhw + c) * depth_at(photograph_nhw, x_nhw, y_nhw) + d
    same_nhw = same_surface(exact_nhw.minimum(depth_nhw), exact_nhw.maximum(depth_nhw))
    same_nhw &= surface_nhw & (z_nhw > 0) & within(x_nhw, columns) & within(y_nhw, rows)
    return torch.where(same_nhw, exact_nhw, depth_nhw)


def _reproject(depth_nhw: Tensor, projections_n34: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return x, y (pixels) and z of depth images' points in other cameras: (n, h, w).

    The pixel of a point behind a camera is (0, 0). The product is written out, because accelerators
    may round the factors of matrix products to 10 bits.
    """
    rows, columns = depth_nhw.shape[1:]
    u = torch.arange(columns, dtype=depth_nhw.dtype, device=depth_nhw.device)
    v = torch.arange(rows, dtype=depth_nhw.dtype, device=depth_nhw.device)[:, None]
    x_nhw, y_nhw, z_nhw = (
        (a * u + (b * v + c)) * depth_nhw + d
        for a, b, c, d in (row.unbind(1) for row in projections_n34[..., None, None].unbind(1))
    )
    scale_nhw = torch.where(z_nhw > 0, z_nhw, torch.inf).reciprocal()
    return x_nhw * scale_nhw, y_nhw * scale_nhw, z_nhw


def _upsample_depth(depth_nhw: Tensor, factor: int) -> Tensor:
    """Return depth at `factor` times the resolution; 0: unknown.

    Within a surface 1/depth is interpolated linearly, which is exact on planes. At edges between
    surfaces the nearest depth is used.
    """
    rows, columns = depth_nhw.shape[1:]
    inverse_n1hw = depth_nhw[:, None].clamp(min=1e-3).reciprocal()
    size = (rows * factor, columns * factor)
    smooth_n1hw = F.interpolate(inverse_n1hw, size, mode="bilinear", align_corners=False)
    # The nearest depth is negative where the samples around it are not on one surface.
    signed_nhw = torch.where(_is_surface(depth_nhw), depth_nhw, -depth_nhw)
    nearest_nhw = F.interpolate(signed_nhw[:, None], size, mode="nearest")[:, 0]
    return torch.where(nearest_nhw > 0, smooth_n1hw[:, 0].reciprocal(), -nearest_nhw)


def _is_surface(depth_nhw: Tensor) -> Tensor:
    """Return which samples are on one surface with all eight around them."""
    return same_surface(_smallest_around(depth_nhw), _largest_around(depth_nhw))


def _largest_around(values_nhw: Tensor) -> Tensor:
    """Return the largest value among each sample and those around it."""
    return F.max_pool2d(values_nhw, 3, stride=1, padding=1)


def _smallest_around(values_nhw: Tensor) -> Tensor:
    """Return the smallest value among each sample and those around it."""
    return -_largest_around(-values_nhw)


def fill_holes(depth_hw: np.ndarray) -> np.ndarray:
    """Return depths with unknown ones (0) interpolated smoothly from their surroundings.

    It is computed on the host, once per frame. Where no depth is known, all remain 0.
    """
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
