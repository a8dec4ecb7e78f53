"""The points of a map as a cloud and as an occupancy grid."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import yaml
from make_map import CAMERA, room_points, write_constant_map

import mote_localization.cli
from mote_localization.errors import MapFileError
from mote_localization.geometry import rigid
from mote_localization.keyframes import Keyframe
from mote_localization.map_cloud import FREE, OCCUPIED, UNKNOWN, map_cloud, occupancy_grid
from mote_localization.map_file import read_map, write_map

UP = np.array([0.0, 0.0, 1.0])
ROOM = (6.0, 4.0, 2.5)  # m


def looking(towards_deg):
    """T_map_cam in the middle of the room, 1.2 m above the floor, level."""
    angle = np.radians(towards_deg)
    forward = np.array([np.cos(angle), np.sin(angle), 0])
    right = np.array([np.sin(angle), -np.cos(angle), 0])
    return rigid(np.stack([right, -UP, forward], axis=1), np.array([3.0, 2.0, 1.2]))


@pytest.fixture(scope="module")
def info(tmp_path_factory):
    """The box room, seen from its middle in four directions that leave gaps."""
    path = write_constant_map(tmp_path_factory.mktemp("map") / "room.onnx")
    image_hw3 = np.full((CAMERA.height, CAMERA.width, 3), 90, np.uint8)
    keyframes = tuple(
        Keyframe.record(T, image_hw3, room_points(T, CAMERA, 8))
        for T in map(looking, (0, 90, 180, 270))
    )
    return replace(read_map(path).info, keyframes=keyframes, bounds_min=(0, 0, 0), bounds_max=ROOM)


def test_the_cloud_is_that_of_the_room(info):
    cloud = map_cloud(info, 1000)
    assert len(cloud.points_n3) == 1000 and (cloud.grey_n == 90).all()
    low, high = np.zeros(3), np.array(ROOM)
    distance_n = np.minimum(np.abs(cloud.points_n3 - low), np.abs(high - cloud.points_n3))
    assert distance_n.min(axis=1).max() < 0.02  # on a wall, the floor or the ceiling


def test_walls_are_occupied_and_what_the_rays_cross_is_free(info):
    grid = occupancy_grid(info, 0.1, 0.2, 2.0, UP)
    rows, columns = grid.cells_hw.shape
    assert grid.floor_m == pytest.approx(0, abs=0.05)
    middle = grid.cells_hw[rows // 2]
    assert (middle[2:-2] == FREE).all()
    assert OCCUPIED in middle[:2] and OCCUPIED in middle[-2:]
    corners = grid.cells_hw[[1, 1, -2, -2], [1, -2, 1, -2]]
    assert (corners == UNKNOWN).all()  # between the views
    assert (grid.cells_hw[2:-2, 2:-2] != OCCUPIED).all()  # no floor and no ceiling


def test_a_map_whose_z_is_not_up_has_no_grid(info):
    with pytest.raises(MapFileError, match="z is not up .* mote transform MAP --level"):
        occupancy_grid(info, 0.1, 0.2, 2.0, np.array([0.0, 1, 0]))
    with pytest.raises(MapFileError, match="expected a resolution above 0 and a smaller height"):
        occupancy_grid(info, 0.1, 2.0, 0.2, UP)
    with pytest.raises(MapFileError, match="raise --resolution"):
        occupancy_grid(info, 1e-4, 0.2, 2.0, UP)


def test_the_commands_write_files_of_map_server_and_viewers(
    info, tmp_path, monkeypatch, run_command
):
    monkeypatch.chdir(tmp_path)
    plain = read_map(write_constant_map("plain.onnx"))
    write_map(Path("room.onnx"), onnx.load_model_from_string(plain.model), info)
    status, _, printed = run_command("mote", mote_localization.cli.main, "grid room.onnx -o plan")
    assert status == 0 and "floor at z" in printed
    description = yaml.safe_load(Path("plan.yaml").read_text())
    assert description["image"] == "plan.pgm" and description["origin"] == [0.0, 0.0, 0.0]
    image_hw = cv2.imread("plan.pgm", cv2.IMREAD_UNCHANGED)
    assert image_hw.shape == (80, 120) and set(np.unique(image_hw)) == {0, 205, 254}
    np.testing.assert_array_equal(image_hw, cv2.imread("plan.png", cv2.IMREAD_UNCHANGED))
    run_command("mote", mote_localization.cli.main, "cloud room.onnx -o room.ply --points 500")
    assert b"element vertex 500" in Path("room.ply").read_bytes()[:200]
    status, _, errors = run_command("mote", mote_localization.cli.main, "grid plain.onnx -o none")
    assert status == 1 and "the map" in errors and not Path("none.pgm").exists()
