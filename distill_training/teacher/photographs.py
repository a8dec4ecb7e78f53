"""The teacher that needs no depth: photographs, a network that looks at pairs, and alignment."""

import hashlib
import json
import logging
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from distill_training.reconstruction import (
    ReconstructedFrame,
    Reconstruction,
    begun_reconstruction,
)
from distill_training.teacher.agreement import measure_agreement
from distill_training.teacher.alignment import Alignment, align
from distill_training.teacher.config import USUAL_CELLS, CellsConfig, PhotographsConfig
from distill_training.teacher.depth_map import DepthMap
from distill_training.teacher.fusion import Said, fuse
from distill_training.teacher.gauge import Gauge, KnownLength, Sight, find_gauge, parse_scale
from distill_training.teacher.observations import observe
from distill_training.teacher.pairs import Pair, choose_pairs, components
from distill_training.teacher.predictions import Predictions
from distill_training.teacher.predictor import PairPredictor
from distill_training.teacher.summary import Summary
from mote_localization.camera import Camera, CanonicalView, canonical_camera, cell_pixels
from mote_localization.errors import ReconstructionError, SceneError
from mote_localization.geometry import transform
from mote_localization.progress import track
from mote_localization.scenes import Frame, Scene

_log = logging.getLogger(__name__)
_NOMINAL_FOCAL = 0.9  # of the long side: what phones have, to start from
_UNSURE = 0.15  # of the depth: cells whose point is less sure have none
_NAMED = 8  # frames named in a message

# Why images that can be read are not used.
_ALONE = "stands alone: shows nothing that is seen to be in another image, too"
_APART = "hangs together with {}, but not with the rest"
_CONTRADICTED = "its given pose disagrees with what the images show"
_OUTVOTED = "what it shows disagrees with the rest"
_NO_SCALE = "taken from nearly the same spot as all that shows the same: its distances are unknown"


@dataclass(frozen=True)
class _Photo:
    """A photograph and its cameras; without intrinsics, with a focal length to start from."""

    frame: Frame
    live: Camera
    grid: Camera  # undistorted, of the cells
    lens: int
    lens_known: bool


