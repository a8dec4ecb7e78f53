"""Renders textured rectangles by exact ray casting, with one inverse-depth plane per rectangle.

The ray of pixel (u, v) (integer = pixel centre) meets the plane of a rectangle with corner p and
edges a and b (camera frame) where s a + t b + p = z d, d = K^-1 (u, v, 1). With M = [a b p] that is
(s, t, 1) / z = M^-1 d: three affine functions of the pixel. 1/z is the depth buffer, the rectangle
is where 0 <= s, t <= 1, and s, t are the texture coordinates. Nothing is approximated or clipped.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from demo_room.shapes import Rectangle
from mote_localization.camera import Camera
from mote_localization.errors import CameraError

NEAR_M = 0.02  # depth of the near plane
ATLAS_WIDTH_PX = 4096
RIM = 1e-5  # fraction by which rectangles are enlarged, so that neighbours leave no gap


@dataclass(frozen=True)
class Atlas:
    """All textures at all mip levels in one image, each with a border of one texel."""

    image_hw3: np.ndarray
    slots_n4: np.ndarray  # float32, px: left, top, width, height of each level of each texture
    first_n: np.ndarray  # index of the slot of level 0 of each texture
    levels_n: np.ndarray  # number of levels of each texture


def pack(textures: Sequence[np.ndarray], width_px: int = ATLAS_WIDTH_PX) -> Atlas:
    """Return the atlas of all textures and their mip levels, packed row by row."""
    images: list[np.ndarray] = []
    first, levels = [], []
    for texture in textures:
        first.append(len(images))
        while True:
            images.append(texture)
            height, width = texture.shape[:2]
            if max(height, width) <= 4:
                break
            size = (max(1, (width + 1) // 2), max(1, (height + 1) // 2))
            texture = cv2.resize(texture, size, interpolation=cv2.INTER_AREA)
        levels.append(len(images) - first[-1])
    slots = np.zeros((len(images), 4), np.float32)
    x = y = row_height = 0
    for index in sorted(range(len(images)), key=lambda i: -images[i].shape[0]):
        height, width = images[index].shape[:2]
        if x + width + 2 > width_px:
            x, y, row_height = 0, y + row_height, 0
        slots[index] = x + 1, y + 1, width, height
        x, row_height = x + width + 2, max(row_height, height + 2)
    atlas = np.zeros((y + row_height, width_px, 3), np.uint8)
    for image, (left, top, width, height) in zip(images, slots.astype(int), strict=True):
        bordered = cv2.copyMakeBorder(image, 1, 1, 1, 1, cv2.BORDER_REPLICATE)
        atlas[top - 1 : top + height + 1, left - 1 : left + width + 1] = bordered
    return Atlas(atlas, slots, np.array(first, np.int32), np.array(levels, np.int32))


@dataclass(frozen=True)
class Surfaces:
    """Rectangles with their lit textures, as arrays."""

    edges_n33: np.ndarray  # columns: right edge, down edge, top left corner; m
    normals_n3: np.ndarray
    first_n: np.ndarray  # index in the atlas of the largest slot of each texture
    levels_n: np.ndarray
    texels_per_m_n: np.ndarray

    @classmethod
    def of(cls, rectangles: Sequence[Rectangle], atlas: Atlas, first: int = 0) -> "Surfaces":
        """Return the arrays of rectangles whose textures follow one another in the atlas."""
        edges_n33 = np.stack([np.stack([r.right_3, r.down_3, r.corner_3], 1) for r in rectangles])
        own = slice(first, first + len(rectangles))
        sizes_n2 = atlas.slots_n4[atlas.first_n[own], 2:].astype(float)
        sides_n2 = np.linalg.norm(edges_n33[:, :, :2], axis=1)
        return cls(
            edges_n33,
            np.stack([r.normal_3 for r in rectangles]),
            atlas.first_n[own],
            atlas.levels_n[own],
            np.sqrt(np.prod(sizes_n2 / sides_n2, axis=1)),
        )


class Part(NamedTuple):
    """Surfaces in a part of the image."""

    surfaces: Surfaces
    T_part_cam: np.ndarray  # camera pose in the frame of the surfaces
    window_4: tuple[int, int, int, int]  # px: left, top, right, bottom, half open


@dataclass(frozen=True)
class Hits:
    """The rectangles that may be seen, and the nearest one at each pixel."""

    part_n: np.ndarray  # index of the part of each rectangle
    planes_n33: np.ndarray  # float32
    first_n: np.ndarray
    levels_n: np.ndarray
    detail_n: np.ndarray  # factor of the mip level
    face_hw: np.ndarray  # index of the rectangle
    inverse_hw: np.ndarray  # 1/z, 1/m; 0: none


def whole_image(camera: Camera) -> tuple[int, int, int, int]:
    """Return the window that is the camera's whole image."""
    return 0, 0, camera.width, camera.height


