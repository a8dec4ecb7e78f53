"""Other days in the demo room: each change is seen where it is, and the recorded day stays."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

import demo_room as room
from demo_room.days import ANOTHER, DAYS, RECORDED, Day
from demo_room.light import compute_light
from demo_room.model import build, lighting
from demo_room.room_camera import camera_of
from demo_room.views import CLEARANCE_M, clearance

IMAGE_HW3 = np.random.default_rng(0).integers(40, 200, (60, 80, 3), np.uint8)
T_MAP_CAM = room.drive(12.0, 1.0, 0)[1][0]


def corners(day: Day) -> np.ndarray:
    return np.array([rectangle.corner_3 for rectangle in build(day).rectangles])


def test_the_day_of_the_recording_is_the_default():
    assert DAYS["as recorded"] == RECORDED == Day()
    assert camera_of(RECORDED) == room.CAMERA
    assert build(RECORDED) is build(Day())
    # powers, as they are without factors
    assert lighting().ambient_3 == (0.74, 0.71, 0.68)
    assert [lamp.power_3[0] for lamp in lighting().lamps] == [3.3, 1.9, 0.55, 0.42]
    assert RECORDED.exposed(IMAGE_HW3, T_MAP_CAM) is IMAGE_HW3


def test_all_at_once_has_every_change():
    """The light at night alone is not part of it: there is no sun at night."""
    days = DAYS.values()
    changed = {
        n for n, value in vars(RECORDED).items() if any(getattr(d, n) != value for d in days)
    }
    together = {n for n, value in vars(RECORDED).items() if getattr(ANOTHER, n) != value}
    assert changed == set(vars(RECORDED)) and together == changed - {"daylight"}


@pytest.mark.parametrize(
    "name", ["lamps off", "night, lamps on", "other lamps on", "sun elsewhere", "blind"]
)
def test_other_light_changes_the_floor(name):
    (soft, sun), (soft_before, sun_before) = floor_light(DAYS[name]), floor_light(RECORDED)
    if name == "sun elsewhere":
        assert np.array_equal(soft, soft_before) and (sun > 0.1).mean() > 0.005
        assert ((sun > 0.1) & (sun_before > 0.1)).sum() < 0.5 * (sun_before > 0.1).sum()
    else:
        assert np.abs(soft - soft_before).max() > 0.02
    if name == "lamps off":
        assert (soft < soft_before).all()


@cache
def floor_light(day: Day) -> tuple[np.ndarray, np.ndarray]:
    """Return soft light and sun on the floor."""
    return compute_light(build(day).rectangles[:1], build(day).blocks, lighting(day))[0]


@pytest.mark.parametrize("move", ANOTHER.moves, ids=lambda move: move.piece)
def test_each_piece_moves_by_up_to_a_metre_and_nothing_else(move):
    moved = corners(Day(moves=(move,))) != corners(RECORDED)
    assert 0 < moved.any(axis=1).sum() < 250
    assert 0 < np.hypot(move.x, move.y) <= 1.0


@pytest.mark.parametrize("picture", ANOTHER.gone)
def test_a_picture_that_is_gone_is_outside_the_room(picture):
    after = corners(Day(gone=(picture,)))
    gone = (after != corners(RECORDED)).any(axis=1)
    assert 0 < gone.sum() < 30 and (after[gone, 1] > 6.0).all()


@pytest.mark.parametrize("day", [Day(blind_m=0.6), Day(person=ANOTHER.person)])
def test_a_blind_and_a_person_come_after_everything_else(day):
    assert np.array_equal(corners(day)[: len(corners(RECORDED))], corners(RECORDED))
    assert len(corners(day)) > len(corners(RECORDED))


def test_the_drive_keeps_its_clearance_on_the_other_day():
    positions = np.array([T[:3, 3] for T in room.drive(12.0, 30.0, 0)[1]])
    assert clearance(positions, ANOTHER).min() >= CLEARANCE_M


def test_another_camera_is_grey_and_noisy_and_the_same_each_time():
    day = replace(RECORDED, grey=True, noise=4.0)
    first_hw3 = day.exposed(IMAGE_HW3, T_MAP_CAM)
    assert np.array_equal(first_hw3, day.exposed(IMAGE_HW3, T_MAP_CAM))
    assert not np.ptp(first_hw3, axis=2).any()
    noise_hw = (
        first_hw3[..., 0].astype(float)
        - replace(day, noise=0).exposed(IMAGE_HW3, T_MAP_CAM)[..., 0]
    )
    assert 3.5 < noise_hw.std() < 4.5 and abs(noise_hw.mean()) < 0.2
    assert camera_of(ANOTHER).fx == pytest.approx(0.85 * room.CAMERA.fx)
