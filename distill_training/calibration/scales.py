"""Calibrates a trained student: the scale of its sigma, and the covariance of its poses.

A student's errors on its training frames are smaller than on new frames, and its sigma is learned
from the former. Held-out frames show by how much. Where the map has keyframes, the errors of poses
are measured on training frames without the nearest keyframes; where it has none, on changed views
of the held-out frames, which also show how likely a pose of the student is wrong.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from distill_training.calibration.pose_calibration_fit import (
    PoseError,
    fit_pose_calibration,
    unmeasured_calibration,
)
from distill_training.calibration.validation import (
    ChangedPose,
    HeldOutFigures,
    TestedPose,
    Validation,
)
from distill_training.calibration.wrong_pose_fit import fit_wrong_poses
from distill_training.students import Student
from distill_training.training.train_config import TrainConfig
from distill_training.training.trainer import TrainedStudent
from mote_localization.evaluation.metrics import are_wrong
from mote_localization.map_file import MapInfo
from mote_localization.pose_calibration import PoseCalibration
from mote_localization.pose_gates import LocalizerConfig
from mote_localization.validated_poses import ValidatedPose
from mote_localization.wrong_poses import WrongPoses

_MIN_SIGMA_SCALE = 0.1  # the teacher's noise may explain all errors: sigma is then unobservable
# The map's report shows the poses that were tested with all keyframes, or without the nearest one.
# Without more of them, a frame is farther from the keyframes than most images will be.
_USUAL_LEFT_OUT = 1
_log = logging.getLogger(__name__)


class CalibratedStudent(NamedTuple):
    """A student and the complete metadata of its map."""

    network: Student
    info: MapInfo


def calibrate(
    trained: TrainedStudent, validation: Validation, config: TrainConfig
) -> CalibratedStudent:
    """Scale a student's sigma, and return it with the complete metadata of its map.

    Args:
        trained: Its network is changed.
        validation: Measured the student while it was trained.
        config: Whether the errors of poses are measured.
    """
    info, network, measured = validation.info, trained.network, trained.measurement
    licences = dict.fromkeys(filter(None, (info.teacher_licence, network.licence)))
    info = replace(info, teacher_licence="; ".join(licences))
    if measured is None:  # in all processes of a distributed training but the first
        return CalibratedStudent(network, info)
    sigma = _sigma_scale(measured.held_out)
    network.head.scale_sigma(sigma)
    predictions = [prediction.with_scaled_sigma(sigma) for prediction in measured.predictions]
    tested = validation.held_out_poses(predictions, info) if config.validation else []
    if config.validation and info.keyframes:
        tested += validation.poses_without_near_keyframes(network, info)
    errors = [pose.found for pose in tested if pose.found]
    if config.validation and not info.keyframes:
        changed = validation.changed_poses(network, info)
        info = replace(info, wrong_poses=_wrong_poses(changed, info))
        errors = _accepted_errors(changed, info.wrong_poses)
    calibration = _pose_calibration(errors, info, config)
    usual = [pose for pose in tested if pose.left_out <= _USUAL_LEFT_OUT]
    validated = tuple(_validated(pose, calibration) for pose in usual)
    info = replace(info, pose_calibration=calibration, validation=validated)
    # A larger covariance may fail the gate on the position's deviation.
    figures = validation.held_out_figures(predictions, info)
    training = dict(trained.figures)
    training |= {f"held_out_{name}": value for name, value in figures.finite().items()}
    if math.isfinite(measured.held_out.sigma_scale):
        training["sigma_scale"] = sigma
    return CalibratedStudent(network, replace(info, training=training))


def _wrong_poses(changed: Sequence[ChangedPose], info: MapInfo) -> WrongPoses | None:
    """Return the probability of a wrong pose; None where it is not known."""
    if not (changed and info.metric):
        return None
    errors_n6 = np.array([pose.found.error_6 for pose in changed])
    wrong_n = are_wrong(
        np.linalg.norm(errors_n6[:, :3], axis=1),
        np.degrees(np.linalg.norm(errors_n6[:, 3:], axis=1)),
    )
    features_n4 = np.array([pose.features_4 for pose in changed])
    usual_n = np.array([not pose.is_hard for pose in changed])
    wrong_poses = fit_wrong_poses(features_n4, wrong_n, usual_n)
    if wrong_poses and not wrong_poses.limit(LocalizerConfig().max_wrong_rate):
        _log.warning(
            "%.0f %% of the poses of the student are wrong on new views, and none can be trusted: "
            "train longer, or make the map with keyframes",
            100 * wrong_n[usual_n].mean(),
        )
    return wrong_poses


def _accepted_errors(
    changed: Sequence[ChangedPose], wrong_poses: WrongPoses | None
) -> list[PoseError]:
    """Return the errors of the poses of hard views that a localizer accepts."""
    hard = [pose for pose in changed if pose.is_hard]
    if wrong_poses:
        limit = wrong_poses.limit(LocalizerConfig().max_wrong_rate)
        hard = [pose for pose in hard if wrong_poses.probability(pose.features_4) <= limit]
    return [pose.found for pose in hard]


def _pose_calibration(
    errors: Sequence[PoseError], info: MapInfo, config: TrainConfig
) -> PoseCalibration:
    """Return the measured calibration of the poses, or a safe one where there is none."""
    measured = fit_pose_calibration(errors)
    if measured:
        return measured
    if config.validation:
        _log.warning(
            "%d poses of test frames were accepted, too few to calibrate the covariance of poses: "
            "it is set to a safe value",
            len(errors),
        )
    return unmeasured_calibration(math.dist(info.bounds_min, info.bounds_max) / 2)


def _validated(tested: TestedPose, calibration: PoseCalibration) -> ValidatedPose:
    """Return a tested pose as the map stores it."""
    if tested.found is None:
        return ValidatedPose.record(tested.T_map_cam, None, None)
    error_6, covariance_66, distance = tested.found
    calibrated_66 = calibration.calibrated(covariance_66, distance)
    return ValidatedPose.record(
        tested.T_map_cam,
        float(np.linalg.norm(error_6[:3])),
        math.sqrt(float(np.trace(calibrated_66[:3, :3]))),
    )


def _sigma_scale(figures: HeldOutFigures) -> float:
    """Return the scale of sigma that the held-out frames show; 1 where there are none."""
    if math.isfinite(figures.sigma_scale):
        return round(max(figures.sigma_scale, _MIN_SIGMA_SCALE), 3)
    return 1.0
