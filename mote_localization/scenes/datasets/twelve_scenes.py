"""12Scenes as distributed (Valentin et al. 2016, Learning to Navigate the Energy Landscape).

info.txt                      key = value: m_colorWidth, m_colorHeight, m_depthShift (depth values
                              a metre) and m_calibrationColorIntrinsic (4x4 K of the colour size)
split.txt                     lines as `sequence0 [frames=357] [start=0 ; end=356]`; by convention
                              sequence0 holds the test frames; without the file, all frames train
data/frame-000000.color.jpg   1296x968
data/frame-000000.depth.png   640x480, registered to colour
data/frame-000000.pose.txt    4x4 camera-to-world, metres; infinity: not tracked
"""

import re
from pathlib import Path

import numpy as np

from mote_localization.camera import Camera
from mote_localization.errors import CameraError, SceneError
from mote_localization.scenes.frame_files import (
    FileFrame,
    FileScene,
    find_image,
    image_stems,
    make_frames,
)
from mote_localization.scenes.scene import NOMINAL_RATE_HZ
from mote_localization.scenes.text_files import read_pose, read_text

_SEQUENCE = re.compile(r"sequence(\d+)\s+\[frames=\d+\]\s+\[start=(\d{1,6})\s*;\s*end=(\d{1,6})\]")


class TwelveScenesScene(FileScene):
    """A scene of 12Scenes. Names, camera and poses are read on opening, images on demand."""

    def __init__(self, path: Path | str) -> None:
        """Open the folder.

        Raises:
            SceneError: Files are missing or damaged, or a pose is not a rigid transform.
        """
        path = Path(path)
        camera, depth_unit_m = _read_info(path / "info.txt")
        test, train = _read_split(path)

        def frame(index: int, name: str) -> FileFrame:
            return FileFrame(
                name,
                index / NOMINAL_RATE_HZ,
                camera,
                read_pose(path / f"data/{name}.pose.txt"),
                find_image(path, f"data/{name}.color"),
                path / f"data/{name}.depth.png",
                depth_unit_m,
                camera_from="info.txt",
            )

        frames = make_frames(path, sorted(test | train), frame)
        super().__init__(
            path, [f for f in frames if f.name in train], [f for f in frames if f.name in test]
        )


def _read_info(path: Path) -> tuple[Camera, float]:
    """Return the colour camera, and the unit of depth values in metres."""
    lines = [line.partition("=") for line in read_text(path).splitlines()]
    values = {key.strip(): value.strip() for key, _, value in lines}
    try:
        numbers = [float(x) for x in values["m_calibrationColorIntrinsic"].split()]
        K_44 = np.array(numbers).reshape(4, 4)
        width, height = int(values["m_colorWidth"]), int(values["m_colorHeight"])
        values_a_metre = float(values.get("m_depthShift", 1000))
        if not 0 < values_a_metre < np.inf:
            raise ValueError(f"m_depthShift is {values_a_metre}")
        return Camera.from_K(width, height, K_44[:3, :3]), 1 / values_a_metre
    except (KeyError, ValueError, CameraError) as error:
        raise SceneError(
            f"{path}: found {str(error)[:120]}, expected m_colorWidth, m_colorHeight, m_depthShift "
            "and 16 numbers of m_calibrationColorIntrinsic"
        ) from error


def _read_split(folder: Path) -> tuple[set[str], set[str]]:
    """Return the names of the test frames and those of the training frames."""
    path = folder / "split.txt"
    if not path.exists():
        return set(), set(image_stems(folder / "data", ".color"))
    parts: tuple[set[str], set[str]] = set(), set()
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if not line.strip():
            continue
        found = _SEQUENCE.match(line.strip())
        sequence, start, end = map(int, found.groups()) if found else (0, 1, 0)
        if start > end:
            raise SceneError(
                f"{path}, line {number}: found {line[:60]!r}, expected as "
                "'sequence0 [frames=357] [start=0 ; end=356]'"
            )
        names = [f"frame-{i:06d}" for i in range(start, end + 1)]
        for part in parts:
            if not part.isdisjoint(names):
                raise SceneError(
                    f"{path}, line {number}: frame {min(part.intersection(names))} is in another "
                    "sequence, too, expected in one of them"
                )
        parts[sequence > 0].update(names)
    return parts
