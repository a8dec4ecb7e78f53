"""Scenes in the layouts of 7-Scenes and 12Scenes as they are distributed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from make_room_views import write_depth, write_image, write_pose
from make_scene import View

from mote_localization.camera import Camera
from mote_localization.geometry import invert
from mote_localization.scenes.datasets.seven_scenes import COLOUR_CAMERA, DEPTH_CAMERA
from mote_localization.scenes.depth_images import DepthCamera
from mote_localization.scenes.scene import Frame

NO_DEPTH_M = 65.535  # of 7-Scenes


def write_seven_scenes(folder: Path, train: Sequence[View], test: Sequence[View]) -> Path:
    """Write sequence 1 for training and sequence 2 for tests; return the folder.

    Args:
        folder: Folder of the scene.
        train: Images of `COLOUR_CAMERA`, depths of `DEPTH_CAMERA`, and poses of the latter.
        test: The same of the test frames.
    """
    for sequence, views in ((1, train), (2, test)):
        for i, view in enumerate(views):
            stem = folder / f"seq-{sequence:02d}/frame-{i:06d}"
            write_image(Path(f"{stem}.color.png"), view.image_hw3)
            depth_hw = np.where(view.depth_hw > 0, view.depth_hw, NO_DEPTH_M)
            write_depth(Path(f"{stem}.depth.png"), depth_hw)
            write_pose(Path(f"{stem}.pose.txt"), view.T_map_cam)
    (folder / "TrainSplit.txt").write_text("sequence1\r\n")
    (folder / "TestSplit.txt").write_text("sequence2\n")
    return folder


def view_of_seven_scenes(frame: Frame, T_colour_depth: np.ndarray) -> View:
    """Return a frame as the two cameras of 7-Scenes see it, for `write_seven_scenes`.

    Args:
        frame: Has intrinsics, pose and depth; its camera is undistorted.
        T_colour_depth: Pose (4, 4) of the depth camera in the frame of the colour camera.
    """
    camera, size = frame.known_camera(), (COLOUR_CAMERA.width, COLOUR_CAMERA.height)
    to_colour_33 = COLOUR_CAMERA.K_33 @ np.linalg.inv(camera.K_33)
    to_depth = DepthCamera(camera, invert(T_colour_depth))
    return View(
        cv2.warpPerspective(frame.image(), to_colour_33, size),
        frame.known_pose() @ T_colour_depth,
        to_depth.depth_in_colour(frame.known_depth(), DEPTH_CAMERA),
    )


def write_twelve_scenes(
    folder: Path, camera: Camera, train: Sequence[View], test: Sequence[View]
) -> Path:
    """Write sequence 0 for tests and sequence 1 for training; return the folder.

    Args:
        folder: Folder of the scene.
        camera: Of the images; undistorted.
        train: Views with depths of any size, the same for all.
        test: The same of the test frames.
    """
    views = [*test, *train]
    for i, view in enumerate(views):
        stem = folder / f"data/frame-{i:06d}"
        write_image(Path(f"{stem}.color.jpg"), view.image_hw3)
        write_depth(Path(f"{stem}.depth.png"), view.depth_hw)
        write_pose(Path(f"{stem}.pose.txt"), view.T_map_cam)
    K_44 = np.eye(4)
    K_44[:3, :3] = camera.K_33
    depth_height, depth_width = views[0].depth_hw.shape
    (folder / "info.txt").write_text(
        "m_versionNumber = 4\nm_sensorName = StructureSensor\n"
        f"m_colorWidth = {camera.width}\nm_colorHeight = {camera.height}\n"
        f"m_depthWidth = {depth_width}\nm_depthHeight = {depth_height}\nm_depthShift = 1000\n"
        f"m_calibrationColorIntrinsic = {' '.join(map(repr, K_44.reshape(-1).tolist()))} \n"
    )
    first, last = len(test), len(views) - 1
    (folder / "split.txt").write_text(
        f"sequence0 [frames={first}] [start=0 ; end={first - 1}]\n"
        f"sequence1 [frames={len(train)}] [start={first} ; end={last}]\n"
    )
    return folder
