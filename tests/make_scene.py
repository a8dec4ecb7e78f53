"""Small scene folders with known content, in the layout of 12Scenes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from mote_localization.camera import Camera
from mote_localization.geometry import pose_from

PLANE_CAMERA = Camera(128, 96, 100.0, 100.0, 63.5, 47.5)


@dataclass(frozen=True)
class View:
    """Content of a frame's files."""

    image_hw3: np.ndarray  # RGB uint8
    T_map_cam: np.ndarray
    depth_hw: np.ndarray | None = None  # m; None: no file


def write_scene(
    folder: Path, camera: Camera, views: Mapping[str, View], test: Sequence[str] = ()
) -> Path:
    """Write the views by name, for training unless they are in `test`; return the folder."""
    (folder / "data").mkdir(parents=True)
    np.savetxt(folder / "camera-intrinsics.txt", camera.K_33)
    train = [name for name in views if name not in test]
    for split, names in (("train", train), ("test", test)):
        (folder / f"{split}.txt").write_text("\n".join(names))
    for name, view in views.items():
        cv2.imwrite(str(folder / f"data/{name}.color.png"), view.image_hw3[..., ::-1])
        if view.depth_hw is not None:
            millimetres = (1000 * view.depth_hw).round().astype(np.uint16)
            cv2.imwrite(str(folder / f"data/{name}.depth.png"), millimetres)
        np.savetxt(folder / f"data/{name}.pose.txt", view.T_map_cam)
    return folder


def write_plane_scene(
    folder: Path, names: tuple[str, ...] = ("a", "b"), depth: bool = True
) -> None:
    """Write a scene whose frames show the slanted plane z = 2 + 0.2 x, camera frame."""
    camera = PLANE_CAMERA
    x = (np.arange(camera.width) - camera.cx) / camera.fx
    z_hw = np.broadcast_to(2 / (1 - 0.2 * x), (camera.height, camera.width))
    views = {}
    for i, name in enumerate(names):
        shape = (camera.height, camera.width, 3)
        noise_hw3 = np.random.default_rng(i).integers(0, 255, shape, np.uint8)
        pose = pose_from(np.array([i, 2.0, 3.0]), np.array([0.1, 0.2, 0.3, 0.9]))
        views[name] = View(noise_hw3, pose, z_hw if depth else None)
    write_scene(folder, camera, views)
