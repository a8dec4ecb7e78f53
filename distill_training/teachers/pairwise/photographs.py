"""Reconstruction from photographs: predict pairs, align them, fuse them, write pointmaps."""

import hashlib
import json
import logging
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from distill_training.common.renamed_options import first_names
from distill_training.poses.gauge import Gauge, find_gauge
from distill_training.poses.image_pairs import Pair, choose_pairs
from distill_training.poses.known_lengths import KnownLength, PhotoDepth, parse_known_length
from distill_training.poses.poses_config import PosesConfig
from distill_training.poses.scene_poses import ScenePoses, inputs_of
from distill_training.reconstruction import Reconstruction, begun_reconstruction
from distill_training.teachers.pairwise.agreement import check_agreement
from distill_training.teachers.pairwise.alignment import Alignment, align
from distill_training.teachers.pairwise.canonical_frame import canonical_frame
from distill_training.teachers.pairwise.depth_map import DepthMap
from distill_training.teachers.pairwise.observations import observe
from distill_training.teachers.pairwise.pair_predictor import PairPredictor
from distill_training.teachers.pairwise.photo import Photo, take_photos
from distill_training.teachers.pairwise.pointmaps import fuse_photos
from distill_training.teachers.pairwise.predictions import Predictions
from distill_training.teachers.pairwise.refusals import check_aligned, explain_unaligned
from distill_training.teachers.pairwise.summary import Summary
from distill_training.teachers.teacher_config import USUAL_CELLS, CellsConfig, PhotographsConfig
from mote_localization.camera import Camera
from mote_localization.errors import ReconstructionError
from mote_localization.progress import track
from mote_localization.scenes import Scene

_log = logging.getLogger(__name__)
USUAL_POSES = PosesConfig()
_TOLERANCE = 1e-4  # m, px and ratios: smaller differences are rounding, not another result
_PLAUSIBLE_DEPTHS_M = (0.1, 200.0)  # median depth, for poses in metres


def reconstruct(
    scene: Scene,
    poses: ScenePoses,
    folder: Path,
    predictor: PairPredictor,
    config: PhotographsConfig,
    cells: CellsConfig = USUAL_CELLS,
    known: PosesConfig = USUAL_POSES,
) -> tuple[Reconstruction, Summary | None]:
    """Reconstruct the training frames of a scene from their images, or resume that.

    Predictions are kept in `folder/work` until the reconstruction is finished.

    Args:
        scene: Frames with images; intrinsics are optional.
        poses: Used as they are where complete; otherwise they only fix the map frame. Where
            structure from motion found them, its cameras are used too, and other frames left out.
        folder: Folder of the reconstruction.
        predictor: Predicts the pointmaps of image pairs.
        config: Which pairs are predicted.
        cells: Size of the canonical camera and of its cells.
        known: Which poses and intrinsics are given, and lengths that define the scale.

    Returns:
        The reconstruction, and a summary; None where the reconstruction was finished before.

    Raises:
        SceneError: No image can be read, or a frame lacks intrinsics that the configuration
            requires.
        ReconstructionError: Fewer than two images can be aligned, the known poses contradict the
            images, or the folder holds another reconstruction.
    """
    photos, unusable = take_photos(scene, predictor, known.intrinsics, cells, poses.cameras)
    # Structure from motion has used the lengths already.
    lengths = [] if poses.by_sfm else [parse_known_length(text) for text in known.scale_from]
    _check_lengths(lengths, photos, poses.complete)
    settings = settings_of(predictor, config, cells, _inputs(scene, photos, poses, known))
    begun = begun_reconstruction(folder)
    if begun:
        begun.check_inputs(scene.name, predictor.name, cells.stride, settings)
    work = folder / "work"
    if begun and not begun.missing():
        if work.exists():
            shutil.rmtree(work)
        return begun, None

    predictions = Predictions(work, predictor, photos, cells.stride, config.pair_batch)
    images, pairs, unreadable = _predict_pairs(scene, photos, predictions, config, poses)
    alignment = _align(photos, predictions, pairs, poses, cells.stride)
    unaligned = explain_unaligned(photos, images, alignment, poses.complete)
    check_aligned(len(images), unaligned)
    factors = alignment.cameras.focal_factors()
    photos = [photo.with_focal_factor(f) for photo, f in zip(photos, factors, strict=True)]
    maps = fuse_photos(photos, predictions, alignment, cells.stride)
    if poses.complete:
        gauge = Gauge(1.0, np.eye(4), poses.metric)
        if poses.metric:
            _check_unit(maps)
    else:
        gauge = _find_gauge(photos, maps, poses, lengths)
        maps = {i: one.in_gauge(gauge) for i, one in maps.items()}
    used = alignment.pairs(alignment.used_e)
    agreement = check_agreement(maps, [(i, j) for i, j in used if i in maps and j in maps])
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
        {name: poses.given[name] for i in maps if (name := photos[i].frame.name) in poses.given},
    )
    if begun and _same_result(begun, reconstruction):
        reconstruction = begun
    else:
        reconstruction.restart()
    missing = set(reconstruction.missing())
    for i, one in track(maps.items(), "write pointmaps", len(maps)):
        if photos[i].frame.name in missing:
            frame = canonical_frame(
                photos[i].frame, photos[i].live, one, reconstruction.camera, agreement.sigma_factor
            )
            reconstruction.write_frame(photos[i].frame.name, frame)
    predictions.remove()
    return reconstruction, Summary(
        scene.count("train"),
        unusable | unreadable | unaligned,
        len(pairs),
        len(pairs) - len(used) // 2,
        100 * agreement.distance,
        agreement.fraction,
        _focal_lengths_px(photos, maps, canonical),
        all(photo.lens_known for photo in photos),
        gauge.metric,
        gauge.scale_uncertainty,
        poses.complete,
        poses.by_sfm,
    )


