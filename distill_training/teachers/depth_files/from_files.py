"""The teacher `files`: points from depth that another network wrote, and poses."""

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from distill_training.poses.gauge import Gauge
from distill_training.poses.image_pairs import Pair, overlapping_pairs
from distill_training.poses.poses_config import PairsConfig
from distill_training.poses.scene_poses import ScenePoses
from distill_training.poses.triangulation import triangulate
from distill_training.reconstruction import Reconstruction
from distill_training.teachers.depth_files.depth_folder import DepthFolder, FileDepth
from distill_training.teachers.depth_files.depth_fusion import fuse_depth
from distill_training.teachers.depth_files.depth_scales import (
    DepthScales,
    find_scales,
    scales_of_points,
)
from distill_training.teachers.pairwise.agreement import check_agreement
from distill_training.teachers.pairwise.canonical_frame import canonical_frame
from distill_training.teachers.pairwise.cells import reduce_to_cells
from distill_training.teachers.pairwise.depth_map import DepthMap
from distill_training.teachers.pairwise.pair_predictor import Pointmap
from distill_training.teachers.teacher_config import USUAL_CELLS, CellsConfig
from mote_localization.camera import Camera, canonical_camera
from mote_localization.errors import CameraError, ReconstructionError
from mote_localization.progress import track
from mote_localization.scenes import Scene

_log = logging.getLogger(__name__)
_NAMED = 4  # frames that a message names
_MIN_CELLS = 20  # with a depth, of an image that is used
_ROUNDING_PX = 1e-3  # px, error of a window's edges
_USUAL_SIGMA = 0.02  # of the depth, before the spread is known


def poses_of_files(scene: Scene, folder: DepthFolder) -> ScenePoses:
    """Return the poses that the files have, in their own frame, and cameras where unknown.

    Raises:
        SceneError: The size of an image cannot be read.
        ReconstructionError: A file is damaged, or has neither intrinsics nor a camera in the scene.
    """
    frames = {frame.name: frame for frame in scene.frames("train")}
    names = folder.available(list(frames))
    T_map_cam, cameras = {}, {}
    for name, one in track(folder.read(names), "read poses", len(names)):
        assert one.T_map_cam_44 is not None, "the reader checks it"
        T_map_cam[name] = one.T_map_cam_44
        if frames[name].camera is None:
            cameras[name] = _camera_of_file(name, one, frames[name].size())
    ordered = [name for name in frames if name in T_map_cam]
    return ScenePoses(
        {name: T_map_cam[name] for name in ordered},
        cameras=cameras,
        metric=folder.index.scale == "metric",
    )


def reconstruct(
    scene: Scene,
    poses: ScenePoses,
    folder: Path,
    depth: DepthFolder,
    settings: Mapping[str, float | int | str],
    cells: CellsConfig = USUAL_CELLS,
    poses_from_files: bool = False,
) -> Reconstruction:
    """Reconstruct the training frames that have a pose and depth; resumes an interrupted run.

    Full-size depth is in memory one image at a time, cells of all images are kept.

    Args:
        scene: Source of the images.
        poses: Poses, cameras and triangulated points of the frames; without points, they are
            triangulated.
        folder: Folder of the reconstruction.
        depth: Depth of the frames.
        settings: Everything else that decides the result.
        cells: Size of the canonical camera and of its cells.
        poses_from_files: Poses and depth have the same unit.

    Raises:
        SceneError: An image is damaged, or its intrinsics are not known.
        ReconstructionError: Depth and poses do not fit, a file is damaged, or the folder holds
            another reconstruction.
    """
    frames = [frame for frame in scene.frames("train") if frame.name in poses.T_map_cam]
    live = {frame.name: poses.camera(frame) for frame in frames}
    names = list(live)
    maps, confidence, unused = _read_cells(depth, names, live, poses.T_map_cam, cells)
    medians = [float(np.nanmedian(one.depth_hw)) for one in maps.values()]
    if poses_from_files:
        pairs = _pairs(maps, float(np.median(medians)))
        scales = DepthScales(dict.fromkeys(maps, 1.0), dict.fromkeys(maps, 0.0), _USUAL_SIGMA, {})
    else:
        points = poses.points or triangulate(scene, poses.T_map_cam, live)
        measured = scales_of_points(
            maps, {i: points[name] for i, name in enumerate(names) if name in points}
        )
        pairs = _pairs(maps, float(np.median(np.concatenate([p.depth_k for p in points.values()]))))
        scales = find_scales(maps, measured, pairs, depth.index.scale == "per_image")
    unused |= {names[i]: reason for i, reason in scales.unknown.items()}
    if len(scales.scale) < 2:
        raise ReconstructionError(
            f"{len(scales.scale)} of {len(names)} images can be used ({_listed(unused)}); expected "
            "two or more that show the same things"
        )
    if unused:
        _log.warning("%d of %d images are left out: %s", len(unused), len(names), _listed(unused))
    fused = fuse_depth(maps, confidence, scales, pairs)
    metric = poses.metric
    # A scene whose own poses are in an unknown unit keeps their frame.
    if not metric and scene.metric and depth.index.scale == "metric":
        metric = True
        gauge = Gauge(1 / float(np.median(list(scales.scale.values()))), np.eye(4))
        fused = {i: one.in_gauge(gauge) for i, one in fused.items()}
    directed = [ends for i, j in pairs if i in fused and j in fused for ends in ((i, j), (j, i))]
    agreement = check_agreement(fused, directed)
    canonical = Counter(one.grid for one in fused.values()).most_common(1)[0][0]
    used = {names[i]: one.T_map_cam for i, one in sorted(fused.items())}
    reconstruction = Reconstruction(
        folder,
        scene.name,
        "files",
        f"{depth.index.licence} ({depth.index.model})",
        canonical,
        cells.stride,
        asdict(cells) | dict(settings),
        used,
        metric,
        {name: poses.given[name] for name in used} if poses.given else {},
    )
    reconstruction.begin()
    missing = set(reconstruction.missing())
    for i, one in track(sorted(fused.items()), "write pointmaps", len(fused)):
        if names[i] in missing:
            frame = canonical_frame(
                frames[i], live[names[i]], one, canonical, agreement.sigma_factor
            )
            reconstruction.write_frame(names[i], frame)
    return reconstruction