class Renderer:
    """Renders a fixed set of rectangles with their lit textures."""

    def __init__(self, rectangles: Sequence[Rectangle], textures: Sequence[np.ndarray]):
        self.atlas = pack(textures)
        self.surfaces = Surfaces.of(rectangles, self.atlas)

    def render(self, T_map_cam: np.ndarray, camera: Camera) -> tuple[np.ndarray, np.ndarray]:
        """Return image uint8 RGB (h, w, 3) and z depth float32 (h, w), m, of a pinhole camera.

        A pixel whose ray meets no rectangle is black and has depth 0.

        Raises:
            CameraError: The camera has lens distortion.
        """
        hits = cast([Part(self.surfaces, T_map_cam, whole_image(camera))], camera)
        return shade(hits, self.atlas)


def cast(parts: Sequence[Part], camera: Camera) -> Hits:
    """Return the nearest rectangle at each pixel.

    Raises:
        CameraError: The camera has lens distortion.
    """
    if any(camera.distortion):
        raise CameraError(
            f"found {camera.distortion_model} distortion {str(camera.distortion)[:60]}, "
            "expected none: the room is rendered with a pinhole camera"
        )
    seen = [_seen(index, part, camera) for index, part in enumerate(parts)]
    part_n, planes_n33, first_n, levels_n, detail_n, windows_n4 = (
        np.concatenate(column) for column in zip(*seen, strict=True)
    )
    face_hw, inverse_hw = _cast(planes_n33, windows_n4, camera)
    return Hits(part_n, planes_n33, first_n, levels_n, detail_n, face_hw, inverse_hw)


def _seen(index: int, part: Part, camera: Camera) -> tuple[np.ndarray, ...]:
    """Return the first five fields of `Hits`, and the windows, of the rectangles of a part."""
    surfaces, T_part_cam, window_4 = part
    offsets_n3 = T_part_cam[:3, 3] - surfaces.edges_n33[:, :, 2]
    distances_n = (offsets_n3 * surfaces.normals_n3).sum(axis=1)
    M_n33 = surfaces.edges_n33.copy()
    M_n33[:, :, 2] = -offsets_n3
    M_n33 = T_part_cam[:3, :3].T @ M_n33
    ahead_n = _corners(M_n33)[:, :, 2].max(axis=1) > NEAR_M
    visible = np.flatnonzero((distances_n > 1e-4) & ahead_n)
    windows_n4 = overlap(windows(M_n33[visible], camera), np.array(window_4))
    inside_n = (windows_n4[:, 2:] > windows_n4[:, :2]).all(axis=1)
    visible, windows_n4 = visible[inside_n], windows_n4[inside_n]

    planes_n33 = np.linalg.inv(M_n33[visible]) @ np.linalg.inv(camera.K_33)
    # A pixel covers z / f by z^2 / (f distance) metres. The level is that of their geometric
    # mean, with weight 3/4 for the longer side.
    focal_px = np.sqrt(camera.fx * camera.fy)
    detail_n = surfaces.texels_per_m_n[visible] / focal_px * distances_n[visible] ** -0.75
    return (
        np.full(len(visible), index),
        planes_n33.astype(np.float32),
        surfaces.first_n[visible],
        surfaces.levels_n[visible],
        detail_n,
        windows_n4,
    )


