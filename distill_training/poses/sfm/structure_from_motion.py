"""Poses of photographs by structure from motion, of the parts that pass its checks.

Structure from motion can be wrong without any sign in its residuals: an early image pair with the
wrong one of two possible poses, look-alike views, or two parts that few points connect. So two
solutions are computed, by methods that fail differently, and only parts on which they agree are
used.
"""

import json
import logging
import math
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from pathlib import Path

import numpy as np
import pycolmap

from distill_training.poses.gauge import Gauge
from distill_training.poses.image_pairs import Pair, choose_pairs, mostly_common_pairs
from distill_training.poses.poses_config import PairsConfig, SfmConfig
from distill_training.poses.sfm import mapper
from distill_training.poses.sfm.checks import (
    consistent_parts,
    groups_that_agree,
    halves,
    overlap_agreement,
    rotation_difference_deg,
    two_view_agreement,
)
from distill_training.poses.sfm.consensus import align_poses, connected_parts
from distill_training.poses.sfm.disk_space import check_free_space
from distill_training.poses.sfm.feature_database import FeatureDatabase, TwoView
from distill_training.poses.sfm.mapper import run_mapper
from distill_training.poses.sfm.sfm_folder import DATABASE, begin_sfm_folder
from distill_training.poses.sfm.sfm_images import SfmImage
from distill_training.poses.sfm.sfm_model import Model, estimated_focal_lengths
from mote_localization.errors import NoPosesError, ReconstructionError
from mote_localization.progress import busy

_TwoParts = frozenset[bytes]  # the images of two parts

_log = logging.getLogger(__name__)
_ATTEMPTS = ("chosen", "dense", "exhaustive")
_DENSE = 24  # images before and after an image, or similar to it, of which pairs are matched
_MIN_COMMON_AGREEMENT = 0.8  # fraction of the common images on which two parts agree
_MIN_FOCAL_IMAGES = 30  # of a part; fewer, taken side by side, do not determine a focal length
_MAX_FOCAL_ERROR = 0.07  # of a given focal length: images of correct ones give up to 3 %
_UNCONNECTED = "not connected: no other image shows the same things"
_CONTRADICTED = "the checks disagree on its pose"
_RESULT = "result"  # folder of the parts
_ENOUGH = 0.95  # fraction of the images in accepted parts: no further candidate is tried
_MAX_ROTATION_DIFFERENCE_DEG = 3.0  # between a pair's rotation and a model's, where both are right
_COMMON_PAIRS, _MAX_COMMON_PAIRS = 3, 300  # per image, and of a part, that should match
_MIN_OVERLAP_AGREEMENT = 0.7  # fraction of an image's pairs that should match and do
_MAX_CONTRADICTED = 0.05  # fraction of a part's images; above it the part is wrong
_MIN_TWO_VIEW_AGREEMENT = 0.5  # fraction of a part's pairs: correct parts have 0.55 to 0.9


@dataclass(frozen=True)
class SfmPoses:
    """The accepted parts of the images, and why the other images are in none."""

    parts: list[Model]  # the largest first; each in a frame and unit of its own
    left_out: dict[int, str] = field(default_factory=dict)  # image -> reason


def structure_from_motion(
    images: Sequence[SfmImage],
    folder: Path,
    config: SfmConfig,
    sequential: bool,
) -> SfmPoses:
    """Return the accepted parts of the images; resumes an interrupted run.

    Args:
        images: The images, in recording order.
        folder: For features, matches and models.
        config: Features, pairs, and what the checks demand.
        sequential: The images are a recording: neighbours overlap.

    Raises:
        NoPosesError: No part is accepted.
        ReconstructionError: A given focal length is wrong, a mapper's process has ended, or the
            disk is full.
    """
    begin_sfm_folder(folder, images, config, sequential)
    if finished := _read(folder / _RESULT):
        return finished
    database = FeatureDatabase(folder / DATABASE, images, config)
    unusable = database.extract()
    usable = [i for i in range(len(images)) if i not in unusable]
    attempts = _Attempts(database, config, sequential)
    parts: list[Model] = []
    refused: set[_TwoParts] = set()
    matched: set[Pair] = set()
    verified: set[Pair] = set()
    reasons: dict[int, str] = dict.fromkeys(usable, _UNCONNECTED)
    for name in _ATTEMPTS:
        left = [i for i in usable if i in reasons]
        if len(left) <= (1 - _ENOUGH) * len(usable):
            break
        pairs = attempts.pairs(name, left)
        if matched.issuperset(pairs):
            continue
        database.match(pairs)
        matched.update(pairs)
        matches = _Matches.of(database, matched, folder / name / "matches.db")
        if verified.issuperset(matches.geometries):
            continue
        verified.update(matches.geometries)
        found, why = _solve(matches, left, folder / name, config)
        parts = _joined([*parts, *found], matches, config, refused)
        accepted = {int(i) for part in parts for i in part.images}
        reasons = {i: why.get(i, reason) for i, reason in reasons.items() if i not in accepted}
    if not parts:
        raise NoPosesError(_why_no_part_is_accepted(images, {**reasons, **unusable}))
    check_intrinsics(parts[0], images)
    result = SfmPoses(parts, {**reasons, **unusable})
    _write(result, folder / _RESULT)
    return result


