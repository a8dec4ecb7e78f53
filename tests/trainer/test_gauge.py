"""Frame and scale of an estimated map, and known lengths."""

import logging

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from distill_training.poses.gauge import find_gauge, gauge_from_poses
from distill_training.poses.known_lengths import (
    End,
    KnownLength,
    PhotoDepth,
    parse_known_length,
)
from mote_localization.camera import Camera, canonical_camera
from mote_localization.errors import ReconstructionError
from mote_localization.geometry import (
    exp_rotation,
    rotation_angle,
    transform,
)
from mote_localization.level_rotation import level_rotation
from mote_localization.similarity import similarity

SCALE = 0.37  # m per unit of the estimates here
LENS = Camera(640, 480, 500.0, 500.0, 330.0, 236.0, "plumb_bob", (-0.2, 0.05, 0.001, 0.001, 0.0))
GRID = canonical_camera(Camera(640, 480, 500.0, 500.0, 330.0, 236.0), 320, 8)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def random_rotation(rng: np.random.Generator, degrees: float) -> np.ndarray:
    """Return a random rotation with that standard deviation about each axis."""
    return exp_rotation(np.radians(rng.normal(0, degrees, 3)))


def walk(rng: np.random.Generator, count: int = 20, pitch_deg: float = 20) -> dict:
    """Return poses of cameras without roll, pitched down, at all headings; z up."""
    poses = {}
    for i in range(count):
        yaw, pitch = 2 * np.pi * i / count, np.radians(pitch_deg + rng.normal(0, 5))
        level = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])  # view along x
        T = np.eye(4)
        T[:3, :3] = (
            exp_rotation(np.array([0, 0, yaw])) @ level @ exp_rotation(np.array([-pitch, 0, 0]))
        )
        T[:3, 3] = rng.uniform((-2, -2, 1.2), (2, 2, 1.6))
        poses[f"IMG_{i}.a-b"] = T
    return poses


def estimate_of(poses: dict, rng: np.random.Generator, noise_m: float = 0, degrees: float = 0):
    """Return the poses in a random frame, at another scale, with noise."""
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = random_rotation(rng, 90), rng.normal(0, 3, 3)
    estimated = {}
    for name, pose in poses.items():
        estimated[name] = T @ pose
        estimated[name][:3, :3] @= random_rotation(rng, degrees)
        estimated[name][:3, 3] = (estimated[name][:3, 3] + rng.normal(0, noise_m, 3)) / SCALE
    return estimated


def no_depth(name: str) -> PhotoDepth:
    raise AssertionError(f"the depth of {name} was read")


def assert_poses(found: np.ndarray, expected: np.ndarray, metres: float, degrees: float):
    assert np.linalg.norm(found[:3, 3] - expected[:3, 3]) < metres
    assert np.degrees(rotation_angle(found[:3, :3] @ expected[:3, :3].T)) < degrees


def test_similarity_is_the_least_squares_solution(rng):
    source = rng.normal(size=(30, 3))
    target = (
        2.5 * source @ random_rotation(rng, 60).T + rng.normal(size=3) + rng.normal(0, 0.1, (30, 3))
    )
    scale, T = similarity(source, target)
    # Umeyama 1991, eq. 40-42, with the rotation of scipy.
    centred, centred_target = source - source.mean(0), target - target.mean(0)
    R = Rotation.align_vectors(centred_target, centred)[0].as_matrix()
    c = (centred_target * (centred @ R.T)).sum() / (centred**2).sum()
    t = target.mean(0) - c * R @ source.mean(0)
    np.testing.assert_allclose([scale, *T[:3, 3], *T[:3, :3].ravel()], [c, *t, *R.ravel()])


def test_similarity_of_mirrored_points_has_a_proper_rotation(rng):
    source = rng.normal(size=(30, 3))
    _, T = similarity(source, source * (1, 1, -1))
    assert np.linalg.det(T[:3, :3]) == pytest.approx(1)


