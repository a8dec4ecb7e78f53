"""Images of a model, placed in the map frame."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from distill_training.poses.frame_points import FramePoints
from distill_training.poses.gauge import Gauge, gauge_from_poses
from distill_training.poses.sfm.colmap_camera import from_colmap
from distill_training.poses.sfm.sfm_images import SfmImage
from distill_training.poses.sfm.sfm_model import Model
from mote_localization.camera import Camera
from mote_localization.errors import ReconstructionError


@dataclass(frozen=True)
class PlacedImage:
    """An image in the map frame."""

    T_map_cam: np.ndarray  # (4, 4), m
    camera: Camera  # live camera, as given or as estimated
    points: FramePoints  # triangulated points that it sees


def place_images(part: Model, gauge: Gauge, images: Sequence[SfmImage]) -> dict[int, PlacedImage]:
    """Return the images of a model in the frame and unit of a gauge, by their number.

    Args:
        part: The model.
        gauge: Leads from the model to the map.
        images: All images, in the order of their numbers.
    """
    return {
        int(i): PlacedImage(
            gauge.apply(part.T_model_cam_n44[n]),
            live_camera(part, n, images[i]),
            frame_points(part, n).scaled(gauge.scale),
        )
        for n, i in enumerate(part.images)
    }


def given_gauge(part: Model, images: Sequence[SfmImage], given: Mapping[str, np.ndarray]) -> Gauge:
    """Return the gauge that leads from a model to the frame of given poses, which it is near.

    An adjustment with given positions leaves the rotation about a straight path free. The given
    rotations fix it.

    Args:
        part: The model.
        images: All images, in the order of their numbers.
        given: T_map_cam (4, 4) of frames, by name.
    """
    poses = {
        images[i].frame.name: T for i, T in zip(part.images, part.T_model_cam_n44, strict=True)
    }
    known = {name: T for name, T in given.items() if name in poses}
    try:
        return gauge_from_poses(poses, known, float(np.nanmedian(part.median_depth_n())))
    except ReconstructionError:  # all at one place, where positions fix nothing
        return Gauge(1.0, np.eye(4))


def live_camera(part: Model, n: int, image: SfmImage) -> Camera:
    """Return the live camera of the n-th image of a model: the given one, or the estimated one."""
    if image.known:
        return image.live
    estimated = from_colmap(part.camera_of(n))
    return estimated.resized(image.live.width, image.live.height)


def frame_points(part: Model, n: int) -> FramePoints:
    """Return the points that the n-th image of a model sees, units of the model."""
    seen = part.observations_of(n)
    return FramePoints(part.ray_k2[seen], part.depth_k[seen], part.depth_sigma_k[seen])