def check_intrinsics(part: Model, images: Sequence[SfmImage]) -> None:
    """Check the given focal lengths against those that the images give.

    Args:
        part: An accepted part.
        images: All images, in the order of their numbers.

    Raises:
        ReconstructionError: A given focal length differs by more than 7 %.
    """
    if len(part.images) < _MIN_FOCAL_IMAGES:
        return
    estimated = estimated_focal_lengths(part)
    for n, i in enumerate(part.images):
        camera_id, camera = part.camera_id_of(n), images[i].working
        focal = estimated.get(camera_id)
        if not images[i].known or focal is None:
            continue
        if abs(math.log(focal / camera.fx)) > _MAX_FOCAL_ERROR:
            scale = images[i].live.width / camera.width
            raise ReconstructionError(
                f"frame {images[i].frame.name[:60]}: found a focal length of "
                f"{images[i].live.fx:.0f} px, but the images give {scale * focal:.0f} px; correct "
                "the calibration, or estimate it with --intrinsics estimate"
            )


@dataclass(frozen=True)
class _Matches:
    """The matches of one attempt and those before it; later ones do not change its result."""

    database: FeatureDatabase
    path: Path  # of a copy of the database without other matches
    geometries: dict[Pair, TwoView]

    @classmethod
    def of(cls, database: FeatureDatabase, pairs: set[Pair], path: Path) -> "_Matches":
        geometries = database.two_view_geometries()
        kept = {pair: one for pair, one in geometries.items() if pair in pairs}
        if not path.exists():
            database.copy_with(path, kept)
        return cls(database, path, kept)


class _Attempts:
    """Choices of pairs, in the order of their cost; later ones add pairs of images left out."""

    def __init__(
        self,
        database: FeatureDatabase,
        config: SfmConfig,
        sequential: bool,
    ) -> None:
        self._database, self._images = database, database.images
        self._config, self._sequential = config, sequential

    @cached_property
    def _descriptors_nd(self) -> np.ndarray:
        return self._database.image_descriptors()

    def pairs(self, name: str, left: Sequence[int]) -> list[Pair]:
        """Return the pairs of an attempt.

        Args:
            name: One of `_ATTEMPTS`.
            left: Images that earlier attempts left out.
        """
        n = len(self._images)
        if name == "chosen" and n - 1 <= self._config.per_image:
            return list(combinations(range(n), 2))
        if name == "chosen":
            return choose_pairs(
                PairsConfig(per_image=self._config.per_image),
                self._descriptors_nd,
                [image.working for image in self._images],
                [None] * n,
                self._sequential,
            )
        if name == "exhaustive":
            others = range(n) if n <= self._config.exhaustive_images else []
            return _pairs_of(left, lambda i: others)
        if self._sequential:
            return _pairs_of(left, lambda i: range(max(0, i - _DENSE), min(n, i + _DENSE + 1)))
        similar = {i: np.argsort(-self._descriptors_nd @ self._descriptors_nd[i]) for i in left}
        return _pairs_of(left, lambda i: similar[i][: _DENSE + 1].tolist())


def _pairs_of(images: Sequence[int], partners: Callable[[int], Iterable[int]]) -> list[Pair]:
    """Return the pairs of images with their partners, sorted."""
    pairs = {(min(i, j), max(i, j)) for i in images for j in partners(i) if i != j}
    return sorted(pairs)


