"""7-Scenes as distributed (Shotton et al. 2013, Scene Coordinate Regression Forests).

TrainSplit.txt TestSplit.txt          lines as `sequence1`
seq-01/frame-000000.color.png         640x480
seq-01/frame-000000.depth.png         640x480, millimetres, 65535 = no depth, of another camera
seq-01/frame-000000.pose.txt          4x4 camera-to-world of the depth camera, metres

The page of the data set gives the intrinsics of the depth camera: focal length 585, principal point
(320, 240). It gives none of the colour camera, whose focal length the literature takes as 525 with
the same principal point, the default of the Kinect. The poses are KinectFusion's, which tracks
depth: they are those of the depth camera. `T_COLOUR_DEPTH` is the calibration of another Kinect,
published with the LIRIS human activities dataset (liris.cnrs.fr/voir/activities-dataset/
kinect-calibration.html); the benchmark of Brachmann et al. 2021 (On the Limits of Pseudo Ground
Truth in Visual Camera Re-localisation) takes it for 7-Scenes, too.
"""

import re
from pathlib import Path

import numpy as np

from mote_localization.camera import Camera
from mote_localization.errors import SceneError
from mote_localization.geometry import check_pose, invert
from mote_localization.scenes.depth_images import DepthCamera
from mote_localization.scenes.frame_files import (
    FileFrame,
    FileScene,
    find_image,
    image_stems,
    make_frames,
)
from mote_localization.scenes.scene import NOMINAL_RATE_HZ
from mote_localization.scenes.text_files import read_pose, read_text

COLOUR_CAMERA = Camera(640, 480, 525.0, 525.0, 320.0, 240.0)
DEPTH_CAMERA = Camera(640, 480, 585.0, 585.0, 320.0, 240.0)
T_COLOUR_DEPTH = check_pose(
    np.array(
        [
            [9.9996518012567637e-01, 2.6765126468950343e-03, -7.9041012313000904e-03, -0.025558943],
            [-2.7409311281316700e-03, 9.9996302803027592e-01, -8.1504520778013286e-03, 0.000101096],
            [7.8819942130445332e-03, 8.1718328771890631e-03, 9.9993554558014031e-01, 0.002031832],
            [0.0, 0.0, 0.0, 1.0],
        ]
    ),
    "T_COLOUR_DEPTH",
)
_NO_DEPTH = 65535
_SEQUENCE = re.compile(r"(?:sequence|seq-?)0*(\d{1,4})", re.I)


class SevenScenesScene(FileScene):
    """A scene of 7-Scenes; frames are named as `seq-01_frame-000000`.

    Poses are those of the colour camera, and depths are reprojected into the colour image.
    """

    def __init__(self, path: Path | str) -> None:
        """Open the folder.

        Raises:
            SceneError: Files are missing or damaged, or a pose is not a rigid transform.
        """
        path = Path(path)
        train, test = (_read_sequences(path / f"{s}Split.txt") for s in ("Train", "Test"))
        if train & test:
            raise SceneError(
                f"{path}: sequence {min(train & test)} is in TrainSplit.txt and in TestSplit.txt, "
                "expected in one of them"
            )
        folders = {number: path / f"seq-{number:02d}" for number in sorted(train | test)}
        stems = {  # of the images of each frame -> the number of its sequence
            f"{folder.name}/{stem}": number
            for number, folder in folders.items()
            for stem in image_stems(folder, ".color")
        }
        depth_camera = DepthCamera(DEPTH_CAMERA, T_COLOUR_DEPTH)

        def frame(index: int, stem: str) -> FileFrame:
            T_map_depth = read_pose(path / f"{stem}.pose.txt")
            return FileFrame(
                stem.replace("/", "_"),
                index / NOMINAL_RATE_HZ,
                COLOUR_CAMERA,
                None if T_map_depth is None else T_map_depth @ invert(T_COLOUR_DEPTH),
                find_image(path, f"{stem}.color"),
                path / f"{stem}.depth.png",
                invalid_depth=_NO_DEPTH,
                depth_camera=depth_camera,
                camera_from="the data set's documentation",
            )

        frames = make_frames(path, list(stems), frame)
        numbered = list(zip(stems.values(), frames, strict=True))
        super().__init__(
            path,
            [f for number, f in numbered if number in train],
            [f for number, f in numbered if number in test],
        )


def _read_sequences(path: Path) -> set[int]:
    """Return the numbers of the sequences in a file; none where it is missing."""
    numbers = set()
    for line in read_text(path).split() if path.exists() else []:
        found = _SEQUENCE.fullmatch(line)
        if found is None:
            raise SceneError(f"{path}: found {line[:40]!r}, expected lines as 'sequence1'")
        numbers.add(int(found[1]))
    return numbers