def reconstruct(
    scene: Scene,
    folder: Path,
    predictor: PairPredictor,
    config: PhotographsConfig,
    cells: CellsConfig = USUAL_CELLS,
) -> tuple[Reconstruction, Summary | None]:
    """Reconstruct the training frames of a scene from their images; resumes.

    What the predictor says lies in `folder/work` until the reconstruction is finished.

    Args:
        scene: Its frames may lack poses, intrinsics, or both.
        folder: Where the reconstruction goes.
        predictor: What looks at pairs of images.
        config: How.
        cells: Which points a map is to have.

    Returns:
        The reconstruction, and what became of the photographs; None where it was there already.

    Raises:
        SceneError: There are no images that can be read, or poses are asked for that are not there.
        ReconstructionError: Fewer than two images show the same, the given poses contradict them,
            or the folder holds another reconstruction.
    """
    lengths = [parse_scale(text) for text in config.scale_from]
    photos, refused = _photographs(scene, config, cells)
    poses_known = _poses_known(photos, config)
    settings = _settings(photos, predictor, config, cells)
    begun = begun_reconstruction(folder)
    if begun and (begun.scene, begun.teacher, begun.stride, begun.settings) != (
        scene.name,
        predictor.name,
        cells.stride,
        settings,
    ):
        raise ReconstructionError(
            f"{folder}: holds a reconstruction made with other frames or settings; delete the "
            "folder or choose another"
        )
    work = folder / "work"
    if begun and not begun.missing():
        if work.exists():
            shutil.rmtree(work)
        return begun, None

    predictions = Predictions(
        work,
        predictor,
        [photo.frame.name for photo in photos],
        [photo.live for photo in photos],
        [photo.grid for photo in photos],
        cells.stride,
        config.pair_batch,
    )
    unread = predictions.encode([photo.frame for photo in photos])
    refused |= {photos[i].frame.name: "cannot be read, as the log says" for i in unread}
    images = sorted(set(range(len(photos))) - set(unread))
    if len(images) < 2:
        raise ReconstructionError(
            f"scene {scene.name}: {len(images)} of {scene.count('train')} images can be used, "
            "expected two or more that show the same things"
        )
    chosen = choose_pairs(
        config.pairs,
        predictions.descriptors(images),
        [photos[i].live for i in images],
        [photos[i].frame.T_map_cam if poses_known else None for i in images],
        scene.sequential,
    )
    pairs = [(images[i], images[j]) for i, j in chosen]
    predictions.decode(pairs)
    alignment = _align(photos, predictions, pairs, poses_known, cells.stride)
    directed = [(i, j) for pair in pairs for i, j in (pair, pair[::-1])]
    used = _among(directed, alignment.used_e)
    unused = _why_unused(photos, images, directed, alignment, poses_known)
    aligned = len(images) - len(unused)
    # Where most poses are wrong, those that are not found out are no better.
    wrong = sum(reason in (_CONTRADICTED, _NO_SCALE) for reason in unused.values())
    if aligned < 2 or wrong > aligned:
        raise ReconstructionError(_too_few_aligned(aligned, unused))
    refused |= unused
    maps = _fuse(photos, predictions, directed, alignment, cells.stride)
    gauge = Gauge(1.0, np.eye(4))
    if not poses_known:
        gauge = _gauge(photos, maps, lengths)
        maps = {i: _in_gauge(one, gauge) for i, one in maps.items()}
    agreement = measure_agreement(maps, [(i, j) for i, j in used if i in maps and j in maps])
    canonical = Counter(one.grid for one in maps.values()).most_common(1)[0][0]
    reconstruction = Reconstruction(
        folder,
        scene.name,
        predictor.name,
        predictor.licence,
        canonical,
        cells.stride,
        settings,
        {photos[i].frame.name: one.T_map_cam for i, one in maps.items()},
        gauge.metric,
    )
    reconstruction.begin()
    missing = set(reconstruction.missing())
    for i, one in track(maps.items(), "write pointmaps", len(maps)):
        if photos[i].frame.name in missing:
            frame = _frame(photos[i], one, canonical, agreement.sigma_factor)
            reconstruction.write_frame(photos[i].frame.name, frame)
    predictions.remove()
    lenses = {photos[i].lens: one.grid for i, one in maps.items()}
    return reconstruction, Summary(
        scene.count("train"),
        refused,
        len(pairs),
        len(pairs) - len(used) // 2,
        100 * agreement.distance,
        tuple(lenses[lens].fx * canonical.width / lenses[lens].width for lens in sorted(lenses)),
        all(photo.lens_known for photo in photos),
        gauge.metric,
        gauge.scale_uncertainty,
        poses_known,
    )


def _photographs(
    scene: Scene, config: PhotographsConfig, cells: CellsConfig
) -> tuple[list[_Photo], dict[str, str]]:
    """Return the training frames with their cameras, and why some cannot be used.

    Raises:
        SceneError: There are none, or intrinsics are asked for that are not there.
        CameraError: The map's width does not fit.
    """
    photos: list[_Photo] = []
    refused: dict[str, str] = {}
    lenses: dict[object, int] = {}
    for frame in scene.frames("train"):
        camera = frame.camera
        if config.intrinsics == "given":
            camera = frame.known_camera()
        known = camera is not None and config.intrinsics != "estimate"
        if camera is None:
            try:
                camera = _nominal(*frame.size())
            except SceneError as error:
                _log.warning("frame %s is left out: %s", frame.name, error)
                refused[frame.name] = "cannot be read"
                continue
        # A lens is the same held upright or across.
        lens = camera if known else tuple(sorted((camera.width, camera.height)))
        grid = canonical_camera(camera, cells.width, cells.stride)
        photos.append(_Photo(frame, camera, grid, lenses.setdefault(lens, len(lenses)), known))
    if not photos:
        raise SceneError(
            f"scene {scene.name}: none of {len(refused)} training frames can be read, expected "
            "two or more"
        )
    return photos, refused


def _nominal(width: int, height: int) -> Camera:
    """Return a camera of an image size, with a usual focal length."""
    focal = _NOMINAL_FOCAL * max(width, height)
    return Camera(width, height, focal, focal, (width - 1) / 2, (height - 1) / 2)


