"""`mote`: the runtime's command line."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from mote_localization.camera import read_camera_info
from mote_localization.commands import run_command
from mote_localization.errors import MoteError
from mote_localization.evaluation.evaluate import Evaluate
from mote_localization.geometry import quaternion_xyzw
from mote_localization.localizer import Localization, Localizer
from mote_localization.map_file import read_map
from mote_localization.nodes.player import Replay
from mote_localization.scenes.folder import read_image


@dataclass(frozen=True)
class Inspect:
    """Print what a map is."""

    map: tyro.conf.Positional[Path]  # map file (.onnx), made by `mote-distill map`

    def run(self) -> None:
        """Print the map's description.

        Raises:
            MapFileError: The file is no map.
        """
        map_file = read_map(self.map)
        info, camera = map_file.info, map_file.info.camera
        rows, columns = info.cells_hw
        size_m = np.subtract(info.bounds_max, info.bounds_min)
        described = {
            "scene": info.scene,
            "size": f"{len(map_file.model) / 2**20:.1f} MiB, map format {info.format_version}",
            "canonical camera": f"{camera.width}x{camera.height} px, "
            f"fx {camera.fx:.1f} fy {camera.fy:.1f} cx {camera.cx:.1f} cy {camera.cy:.1f}",
            "pointmap": f"{columns}x{rows} cells, stride {info.stride} px",
            "bounds": f"{info.bounds_min} to {info.bounds_max} m "
            f"({' x '.join(f'{s:.1f}' for s in size_m)} m)",
            "teacher": info.teacher,
            "licence of the teacher": info.teacher_licence or "none",
            "student": info.student,
            "created": info.created,
            **{
                f"training: {name.replace('_', ' ')}": str(value)
                for name, value in info.training.items()
            },
        }
        table = Table(show_header=False, title=str(self.map), title_justify="left")
        for name, value in described.items():
            table.add_row(name, value)
        Console().print(table)


@dataclass(frozen=True)
class Localize:
    """Print where one image was taken."""

    image: tyro.conf.Positional[Path]  # JPEG or PNG
    map: Path  # map file (.onnx), made by `mote-distill map`
    camera: Path  # calibration of the camera: YAML as ROS camera_calibration writes it
    backend: str = "onnxruntime"  # what runs the network
    threads: int = 0  # CPU threads of the network; 0: one per core

    def run(self) -> None:
        """Localize the image; print pose, covariance, inliers and times.

        Raises:
            MoteError: A file cannot be used, or the image gives no pose that can be believed.
        """
        camera = read_camera_info(self.camera)
        localizer = Localizer.open(self.map, self.backend, self.threads)
        image_hw3 = read_image(self.image)
        localizer.localize(
            image_hw3, camera
        )  # builds tables and warms up, so that the times below are a robot's
        found = localizer.localize(image_hw3, camera)
        if found.T_map_cam is None or found.covariance_66 is None:
            raise MoteError(f"{self.image}: lost: {found.reason}")
        Console().print(_table(found, found.T_map_cam, found.covariance_66))


def _table(found: Localization, T_map_cam: np.ndarray, covariance_66: np.ndarray) -> Table:
    """Return what is known of one image's pose."""
    deviation = np.sqrt(np.diag(covariance_66))
    table = Table(show_header=False)
    table.add_row("position x y z", " ".join(f"{v:.4f}" for v in T_map_cam[:3, 3]) + " m")
    table.add_row("standard deviation", " ".join(f"{v:.4f}" for v in deviation[:3]) + " m")
    table.add_row(
        "orientation x y z w", " ".join(f"{v:.5f}" for v in quaternion_xyzw(T_map_cam[:3, :3]))
    )
    table.add_row(
        "standard deviation",
        " ".join(f"{v:.3f}" for v in np.degrees(deviation[3:])) + " deg about x y z",
    )
    covariance = "\n".join(" ".join(f"{value: .2e}" for value in row) for row in covariance_66)
    table.add_row("covariance\nx y z rotX rotY rotZ\nm, rad, map frame", covariance)
    table.add_row(
        "inliers",
        f"{found.inliers} of {found.cells} cells, median error {found.reprojection_px:.2f} px",
    )
    times = ", ".join(f"{stage} {1000 * seconds:.1f}" for stage, seconds in found.seconds.items())
    table.add_row("milliseconds", times)
    return table


def main() -> None:
    """Run the `mote` command."""
    run_command(
        {"inspect": Inspect, "localize": Localize, "evaluate": Evaluate, "replay": Replay},
        "mote",
        "Tells a camera where it is. Maps are made by mote-distill.",
    )
