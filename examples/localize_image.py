"""Localize one image: `python examples/localize_image.py MAP.onnx IMAGE.jpg CAMERA.yaml`.

CAMERA.yaml is a calibration as ROS, OpenCV or Kalibr write it. Images must not be rectified.
"""

import sys

import numpy as np

from mote_localization.calibration_files import read_calibration
from mote_localization.errors import MoteError
from mote_localization.geometry import quaternion_xyzw
from mote_localization.image_files import read_image
from mote_localization.localizer import Localizer


def main(map_path: str, image_path: str, camera_path: str) -> None:
    """Print the camera's pose in the map frame, or why there is none."""
    localizer = Localizer.open(map_path)
    camera = read_calibration(camera_path)
    found = localizer.localize(read_image(image_path, upright=True), camera)
    if found.T_map_cam is None or found.covariance_66 is None:
        sys.exit(f"LOST: {found.reason}")
    deviation_m = np.sqrt(np.diag(found.covariance_66)[:3])
    print("position x y z (m):", found.T_map_cam[:3, 3].round(3))
    print("standard deviation (m):", deviation_m.round(3))
    print("orientation x y z w:", quaternion_xyzw(found.T_map_cam[:3, :3]).round(4))


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    try:
        main(*sys.argv[1:])
    except MoteError as error:
        sys.exit(f"error: {error}")