def _joined(
    parts: Sequence[Model], matches: _Matches, config: SfmConfig, refused: set[_TwoParts]
) -> list[Model]:
    """Return the parts, joined where they agree on images that they have in common.

    Args:
        parts: The parts, also those of earlier attempts.
        matches: Features and matches.
        config: What counts as agreement.
        refused: Pairs of parts that could not be joined, to which further ones are added. Later
            attempts add no matches between their images.
    """
    waiting = sorted(parts, key=lambda part: len(part.images), reverse=True)
    joined: list[Model] = []
    while waiting:
        part = waiting.pop(0)
        for k, other in enumerate(joined):
            if set(part.images) <= set(other.images):
                break
            both = frozenset((part.images.tobytes(), other.images.tobytes()))
            if both in refused:
                continue
            if merged := _join(other, part, matches, config):
                # The larger part may now agree with others.
                waiting = [merged, *joined[:k], *joined[k + 1 :], *waiting]
                waiting.sort(key=lambda one: len(one.images), reverse=True)
                joined = []
                break
            refused.add(both)
        else:
            joined.append(part)
    return sorted(joined, key=lambda part: len(part.images), reverse=True)


def _join(one: Model, other: Model, matches: _Matches, config: SfmConfig) -> Model | None:
    """Return the model of both parts' images, None where the parts do not agree."""
    common, own, others_own = np.intersect1d(one.images, other.images, return_indices=True)
    if len(common) < config.min_images:
        return None
    group_k = groups_that_agree(one, [other], config)[own]
    agreeing = group_k == max(set(group_k.tolist()), key=group_k.tolist().count)
    if group_k[agreeing][0] < 0 or agreeing.sum() < _MIN_COMMON_AGREEMENT * len(common):
        return None
    scale, T = align_poses(
        other.T_model_cam_n44[others_own[agreeing]], one.T_model_cam_n44[own[agreeing]]
    )
    in_one = Gauge(scale, T)
    moved = zip(other.images, map(in_one.apply, other.T_model_cam_n44), strict=True)
    poses = {int(i): pose for i, pose in moved}
    poses |= {int(i): pose for i, pose in zip(one.images, one.T_model_cam_n44, strict=True)}
    cameras = other.cameras() | one.cameras()
    with busy("join parts"):
        both = Model.triangulated(matches.path, poses, cameras).adjusted()
    accepted = _accepted_parts(both, matches, config)
    return accepted[0] if accepted and len(accepted[0].images) == len(poses) else None


def _write(result: SfmPoses, folder: Path) -> None:
    """Write a result; the folder exists only when it is complete."""
    partial = folder.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    for k, part in enumerate(result.parts):
        part.write(partial / str(k))
    (partial / "left_out.json").write_text(json.dumps(result.left_out))
    check_free_space(partial)
    os.replace(partial, folder)


def _read(folder: Path) -> SfmPoses | None:
    """Return the result in a folder, None where there is none."""
    if not folder.exists():
        return None
    paths = sorted(folder.glob("*/points3D.bin"), key=lambda path: int(path.parent.name))
    left_out = json.loads((folder / "left_out.json").read_text())
    return SfmPoses(
        [Model.of(pycolmap.Reconstruction(path.parent)) for path in paths],
        {int(image): reason for image, reason in left_out.items()},
    )


def _solve(
    matches: _Matches, left: Sequence[int], folder: Path, config: SfmConfig
) -> tuple[list[Model], dict[int, str]]:
    """Return the parts on which global and incremental mapping agree, and why images are in none.

    Args:
        matches: Features and matches.
        left: The images to place; those that share matches with them take part.
        folder: For the models.
        config: What counts as agreement.
    """
    wanted = set(left)
    beside = {i for pair in matches.geometries if wanted.intersection(pair) for i in pair}
    geometries = {p: one for p, one in matches.geometries.items() if beside.issuperset(p)}
    first = _map("global", matches.database, geometries, folder)
    # A pair whose two-view geometry is the wrong one of two, as for flat scenes, misleads the
    # incremental mapper, which starts from one pair. The global one averages all of them.
    consistent = _consistent_pairs(first, geometries)
    second = _map("incremental", matches.database, consistent, folder)
    parts: list[Model] = []
    for model in first:
        for members in consistent_parts(model, [second], config):
            parts += _accepted_parts(model.part(members).adjusted(), matches, config)
    return parts, _reasons(left, first, second)


