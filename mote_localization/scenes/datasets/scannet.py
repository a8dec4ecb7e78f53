"""Scenes in the layout of ScanNet's exporter (Dai et al. 2017, ScanNet).

color/0.jpg                       colour images
depth/0.png                       millimetres, smaller than colour (optional)
pose/0.txt                        4x4 camera-to-world, metres; infinity: not tracked
intrinsic/intrinsic_color.txt     4x4 K of the colour images (optional)
intrinsic/intrinsic_depth.txt     4x4 K of the depth images; without it, they show what colour shows

The intrinsics may also be in the folder itself. The exporter also writes extrinsic_color.txt and
extrinsic_depth.txt; they are not read: both are the identity.
"""

from pathlib import Path

import numpy as np

from mote_localization.camera import Camera
from mote_localization.errors import SceneError
from mote_localization.scenes.depth_images import DepthCamera
from mote_localization.scenes.frame_files import (
    FileFrame,
    FileScene,
    find_image,
    image_stems,
    make_frames,
    size_of_image,
)
from mote_localization.scenes.scene import NOMINAL_RATE_HZ
from mote_localization.scenes.text_files import read_intrinsics, read_pose


class ScanNetScene(FileScene):
    """An exported scan, all frames for training. Depths are reprojected into the colour image."""

    def __init__(self, path: Path | str) -> None:
        """Open the folder.

        Raises:
            SceneError: Files are missing or damaged, or a pose is not a rigid transform.
        """
        path = Path(path)
        names = image_stems(path / "color")
        first = find_image(path, f"color/{names[0]}")
        camera = _read_camera(path, "intrinsic_color.txt", first)
        first_depth = next((p for n in names if (p := path / f"depth/{n}.png").exists()), None)
        depth_camera = None
        if camera is not None and first_depth is not None:
            found = _read_camera(path, "intrinsic_depth.txt", first_depth)
            depth_camera = DepthCamera(found, np.eye(4)) if found else None

        def frame(index: int, name: str) -> FileFrame:
            return FileFrame(
                name,
                index / NOMINAL_RATE_HZ,
                camera,
                read_pose(path / f"pose/{name}.txt"),
                find_image(path, f"color/{name}"),
                path / f"depth/{name}.png",
                depth_camera=depth_camera,
            )

        super().__init__(path, make_frames(path, names, frame))


def _read_camera(folder: Path, name: str, image: Path) -> Camera | None:
    """Return the camera of a file for images of an image's size; None: no such file."""
    candidates = (folder / "intrinsic" / name, folder / name)
    path = next((path for path in candidates if path.exists()), None)
    if path is None:
        return None
    camera = read_intrinsics(path, size_of_image(image))
    if not (0 < camera.cx < camera.width and 0 < camera.cy < camera.height):
        raise SceneError(
            f"{path}: found a principal point of {camera.cx:g}, {camera.cy:g} px for images of "
            f"{camera.width}x{camera.height} px, expected K of images of this size"
        )
    return camera