def test_similarity_ignores_points_of_weight_zero(rng):
    source = rng.normal(size=(30, 3))
    target = 2 * source @ random_rotation(rng, 60).T
    target[:10] += 5
    scale, T = similarity(source, target, (np.arange(30) >= 10).astype(float))
    assert scale == pytest.approx(2)
    np.testing.assert_allclose(transform(T, 2 * source[10:]), target[10:], atol=1e-9)


@pytest.mark.parametrize("count", [2, 3, 12])
def test_given_poses_fix_frame_and_scale_of_all_cameras(rng, count: int):
    truth = walk(rng)
    estimated = estimate_of(truth, rng)
    given = {name: truth[name] for name in list(truth)[:count]}
    gauge = find_gauge(estimated, 5.0, no_depth, given)
    assert gauge.metric and gauge.scale == pytest.approx(SCALE)
    for name, pose in truth.items():
        np.testing.assert_allclose(gauge.apply(estimated[name]), pose, atol=1e-6)


def test_two_given_poses_fix_the_rotation_about_the_line_between_them(rng):
    truth = walk(rng)
    estimated = estimate_of(truth, rng, noise_m=0.005, degrees=0.3)
    a, *_, b = truth
    gauge = find_gauge(estimated, 5.0, no_depth, {a: truth[a], b: truth[b]})
    for name, pose in truth.items():
        assert_poses(gauge.apply(estimated[name]), pose, 0.1, 2)


def test_wrong_given_poses_are_outliers_and_logged_by_name(rng, caplog):
    truth = walk(rng)
    estimated = estimate_of(truth, rng, noise_m=0.005, degrees=0.3)
    given = {name: pose.copy() for name, pose in truth.items()}
    wrong = list(truth)[3:18:3]
    for name in wrong:
        given[name][:3, 3] += rng.normal(0, 2, 3)
    with caplog.at_level(logging.WARNING):
        gauge = find_gauge(estimated, 5.0, no_depth, given)
    assert gauge.scale == pytest.approx(SCALE, rel=0.01)
    assert [record.args[0] for record in caplog.records] == wrong


@pytest.mark.parametrize("count", [2, 10])
def test_the_scale_uncertainty_covers_the_scale_error(rng, count: int):
    covered = []
    for _ in range(200):
        truth = walk(rng, count)
        estimated = estimate_of(truth, rng, noise_m=0.02)
        gauge = gauge_from_poses(estimated, truth, 5.0)
        covered.append(abs(gauge.scale / SCALE - 1) < 2 * gauge.scale_uncertainty)
    assert np.mean(covered) > (0.75 if count == 2 else 0.9)  # two poses: two degrees of freedom


def test_map_to_camera_poses_are_refused(rng):
    truth = walk(rng)
    estimated = estimate_of(truth, rng)
    inverted = {name: np.linalg.inv(pose) for name, pose in truth.items()}
    with pytest.raises(ReconstructionError, match="contradict the photographs.*camera-to-map"):
        find_gauge(estimated, 5.0, no_depth, inverted)


@pytest.mark.parametrize("factor", [-1, 0])
def test_mirrored_or_equal_positions_are_refused(rng, factor: int):
    truth = walk(rng)
    estimated = estimate_of(truth, rng)
    for pose in truth.values():
        pose[:3, 3] *= factor
    with pytest.raises(ReconstructionError, match="positions of the 20 given poses do not fit"):
        find_gauge(estimated, 5.0, no_depth, truth)


def test_given_poses_at_one_place_are_refused(rng):
    truth = walk(rng)
    for pose in truth.values():
        pose[:3, 3] = rng.normal(0, 0.001, 3)
    with pytest.raises(ReconstructionError, match="nearly at the same place"):
        find_gauge(estimate_of(truth, rng), 5.0, no_depth, truth)


def test_one_given_pose_fixes_the_frame_and_a_length_the_scale(rng):
    truth = walk(rng)
    estimated = estimate_of(truth, rng)
    a, b, c, *_ = truth
    metres = float(np.linalg.norm(truth[b][:3, 3] - truth[c][:3, 3]))
    length = parse_known_length(f"{b},{c}={metres}")
    gauge = find_gauge(estimated, 5.0, no_depth, {a: truth[a]}, [length])
    assert gauge.metric and gauge.scale_uncertainty is None
    for name, pose in truth.items():
        np.testing.assert_allclose(gauge.apply(estimated[name]), pose, atol=1e-6)
    free = find_gauge(estimated, 5.0, no_depth, {a: truth[a]})
    assert not free.metric
    np.testing.assert_allclose(free.apply(estimated[a]), truth[a], atol=1e-9)


