"""Poses of photographs by structure from motion, and what of them holds.

Structure from motion can be wrong without any sign in its residuals: an early image pair with the
wrong one of two possible poses, look-alike views, or two parts that few points connect. So two
independent solutions are computed, and only parts on which they agree are used.
"""

import json
import logging
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

import numpy as np
import pycolmap

from distill_training.poses.image_pairs import Pair, choose_pairs
from distill_training.poses.poses_config import PairsConfig, SfmConfig
from distill_training.poses.sfm import mapper
from distill_training.poses.sfm.checks import (
    halves,
    parts_that_hold,
    rotation_difference_deg,
    two_view_agreement,
)
from distill_training.poses.sfm.feature_database import FeatureDatabase, TwoView
from distill_training.poses.sfm.mapper import run_mappers
from distill_training.poses.sfm.sfm_images import SfmImage
from distill_training.poses.sfm.sfm_model import Model
from mote_localization.errors import ReconstructionError

_log = logging.getLogger(__name__)
_RESULT = "result"  # folder of the parts
_ENOUGH = 0.95  # fraction of the images in parts that hold: no further candidate is tried
_MAX_ROTATION_DIFFERENCE_DEG = 3.0  # between a pair's rotation and a model's, where both are right
_MIN_TWO_VIEW_AGREEMENT = 0.5  # fraction of a part's pairs: correct models have 0.75 or more


@dataclass(frozen=True)
class SfmPoses:
    """The parts of the images whose poses hold, and why the others do not."""

    parts: list[Model]  # the largest first; each in a frame and unit of its own
    left_out: dict[int, str] = field(default_factory=dict)  # image -> reason


def structure_from_motion(
    images: Sequence[SfmImage],
    folder: Path,
    config: SfmConfig,
    sequential: bool,
    poses: Sequence[np.ndarray | None] | None = None,
) -> SfmPoses:
    """Return the parts of the images whose poses hold; resumes an interrupted run.

    Args:
        images: The images, in recording order.
        folder: For features, matches and models.
        config: Features, pairs, and what the checks demand.
        sequential: The images are a recording: neighbours overlap.
        poses: Approximate T_map_cam (4, 4), which choose the pairs where all images have one.

    Raises:
        ReconstructionError: No part holds, or the folder cannot be written.
    """
    if finished := _read(folder / _RESULT):
        return finished
    database = FeatureDatabase(folder / "features.db", images, config)
    unusable = database.extract()
    best = SfmPoses([])
    usable = len(images) - len(unusable)
    for name, pairs in _candidates(database, config, sequential, poses):
        database.match(pairs)
        found = _solve(database, pairs, folder / name, config)
        if _count(found) > _count(best) or not best.left_out:
            best = found
        if _count(best) >= _ENOUGH * usable:
            break
    if not best.parts:
        raise ReconstructionError(_why_nothing_holds(images, unusable, best))
    result = SfmPoses(best.parts, {**best.left_out, **unusable})
    _write(result, folder / _RESULT)
    return result


def _write(result: SfmPoses, folder: Path) -> None:
    """Write a result; the folder exists only when it is complete."""
    partial = folder.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    for k, part in enumerate(result.parts):
        (partial / str(k)).mkdir(parents=True)
        part.reconstruction.write(partial / str(k))
    (partial / "left_out.json").write_text(json.dumps(result.left_out))
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


def _candidates(
    database: FeatureDatabase,
    config: SfmConfig,
    sequential: bool,
    poses: Sequence[np.ndarray | None] | None,
) -> Iterator[tuple[str, list[Pair]]]:
    """Yield choices of pairs, in the order of their cost."""
    n = len(database.images)
    cameras = [image.working for image in database.images]
    all_pairs = list(combinations(range(n), 2))
    chosen = choose_pairs(
        PairsConfig(per_image=config.per_image),
        database.image_descriptors(),
        cameras,
        poses or [None] * n,
        sequential,
    )
    yield "chosen", chosen
    if len(chosen) < len(all_pairs) and n <= config.exhaustive_images:
        yield "exhaustive", all_pairs


def _solve(
    database: FeatureDatabase, pairs: Sequence[Pair], folder: Path, config: SfmConfig
) -> SfmPoses:
    """Return the parts on which global and incremental mapping agree."""
    refine = not all(image.known for image in database.images)
    geometries = {p: g for p, g in database.two_view_geometries().items() if p in set(pairs)}
    first = _map("global", database, geometries, folder, refine)
    # A pair whose two-view geometry is the wrong one of two, as for flat scenes, misleads the
    # incremental mapper, which starts from one pair. The global one averages all of them.
    consistent = _consistent_pairs(first, geometries)
    second = _map("incremental", database, consistent, folder, refine)
    parts: list[Model] = []
    for model in first:
        for members in parts_that_hold(model, [second], config):
            part = model.part(members).adjusted()
            parts += _strong_parts(part, geometries, config)
    parts.sort(key=lambda part: len(part.images), reverse=True)
    return SfmPoses(parts, _reasons(database, first, second, parts))


def _map(
    kind: mapper.Kind,
    database: FeatureDatabase,
    geometries: Mapping[Pair, TwoView],
    folder: Path,
    refine: bool,
) -> list[Model]:
    path = folder / f"{kind}.db"
    if not (folder / kind).exists():
        folder.mkdir(parents=True, exist_ok=True)
        database.copy_with(path, geometries)
    mapping = mapper.Mapping(kind, path, folder / kind, refine)
    models = [Model.of(one) for one in run_mappers([mapping], len(database.images))[0]]
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


def _strong_parts(
    part: Model, geometries: Mapping[Pair, TwoView], config: SfmConfig
) -> list[Model]:
    """Return what remains of a part after the checks of its two-view geometries and halves."""
    agreement_n = two_view_agreement(part, geometries, _MAX_ROTATION_DIFFERENCE_DEG)
    if np.nanmean(agreement_n) < _MIN_TWO_VIEW_AGREEMENT:
        return []
    found = parts_that_hold(part, [[half] for half in halves(part)], config)
    if len(found) == 1 and len(found[0]) == len(part.images):
        return [part]
    return [part.part(members).adjusted() for members in found]


def _count(found: SfmPoses) -> int:
    return sum(len(part.images) for part in found.parts)


def _reasons(
    database: FeatureDatabase,
    first: Sequence[Model],
    second: Sequence[Model],
    parts: Sequence[Model],
) -> dict[int, str]:
    """Return the reason for each image that is in no part."""
    held = {int(image) for part in parts for image in part.images}
    mapped_first, mapped_second = (
        {int(image) for model in models for image in model.images} for models in (first, second)
    )
    reasons = {}
    for i in range(len(database.images)):
        if i in held:
            continue
        if i not in mapped_first and i not in mapped_second:
            reasons[i] = "not connected: no other image shows the same things"
        elif i in mapped_first and i in mapped_second:
            reasons[i] = "two solutions place it differently"
        else:
            reasons[i] = "only one of two solutions could place it"
    return reasons


def _why_nothing_holds(
    images: Sequence[SfmImage], unusable: Mapping[int, str], found: SfmPoses
) -> str:
    """Return the message for images of which no part holds."""
    counts = Counter({**found.left_out, **unusable}.values()).most_common(2)
    reasons = "; ".join(f"{count}: {reason}" for reason, count in counts)
    return (
        f"structure from motion found no part of {len(images)} images whose poses hold "
        f"({reasons}); expected photographs that overlap by two thirds and show things from "
        "several sides: move sideways between them"
    )
