"""Damaged copies of all kinds of files: each is read, or refused by one error in time."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import yaml
from conftest import ROOT, python_path
from make_bag import an_image, an_info, record
from make_map import CAMERA, write_constant_map
from make_painted_room import keyframe, photograph, shifted
from make_scene import write_plane_scene
from make_trajectory import write_trajectory
from test_colmap_model import write_model

from mote_localization.map_file import read_map, write_map

COUNT = int(os.environ.get("MOTE_MUTANTS", 200))
BATCHES = 2


@pytest.fixture(scope="module")
def originals(tmp_path_factory) -> Path:
    """A small file or folder of each kind."""
    folder = tmp_path_factory.mktemp("originals")
    for kind in ("map", "camera", "anchors", "image", "poses", "scene"):
        (folder / kind).mkdir()
    plain = read_map(write_constant_map(folder / "map" / "plain.onnx"))
    keyframes = (keyframe(shifted(-0.5, 0, 0)), keyframe(shifted(0.4, 0.1, -0.3)))
    write_map(
        folder / "map" / "keyframes.onnx",
        onnx.load_model_from_string(plain.model),
        replace(plain.info, keyframes=keyframes),
    )
    camera = folder / "camera"
    (camera / "ros.yaml").write_text(
        yaml.safe_dump(
            {
                "image_width": 320, "image_height": 240, "distortion_model": "plumb_bob",
                "camera_matrix": {"rows": 3, "cols": 3, "data": CAMERA.K_33.ravel().tolist()},
                "distortion_coefficients": {"rows": 1, "cols": 5, "data": [0.1, 0, 0, 0, 0]},
            }
        )
    )  # fmt: skip
    storage = cv2.FileStorage(str(camera / "opencv.yaml"), cv2.FILE_STORAGE_WRITE)
    storage.write("image_width", 320)
    storage.write("image_height", 240)
    storage.write("camera_matrix", CAMERA.K_33)
    storage.write("distortion_coefficients", np.zeros((1, 5)))
    storage.release()
    points = [{"map": [i, 0, 0], "target": [0, i, i * i]} for i in range(4)]
    (folder / "anchors" / "anchors.yaml").write_text(yaml.safe_dump({"anchors": points}))
    for suffix in ("jpg", "png"):
        cv2.imwrite(str(folder / "image" / f"a.{suffix}"), photograph(shifted(0, 0, 0)))
    for path in write_trajectory(folder / "poses"):
        assert path.parent == folder / "poses"
    write_plane_scene(folder / "scene" / "frames")
    record(folder / "scene" / "bag", an_info(), *(an_image(10**8 * i, index=i) for i in range(3)))
    record(
        folder / "scene" / "sqlite", an_info(), *(an_image(10**8 * i, index=i) for i in range(3)),
        storage="sqlite3",
    )  # fmt: skip
    write_model(folder / "scene" / "colmap", ".bin")
    return folder


@pytest.mark.parametrize("seed", range(BATCHES))
def test_damaged_files_are_read_or_refused_by_one_error(originals, seed):
    assert_read_or_refused(originals, seed, COUNT // BATCHES)


def assert_read_or_refused(originals: Path, seed: int, count: int, most_mb: float = 500) -> None:
    """Damage files in a process of its own."""
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "mutants.py", str(seed), str(count), originals],
        env=os.environ | {"PYTHONPATH": python_path()},
        capture_output=True, text=True, timeout=30 + 20 * count,
    )  # fmt: skip
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    faults = [line for line in lines if "fault" in line]
    assert not faults, "\n".join(f"{f['file']} {f['number']}: {f['fault']}" for f in faults)
    assert done.returncode == 0, (lines[-1:], done.stderr[-1000:])
    assert lines[-1]["refused"] > count / 4 and lines[-1]["read"] > 0
    assert lines[-1]["peak_mb"] < most_mb