def test_without_a_scale_the_median_depth_is_two_units(rng):
    poses = walk(rng)
    gauge = find_gauge(estimate_of(poses, rng), 5.0, no_depth)
    assert 5.0 * gauge.scale == 2 and not gauge.metric and gauge.scale_uncertainty is None


def test_a_new_map_frame_is_level_with_its_origin_at_the_first_camera(rng):
    truth = walk(rng)
    estimated = estimate_of(truth, rng, degrees=0.5)
    gauge = find_gauge(estimated, 5.0, no_depth)
    found = [gauge.apply(pose) for pose in estimated.values()]
    np.testing.assert_allclose(found[0][:3, 3], 0, atol=1e-9)
    assert abs(found[0][1, 2]) < 1e-9  # view along x, as of the first camera of the walk
    for pose, true in zip(found, truth.values(), strict=True):
        assert_poses(pose, true, np.inf, 2)


def up_error_deg(poses: list, rng: np.random.Generator) -> float:
    """Return the angle between true up (z) and estimated up, from a random frame."""
    T = np.eye(4)
    T[:3, :3] = random_rotation(rng, 90)
    up = T[:3, :3].T @ level_rotation([T @ pose for pose in poses])[2]
    return float(np.degrees(np.arctan2(np.hypot(up[0], up[1]), up[2])))


def test_level_rotation_of_cameras_pitched_down(rng):
    assert up_error_deg(list(walk(rng, pitch_deg=60).values()), rng) < 1


def test_level_rotation_with_some_portrait_photographs(rng):
    poses = list(walk(rng).values())
    for pose in poses[::4]:
        pose[:3, :3] @= exp_rotation(np.array([0, 0, np.pi / 2]))
    assert up_error_deg(poses, rng) < 1


@pytest.mark.parametrize("count", [1, 15])
def test_level_rotation_of_cameras_with_one_viewing_direction(rng, count: int):
    first = next(iter(walk(rng, pitch_deg=0).values()))
    poses = [first.copy() for _ in range(count)]
    for pose in poses:
        pose[:3, :3] @= random_rotation(rng, 2)
    assert up_error_deg(poses, rng) < 10


def test_level_rotation_of_a_camera_that_looks_straight_down_is_a_rotation():
    T = np.diag([1.0, -1, -1, 1])
    R = level_rotation([T])
    np.testing.assert_allclose(R @ R.T, np.eye(3), atol=1e-12)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A,B=1.25", KnownLength(End("A"), End("B"), 1.25)),
        (
            "a-1.x:120:200,a-1.x:400.5:210=.9",
            KnownLength(End("a-1.x", (120, 200)), End("a-1.x", (400.5, 210)), 0.9),
        ),
        ("r:1,B:3:4=2e-1", KnownLength(End("r:1"), End("B", (3, 4)), 0.2)),
    ],
)
def test_lengths_are_parsed(text: str, expected: KnownLength):
    assert parse_known_length(text) == expected
    assert parse_known_length(str(expected)) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected FRAME,FRAME=METRES"),
        ("A=1", "expected FRAME,FRAME=METRES"),
        ("A,B=one", "expected FRAME,FRAME=METRES"),
        ("A,B=nan", "expected FRAME,FRAME=METRES"),
        ("A,B,C=1", "expected FRAME,FRAME=METRES"),
        ("A,B=0", "expected above 0"),
        ("A,B=-1", "expected above 0"),
        ("A,B=inf", "expected above 0"),
        ("A,A=1", "both ends are the same"),
    ],
)
def test_malformed_lengths_are_refused(text: str, message: str):
    with pytest.raises(ReconstructionError, match=message):
        parse_known_length(text)