def _map(
    kind: mapper.Kind,
    database: FeatureDatabase,
    geometries: Mapping[Pair, TwoView],
    folder: Path,
) -> list[Model]:
    if not geometries:
        return []
    path = folder / f"{kind}.db"
    if not (folder / kind).exists():
        database.copy_with(path, geometries)
    refine = not all(image.known for image in database.images)
    mapping = mapper.Mapping(kind, path, folder / kind, refine)
    models = [Model.of(one) for one in run_mapper(mapping, len(database.images))]
    path.unlink(missing_ok=True)
    return models


def _consistent_pairs(
    models: Sequence[Model], geometries: Mapping[Pair, TwoView]
) -> dict[Pair, TwoView]:
    """Return the pairs whose rotation agrees with that of the model that has both images."""
    kept = dict(geometries)
    for model in models:
        position = {int(image): k for k, image in enumerate(model.images)}
        for (i, j), pair in geometries.items():
            if i in position and j in position:
                difference = rotation_difference_deg(model, position[i], position[j], pair)
                if difference > _MAX_ROTATION_DIFFERENCE_DEG:
                    kept.pop((i, j), None)
    return kept


def _accepted_parts(part: Model, matches: _Matches, config: SfmConfig) -> list[Model]:
    """Return what remains of a part after the checks of its image pairs and halves."""
    agreement_n = two_view_agreement(part, matches.geometries, _MAX_ROTATION_DIFFERENCE_DEG)
    known_n = agreement_n[np.isfinite(agreement_n)]
    if not len(known_n) or known_n.mean() < _MIN_TWO_VIEW_AGREEMENT:
        return []
    contradicted_n = _contradicted(part, matches.database)
    if contradicted_n.mean() > _MAX_CONTRADICTED:
        _log.warning(
            "a part of %d images is left out: images that should show the same there do not "
            "match, as where different places look alike",
            len(part.images),
        )
        return []
    if contradicted_n.any():
        rest = part.part(np.flatnonzero(~contradicted_n))
        found = connected_parts(np.zeros(len(rest.images), int), rest.covisible_nn(), 1)
    else:
        found = consistent_parts(part, [[half] for half in halves(part)], config)
        if len(found) == 1 and len(found[0]) == len(part.images):
            return [part]
        rest = part
    large = [members for members in found if len(members) >= config.min_images]
    smaller = [rest.part(members).adjusted() for members in large]
    return [one for some in smaller for one in _accepted_parts(some, matches, config)]


def _contradicted(part: Model, database: FeatureDatabase) -> np.ndarray:
    """Return whether (n,) images do not match those that should show nearly the same."""
    count = len(part.images)
    pairs = mostly_common_pairs(
        part.T_model_cam_n44,
        [database.images[i].working for i in part.images],
        float(np.nanmedian(part.median_depth_n())),
        min(_COMMON_PAIRS * count, _MAX_COMMON_PAIRS),
    )
    numbers = [(int(part.images[i]), int(part.images[j])) for i, j in pairs]
    database.match(numbers)
    verified = database.two_view_geometries()
    matched = {pair for pair, number in zip(pairs, numbers, strict=True) if number in verified}
    contradicted_n: np.ndarray = (
        overlap_agreement(count, pairs, matched) < _MIN_OVERLAP_AGREEMENT  # NaN: False
    )
    return contradicted_n


def _reasons(
    left: Sequence[int], first: Sequence[Model], second: Sequence[Model]
) -> dict[int, str]:
    """Return the reason why each image is in no part, if it is in none."""
    mapped_first, mapped_second = (
        {int(image) for model in models for image in model.images} for models in (first, second)
    )
    reasons = {}
    for i in left:
        if i in mapped_first and i in mapped_second:
            reasons[i] = _CONTRADICTED
        elif i in mapped_first or i in mapped_second:
            reasons[i] = "only one of two solutions could place it"
        else:
            reasons[i] = _UNCONNECTED
    return reasons


def _why_no_part_is_accepted(images: Sequence[SfmImage], reasons: Mapping[int, str]) -> str:
    """Return the message for images of which no part is accepted."""
    counts = Counter(reasons.values()).most_common(2)
    shown = "; ".join(f"{count}: {reason}" for reason, count in counts)
    zoom = "" if all(image.known for image in images) else ", with one focal length for each camera"
    return (
        f"structure from motion found no consistent part of {len(images)} images ({shown}); "
        f"expected photographs that overlap by two thirds{zoom}, and show things from several "
        "sides: move sideways"
    )
