"""The description of a map before its student is trained."""

from collections.abc import Sequence
from datetime import datetime, timezone

from distill_training.poses.drift_fit import fit_drift
from distill_training.reconstruction import Reconstruction
from distill_training.reconstruction.extent import SceneExtent
from mote_localization.map_file import MapInfo


def describe_map(
    reconstruction: Reconstruction,
    training: Sequence[str],
    extent: SceneExtent,
    family: str,
) -> MapInfo:
    """Return the metadata of a map, without keyframes and what calibration measures.

    Args:
        reconstruction: What the student is trained on.
        training: Names of the training frames; the drift of the given poses is fitted to these.
        extent: Of the training frames' points.
        family: Name of the student's family.
    """
    drift = None
    if reconstruction.given_poses:
        given = {name: reconstruction.given_pose(name) for name in training}
        drift = fit_drift(given, {name: reconstruction.poses[name] for name in training}).drift
    return MapInfo(
        scene=reconstruction.scene,
        camera=reconstruction.camera,
        stride=reconstruction.stride,
        bounds_min=extent.bounds_min,
        bounds_max=extent.bounds_max,
        teacher=reconstruction.teacher,
        teacher_licence=reconstruction.teacher_licence,
        student=family,
        metric=reconstruction.metric,
        drift=drift,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )
