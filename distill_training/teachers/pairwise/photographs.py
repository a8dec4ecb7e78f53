"""The teacher that needs no depth: photographs, a network that looks at pairs, and alignment."""

import hashlib
import json
import logging
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from distill_training.common.renamed_options import first_names
from distill_training.poses.gauge import Gauge, find_gauge
from distill_training.poses.image_pairs import Pair, choose_pairs
from distill_training.poses.known_lengths import KnownLength, PhotoDepth, parse_known_length
from distill_training.reconstruction import (
    ReconstructedFrame,
    Reconstruction,
    begun_reconstruction,
)
from distill_training.teachers.pairwise.agreement import measure_agreement
from distill_training.teachers.pairwise.alignment import Alignment, align
from distill_training.teachers.pairwise.depth_map import DepthMap
from distill_training.teachers.pairwise.observations import observe
from distill_training.teachers.pairwise.pair_predictor import PairPredictor
from distill_training.teachers.pairwise.photo import Photo, take_photos
from distill_training.teachers.pairwise.pointmaps import fuse_photos
from distill_training.teachers.pairwise.predictions import Predictions
from distill_training.teachers.pairwise.refusals import among, check_aligned, why_unused
from distill_training.teachers.pairwise.summary import Summary
from distill_training.teachers.teacher_config import USUAL_CELLS, CellsConfig, PhotographsConfig
from mote_localization.camera import Camera, CanonicalView, cell_pixels
from mote_localization.errors import ReconstructionError
from mote_localization.geometry import transform
from mote_localization.progress import track
from mote_localization.scenes import Scene

_log = logging.getLogger(__name__)
_LEAST_SHARE = 0.7  # of the cells that can be compared: what agrees in a sound reconstruction
_DIGITS = 1e-4  # differences (m, px, shares) that are no other outcome
_DEPTHS_M = (0.1, 200.0)  # median distances that a camera on a robot may see


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
    lengths = [parse_known_length(text) for text in config.scale_from]
    photos, refused = take_photos(scene, predictor, config.intrinsics, cells)
    poses_known = _poses_known(photos, config)
    _check_names(lengths, photos)
    if poses_known and lengths:
        _log.warning("--scale-from is not used: the given poses say the scale")
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
    refused |= {photos[i].frame.name: why for i, why in unread.items()}
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
    used = among(directed, alignment.used_e)
    unused = why_unused(photos, images, directed, alignment, poses_known)
    check_aligned(len(images), unused)
    refused |= unused
    photos = [
        photo.focused(f) for photo, f in zip(photos, alignment.cameras.focal_factors(), strict=True)
    ]
    maps = fuse_photos(photos, predictions, directed, alignment, cells.stride)
    gauge = Gauge(1.0, np.eye(4))
    if poses_known:
        _check_unit(maps)
    else:
        gauge = _gauge(photos, maps, lengths)
        maps = {i: _in_gauge(one, gauge) for i, one in maps.items()}
    agreement = measure_agreement(maps, [(i, j) for i, j in used if i in maps and j in maps])
    if agreement.share < _LEAST_SHARE:
        _log.warning(
            "only %.0f %% of what overlapping images show agrees to a tenth of its depth: a map of "
            "this will not be good",
            100 * agreement.share,
        )
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
    if begun and _same(begun, reconstruction):
        reconstruction = begun
    else:
        reconstruction.restart()
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
        agreement.share,
        tuple(lenses[lens].fx * canonical.width / lenses[lens].width for lens in sorted(lenses)),
        all(photo.lens_known for photo in photos),
        gauge.metric,
        gauge.scale_uncertainty,
        poses_known,
    )


def _poses_known(photos: Sequence[Photo], config: PhotographsConfig) -> bool:
    """Return whether poses are given.

    Raises:
        SceneError: They are asked for, and a frame has none.
    """
    if config.poses == "given":
        for photo in photos:
            photo.frame.known_pose()
    return config.poses != "estimate" and all(p.frame.T_map_cam is not None for p in photos)


