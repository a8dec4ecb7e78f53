"""`mote cloud` and `mote grid`: the points of a map, and an occupancy grid for Nav2."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
import yaml

from mote_localization.bundles import is_bundle, read_bundle
from mote_localization.command_line import say
from mote_localization.errors import MoteError
from mote_localization.files import atomic_write, check_output
from mote_localization.gravity import up_of_cameras
from mote_localization.image_files import encode_png
from mote_localization.map_cloud import FREE, OCCUPIED, occupancy_grid, place_cloud
from mote_localization.map_file import UNKNOWN_SCALE, read_map
from mote_localization.ply_files import write_ply

_ENDINGS = ("pgm", "png", "yaml")
_PGM_OCCUPIED, _PGM_FREE, _PGM_UNKNOWN = 0, 254, 205  # of nav2_map_server


@dataclass(frozen=True)
class Cloud:
    """Write the points of a map's keyframes, map frame, as a PLY file."""

    map: tyro.conf.Positional[Path]  # map (.onnx) or bundle (.mote), made by `mote-distill map`
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]  # file to write (.ply)
    points: int = 1_000_000  # largest number of points

    def run(self) -> None:
        """Write the file."""
        if self.points < 1:
            raise MoteError(f"--points {self.points}: expected 1 or more")
        check_output(self.output, "--output")
        if is_bundle(self.map):
            infos = list(read_bundle(self.map).map_infos())
        else:
            infos = [read_map(self.map).info]
        cloud, info = place_cloud(infos, self.points), infos[0]
        write_ply(self.output, cloud.points_n3, cloud.grey_n[:, None].repeat(3, axis=1))
        say(f"cloud: {self.output} ({len(cloud.points_n3)} points, {info.unit}, map frame)")


@dataclass(frozen=True)
class GridCommand:
    """Write an occupancy grid of a map for nav2_map_server.

    The files are NAME.pgm and NAME.yaml, and NAME.png to look at. The map's z must be up: see
    `mote transform --level`.
    """

    map: tyro.conf.Positional[Path]  # map file (.onnx), made by `mote-distill map`
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]  # name of the files, without ending
    resolution: float = 0.05  # m, side of a cell
    low: float = 0.15  # m, least height above the floor at which something is an obstacle
    high: float = 1.5  # m, largest such height: that of the robot

    def run(self) -> None:
        """Write the files."""
        if not self.output.name:
            raise MoteError(f"--output {self.output}: expected the name of files, without ending")
        name = self.output.name
        if self.output.suffix[1:] in _ENDINGS:
            name = self.output.stem
        paths = {ending: self.output.with_name(f"{name}.{ending}") for ending in _ENDINGS}
        for path in paths.values():
            check_output(path, "--output")
        info = read_map(self.map).info
        if not info.metric:
            raise MoteError(f"{self.map}: the map's scale is {UNKNOWN_SCALE}, expected metres")
        grid = occupancy_grid(info, self.resolution, self.low, self.high, up_of_cameras(info))
        image_hw = np.full(grid.cells_hw.shape, _PGM_UNKNOWN, np.uint8)
        image_hw[grid.cells_hw == FREE] = _PGM_FREE
        image_hw[grid.cells_hw == OCCUPIED] = _PGM_OCCUPIED
        image_hw = image_hw[::-1]  # the first row of an image is at the largest y
        rows, columns = grid.cells_hw.shape
        x, y = grid.origin_2.tolist()
        description = {
            "image": paths["pgm"].name,
            "mode": "trinary",
            "resolution": self.resolution,
            "origin": [round(x, 6), round(y, 6), 0.0],
            "negate": 0,
            "occupied_thresh": 0.65,
            "free_thresh": 0.196,
        }
        contents = {
            "pgm": f"P5\n{columns} {rows}\n255\n".encode() + image_hw.tobytes(),
            "png": encode_png(np.ascontiguousarray(image_hw)),
            "yaml": yaml.safe_dump(description, sort_keys=False).encode(),
        }
        for ending, path in paths.items():
            with atomic_write(path) as file:
                file.write(contents[ending])
        say(
            f"grid: {paths['yaml']} ({columns} x {rows} cells of {self.resolution:g} m, floor at z "
            f"{grid.floor_m:.2f} m)"
        )
