"""Calibrates a trained student: scales of its sigma and of the poses' covariance.

A student's errors on its training frames are smaller than on new frames, and its sigma is learned
from the former. The held-out frames show by how much; the map stores both scales.
"""

import logging
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from distill_training.calibration.validation import HeldOutFigures, Validation
from distill_training.students import Student
from distill_training.training.trainer import TrainedStudent
from mote_localization.errors import MoteError
from mote_localization.map_file import MapInfo, read_map

_MIN_SIGMA_SCALE = 0.1  # the teacher's noise may explain all errors: sigma is then unobservable
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scales:
    """Factors of a student's sigma and of the covariance of its poses."""

    sigma: float = 1.0
    covariance: float = 1.0


class CalibratedStudent(NamedTuple):
    """A student and the complete metadata of its map."""

    network: Student
    info: MapInfo


def read_scales(path: Path, info: MapInfo) -> Scales:
    """Return the scales that were measured for an earlier map of the place.

    Args:
        path: The earlier map.
        info: Metadata of the map under training.

    Raises:
        MoteError: The map cannot be used, differs in scene, camera, student, teacher, pose
            refinement or keyframes, or has no measured scales.
    """
    earlier, refused = read_map(path).info, f"{path}: cannot calibrate this map"
    for name in ("scene", "camera", "stride", "student", "teacher"):
        found, expected = str(getattr(earlier, name)), str(getattr(info, name))
        if found != expected:
            raise MoteError(f"{refused}: found {name} {found[:80]}, expected {expected[:80]}")
    if (earlier.drift is None) != (info.drift is None):
        raise MoteError(
            f"{refused}: the poses of one of the two were adjusted, those of the other were not"
        )
    if bool(earlier.keyframes) != bool(info.keyframes):
        raise MoteError(f"{refused}: one of the two has keyframes, the other has not")
    sigma = earlier.training.get("sigma_scale")
    if not isinstance(sigma, float | int) or not 0 < sigma < math.inf:
        raise MoteError(
            f"{path}: found no measured scale of its sigma, expected a map trained with "
            "--held-out above 0"
        )
    return Scales(float(sigma), earlier.covariance_scale)


def calibrate(
    trained: TrainedStudent, validation: Validation, given: Scales | None = None
) -> CalibratedStudent:
    """Scale a student's sigma, and return it with the complete metadata of its map.

    The network is not run: the figures follow from the predictions of the last measurement.

    Args:
        trained: Its network is changed.
        validation: Measured the student while it was trained.
        given: Scales of an earlier map; None: they are measured on the held-out frames.
    """
    info, network, measured = validation.info, trained.network, trained.measurement
    licences = dict.fromkeys(filter(None, (info.teacher_licence, network.licence)))
    info = replace(info, teacher_licence="; ".join(licences))
    if measured is None:  # in all processes of a distributed training but the first
        return CalibratedStudent(network, info)
    sigma = given.sigma if given else _sigma_scale(measured.held_out)
    network.head.scale_sigma(sigma)
    predictions = [prediction.with_scaled_sigma(sigma) for prediction in measured.predictions]
    figures = validation.held_out_figures(predictions, info)
    covariance = given.covariance if given else _covariance_scale(figures)
    if covariance != info.covariance_scale:
        info = replace(info, covariance_scale=covariance)
        # A larger covariance may fail the gate on the position's deviation.
        gated = validation.held_out_figures(predictions, info)
        figures = replace(gated, covariance_scale=figures.covariance_scale)
    held_out = {f"held_out_{name}": value for name, value in figures.finite().items()}
    training = trained.figures | held_out
    if given or math.isfinite(measured.held_out.sigma_scale):
        training["sigma_scale"] = sigma
    return CalibratedStudent(network, replace(info, training=training))


def _sigma_scale(figures: HeldOutFigures) -> float:
    """Return the scale of sigma that the held-out frames show; 1 where there are none."""
    if math.isfinite(figures.sigma_scale):
        return round(max(figures.sigma_scale, _MIN_SIGMA_SCALE), 3)
    _log.warning(
        "no frames are held out: sigma and covariance are not calibrated; give --calibration-from "
        "a map that was trained with --held-out and --margin"
    )
    return 1.0


def _covariance_scale(figures: HeldOutFigures) -> float:
    """Return the scale of the poses' covariance, 1 or more; 1 where no frame was localized."""
    if math.isfinite(figures.covariance_scale):
        return round(max(figures.covariance_scale, 1.0), 2)
    if figures.frames:
        _log.warning("no held-out frame was localized: the covariance is not calibrated")
    return 1.0