def slanted(sigma: float | None = None) -> PhotoDepth:
    """Return the depth of the plane z = 4 + 0.5 x, units of the estimate; with a distorted lens."""
    rays_hw3 = GRID.cell_rays(8)
    depth_hw = 4 / (1 - 0.5 * rays_hw3[..., 0])
    sigma_hw = None if sigma is None else np.full(depth_hw.shape, sigma)
    return PhotoDepth(LENS, GRID, depth_hw, sigma_hw)


@pytest.mark.parametrize("x", [-1.3, -0.4, 0.0, 1.1])
def test_the_point_at_a_pixel_is_interpolated_and_undistorted(x: float):
    expected = np.array([x, 0.3, 4 + 0.5 * x])
    point, sigma = slanted().point(tuple(LENS.project(expected)))
    np.testing.assert_allclose(point, expected, atol=0.002)
    assert np.isnan(sigma)


def test_the_point_beside_a_depth_edge_uses_cells_of_one_side_only():
    depth = slanted()
    depth.depth_hw[:, :20], depth.depth_hw[:, 20:] = 2, 6
    edge = LENS.project(GRID.rays(np.array([19.6 * 8 + 3.5, 100.0])))
    assert depth.point(tuple(edge))[0][2] == pytest.approx(6)


def test_a_length_between_pixels_of_two_photographs_fixes_the_scale(rng):
    poses = {name: pose for name, pose in walk(rng, 2).items()}
    a, b = poses
    one, other = np.array([-1.0, 0.2, 3.5]), np.array([1.0, -0.5, 4.5])
    span = np.linalg.norm(transform(poses[a], one) - transform(poses[b], other))
    ends = [End(a, tuple(LENS.project(one))), End(b, tuple(LENS.project(other)))]
    length = KnownLength(ends[0], ends[1], float(span * SCALE))
    gauge = find_gauge(poses, 4.0, lambda name: slanted(0.05), lengths=[length])
    assert gauge.scale == pytest.approx(SCALE, rel=0.002)
    assert gauge.scale_uncertainty == pytest.approx(0.05 * np.sqrt(2) / span, rel=0.01)


def test_a_wrong_length_among_several_is_an_outlier_and_logged(rng, caplog):
    poses = walk(rng)
    names = list(poses)
    lengths = [
        KnownLength(
            End(a),
            End(b),
            float(SCALE * np.linalg.norm(poses[a][:3, 3] - poses[b][:3, 3]) * rng.normal(1, 0.01)),
        )
        for a, b in zip(names[:5], names[5:10], strict=True)
    ]
    good = find_gauge(poses, 5.0, no_depth, lengths=lengths)
    assert good.scale == pytest.approx(SCALE, rel=0.01)
    assert 0.001 < good.scale_uncertainty < 0.01
    lengths[2] = KnownLength(lengths[2].one, lengths[2].other, 2 * lengths[2].metres)
    with caplog.at_level(logging.WARNING):
        gauge = find_gauge(poses, 5.0, no_depth, lengths=lengths)
    assert gauge.scale == pytest.approx(SCALE, rel=0.03)
    assert gauge.scale_uncertainty > 0.03
    assert [record.args[0] for record in caplog.records] == [lengths[2]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("IMG_0.a-b,missing=1", "'missing' is none of the 2 photographs used, such as 'IMG_0.a-b'"),
        ("IMG_0.a-b:640:3,IMG_1.a-b=1", "pixel 640:3 lies outside .* 640x480 px"),
        ("IMG_0.a-b:320:240,IMG_1.a-b=1", "frame IMG_0.a-b: pixel 320:240 has no estimated point"),
        ("IMG_0.a-b,IMG_1.a-b=1", "expected 1% or more; measure a longer length"),
    ],
)
def test_lengths_without_a_point_or_too_short_are_refused(rng, text: str, message: str):
    poses = walk(rng, 2)
    for pose in poses.values():
        pose[:3, 3] = rng.normal(0, 0.001, 3)
    depth = slanted()
    depth.depth_hw[10:20, 15:25] = np.nan
    with pytest.raises(ReconstructionError, match=message):
        find_gauge(poses, 4.0, lambda name: depth, lengths=[parse_known_length(text)])
