"""Poses of a scene by structure from motion, in the frame and the unit of the map."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from distill_training.common.robust import median_error
from distill_training.poses.frame_points import NO_POINTS, FramePoints
from distill_training.poses.gauge import Gauge, find_gauge, gauge_from_poses
from distill_training.poses.known_lengths import KnownLength, PhotoDepth
from distill_training.poses.measured_depth import depth_at, have_depth, readable_depth
from distill_training.poses.poses_config import Known, SfmConfig
from distill_training.poses.sfm.checks import connection, weakest_cut
from distill_training.poses.sfm.colmap_camera import to_colmap
from distill_training.poses.sfm.depth_join import MeasuredFeatures, join_by_depth
from distill_training.poses.sfm.feature_database import FeatureDatabase
from distill_training.poses.sfm.placed_images import (
    PlacedImage,
    frame_points,
    given_gauge,
    live_camera,
    place_images,
)
from distill_training.poses.sfm.sfm_folder import DATABASE, stored_model
from distill_training.poses.sfm.sfm_images import SfmImage, take_images
from distill_training.poses.sfm.sfm_model import Model
from distill_training.poses.sfm.structure_from_motion import SfmPoses, structure_from_motion
from mote_localization.camera import Camera, canonical_camera
from mote_localization.errors import NoPosesError, ReconstructionError, SceneError
from mote_localization.progress import busy, track
from mote_localization.scenes import Scene

_log = logging.getLogger(__name__)
_DEPTH_WIDTH, _DEPTH_STRIDE = 320, 8  # px, cells in which the depth of a pixel is looked up
_MIN_GIVEN = 3  # given poses that join a part to the others
_MIN_DEPTHS = 20  # measured depths of an image for its ratio to count
_MIN_SIGMA_M = 0.01  # m, of given positions
_MIN_POINTS = 30  # that an image must see to be placed by its given pose
_MAX_SIGMAS = 5.0  # by which its position may then change
_MAX_DEPTH_ERROR = 0.15  # of the scale that depth gives, from that of given poses
_NAMED = 5  # frames that a message names


@dataclass(frozen=True)
class PlacedPoses:
    """Poses by structure from motion in the map frame, and what is known of their quality."""

    T_map_cam: dict[str, np.ndarray]  # (4, 4), m, of the placed frames, in recording order
    cameras: dict[str, Camera]  # live camera of each of these frames
    points: dict[str, FramePoints]  # triangulated points that each of these frames sees
    metric: bool
    described: dict[str, str]  # rows of a table to print: name and value


def place_by_structure_from_motion(
    scene: Scene,
    folder: Path,
    intrinsics: Known,
    config: SfmConfig,
    lengths: Sequence[KnownLength] = (),
) -> PlacedPoses:
    """Return poses and triangulated points of a scene's training frames.

    Given poses fix frame and scale; else measured depth or known lengths fix the scale.

    Args:
        scene: Its training frames are used.
        folder: For intermediate files; an interrupted run resumes.
        intrinsics: See `initial_camera`.
        config: Settings of structure from motion.
        lengths: Measured in the place.

    Raises:
        SceneError: Given intrinsics are required and missing, or depth and given poses have
            different scales.
        NoPosesError: No part of the photographs is accepted.
        ReconstructionError: Given poses or intrinsics contradict the photographs, or a length
            cannot be found.
    """
    images, unusable = take_images(scene, intrinsics, config.max_px)
    if len(images) < 2:
        raise NoPosesError(
            f"scene {scene.name[:60]}: {len(images)} of {scene.count('train')} images can be used, "
            "expected two or more that show the same things"
        )
    found = structure_from_motion(images, folder, config, scene.sequential)
    given = {image.frame.name: T for image in images if (T := image.frame.T_map_cam) is not None}
    placed: dict[int, PlacedImage] = {}
    gauges: list[tuple[Model, Gauge]] = []
    for part in ordered_parts(found.parts, images, given):
        gauge = _gauge_of_part(part, images, given, lengths, first=not gauges)
        if gauge is None:
            continue
        gauges.append((part, gauge))
        placed |= {
            i: one for i, one in place_images(part, gauge, images).items() if i not in placed
        }
    unplaced = (one for i, one in enumerate(images) if i not in placed)
    if len(gauges) > 1 or any(one.frame.name in given for one in unplaced):
        placed = _with_given_positions(placed, images, [part for part, _ in gauges], folder)
    elif len(placed) < len(images) and have_depth([one.frame for one in images]):
        placed = _joined_by_depth(placed, images, found.parts, folder / DATABASE, config)
    ordered = sorted(placed)
    names = [images[i].frame.name for i in ordered]
    return PlacedPoses(
        {name: placed[i].T_map_cam for name, i in zip(names, ordered, strict=True)},
        {name: placed[i].camera for name, i in zip(names, ordered, strict=True)},
        {name: placed[i].points for name, i in zip(names, ordered, strict=True)},
        gauges[0][1].metric,
        _described(scene, images, unusable, found, gauges, placed),
    )


def ordered_parts(
    parts: Sequence[Model], images: Sequence[SfmImage], given: Mapping[str, np.ndarray]
) -> list[Model]:
    """Return the parts that can be in one frame, the one that fixes it first.

    With given poses it is the largest part that has two or more of them. Otherwise it is the
    largest part, and the others have no place relative to it.
    """
    located = [p for p in parts if sum(images[i].frame.name in given for i in p.images) > 1]
    return located or list(parts[:1])


def _gauge_of_part(
    part: Model,
    images: Sequence[SfmImage],
    given: Mapping[str, np.ndarray],
    lengths: Sequence[KnownLength],
    first: bool,
) -> Gauge | None:
    """Return frame and scale of a part; None where nothing places it relative to the first one."""
    poses = {
        images[i].frame.name: T for i, T in zip(part.images, part.T_model_cam_n44, strict=True)
    }
    known = {name: T for name, T in given.items() if name in poses}
    median_depth = float(np.nanmedian(part.median_depth_n()))
    if not first:
        try:
            return (
                gauge_from_poses(poses, known, median_depth) if len(known) >= _MIN_GIVEN else None
            )
        except ReconstructionError as error:
            _log.warning("a part of %d images is left out: %s", len(poses), error)
            return None
    measured = _scale_from_depth(part, images)
    number = {images[i].frame.name: (i, n) for n, i in enumerate(part.images)}

    def depth_of(name: str) -> PhotoDepth:
        i, n = number[name]
        live = live_camera(part, n, images[i])
        grid = canonical_camera(live, _DEPTH_WIDTH, _DEPTH_STRIDE)
        depth_hw, sigma_hw = frame_points(part, n).in_cells(grid, _DEPTH_STRIDE)
        return PhotoDepth(live, grid, depth_hw, sigma_hw)

    gauge = find_gauge(poses, median_depth, depth_of, given, lengths, measured)
    _check_depth_scale(gauge, measured)
    return gauge


def _check_depth_scale(gauge: Gauge, measured: tuple[float, float] | None) -> None:
    """Raise `SceneError` if measured depth contradicts the scale of the given poses."""
    if measured is None:
        return
    ratio = measured[0] / gauge.scale
    allowed = _MAX_DEPTH_ERROR + 3 * math.hypot(gauge.scale_uncertainty or 0, measured[1])
    if abs(math.log(ratio)) > allowed:
        size = f"{ratio:.2f} times too large" if ratio > 1 else f"{1 / ratio:.2f} times too small"
        raise SceneError(
            f"the depths are {size} for the given poses: the scale is {gauge.scale:.3g} by the "
            f"poses and {measured[0]:.3g} by the depth; expected poses in metres and depth in "
            "millimetres"
        )


def _scale_from_depth(part: Model, images: Sequence[SfmImage]) -> tuple[float, float] | None:
    """Return metres per unit of a part and its uncertainty, from measured depth; None without.

    The scale is the median over images of the median ratio of measured depth to triangulated
    depth. The uncertainty is the standard error of the median, relative to the scale.
    """
    ratios = []
    for n, i in enumerate(track(part.images, "scale", len(part.images))):
        depth_hw = readable_depth(images[i].frame)
        if depth_hw is None:
            continue
        points = frame_points(part, n)
        if len(points.depth_k) < _MIN_DEPTHS:
            continue
        live = live_camera(part, n, images[i])
        measured_k = depth_at(depth_hw, live.project(points.rays_k3()))
        ratio_k = measured_k[measured_k > 0] / points.depth_k[measured_k > 0]
        if len(ratio_k) >= _MIN_DEPTHS:
            ratios.append(float(np.median(ratio_k)))
    if not ratios:
        return None
    scale = float(np.median(ratios))
    return scale, median_error(np.abs(np.array(ratios) / scale - 1))


def _with_given_positions(
    placed: Mapping[int, PlacedImage],
    images: Sequence[SfmImage],
    parts: Sequence[Model],
    folder: Path,
) -> dict[int, PlacedImage]:
    """Return the placed images and those left out that have a given pose, adjusted together.

    Images that were left out start at their given poses, and stay near them. The standard deviation
    of the given positions is their median distance to those placed.

    Args:
        placed: Images of accepted parts, in the map frame.
        images: All images.
        parts: The parts that they come from, the most important first.
        folder: Folder of structure from motion; the adjusted model is stored there, so that an
            interrupted run goes on with the same poses.
    """
    given = {i: T for i, one in enumerate(images) if (T := one.frame.T_map_cam) is not None}
    differences = _distances_to_given(placed, images)
    if len(differences) < _MIN_GIVEN:
        return dict(placed)
    sigma_m = max(float(np.median(differences)), _MIN_SIGMA_M)
    poses = given | {i: one.T_map_cam for i, one in placed.items()}

    def adjusted_model() -> Model:
        cameras = {number: c for part in reversed(parts) for number, c in part.cameras().items()}
        positions = {i: T[:3, 3] for i, T in given.items()}
        with busy("adjust with given positions"):
            model = Model.triangulated(folder / DATABASE, poses, cameras)
            return model.adjusted(positions=positions, sigma=sigma_m)

    inputs = ("given positions", {i: T.tolist() for i, T in given.items()})
    model = stored_model(folder, inputs, adjusted_model)
    gauge = given_gauge(model, images, {images[i].frame.name: T for i, T in given.items()})
    kept = {}
    for i, one in place_images(model, gauge, images).items():
        expected, count = given.get(i, poses[i]), len(one.points.depth_k)
        moved_m = float(np.linalg.norm(one.T_map_cam[:3, 3] - expected[:3, 3]))
        if i in placed or (count >= _MIN_POINTS and moved_m < _MAX_SIGMAS * sigma_m):
            kept[i] = one
    return kept


def _joined_by_depth(
    placed: Mapping[int, PlacedImage],
    images: Sequence[SfmImage],
    parts: Sequence[Model],
    database: Path,
    config: SfmConfig,
) -> dict[int, PlacedImage]:
    """Return the placed images, and others that measured depth places relative to them.

    All poses are adjusted together, so those of the placed images change too.

    Args:
        placed: Images of the first part, in the map frame.
        images: All images.
        parts: All parts.
        database: Features and matches of all images.
        config: Settings of the database.
    """
    groups = [{i: one.T_map_cam for i, one in placed.items()}]
    beside: dict[int, PlacedImage] = {}
    for part in parts:
        new = {int(i) for i in part.images} - placed.keys() - beside.keys()
        scale = _scale_from_depth(part, images) if new else None
        if scale is not None:
            in_metres = place_images(part, Gauge(scale[0], np.eye(4)), images)
            groups.append({i: one.T_map_cam for i, one in in_metres.items() if i in new})
            beside |= {i: one for i, one in in_metres.items() if i in new}
    estimated = {
        images[i].lens: (part.camera_of(n), live_camera(part, n, images[i]))
        for part in reversed(parts)
        for n, i in enumerate(part.images)
    }
    cameras = [
        estimated.get(image.lens, (to_colmap(image.working, image.known), image.live))
        for image in images
    ]
    working, live = zip(*cameras, strict=True)
    for i, image in enumerate(images):
        if i not in placed and i not in beside and (image.known or image.lens in estimated):
            groups.append({i: np.eye(4)})
            beside[i] = PlacedImage(np.eye(4), live[i], NO_POINTS)
    features = MeasuredFeatures.of(FeatureDatabase(database, images, config), working, live)
    poses = join_by_depth(features, groups)
    known = {**beside, **placed}
    return {i: replace(known[i], T_map_cam=T) for i, T in poses.items()}


def _distances_to_given(
    placed: Mapping[int, PlacedImage], images: Sequence[SfmImage]
) -> list[float]:
    """Return the distance of each placed image, m, from its given position, where it has one."""
    return [
        float(np.linalg.norm(one.T_map_cam[:3, 3] - T[:3, 3]))
        for i, one in placed.items()
        if (T := images[i].frame.T_map_cam) is not None
    ]


def _described(
    scene: Scene,
    images: Sequence[SfmImage],
    unusable: Mapping[str, str],
    found: SfmPoses,
    gauges: Sequence[tuple[Model, Gauge]],
    placed: Mapping[int, PlacedImage],
) -> dict[str, str]:
    """Return the rows of the table that is printed."""
    rows = {"poses": f"structure from motion, {len(placed)} of {scene.count('train')} images"}
    reasons = dict(unusable)
    reasons |= {
        images[i].frame.name: reason for i, reason in found.left_out.items() if i not in placed
    }
    for part in found.parts:
        for i in part.images:
            if int(i) not in placed:
                reasons[images[i].frame.name] = (
                    "in another part, whose place relative to the largest one is not known"
                )
    if reasons:
        rows["not used"] = "\n".join(_grouped(reasons))
    rows["accepted parts"] = ", ".join(f"{len(part.images)} images" for part in found.parts)
    joined = len(placed) - len({int(i) for part, _ in gauges for i in part.images} & set(placed))
    if joined:
        rows["joined"] = f"{joined} images of other parts or of none, by given poses or by depth"
    first = gauges[0][0]
    weakest = connection(first, weakest_cut(first))
    rows["weakest connection"] = (
        f"{weakest.points} points between {weakest.images} images of the first part and its others"
    )
    if weakest.points:
        rows["weakest connection"] += (
            f", seen {weakest.angle_deg:.0f} deg apart; the scale between them is accurate to "
            f"{100 * weakest.scale_sigma:.2f} % (1 sigma)"
        )
    lenses = {images[i].lens: one.camera for i, one in placed.items() if not images[i].known}
    if lenses:
        focal = sorted(camera.fx for camera in lenses.values())
        shown = f"{focal[0]:.1f} to {focal[-1]:.1f}" if len(focal) > 1 else f"{focal[0]:.1f}"
        rows["focal length"] = f"estimated, {shown} px of the images"
    differences = _distances_to_given(placed, images)
    if len(differences) > 1:
        median, most = np.percentile(differences, (50, 90)) * 100
        rows["given poses"] = f"differ by {median:.1f} cm (median), {most:.1f} cm (90 %)"
    gauge = gauges[0][1]
    if not gauge.metric:
        rows["scale"] = "unknown; measure a length in the place and give it with --scale-from"
    elif gauge.scale_uncertainty is not None:
        rows["scale"] = f"metres, 1 sigma {100 * gauge.scale_uncertainty:.1f} %"
    else:
        rows["scale"] = "metres, uncertainty unknown"
    return rows


def _grouped(reasons: Mapping[str, str]) -> list[str]:
    """Return one line for each reason, with its first frames."""
    frames: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        frames.setdefault(reason, []).append(name)
    lines = []
    for reason, names in sorted(frames.items(), key=lambda one: -len(one[1])):
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        lines.append(f"{', '.join(names[:_NAMED])}{more}: {reason}")
    return lines
