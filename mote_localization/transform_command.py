"""`mote transform`: the frame of a finished map."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro

from mote_localization.anchors import fit_anchors, read_anchors
from mote_localization.command_line import print_table, say
from mote_localization.errors import MapFileError, MoteError
from mote_localization.files import check_output
from mote_localization.gravity import rotation_to_z, up_of_cameras, up_of_floor
from mote_localization.map_file import read_map, write_map
from mote_localization.map_transform import FrameChange, transform_map

_SCALE_TOLERANCE = 0.05  # of anchors: a larger difference from a metre is reported


@dataclass(frozen=True)
class Transform:
    """Write a map in another frame: level, or that of your own map; nothing is trained again."""

    map: tyro.conf.Positional[Path]  # map file (.onnx), made by `mote-distill map`
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]  # map file to write
    # rotate so that z is up, roll and pitch only: cameras: they are held without roll; floor: it is
    # seen in the keyframes
    level: Literal["no", "cameras", "floor"] = "no"
    # file with points or poses in the map's frame and in yours (.yaml), see docs/make_a_map.md
    anchor: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None

    def run(self) -> None:
        """Compute the frame change, print it, and write the map."""
        if (self.level != "no") == (self.anchor is not None):
            raise MoteError("found neither or both of --level and --anchor, expected one of them")
        check_output(self.output, "--output")
        map_file = read_map(self.map)
        metric, rows = map_file.info.metric, {}
        if self.anchor is not None:
            T_map_n44, T_target_n44 = read_anchors(self.anchor)
            fit = fit_anchors(T_map_n44, T_target_n44, metric, str(self.anchor))
            change, metric = fit.change, True
            rows["anchors"] = (
                f"{len(fit.residuals_m)}, off by {100 * np.median(fit.residuals_m):.1f} cm (median)"
                f", {100 * fit.residuals_m.max():.1f} cm (largest)"
            )
            rows["scale of the anchors"] = f"{fit.scale:.4f} times that of the map"
            if map_file.info.metric and abs(fit.scale - 1) > _SCALE_TOLERANCE:
                rows["scale of the anchors"] += ": check the anchors; the map keeps its scale"
        else:
            up = up_of_floor if self.level == "floor" else up_of_cameras
            T = np.eye(4)
            T[:3, :3] = rotation_to_z(up(map_file.info))
            change = FrameChange(T)
        R = change.T_new_map[:3, :3]
        angle_deg = np.degrees(np.arccos(np.clip(R[2, 2], -1, 1)))
        rows["tilt of the z axis"] = f"{angle_deg:.2f} deg"
        model, info = transform_map(map_file, change, metric)
        try:
            write_map(self.output, model, info)
        except MapFileError as error:
            raise MapFileError(f"{error}; the map was not transformed") from error
        print_table(rows, str(self.output))
        say(f"map: {self.output}")
