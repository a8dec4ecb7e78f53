"""`mote transform`: the frame of a finished map."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro

from mote_localization.anchors import check_anchors, fit_anchors, read_anchors
from mote_localization.command_line import File, Flat, print_table, say
from mote_localization.errors import MapFileError, MoteError
from mote_localization.files import check_output
from mote_localization.gravity import rotation_to_z, up_of_cameras, up_of_floor
from mote_localization.map_file import MapInfo, read_map, write_map
from mote_localization.map_transform import FrameChange, transform_map

_SCALE_TOLERANCE = 0.05  # of anchors: a larger difference from a metre is reported


@dataclass(frozen=True)
class FrameOptions:
    """The frame of a map: level, or that of the user's own map."""

    # rotate so that z is up, roll and pitch only: cameras: they are held without roll; floor: it is
    # seen in the keyframes
    level: Literal["no", "cameras", "floor"] = "no"
    # file with points or poses in the map's frame and in yours (.yaml), see docs/make_a_map.md
    anchor: File = None

    @property
    def given(self) -> bool:
        """Whether the frame changes."""
        return self.level != "no" or self.anchor is not None

    def check(self) -> None:
        """Check the options before any work is done.

        Raises:
            MoteError: Both are given, or the file of anchors cannot be read.
        """
        if self.level != "no" and self.anchor is not None:
            raise MoteError(
                "found --level with --anchor, expected one of them: anchors determine roll and "
                "pitch too"
            )
        if self.anchor is not None:
            check_anchors(self.anchor)

    def check_fit(self, frames: Mapping[str, np.ndarray], metric: bool) -> None:
        """Check that anchors determine the frame of a map, before it is made.

        Args:
            frames: T_map_cam (4, 4) of the training frames.
            metric: Whether the map is in metres.

        Raises:
            MoteError: They do not.
        """
        if self.anchor is not None:
            fit_anchors(*read_anchors(self.anchor, frames), metric, str(self.anchor))

    def write(
        self, source: Path, output: Path, frames: Mapping[str, np.ndarray] | None = None
    ) -> None:
        """Write a map in the new frame, and print what fixed it.

        Args:
            source: The map.
            output: The map in the new frame; may be the same file.
            frames: T_map_cam (4, 4) of the training frames, which anchors may name; None: unknown.

        Raises:
            MoteError: The map cannot be read, nothing determines the frame, or the file cannot be
                written.
        """
        map_file = read_map(source)
        change, metric, rows = self._change(map_file.info, frames)
        angle_deg = np.degrees(np.arccos(np.clip(change.T_new_map[2, 2], -1, 1)))
        rows["tilt of the z axis"] = f"{angle_deg:.2f} deg"
        try:
            write_map(output, *transform_map(map_file, change, metric))
        except MapFileError as error:
            raise MapFileError(f"{error}; the map was not transformed") from error
        print_table(rows, str(output), stderr=True)

    def _change(
        self, info: MapInfo, frames: Mapping[str, np.ndarray] | None
    ) -> tuple[FrameChange, bool, dict[str, str]]:
        """Return the change, whether the new frame is in metres, and rows to print."""
        if self.anchor is None:
            up = up_of_floor if self.level == "floor" else up_of_cameras
            T = np.eye(4)
            T[:3, :3] = rotation_to_z(up(info))
            return FrameChange(T), info.metric, {}
        anchors = read_anchors(self.anchor, frames)
        fit = fit_anchors(*anchors, info.metric, str(self.anchor))
        off_cm = 100 * fit.residuals_m
        scale = f"{fit.scale:.4f} times that of the map"
        if info.metric and abs(fit.scale - 1) > _SCALE_TOLERANCE:
            scale += ": check the anchors; the map keeps its scale"
        rows = {
            "anchors": f"{len(off_cm)}, off by {np.median(off_cm):.1f} cm (median), "
            f"{off_cm.max():.1f} cm (largest)",
            "scale of the anchors": scale,
        }
        return fit.change, True, rows


@dataclass(frozen=True)
class Transform:
    """Write a map in another frame: level, or that of your own map; nothing is trained again."""

    map: tyro.conf.Positional[Path]  # map file (.onnx), made by `mote-distill map`
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]  # map file to write
    frame: Annotated[FrameOptions, Flat]

    def run(self) -> None:
        """Compute the frame change, print it, and write the map."""
        if not self.frame.given:
            raise MoteError("found neither --level nor --anchor, expected one of them")
        self.frame.check()
        check_output(self.output, "--output")
        self.frame.write(self.map, self.output)
        say(f"map: {self.output}")
