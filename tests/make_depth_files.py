"""Writes folders of depth for six views of the box room, for tests of the teacher `files`."""

import json
from pathlib import Path

import cv2
import numpy as np
from make_map import CAMERA, T_MAP_CAM, room_points

from distill_training.teachers.depth_files.depth_folder import DepthFolder
from mote_localization.geometry import invert, transform

SMALL = CAMERA.resized(160, 120)
INDEX = {"format": "mote-depth", "version": 1, "model": "Net", "licence": "Apache-2.0"}
NAMES = [f"view{i}" for i in range(6)]


def pose(i: int) -> np.ndarray:
    T = T_MAP_CAM.copy()
    T[:3, :3] = cv2.Rodrigues(np.array([0.01, 0, 0.1 * (i % 3)]))[0] @ T[:3, :3]
    T[:3, 3] += 0.25 * i, -0.2 * (i % 2), 0.1 * i
    return T


def depth_of(T_map_cam: np.ndarray) -> np.ndarray:
    """Return the depth of the box room, (120, 160)."""
    return transform(invert(T_map_cam), room_points(T_map_cam, SMALL, stride=1))[..., 2]


def write_folder(folder: Path, scale: str = "per_image", **more: object) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "index.json").write_text(json.dumps({**INDEX, "scale": scale, **more}))
    return folder


def read_files(folder: Path, names: list[str] = NAMES) -> dict:
    return dict(DepthFolder(folder).read(names))