def settings_of(
    predictor: PairPredictor,
    config: PhotographsConfig,
    cells: CellsConfig,
    inputs: Mapping[str, float | int | str],
) -> dict[str, float | int | str]:
    """Return what decides the result; a reconstruction resumes only where it is equal.

    Args:
        predictor: Predicts the pointmaps of image pairs.
        config: Which pairs are predicted.
        cells: Size of the canonical camera and of its cells.
        inputs: What decides poses and cameras: frames and options.
    """
    pairs = {f"pairs_{key}": value for key, value in first_names(asdict(config.pairs)).items()}
    return {**predictor.settings, **pairs, "map_width": cells.width, **inputs}


def _check_lengths(
    lengths: Sequence[KnownLength], photos: Sequence[Photo], poses_known: bool
) -> None:
    """Check that known lengths refer to photographs; warn where lengths are not used."""
    names = {photo.frame.name for photo in photos}
    for length in lengths:
        for end in (length.one, length.other):
            if end.frame not in names:
                raise ReconstructionError(
                    f"--scale-from {str(length)[:80]}: '{end.frame[:40]}' is none of the "
                    f"{len(names)} photographs, such as '{min(names)[:40]}'"
                )
    if poses_known and lengths:
        _log.warning("--scale-from is not used: the given poses define the scale")


def _inputs(
    scene: Scene, photos: Sequence[Photo], poses: ScenePoses, known: PosesConfig
) -> dict[str, float | int | str]:
    """Return what decides poses and cameras."""
    if poses.by_sfm or known.poses == "refine":
        return inputs_of(scene, replace(known, poses="sfm" if poses.by_sfm else known.poses))
    given = [
        (name, asdict(p.live), p.lens_known, np.asarray(poses.T_map_cam.get(name)).tolist())
        for p in photos
        for name in [p.frame.name]
    ]
    return {
        # the option's first name, as in older folders
        "poses": "estimate" if known.poses == "dust3r" else known.poses,
        "intrinsics": known.intrinsics,
        "scale_from": " ".join(known.scale_from),
        "frames_sha256": hashlib.sha256(json.dumps(given).encode()).hexdigest(),
    }