def _read_cells(
    depth: DepthFolder,
    names: list[str],
    live: Mapping[str, Camera],
    T_map_cam: Mapping[str, np.ndarray],
    cells: CellsConfig,
) -> tuple[dict[int, DepthMap], dict[int, np.ndarray], dict[str, str]]:
    """Return depth and confidence of the cells of each image, and the reason for each other one."""
    available = depth.available(names)
    unused = dict.fromkeys((name for name in names if name not in set(available)), "has no file")
    number = {name: i for i, name in enumerate(names)}
    maps, confidence = {}, {}
    for name, one in track(depth.read(available), "read depth", len(available)):
        i, grid = number[name], canonical_camera(live[name], cells.width, cells.stride)
        depth_hw, confidence_hw = _cells_of(one, live[name], grid, cells.stride, name)
        if np.isfinite(depth_hw).sum() < _MIN_CELLS:
            unused[name] = "its file has no depth that is finite and above 0"
            continue
        sigma_hw = np.where(np.isfinite(depth_hw), _USUAL_SIGMA * depth_hw, np.inf)
        maps[i] = DepthMap(grid, cells.stride, T_map_cam[name], depth_hw, sigma_hw)
        confidence[i] = confidence_hw
    if not maps:
        raise ReconstructionError(
            f"{depth.path}: none of {len(names)} images has depth ({_listed(unused)}); expected "
            "finite values above 0, along the optical axis"
        )
    return maps, confidence, unused


def _cells_of(
    one: FileDepth, live: Camera, grid: Camera, stride: int, name: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return depth (h, w), NaN = none, and confidence (h, w) of the cells of an image."""
    network = _camera_of_depth(one, live, name)
    # Points on the optical axis: the mean of a cell's points then has the mean of their depths.
    points_hw3 = np.zeros((*one.depth_hw.shape, 3), np.float32)
    points_hw3[..., 2] = one.depth_hw
    pointmap = Pointmap(
        torch.from_numpy(points_hw3)[None], torch.from_numpy(one.confidence_hw.copy())[None]
    )
    points_bhw3, confidence_bhw = reduce_to_cells(pointmap, network, grid, stride)
    return points_bhw3[0, ..., 2].numpy(), confidence_bhw[0].numpy()


def _camera_of_depth(one: FileDepth, live: Camera, name: str) -> Camera:
    """Return the camera of the pixels of a depth map: the image's, cropped and resized."""
    height, width = one.depth_hw.shape
    return live.resized(width, height, _window(one, live.width, live.height, name))


def _camera_of_file(name: str, one: FileDepth, size: tuple[int, int]) -> Camera:
    """Return the camera of an image by the intrinsics of its file."""
    if one.intrinsics_33 is None:
        raise ReconstructionError(
            f"image {name[:60]}: the scene has no intrinsics and its file has none; add "
            "intrinsics_33 to the files, or a calibration to the scene"
        )
    left, top, right, bottom = _window(one, *size, name)
    height, width = one.depth_hw.shape
    sx, sy = (right - left) / width, (bottom - top) / height
    K = one.intrinsics_33.astype(np.float64)
    try:
        return Camera(
            *size,
            float(K[0, 0] * sx),
            float(K[1, 1] * sy),
            float((K[0, 2] + 0.5) * sx - 0.5 + left),
            float((K[1, 2] + 0.5) * sy - 0.5 + top),
        )
    except CameraError as error:
        raise ReconstructionError(f"file of image {name[:60]}: {error}") from error


def _window(
    one: FileDepth, width: int, height: int, name: str
) -> tuple[float, float, float, float]:
    """Return left, top, right and bottom edge of the part of an image that its depth shows, px."""
    if one.window_4 is None:
        return 0.0, 0.0, float(width), float(height)
    left, top, right, bottom = map(float, one.window_4)
    inside = min(left, top) >= -_ROUNDING_PX and max(right - width, bottom - height) <= _ROUNDING_PX
    if not (inside and left < right and top < bottom):
        raise ReconstructionError(
            f"file of image {name[:60]}: found window_4 {one.window_4.tolist()}, expected left, "
            f"top, right, bottom within the image of {width}x{height} px"
        )
    return left, top, right, bottom


def _pairs(maps: Mapping[int, DepthMap], depth: float) -> list[Pair]:
    """Return pairs of images that overlap by their poses, at a typical depth in map units."""
    numbers = list(maps)
    T_n44 = np.stack([maps[i].T_map_cam for i in numbers])
    grids = [maps[i].grid for i in numbers]
    pairs = overlapping_pairs(T_n44, grids, PairsConfig(depth_m=depth))
    return [(numbers[i], numbers[j]) for i, j in pairs]


def _listed(reasons: Mapping[str, str]) -> str:
    """Return a few frames with their reasons."""
    shown = [f"{name[:20]}: {reason}" for name, reason in list(reasons.items())[:_NAMED]]
    more = f"; and {len(reasons) - _NAMED} more" if len(reasons) > _NAMED else ""
    return "; ".join(shown) + more