def _settings(
    photos: Sequence[Photo],
    predictor: PairPredictor,
    config: PhotographsConfig,
    cells: CellsConfig,
) -> dict[str, float | int | str]:
    """Return what decides the outcome: the reconstruction goes on only where it is equal."""
    given = [
        (p.frame.name, asdict(p.live), p.lens_known, np.asarray(p.frame.T_map_cam).tolist())
        for p in photos
    ]
    pairs = {f"pairs_{key}": value for key, value in first_names(asdict(config.pairs)).items()}
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
    photos: Sequence[Photo],
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


def _gauge(
    photos: Sequence[Photo], maps: dict[int, DepthMap], lengths: Sequence[KnownLength]
) -> Gauge:
    """Find frame and scale of an estimated map."""
    image = {photos[i].frame.name: i for i in maps}

    def see(name: str) -> PhotoDepth:
        one = maps[image[name]]
        return PhotoDepth(photos[image[name]].live, one.grid, one.depth_hw, one.sigma_hw)

    return find_gauge(
        {name: maps[i].T_map_cam for name, i in image.items()},
        _median_depth(maps),
        see,
        {p.frame.name: p.frame.T_map_cam for p in photos if p.frame.T_map_cam is not None},
        lengths,
    )


def _same(begun: Reconstruction, again: Reconstruction) -> bool:
    """Return whether a reconstruction was begun with this outcome, but for last digits.

    They change with processors and libraries.
    """
    return (
        list(begun.poses) == list(again.poses)
        and begun.metric == again.metric
        and replace(begun.camera, fx=1, fy=1) == replace(again.camera, fx=1, fy=1)
        and np.allclose(begun.camera.K_33, again.camera.K_33, rtol=_DIGITS, atol=_DIGITS)
        and np.allclose(
            list(begun.poses.values()), list(again.poses.values()), rtol=_DIGITS, atol=_DIGITS
        )
    )


def _check_names(lengths: Sequence[KnownLength], photos: Sequence[Photo]) -> None:
    """Refuse lengths between unknown photographs before hours of work, not after."""
    names = {photo.frame.name for photo in photos}
    for length in lengths:
        for end in (length.one, length.other):
            if end.frame not in names:
                raise ReconstructionError(
                    f"--scale-from {length}: '{end.frame}' is none of the {len(names)} "
                    f"photographs, such as '{min(names)}'"
                )


def _check_unit(maps: dict[int, DepthMap]) -> None:
    """Warn where given poses are hardly in metres."""
    median_m = _median_depth(maps)
    if not _DEPTHS_M[0] < median_m < _DEPTHS_M[1]:
        _log.warning(
            "by the given poses, things are %.3g m away (median): expected metres; are they in "
            "another unit?",
            median_m,
        )


def _median_depth(maps: dict[int, DepthMap]) -> float:
    return float(np.nanmedian([np.nanmedian(one.depth_hw) for one in maps.values()]))


def _in_gauge(one: DepthMap, gauge: Gauge) -> DepthMap:
    """Return a pointmap in the map's frame and unit."""
    return replace(
        one,
        T_map_cam=gauge.apply(one.T_map_cam),
        depth_hw=gauge.scale * one.depth_hw,
        sigma_hw=gauge.scale * one.sigma_hw,
    )


def _frame(
    photo: Photo, one: DepthMap, canonical: Camera, sigma_factor: float
) -> ReconstructedFrame:
    """Return image and pointmap as the canonical camera sees them."""
    view = _view(photo.live, canonical, one.stride)
    rays_hw3 = canonical.rays(cell_pixels(canonical.width, canonical.height, one.stride))
    depth_hw, sigma_hw = one.depth_hw, one.sigma_hw
    if one.grid != canonical:
        depth_hw, sigma_hw = one.along(rays_hw3)
    depth_hw = np.where(view.covered_hw, depth_hw, np.nan)
    sigma_hw = np.where(np.isfinite(depth_hw), sigma_hw, np.inf)
    return ReconstructedFrame(
        view.warp(photo.frame.image()),
        transform(one.T_map_cam, rays_hw3 * depth_hw[..., None]).astype(np.float32),
        (sigma_factor * sigma_hw).astype(np.float32),
    )


@lru_cache(maxsize=16)
def _view(live: Camera, canonical: Camera, stride: int) -> CanonicalView:
    """Return the view of a camera, of which a scene has a few."""
    return CanonicalView(live, canonical, stride)
