"""Localize a video: `python examples/localize_video.py MAP.onnx VIDEO CAMERA.yaml OUT.tum`.

OUT.tum gets a line per localized frame: time (s), position x y z (m), quaternion x y z w.
"""

import sys

import cv2
import numpy as np

from mote_localization.calibration_files import read_calibration
from mote_localization.geometry import quaternion_xyzw
from mote_localization.localizer import Localizer


def main(map_path: str, video_path: str, camera_path: str, output: str) -> None:
    """Write the trajectory of the localized frames, and print how many there are."""
    localizer = Localizer.open(map_path)
    camera = read_calibration(camera_path)
    video = cv2.VideoCapture(video_path)
    rows, frames, tracking = [], 0, None
    while True:
        read, bgr_hw3 = video.read()
        if not read:
            break
        stamp_s = video.get(cv2.CAP_PROP_POS_MSEC) / 1000
        found = localizer.localize(cv2.cvtColor(bgr_hw3, cv2.COLOR_BGR2RGB), camera, tracking)
        frames += 1
        # The previous frame saves time. Every 30th frame is localized without it.
        tracking = found.tracking if frames % 30 else None
        if found.T_map_cam is not None:
            orientation = quaternion_xyzw(found.T_map_cam[:3, :3])
            rows.append([stamp_s, *found.T_map_cam[:3, 3], *orientation])
    np.savetxt(output, np.array(rows).reshape(-1, 8), fmt="%.9f")
    print(f"{len(rows)} of {frames} frames localized")


if __name__ == "__main__":
    main(*sys.argv[1:])