def _predict_pairs(
    scene: Scene,
    photos: Sequence[Photo],
    predictions: Predictions,
    config: PhotographsConfig,
    poses: ScenePoses,
) -> tuple[list[int], list[Pair], dict[str, str]]:
    """Encode all images, choose pairs of them and predict these.

    Returns the encoded images, the pairs, and the reason for each frame that cannot be used.
    """
    failed = predictions.encode()
    images = [i for i in range(len(photos)) if i not in failed]
    if len(images) < 2:
        raise ReconstructionError(
            f"scene {scene.name}: {len(images)} of {scene.count('train')} images can be used, "
            "expected two or more that show the same things"
        )
    chosen = choose_pairs(
        config.pairs,
        predictions.descriptors(images),
        [photos[i].live for i in images],
        [poses.T_map_cam[photos[i].frame.name] if poses.complete else None for i in images],
        scene.sequential,
    )
    pairs = [(images[i], images[j]) for i, j in chosen]
    predictions.decode(pairs)
    return images, pairs, {photos[i].frame.name: reason for i, reason in failed.items()}


def _align(
    photos: Sequence[Photo],
    predictions: Predictions,
    pairs: Sequence[Pair],
    poses: ScenePoses,
    stride: int,
) -> Alignment:
    """Align all photographs by their pairs, predicted in both orders."""
    directed_pairs = (
        one for pair in track(pairs, "read pairs", len(pairs)) for one in predictions.read(*pair)
    )
    observations = observe(directed_pairs, [photo.grid for photo in photos], stride)
    # Lenses are numbered again: a lens whose images are in no pair has no observations.
    paired = {i for pair in pairs for i in pair}
    known = {photos[i].lens: photos[i].lens_known for i in sorted(paired)}
    number = {lens: k for k, lens in enumerate(known)}
    return align(
        observations,
        np.array([number.get(photo.lens, 0) for photo in photos]),
        np.array(list(known.values())),
        np.array([poses.T_map_cam[p.frame.name] for p in photos]) if poses.complete else None,
    )


def _find_gauge(
    photos: Sequence[Photo],
    maps: dict[int, DepthMap],
    poses: ScenePoses,
    lengths: Sequence[KnownLength],
) -> Gauge:
    """Return frame and scale of a map with estimated poses."""
    image = {photos[i].frame.name: i for i in maps}

    def depth_of(name: str) -> PhotoDepth:
        one = maps[image[name]]
        return PhotoDepth(photos[image[name]].live, one.grid, one.depth_hw, one.sigma_hw)

    return find_gauge(
        {name: maps[i].T_map_cam for name, i in image.items()},
        _median_depth(maps),
        depth_of,
        poses.T_map_cam,
        lengths,
    )


def _check_unit(maps: dict[int, DepthMap]) -> None:
    """Warn if the known poses are hardly in metres."""
    median_m = _median_depth(maps)
    if not _PLAUSIBLE_DEPTHS_M[0] < median_m < _PLAUSIBLE_DEPTHS_M[1]:
        _log.warning(
            "with the known poses, the median depth is %.3g m, expected %g to %g m; check that the "
            "poses are in metres",
            median_m,
            *_PLAUSIBLE_DEPTHS_M,
        )


def _median_depth(maps: dict[int, DepthMap]) -> float:
    return float(np.nanmedian([np.nanmedian(one.depth_hw) for one in maps.values()]))


def _same_result(begun: Reconstruction, computed: Reconstruction) -> bool:
    """Return whether two results are equal up to rounding, which depends on the processor."""
    first, second = (
        np.concatenate([one.camera.K_33, *one.poses.values()], axis=None)
        for one in (begun, computed)
    )
    return (
        list(begun.poses) == list(computed.poses)
        and begun.metric == computed.metric
        and replace(begun.camera, fx=1, fy=1) == replace(computed.camera, fx=1, fy=1)
        and np.allclose(first, second, rtol=_TOLERANCE, atol=_TOLERANCE)
    )


def _focal_lengths_px(
    photos: Sequence[Photo], maps: dict[int, DepthMap], canonical: Camera
) -> tuple[float, ...]:
    """Return the focal length of each lens, in pixels of an image of the canonical width."""
    grids = {photos[i].lens: one.grid for i, one in maps.items()}
    return tuple(grids[lens].fx * canonical.width / grids[lens].width for lens in sorted(grids))
