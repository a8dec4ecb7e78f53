"""Anchors: points or poses that are known in a map's frame and in the user's own frame."""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import yaml

from mote_localization.errors import MoteError, first_line
from mote_localization.geometry import mean_rotation, pose_from, quaternion_xyzw, rigid
from mote_localization.input_files import check_yaml, read_input
from mote_localization.map_transform import FrameChange
from mote_localization.similarity import similarity

_log = logging.getLogger(__name__)
_MAX_BYTES = 256 << 10
_MIN_POINTS = 3
_MIN_SPREAD = 0.05  # of the points across a line, relative to their spread along it
_FORM = (
    "expected a list `anchors` of pairs {map: [x, y, z], target: [x, y, z]}, three or more, or of "
    "poses [x, y, z, qx, qy, qz, qw]; `frame: NAME` may replace `map`"
)

_Numbers = Annotated[tuple[float, ...], msgspec.Meta(min_length=3, max_length=7)]


class _Anchor(msgspec.Struct):
    target: _Numbers
    map: _Numbers | msgspec.UnsetType = msgspec.UNSET
    frame: str | msgspec.UnsetType = msgspec.UNSET  # in place of `map`: name of a training frame


class _File(msgspec.Struct):
    anchors: list[_Anchor]


@dataclass(frozen=True)
class AnchorFit:
    """The frame change that fits anchors, and how well it fits them."""

    change: FrameChange
    residuals_m: np.ndarray  # (n,) distance of each anchor
    scale: float  # of the best similarity: 1 where the map's metre is the user's


def read_anchors(
    path: Path, frames: Mapping[str, np.ndarray] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the poses (n, 4, 4) of anchors in the map and in the user's frame.

    The rotation of an anchor that is a point is NaN.

    Args:
        path: The file.
        frames: T_map_cam (4, 4) of training frames, which anchors may name; frames that are not
            among them are left out. None: anchors name no frames.

    Raises:
        MoteError: The file cannot be read, or holds no pairs of points or poses.
    """
    poses = []
    for number, anchor in enumerate(_read(path), 1):
        in_map = anchor.map
        if anchor.frame is not msgspec.UNSET:
            if frames is None:
                raise MoteError(
                    f"{path}: anchor {number} names a frame, but a finished map stores no frames; "
                    "use it with `mote-distill map`, or give `map: [x, y, z]`"
                )
            if anchor.frame not in frames:
                _log.warning("%s: '%s' is no frame of the map", path, anchor.frame[:60])
                continue
            T = frames[anchor.frame]
            in_map = (*T[:3, 3], *quaternion_xyzw(T[:3, :3]))[: len(anchor.target)]
        poses.append([_pose(np.array(numbers)) for numbers in (in_map, anchor.target)])
    if not poses:
        raise MoteError(f"{path}: found no anchors of this map, {_FORM}")
    T_n244 = np.array(poses)
    return T_n244[:, 0], T_n244[:, 1]


def check_anchors(path: Path) -> None:
    """Check that a file has the form of anchors, before the map is made.

    Raises:
        MoteError: The file cannot be read, or holds no pairs of points or poses.
    """
    _read(path)


def _read(path: Path) -> list[_Anchor]:
    """Return the anchors of a file, checked one by one."""
    try:
        text = read_input(path, _MAX_BYTES).decode()
        check_yaml(text)
        anchors = msgspec.convert(yaml.safe_load(text), _File).anchors
    except OSError as error:
        raise MoteError(f"{path}: cannot be read ({error.strerror}), {_FORM}") from error
    except (yaml.YAMLError, msgspec.ValidationError, ValueError, RecursionError) as error:
        raise MoteError(f"{path}: {first_line(error, 100)}; {_FORM}") from error
    for number, anchor in enumerate(anchors, 1):
        where = f"{path}: anchor {number}"
        named, located = anchor.frame is not msgspec.UNSET, anchor.map is not msgspec.UNSET
        if named == located:
            raise MoteError(f"{where} has both or neither of `map` and `frame`; {_FORM}")
        in_map = anchor.target if anchor.map is msgspec.UNSET else anchor.map
        sizes = [len(in_map), len(anchor.target)]
        if sizes not in ([3, 3], [7, 7]) or not np.isfinite([*in_map, *anchor.target]).all():
            raise MoteError(f"{where} has {sizes} numbers; {_FORM}")
        if any(len(one) == 7 and np.linalg.norm(one[3:]) < 0.5 for one in (in_map, anchor.target)):
            raise MoteError(f"{where} has a quaternion of length 0; {_FORM}")
    if not anchors:
        raise MoteError(f"{path}: found no anchors, {_FORM}")
    return anchors


def fit_anchors(
    T_map_n44: np.ndarray, T_target_n44: np.ndarray, metric: bool, where: str = "anchors"
) -> AnchorFit:
    """Return the frame change from a map to the user's frame.

    Args:
        T_map_n44: Anchors in the map's frame; the rotation of a point is NaN.
        T_target_n44: The same anchors in the user's frame.
        metric: The map is in metres: its scale stays. Otherwise the anchors determine it.
        where: Their file, for messages.

    Raises:
        MoteError: The anchors do not determine the frame.
    """
    source_n3, target_n3 = T_map_n44[:, :3, 3], T_target_n44[:, :3, 3]
    posed = np.isfinite(T_map_n44).all(axis=(1, 2))
    if posed.any() and (metric or len(source_n3) > 1):
        R_n33 = T_target_n44[posed, :3, :3] @ np.swapaxes(T_map_n44[posed, :3, :3], 1, 2)
        R = mean_rotation(R_n33)
        apart = len(source_n3) > 1 and np.ptp(source_n3, axis=0).any()
        fitted = similarity(source_n3, target_n3)[0] if apart else math.nan
    else:
        _check_spread(source_n3, where)
        fitted, T = similarity(source_n3, target_n3)
        R = T[:3, :3]
    if not metric and not 0 < fitted < np.inf:
        raise MoteError(f"{where}: the anchors determine no scale; {_FORM}, at different places")
    scale = 1.0 if metric else fitted
    translation = (target_n3 - scale * source_n3 @ R.T).mean(axis=0)
    change = FrameChange(rigid(R, translation), scale)
    residuals = np.linalg.norm(change.points(source_n3) - target_n3, axis=1)
    return AnchorFit(change, residuals, fitted)


def _pose(values: np.ndarray) -> np.ndarray:
    if len(values) == 7:
        return pose_from(values[:3], values[3:])
    T = np.full((4, 4), np.nan)
    T[:3, 3] = values
    return T


def _check_spread(points_n3: np.ndarray, where: str) -> None:
    """Raise `MoteError` if points do not determine a rotation."""
    if len(points_n3) < _MIN_POINTS:
        raise MoteError(f"{where}: found {len(points_n3)} points; {_FORM}")
    spread = np.linalg.svd(points_n3 - points_n3.mean(axis=0), compute_uv=False)
    if spread[1] < _MIN_SPREAD * spread[0] or not spread[0]:
        raise MoteError(
            f"{where}: the points are on one line, which determines no rotation; add a point "
            "beside the line"
        )
