"""Localizes the frames of a scene one after the other, without ROS."""

import logging
from collections.abc import Iterable, Iterator

from mote_localization.bundles.bundle_localizer import AnyLocalizer
from mote_localization.errors import CameraError, ImageError, SceneError
from mote_localization.evaluation.metrics import Answer
from mote_localization.intrinsics_check import CalibrationChecks
from mote_localization.scenes import Frame

_log = logging.getLogger(__name__)


def localize_frames(
    localizer: AnyLocalizer, frames: Iterable[Frame], tracking: bool = False
) -> Iterator[Answer]:
    """Localize frames one after the other, without their poses and their depth.

    A frame whose image cannot be read is lost, with a warning. Another warning names a calibration
    with which the frames disagree, where keyframes are used; it changes no result.

    Args:
        localizer: Localizer of the map.
        frames: Frames to localize.
        tracking: Give the localizer what it found in the frame before, as the node does.

    Raises:
        MoteError: A camera is not known, or does not fit the image; the message names the frame.
    """
    last, fault = None, ""
    checks = CalibrationChecks.of(localizer)
    for frame in frames:
        camera = frame.known_camera()
        try:
            image_hw3 = frame.image()
        except SceneError as error:
            _log.warning("frame %s is lost: %s", frame.name[:60], error)
            last, lost = None, "the image cannot be read"
            yield Answer(frame.name, frame.stamp_s, frame.T_map_cam, None, lost, 0, {})
            continue
        try:
            found = localizer.localize(image_hw3, camera, last)
        except (CameraError, ImageError) as error:
            raise type(error)(f"frame {frame.name[:60]}: {error}") from error
        last = found.tracking if tracking else None
        if checks and not fault:
            fault = checks.fault(0, camera, found)
            if fault:
                _log.warning("frame %s: %s", frame.name[:60], fault)
        yield Answer(
            name=frame.name,
            stamp_s=frame.stamp_s,
            T_map_cam_true=frame.T_map_cam,
            T_map_cam=found.T_map_cam,
            reason=found.reason,
            inliers=found.inliers,
            seconds=found.seconds,
            covariance_66=found.covariance_66,
        )
