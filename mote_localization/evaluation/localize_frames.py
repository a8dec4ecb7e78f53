"""Localizes the frames of a scene one after the other, without ROS."""

from collections.abc import Iterable, Iterator

from mote_localization.errors import CameraError, ImageError
from mote_localization.evaluation.metrics import Answer
from mote_localization.localizer import Localizer
from mote_localization.scenes import Frame


def localize_frames(
    localizer: Localizer, frames: Iterable[Frame], prior: bool = False
) -> Iterator[Answer]:
    """Localize frames one after the other, without their poses and their depth.

    Args:
        localizer: Localizer of the map.
        frames: Frames to localize.
        prior: Give the localizer the pose of the frame before, as the node does.

    Raises:
        MoteError: An image or its camera cannot be used; the message names the frame.
    """
    last = None
    for frame in frames:
        try:
            found = localizer.localize(frame.image(), frame.known_camera(), last)
        except (CameraError, ImageError) as error:
            raise type(error)(f"frame {frame.name[:60]}: {error}") from error
        last = found.T_map_cam if prior else None
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