def shade(hits: Hits, atlas: Atlas) -> tuple[np.ndarray, np.ndarray]:
    """Return image uint8 RGB (h, w, 3) and z depth float32 (h, w), m; both 0 where nothing is."""
    missed_hw = hits.inverse_hw == 0.0
    if missed_hw.all():
        return np.zeros((*missed_hw.shape, 3), np.uint8), np.zeros_like(hits.inverse_hw)
    depth_hw = 1.0 / np.where(missed_hw, np.float32(1.0), hits.inverse_hw)
    image_hw3 = _shade(hits, atlas, depth_hw)
    _smooth_edges(image_hw3, hits.face_hw, hits.planes_n33)
    image_hw3[missed_hw] = 0
    depth_hw[missed_hw] = 0.0
    return image_hw3, depth_hw


def _shade(hits: Hits, atlas: Atlas, depth_hw: np.ndarray) -> np.ndarray:
    """Return the image (h, w, 3): each pixel's texture, between its two nearest mip levels."""
    face_hw = hits.face_hw
    height, width = face_hw.shape
    x = np.arange(width, dtype=np.float32)
    y = np.arange(height, dtype=np.float32)[:, None]
    right, down = (
        (a_n.take(face_hw) * x + b_n.take(face_hw) * y + c_n.take(face_hw)) * depth_hw
        for a_n, b_n, c_n in hits.planes_n33.transpose(1, 2, 0)[:2]
    )
    top = (hits.levels_n - 1).take(face_hw)
    level_hw = np.log2(depth_hw) * 1.75 + np.log2(hits.detail_n).astype(np.float32).take(face_hw)
    level_hw = np.clip(level_hw, 0, top)
    lower = level_hw.astype(np.int32)
    slot = hits.first_n.take(face_hw) + lower
    fine = _lookup(atlas, slot, right, down)
    coarse = _lookup(atlas, slot + (lower < top), right, down)
    blend = (level_hw - lower)[..., None]
    return (fine + (coarse - fine) * blend + 0.5).astype(np.uint8)


def _lookup(atlas: Atlas, slot_hw: np.ndarray, right: np.ndarray, down: np.ndarray) -> np.ndarray:
    """Return the bilinear texture values at texture coordinates (0 to 1) of slots."""
    left, top, width, height = (atlas.slots_n4[:, k].take(slot_hw) for k in range(4))
    x, y = right * width + (left - 0.5), down * height + (top - 0.5)
    return cv2.remap(atlas.image_hw3, x, y, cv2.INTER_LINEAR).astype(np.float32)


def _corners(M_n33: np.ndarray) -> np.ndarray:
    """Return the four corners (n, 4, 3), in order around each rectangle."""
    right, down, corner = M_n33[:, :, 0], M_n33[:, :, 1], M_n33[:, :, 2]
    return np.stack([corner, corner + right, corner + right + down, corner + down], axis=1)


def windows(M_n33: np.ndarray, camera: Camera) -> np.ndarray:
    """Return bounding boxes in the image, (n, 4): left, top, right, bottom, half open."""
    corners = _corners(M_n33)
    following = np.roll(corners, -1, axis=1)
    # Where an edge crosses the near plane, the crossing replaces the corner behind the plane.
    z, z_next = corners[..., 2], following[..., 2]
    with np.errstate(divide="ignore", invalid="ignore"):
        fraction = np.clip((NEAR_M - z) / (z_next - z), 0.0, 1.0)
    crossing = corners + np.nan_to_num(fraction)[..., None] * (following - corners)
    points = np.concatenate([corners, crossing], axis=1)
    ahead = points[..., 2] >= NEAR_M * 0.999
    points = points @ camera.K_33.T
    pixels = points[..., :2] / np.where(ahead, points[..., 2], 1.0)[..., None]
    low = np.where(ahead[..., None], pixels, np.inf).min(axis=1)
    high = np.where(ahead[..., None], pixels, -np.inf).max(axis=1)
    size = np.array([camera.width, camera.height])
    first = np.clip(np.ceil(low - 0.01), 0, size)
    last = np.clip(np.floor(high + 0.01) + 1, 0, size)
    return np.concatenate([first, last], axis=1).astype(int)


def overlap(windows_n4: np.ndarray, window_4: np.ndarray) -> np.ndarray:
    """Return the intersections (n, 4) of windows with one window; empty where right <= left."""
    first = np.maximum(windows_n4[:, :2], window_4[:2])
    return np.concatenate([first, np.minimum(windows_n4[:, 2:], window_4[2:])], axis=1)


