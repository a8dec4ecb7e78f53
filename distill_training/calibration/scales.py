"""How far a student's word is to be trusted: scales of its sigmas and of the poses' covariances.

A student knows its error on what it was trained with, which is smaller than that on what it has not
seen. By how much is measured on frames held out, and told by the map.
"""

import logging
import math
from dataclasses import dataclass
from pathlib import Path

from distill_training.calibration.validation import HeldOutError
from mote_localization.errors import MoteError
from mote_localization.map_file import MapInfo, read_map

_LEAST_SIGMA_SCALE = 0.1  # where the teacher's noise explains all, nothing tells how small it is
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Calibration:
    """What a student's sigmas, and then the covariances of its poses, are multiplied by."""

    sigma: float = 1.0
    covariance: float = 1.0


def read_calibration(path: Path, info: MapInfo) -> Calibration:
    """Return what was measured when an earlier map was made.

    Args:
        path: The earlier map.
        info: The description of the map that is being made.

    Raises:
        MoteError: The map cannot be used, is of another scene, student or treatment of poses, or
            nothing was measured for it.
    """
    earlier = read_map(path).info
    for name in ("scene", "camera", "stride", "student", "teacher"):
        found, expected = getattr(earlier, name), getattr(info, name)
        if found != expected:
            raise MoteError(
                f"{path}: cannot calibrate this map: found {name} {found}, expected {expected}"
            )
    if (earlier.drift is None) != (info.drift is None):
        raise MoteError(
            f"{path}: cannot calibrate this map: the poses of one of the two were adjusted, those "
            "of the other were not"
        )
    if bool(earlier.keyframes) != bool(info.keyframes):
        raise MoteError(
            f"{path}: cannot calibrate this map: one of the two has keyframes, the other has not"
        )
    sigma = earlier.training.get("sigma_scale")
    if not isinstance(sigma, float | int) or not 0 < sigma < math.inf:
        raise MoteError(
            f"{path}: found no measured scale of its sigmas, expected a map trained with "
            "--held-out above 0"
        )
    return Calibration(float(sigma), earlier.covariance_scale)


def sigma_scale(error: HeldOutError) -> float:
    """Return the scale of the sigmas that held-out frames show; 1 where there are none."""
    if math.isfinite(error.sigma_scale):
        return round(max(error.sigma_scale, _LEAST_SIGMA_SCALE), 3)
    _log.warning(
        "no held-out frame tells how far sigmas and covariances can be trusted: they are not "
        "calibrated; give --calibration-from a map that was trained with --held-out and --margin"
    )
    return 1.0


def covariance_scale(error: HeldOutError) -> float:
    """Return the scale of the poses' covariances, 1 or more; 1 where no frame was localized."""
    if math.isfinite(error.covariance_scale):
        return round(max(error.covariance_scale, 1.0), 2)
    if error.frames:
        _log.warning("no held-out frame was localized: the poses' covariances are not calibrated")
    return 1.0
