"""`mote`: the runtime's command line."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from mote_localization.backends import BACKEND_HELP
from mote_localization.backends.engine_builder import Gpu, Precision, engine_for
from mote_localization.backends.engines import cache_folder
from mote_localization.bundles import is_bundle, read_bundle
from mote_localization.bundles.bundle_localizer import open_localizer
from mote_localization.bundles.bundle_table import print_bundle
from mote_localization.calibration_files import read_calibration
from mote_localization.cloud_commands import Cloud, GridCommand
from mote_localization.command_line import File, Flat, print_table, run_command, say
from mote_localization.errors import CameraError, ImageError, MoteError
from mote_localization.evaluation.bench import Bench
from mote_localization.evaluation.evaluate import Evaluate
from mote_localization.evaluation.evaluate_poses import EvaluatePoses
from mote_localization.geometry import quaternion_xyzw
from mote_localization.image_files import image_size, read_image
from mote_localization.map_file import UNKNOWN_SCALE, MapFile, read_map
from mote_localization.nodes.player import Replay
from mote_localization.scenes import RecordingOptions, open_scene
from mote_localization.transform_command import Transform
from mote_localization.validated_poses import validation_text


@dataclass(frozen=True)
class Inspect:
    """Print the metadata of a map, or what a recording holds."""

    path: tyro.conf.Positional[Path]  # map (.onnx), bundle (.mote), or recording of any layout
    # draw there where the map is accurate and where to record more (.png, .svg, .pdf)
    report: File = None
    recording: Annotated[RecordingOptions, Flat] = field(default_factory=RecordingOptions)

    def run(self) -> None:
        """Print a table, and draw the picture."""
        if self.path.suffix == ".onnx":
            map_file = read_map(self.path)
            print_table(_map_rows(map_file), title=str(self.path))
            if self.report:
                from mote_localization.evaluation.map_picture import draw_map  # imports matplotlib

                draw_map(map_file, self.report)
                say(f"picture: {self.report}")
        elif self.report:
            raise MoteError(f"found --report with {self.path}, expected a map (.onnx)")
        elif is_bundle(self.path):
            print_bundle(read_bundle(self.path))
        else:
            print_table(open_scene(self.path, self.recording).described(), title=str(self.path))


def _map_rows(map_file: MapFile) -> dict[str, str]:
    """Return the metadata of a map as rows to print: name and value."""
    info, camera = map_file.info, map_file.info.camera
    rows, columns = info.cells_hw
    bounds = zip("xyz", info.bounds_min, info.bounds_max, strict=True)
    return {
        "scene": info.scene,
        "file": f"{len(map_file.model) / 2**20:.1f} MiB",
        "canonical camera": f"{camera.width}x{camera.height} px, "
        f"fx {camera.fx:.1f} fy {camera.fy:.1f} cx {camera.cx:.1f} cy {camera.cy:.1f}",
        "pointmap": f"{columns}x{rows} cells, stride {info.stride} px",
        "bounds": ", ".join(f"{axis} {low:.2f} to {high:.2f}" for axis, low, high in bounds)
        + f" {info.unit}",
        "scale": "metres" if info.metric else UNKNOWN_SCALE,
        "validation": validation_text(info.validation, info.unit) if info.validation else "none",
        "covariance of the poses": f"{info.pose_calibration}",
        "wrong poses of the student": f"{info.wrong_poses or 'not measured'}",
        "drift of the given poses": f"{info.drift or 'none known'}",
        "keyframes": f"{len(info.keyframes) or 'none'}",
        "self-test": f"an image of {len(info.self_test.image) / 1000:.0f} kB"
        if info.self_test
        else "none",
        "teacher": info.teacher,
        "licence of the teacher": info.teacher_licence or "none",
        "student": info.student,
        "created": info.created,
        **{
            f"training: {name.replace('_', ' ')}": str(value)
            for name, value in info.training.items()
        },
    }


@dataclass(frozen=True)
class Localize:
    """Print the pose of the camera for one image."""

    image: tyro.conf.Positional[Path]  # JPEG, PNG, WebP, TIFF or HEIC
    map: Path  # map (.onnx), made by `mote-distill map`, or bundle (.mote)
    camera: Path  # calibration of the camera, as ROS, OpenCV or Kalibr write it
    backend: Annotated[str, tyro.conf.arg(help=BACKEND_HELP)] = "onnxruntime"
    threads: int = 0  # CPU threads of the network; 0: one per core

    def run(self) -> None:
        """Localize the image; print pose, covariance, inliers and times."""
        camera = read_calibration(self.camera)
        localizer = open_localizer(self.map, self.backend, self.threads)
        # Calibrations describe upright images, unless only the image as stored has their size.
        size = camera.width, camera.height
        as_stored = image_size(self.image) == size != image_size(self.image, upright=True)
        image_hw3 = read_image(self.image, upright=not as_stored)
        try:
            localizer.localize(image_hw3, camera)  # builds the remap table, which is not timed
            found = localizer.localize(image_hw3, camera)
        except (CameraError, ImageError) as error:
            raise type(error)(f"{self.image} by {self.camera}: {error}") from error
        if found.T_map_cam is None or found.covariance_66 is None:
            raise MoteError(f"{self.image}: lost: {found.reason}")
        unit, deviation = localizer.info.unit, np.sqrt(np.diag(found.covariance_66))
        quaternion = quaternion_xyzw(found.T_map_cam[:3, :3])
        entries = {
            "position x y z": " ".join(f"{v:.4f}" for v in found.T_map_cam[:3, 3]) + f" {unit}",
            "standard deviation": " ".join(f"{v:.4f}" for v in deviation[:3]) + f" {unit}",
            "orientation x y z w": " ".join(f"{v:.5f}" for v in quaternion),
            "standard deviation ": " ".join(f"{v:.3f}" for v in np.degrees(deviation[3:]))
            + " deg about x y z",
            f"covariance\nx y z rotX rotY rotZ\n{unit}, rad\nmap frame": "\n".join(
                " ".join(f"{value: .1e}" for value in row) for row in found.covariance_66
            ),
            "inliers": f"{found.inliers} of {found.cells} cells, "
            f"median error {found.reprojection_px:.2f} px",
            "milliseconds": ", ".join(f"{k} {1000 * s:.1f}" for k, s in found.seconds.items()),
        }
        print_table(entries)


@dataclass(frozen=True)
class BuildEngine:
    """Build a map's TensorRT-RTX engine for a GPU in advance, and store it in the cache."""

    map: tyro.conf.Positional[Path]  # map file (.onnx), made by `mote-distill map`
    # compute capability of the GPU, as in sm_86; the GPU itself is not needed
    gpu: Annotated[str, tyro.conf.arg(name="for", metavar="SM")]
    # of the backbone, unless the map computes in int8; points are always computed in fp32
    precision: Precision = "fp16"

    def run(self) -> None:
        """Build the engine unless the cache has it."""
        gpu = Gpu.parse(self.gpu)
        engine = engine_for(read_map(self.map), "tensorrt_rtx", gpu, self.precision)
        say(f"engine: {len(engine) / 2**20:.1f} MiB for {gpu}, in {cache_folder()}")


def main() -> None:
    """Run the `mote` command."""
    run_command(
        {
            "inspect": Inspect,
            "localize": Localize,
            "evaluate": Evaluate,
            "evaluate-poses": EvaluatePoses,
            "replay": Replay,
            "bench": Bench,
            "transform": Transform,
            "cloud": Cloud,
            "grid": GridCommand,
            "build-engine": BuildEngine,
        },
        "mote",
        "Localizes a camera from one image, with a map made by mote-distill.",
    )
