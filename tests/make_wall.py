"""A reconstruction of a wall for tests, and settings of a small student and a short training."""

from pathlib import Path

import numpy as np

from distill_training.reconstruction import ReconstructedFrame, Reconstruction
from distill_training.training.train_config import TrainConfig
from mote_localization.camera import Camera, cell_pixels
from mote_localization.geometry import pose_from, transform

CAMERA = Camera(64, 48, 50.0, 50.0, 31.5, 23.5)
POSE = pose_from(np.array([1.0, 2.0, 3.0]), np.array([0.1, 0.2, 0.3, 0.9]))
# settings of a small cnn
SMALL = {"stem": 8, "fine": 16, "coarse": 16, "coarse_blocks": 1, "fine_blocks": 1}
QUICK = TrainConfig(steps=6, batch=2, keyframes=0, validation=False, precision="fp32")


def wall_frame(T_map_cam: np.ndarray = POSE, seed: int = 0) -> ReconstructedFrame:
    """Return a frame that shows the plane z = 2 + 0.1 x - 0.2 y, camera frame."""
    rays = CAMERA.rays(cell_pixels(64, 48, 8))
    z = 2 / (1 - 0.1 * rays[..., 0] + 0.2 * rays[..., 1])
    points = transform(T_map_cam, rays * z[..., None]).astype(np.float32)
    image = np.random.default_rng(seed).integers(0, 255, (48, 64, 3), np.uint8)
    return ReconstructedFrame(image, points, np.full((6, 8), 0.01, np.float32))


def write_wall(folder: Path) -> Reconstruction:
    """Write a reconstruction of four frames, 10 cm apart."""
    poses = {
        f"f{i}": pose_from(np.array([0.1 * i, 0, 0]), np.array([0, 0, 0, 1.0])) for i in range(4)
    }
    made = Reconstruction(folder, "wall", "rgbd", "", CAMERA, 8, {}, poses)
    made.begin()
    for i, (name, pose) in enumerate(poses.items()):
        made.write_frame(name, wall_frame(pose, i))
    return made