def _poses_known(photos: Sequence[_Photo], config: PhotographsConfig) -> bool:
    """Return whether poses are given.

    Raises:
        SceneError: They are asked for, and a frame has none.
    """
    if config.poses == "given":
        for photo in photos:
            photo.frame.known_pose()
    return config.poses != "estimate" and all(p.frame.T_map_cam is not None for p in photos)


def _settings(
    photos: Sequence[_Photo],
    predictor: PairPredictor,
    config: PhotographsConfig,
    cells: CellsConfig,
) -> dict[str, float | int | str]:
    """Return what decides the outcome: the reconstruction goes on only where it is equal."""
    given = [
        (p.frame.name, asdict(p.live), p.lens_known, np.asarray(p.frame.T_map_cam).tolist())
        for p in photos
    ]
    pairs = {f"pairs_{key}": value for key, value in asdict(config.pairs).items()}
    return {
        **predictor.settings,
        **pairs,
        "map_width": cells.width,
        "poses": config.poses,
        "intrinsics": config.intrinsics,
        "scale_from": " ".join(config.scale_from),
        "frames_sha256": hashlib.sha256(json.dumps(given).encode()).hexdigest(),
    }


def _align(
    photos: Sequence[_Photo],
    predictions: Predictions,
    pairs: Sequence[Pair],
    poses_known: bool,
    stride: int,
) -> Alignment:
    """Align all photographs; directed pairs in the order of `pairs`, each forth and back."""
    said = (
        one for pair in track(pairs, "read pairs", len(pairs)) for one in predictions.read(*pair)
    )
    observations = observe(said, [photo.grid for photo in photos], stride)
    # Of a lens whose images are in no pair nothing can be said: it counts as another one.
    paired = {i for pair in pairs for i in pair}
    known = {photos[i].lens: photos[i].lens_known for i in sorted(paired)}
    number = {lens: k for k, lens in enumerate(known)}
    return align(
        observations,
        np.array([number.get(photo.lens, 0) for photo in photos]),
        np.array(list(known.values())),
        np.array([photo.frame.known_pose() for photo in photos]) if poses_known else None,
    )


def _among(directed: Sequence[tuple[int, int]], which_e: np.ndarray) -> list[tuple[int, int]]:
    """Return some of the directed pairs."""
    return [ends for ends, one in zip(directed, which_e, strict=True) if one]


def _why_unused(
    photos: Sequence[_Photo],
    images: Sequence[int],
    directed: Sequence[tuple[int, int]],
    alignment: Alignment,
    poses_known: bool,
) -> dict[str, str]:
    """Return the frames that are not aligned, and why not."""
    paired = {i for ends in _among(directed, alignment.used_e) for i in ends}
    groups = components(len(photos), _among(directed, alignment.sound_e))
    group_of = {i: group for group in groups for i in group}
    reasons = {}
    for i in images:
        others = [photos[j].frame.name for j in group_of[i] if j != i]
        if alignment.aligned_i[i]:
            continue
        if i in paired:
            reason = _NO_SCALE
        elif not others:
            reason = _ALONE
        elif poses_known:
            reason = _CONTRADICTED
        elif alignment.aligned_i[group_of[i]].any():
            reason = _OUTVOTED
        else:
            reason = _APART.format(_listed(others))
        reasons[photos[i].frame.name] = reason
    return reasons


