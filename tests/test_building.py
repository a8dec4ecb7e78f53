"""The building: identical rooms, what doorways show, drives, and places that look alike."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from demo_room.building import building_drives
from demo_room.building.building_command import PLACES_FILE, Building
from demo_room.building.building_drives import FreeFloor
from demo_room.building.floor_plan import SECTION_M, FloorPlan
from demo_room.building.lit_building import (
    LitBuilding,
    looks_of,
    open_lit_building,
    plan_of,
    write_lit_building,
)
from demo_room.building.look_alikes import Explanation, explain
from demo_room.building.portal_renderer import cast_building, visible_spaces
from demo_room.renderer import shade
from demo_room.room_camera import CAMERA
from demo_room.views import CLEARANCE_M, pose
from mote_localization.errors import SceneError
from mote_localization.scenes import open_scene

SMALL = CAMERA.resized(160, 120)


@pytest.fixture(scope="module")
def textures(tmp_path_factory) -> Path:
    """Return the folder of the lit textures of three rooms."""
    folder = tmp_path_factory.mktemp("lit")
    write_lit_building(folder, 3)
    return folder


@pytest.fixture(scope="module")
def building(textures) -> LitBuilding:
    return open_lit_building(textures, 3)


def render(building: LitBuilding, T_map_cam: np.ndarray, cull: bool = True):
    """Return image and depth of a small camera."""
    return shade(cast_building(building, T_map_cam, SMALL, cull)[0], building.atlas)


def in_space(plan: FloorPlan, name: str, x: float, y: float, degrees: float) -> np.ndarray:
    """Return the pose of a camera 1 m above the floor, given in the axes of a space."""
    space = next(space for space in plan.spaces if space.name == name)
    return space.T_map_space @ pose(np.array([x, y, 1.0]), np.radians(degrees), -0.05, 0.0)


@cache
def drives(rooms: int) -> list[np.ndarray]:
    """Return positions (n, 3) of a training and two test drives, every 10 cm or so."""
    floor = FreeFloor(plan_of(rooms))
    found = [building_drives.training_drive(floor, 0, 2400)[1]]
    found += [building_drives.test_drive(floor, k, 2400)[1] for k in (0, 1)]
    return [np.array(poses)[:, :3, 3] for poses in found]


def test_the_building_has_400_m2_and_twelve_rooms_of_which_four_are_identical():
    plan = plan_of(12)
    areas = {space.name: np.prod(space.look.size) for space in plan.spaces}
    rooms = {space.name for space in plan.spaces if space.look.pieces}
    assert 390 < sum(areas.values()) < 420 and len(rooms) == 12
    assert all(15 <= areas[name] <= 40 for name in rooms)
    alike = [len(plan.same_look(index)) for index in range(len(plan.spaces))]
    assert [alike.count(3), alike.count(0)] == [4 + 4, len(plan.spaces) - 8]
    sections = [space for space in plan.spaces if space.look.size == SECTION_M]
    assert sum(space.look is sections[0].look for space in sections) == len(sections) / 2
    reached, ahead = {0}, [0]
    while ahead:
        beyond = {portal.other for portal in plan.portals[ahead.pop()]} - reached
        reached |= beyond
        ahead += beyond
    assert len(reached) == len(plan.spaces)


def test_identical_rooms_have_identical_images_and_another_room_does_not(building):
    def image(room: str, x: float, y: float, degrees: float) -> np.ndarray:
        return render(building, in_space(building.plan, room, x, y, degrees))[0]

    for view in ((2.0, 2.5, 200.0), (3.0, 1.5, 80.0), (2.5, 1.75, -40.0)):
        assert np.array_equal(image("twin 1", *view), image("twin 2", *view))
        assert (image("twin 1", *view) != image("meeting", *view)).mean() > 0.9
    assert np.array_equal(image("A 1", 4.0, 1.2, -90.0), image("A 2", 4.0, 1.2, -90.0))


def test_turned_rooms_have_the_same_surfaces():
    plan = plan_of(12)
    view = (2.0, 2.5, 200.0)
    poses = [in_space(plan, f"twin {k}", *view) for k in (1, 4)]
    spaces = [next(s for s in plan.spaces if s.name == f"twin {k}") for k in (1, 4)]
    inside = [space.in_space(T) for space, T in zip(spaces, poses, strict=True)]
    assert spaces[1].turned and np.array_equal(*inside)


def test_doorways_show_what_all_spaces_together_show(building):
    views = [
        ("A 1", 0.5, 1.0, 0.0),
        ("A 2", 2.5, 1.0, 175.0),
        ("A 1", 1.5, 0.0, -90.0),  # in the plane of a doorway
        ("A 1", 5.0, 1.0, 30.0),  # in the plane between two sections
        ("twin 2", 1.375, 4.0, 90.0),
        ("meeting", 6.5, 0.25, -100.0),
        ("meeting", 2.0, 2.0, -50.0),
    ]
    for view in views:
        T_map_cam = in_space(building.plan, *view)
        culled, every = (render(building, T_map_cam, cull) for cull in (True, False))
        assert np.array_equal(culled[0], every[0]) and np.array_equal(culled[1], every[1])
        assert every[1].min() > 0.0  # no gap between the surfaces


def test_walls_hide_other_rooms():
    plan = plan_of(12)
    names = [
        plan.spaces[k].name
        for k in visible_spaces(plan, in_space(plan, "store", 1.6, 4, 90), CAMERA)
    ]
    assert names == ["store"]
    seen = visible_spaces(plan, in_space(plan, "twin 2", 1.375, 4.5, 50.0), CAMERA)
    assert {plan.spaces[index].name for index in seen} >= {"twin 2", "A 2", "library"}
    assert not any(plan.spaces[index].name.startswith("B") for index in seen)


@pytest.mark.parametrize("rooms", [3, 12])
def test_drives_visit_every_room_and_keep_their_clearance(rooms):
    plan = plan_of(rooms)
    floor = FreeFloor(plan)
    for positions in drives(rooms):
        assert floor.clearance(positions).min() >= CLEARANCE_M
        visited = {plan.space_at(position) for position in positions[::8]}  # every 80 cm
        assert visited >= {k for k, space in enumerate(plan.spaces) if space.look.pieces}
        assert None not in visited


def test_drives_differ_and_move_like_a_robot():
    floor = FreeFloor(plan_of(3))
    stamps_s, poses = building_drives.test_drive(floor, 0, 400)
    again = building_drives.test_drive(floor, 0, 400)[1]
    assert np.array_equal(poses, again)
    positions, forward = np.array(poses)[:, :3, 3], np.array(poses)[:, :3, 2]
    steps_s = np.diff(stamps_s)
    assert (np.linalg.norm(np.diff(positions, axis=0), axis=1) / steps_s).max() < 0.6  # m/s
    turns = np.arccos(np.clip((forward[1:] * forward[:-1]).sum(axis=1), -1.0, 1.0))
    assert np.degrees(turns / steps_s).max() < 90.0
    first, second = drives(3)[1:]
    distances = np.linalg.norm(first[:, None, :2] - second[None, :, :2], axis=2).min(axis=1)
    assert distances.max() > 0.3


def test_views_of_identical_places_are_ambiguous(building):
    def explained(*view) -> Explanation:
        return explain(building, SMALL, in_space(building.plan, *view))

    assert explained("twin 1", 2.0, 2.5, 200.0) == Explanation(2, 1.0)
    assert explained("A 2", 4.0, 1.2, -90.0) == Explanation(2, 1.0)
    assert explained("meeting", 5.0, 2.0, 90.0) == Explanation(1, 0.0)
    into_corridor = explained("A 1", 3.0, 1.0, 180.0)  # the end is 4 m away
    assert into_corridor.places == 1 and 0.3 < into_corridor.largest_fraction < 0.95
    out_of_a_twin = explained("twin 1", 1.375, 2.0, 90.0)  # the meeting room is opposite
    assert out_of_a_twin.largest_fraction > 0.5
    assert Explanation(2, 0.98765).line("frame-000001") == "frame-000001 2 0.9877\n"
    assert Explanation(1, 0.5).line("frame-000001") == "frame-000001 unique 0.5000\n"


def test_another_place_shows_the_pixels_that_it_explains(building):
    T_map_cam = in_space(building.plan, "A 2", 3.0, 1.0, 140.0)
    shifted = T_map_cam.copy()
    shifted[0, 3] -= SECTION_M[0]
    equal_hw = (render(building, T_map_cam)[0] == render(building, shifted)[0]).all(axis=2)
    fraction = explain(building, SMALL, T_map_cam).largest_fraction
    assert 0.2 < fraction < 0.99 and abs(equal_hw.mean() - fraction) < 0.03


def test_the_command_writes_a_scene_that_opens(textures, tmp_path):
    path = tmp_path / "building"
    Building(path, rooms=3, frames=4, drives=2, test_frames=2, workers=1).write(textures)
    scene = open_scene(path)
    assert (scene.count("train"), scene.count("test")) == (4, 4)
    assert all(frame.known_pose() is not None for frame in scene.frames("all"))
    assert min(frame.depth().min() for frame in scene.frames("test")) > 0.1  # m
    lines = (path / PLACES_FILE).read_text().splitlines()[1:]
    assert [line.split()[0] for line in lines] == (path / "test.txt").read_text().split()
    assert (path / "floor_plan.png").stat().st_size > 1000
    assert [p.name for p in tmp_path.iterdir()] == ["building"]


def test_options_that_leave_no_frames_are_rejected(tmp_path):
    with pytest.raises(SceneError, match="at least 2"):
        Building(tmp_path / "building", frames=3, drives=2).run()


def test_each_look_is_lit_once():
    plan = plan_of(12)
    assert len(looks_of(plan)) == len(plan.spaces) - 3 - 3