def _cast(
    planes_n33: np.ndarray, windows_n4: np.ndarray, camera: Camera
) -> tuple[np.ndarray, np.ndarray]:
    """Return the nearest rectangle's index and 1/z (1/m; 0 where there is none) at each pixel."""
    inverse_hw = np.zeros((camera.height, camera.width), np.float32)
    face_hw = np.zeros((camera.height, camera.width), np.int32)
    x = np.arange(camera.width, dtype=np.float32)
    y = np.arange(camera.height, dtype=np.float32)[:, None]
    for face, ((left, top, right, bottom), plane) in enumerate(
        zip(windows_n4.tolist(), planes_n33, strict=True)
    ):
        columns, rows = x[left:right], y[top:bottom]
        s, t, inverse = ((a * columns + c) + b * rows for a, b, c in plane)
        nearest = inverse_hw[top:bottom, left:right]
        margin, limit = inverse * np.float32(-RIM), inverse * np.float32(1.0 + RIM)
        hit = inverse > nearest
        hit &= s >= margin
        hit &= t >= margin
        hit &= s <= limit
        hit &= t <= limit
        np.copyto(nearest, inverse, where=hit)
        np.copyto(face_hw[top:bottom, left:right], face, where=hit)
    return face_hw, inverse_hw


def _smooth_edges(image_hw3: np.ndarray, face_hw: np.ndarray, planes_n33: np.ndarray) -> None:
    """Blend, in place, each pixel that an edge cuts with the neighbour beyond the edge.

    Geometry-based anti-aliasing (Persson 2011): the weight is the fraction of the pixel beyond the
    edge, computed exactly without further samples.
    """
    height, width = face_hw.shape
    faces = face_hw.ravel()
    beyond_fraction = np.zeros(len(faces), np.float32)
    source = np.zeros(len(faces), np.int64)
    for step, differs_hw in (
        (1, face_hw[:, 1:] != face_hw[:, :-1]),
        (width, face_hw[1:] != face_hw[:-1]),
    ):
        row, column = np.nonzero(differs_hw)
        here = row * width + column
        there = here + step
        cut = _crossing(planes_n33, faces, here, there, width)
        back = _crossing(planes_n33, faces, there, here, width)
        cut = np.where(np.isnan(cut), 1.0 - back, cut)  # found from the nearer or farther surface
        for pixel, other, weight in ((here, there, 0.5 - cut), (there, here, cut - 0.5)):
            larger = weight > beyond_fraction[pixel]
            beyond_fraction[pixel[larger]] = weight[larger]
            source[pixel[larger]] = other[larger]
    pixels = np.flatnonzero(beyond_fraction)
    flat = image_hw3.reshape(-1, 3)
    own, beyond = flat[pixels].astype(np.float32), flat[source[pixels]].astype(np.float32)
    flat[pixels] = (own + beyond_fraction[pixels, None] * (beyond - own) + 0.5).astype(np.uint8)


def _crossing(
    planes_n33: np.ndarray, faces: np.ndarray, start: np.ndarray, end: np.ndarray, width: int
) -> np.ndarray:
    """Return where, from one pixel to the next, the first one's face ends (0-1); NaN: beyond."""
    own, other = planes_n33[faces[start]], planes_n33[faces[end], 2]
    margins = []
    for pixel in (start, end):
        v, u = (index.astype(np.float32)[:, None] for index in np.divmod(pixel, width))
        s, t, inverse = (own[:, k, 0:1] * u + own[:, k, 1:2] * v + own[:, k, 2:3] for k in range(3))
        ahead = inverse - (other[:, 0:1] * u + other[:, 1:2] * v + other[:, 2:3])
        margins.append(np.concatenate([s, t, inverse - s, inverse - t, ahead], axis=1))
    inside, outside = margins
    ends = (outside < 0.0) & (inside >= 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        fraction = np.where(ends, inside / (inside - outside), np.inf).min(axis=1)
    return np.where(np.isfinite(fraction), fraction, np.nan).astype(np.float32)