def _too_few_aligned(aligned: int, reasons: dict[str, str]) -> str:
    """Return the message where next to no images could be brought together."""
    frames: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        frames.setdefault(reason, []).append(name)
    share = f"only {aligned} of {aligned + len(reasons)}" if aligned else "no two"
    why = "; ".join(f"{_listed(names)}: {reason}" for reason, names in frames.items())
    return (
        f"{share} images could be brought together ({why}); expected photographs that show the "
        "same things from several sides, and their own poses or none"
    )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _fuse(
    photos: Sequence[_Photo],
    predictions: Predictions,
    directed: Sequence[tuple[int, int]],
    alignment: Alignment,
    stride: int,
) -> dict[int, DepthMap]:
    """Return the fused pointmap of each aligned image, one image's pairs in memory at a time."""
    number = {ends: e for e, ends in enumerate(directed) if alignment.used_e[e]}
    partners: dict[int, list[int]] = {}
    for i, j in number:
        partners.setdefault(i, []).append(j)
    maps = {}
    aligned = np.flatnonzero(alignment.aligned_i).tolist()
    for i in track(aligned, "fuse pairs", len(aligned)):
        photo = photos[i]
        grid = _focused(photo.grid, i, alignment)
        rays_hw3 = grid.rays(cell_pixels(grid.width, grid.height, stride))
        said: list[Said] = []
        for j in partners[i]:
            forth, back = predictions.read(i, j)
            said += [
                alignment.said(number[i, j], i, i, forth.own_hw3, forth.own_confidence_hw),
                alignment.said(number[j, i], j, i, back.other_hw3, back.other_confidence_hw),
            ]
        depth_hw, sigma_hw = fuse(said, rays_hw3)
        sigma_hw = np.hypot(sigma_hw, alignment.unit_sigma_i[i] * depth_hw)
        with np.errstate(invalid="ignore"):
            depth_hw = np.where(sigma_hw <= _UNSURE * depth_hw, depth_hw, np.nan)
        maps[i] = DepthMap(
            grid,
            stride,
            alignment.cameras.pose(i),
            depth_hw.astype(np.float32),
            np.where(np.isfinite(depth_hw), sigma_hw, np.inf).astype(np.float32),
        )
    return maps


def _focused(camera: Camera, image: int, alignment: Alignment) -> Camera:
    """Return an image's camera with the focal lengths that the alignment has found."""
    cameras = alignment.cameras
    factor = float(np.exp(-cameras.log_spread_l[cameras.lens_i[image]]))
    return replace(camera, fx=factor * camera.fx, fy=factor * camera.fy)


def _gauge(
    photos: Sequence[_Photo], maps: dict[int, DepthMap], lengths: Sequence[KnownLength]
) -> Gauge:
    """Find frame and scale of an estimated map."""
    image = {photos[i].frame.name: i for i in maps}

    def see(name: str) -> Sight:
        one = maps[image[name]]
        live = photos[image[name]].live
        factor = one.grid.fx / photos[image[name]].grid.fx
        live = replace(live, fx=factor * live.fx, fy=factor * live.fy)
        return Sight(live, one.grid, one.depth_hw, one.sigma_hw)

    return find_gauge(
        {name: maps[i].T_map_cam for name, i in image.items()},
        float(np.nanmedian([np.nanmedian(one.depth_hw) for one in maps.values()])),
        see,
        {p.frame.name: p.frame.T_map_cam for p in photos if p.frame.T_map_cam is not None},
        lengths,
    )


def _in_gauge(one: DepthMap, gauge: Gauge) -> DepthMap:
    """Return a pointmap in the map's frame and unit."""
    return replace(
        one,
        T_map_cam=gauge.apply(one.T_map_cam),
        depth_hw=gauge.scale * one.depth_hw,
        sigma_hw=gauge.scale * one.sigma_hw,
    )


def _frame(
    photo: _Photo, one: DepthMap, canonical: Camera, sigma_factor: float
) -> ReconstructedFrame:
    """Return image and pointmap as the canonical camera sees them."""
    factor = one.grid.fx / photo.grid.fx
    live = replace(photo.live, fx=factor * photo.live.fx, fy=factor * photo.live.fy)
    view = CanonicalView(live, canonical, one.stride)
    rays_hw3 = canonical.rays(cell_pixels(canonical.width, canonical.height, one.stride))
    depth_hw, sigma_hw = one.depth_hw, one.sigma_hw
    if one.grid != canonical:
        depth_hw, sigma_hw = one.along(rays_hw3)
        sigma_hw = np.where(np.isfinite(depth_hw), sigma_hw, np.inf)
    return ReconstructedFrame(
        view.warp(photo.frame.image()),
        transform(one.T_map_cam, rays_hw3 * depth_hw[..., None]).astype(np.float32),
        (sigma_factor * sigma_hw).astype(np.float32),
    )
