"""Read a cloud: `python examples/read_cloud.py MAP.onnx`, or a reconstruction's folder."""

import sys
from pathlib import Path

import numpy as np

from mote_localization.backends import create_backend
from mote_localization.geometry import transform
from mote_localization.map_file import read_map


def map_cloud(path: Path) -> np.ndarray:
    """Return the points (n, 3) of a map's self-test image and keyframes, metres, map frame."""
    map_file = read_map(path)
    camera, info = map_file.info.camera, map_file.info
    points_hw3, _ = create_backend(map_file).predict(info.self_test.image_hw3())
    rays_hw3 = camera.cell_rays(info.stride)
    clouds_n3 = [points_hw3.reshape(-1, 3)]
    for k in info.keyframes:
        clouds_n3.append(transform(k.pose_44, rays_hw3.reshape(-1, 3) * k.depth_m()[:, None]))
    return np.concatenate(clouds_n3)


def reconstruction_cloud(folder: Path) -> np.ndarray:
    """Return the teacher's points (n, 3) of all frames, metres, map frame; NaN: no point."""
    from distill_training.reconstruction import open_reconstruction  # part of the trainer

    made = open_reconstruction(folder)
    return np.concatenate([made.read_frame(name).points_hw3.reshape(-1, 3) for name in made.poses])


if __name__ == "__main__":
    path = Path(sys.argv[1])
    points_n3 = reconstruction_cloud(path) if path.is_dir() else map_cloud(path)
    print(len(points_n3), "points, from", np.nanmin(points_n3, 0), "to", np.nanmax(points_n3, 0))
