"""The choice of image pairs."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from demo_room import drive, training_views
from distill_training.poses.image_pairs import (
    choose_pairs,
    components,
    overlapping_and_similar_pairs,
    overlapping_pairs,
    retrieval_pairs,
    video_and_loop_pairs,
    video_pairs,
)
from distill_training.poses.poses_config import PairsConfig
from mote_localization.camera import Camera
from mote_localization.errors import ReconstructionError
from mote_localization.geometry import invert, pose_from, rotation_angle, transform

CAMERA = Camera(640, 480, 525.0, 525.0, 319.5, 239.5)
CONFIG = PairsConfig()


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def ring(n: int, rounds: int = 1) -> np.ndarray:
    """Return descriptors along a circle that is walked several times; near images are similar."""
    angles = 2 * np.pi * rounds * np.arange(n) / n
    knots = np.linspace(0, 2 * np.pi, 32, endpoint=False)
    return unit(np.exp(3 * np.cos(angles[:, None] - knots)))


def centred(descriptors: np.ndarray) -> np.ndarray:
    return unit(descriptors - descriptors.mean(axis=0))


def pairs_per_image(n: int, pairs: list[tuple[int, int]]) -> np.ndarray:
    return np.bincount(np.array(pairs).ravel(), minlength=n)


def facing(x_m: float, yaw_deg: float = 0.0) -> np.ndarray:
    half = np.radians(yaw_deg) / 2
    return pose_from(np.array([x_m, 0, 0]), np.array([0, np.sin(half), 0, np.cos(half)]))


@pytest.mark.parametrize("n", [0, 1, 2, 5])
def test_complete_pairs_are_all_pairs(n: int):
    config = replace(CONFIG, method="complete")
    pairs = choose_pairs(config, np.ones((n, 1)), [CAMERA] * n, [None] * n, True)
    assert len(set(pairs)) == n * (n - 1) / 2 and all(i < j for i, j in pairs)


@pytest.mark.parametrize("n", [12, 300])
def test_the_number_of_pairs_grows_linearly_for_every_method(n: int):
    poses = training_views(n)
    for pairs in (
        video_pairs(n, 10, 16),
        video_and_loop_pairs(ring(n, 3), CONFIG),
        retrieval_pairs(ring(n), 10),
        overlapping_pairs(np.stack(poses), [CAMERA] * n, CONFIG),
    ):
        assert pairs == sorted(set(pairs))
        assert all(0 <= i < j < n for i, j in pairs)
        assert len(pairs) <= 5 * n + 6
        assert n == 12 or len(pairs) > 4 * n


def test_video_pairs_have_short_and_long_gaps():
    gaps = {j - i for i, j in video_pairs(100, 10, 16)}
    assert gaps == {1, 2, 4, 8, 16}
    assert {j - i for i, j in video_pairs(3, 10, 16)} == {1, 2}


def test_a_video_that_returns_has_loop_closures():
    """In three rounds, an image is paired with images of the other rounds at the same place."""
    n, rounds = 300, 3
    pairs = video_and_loop_pairs(ring(n, rounds), CONFIG)
    far = np.array([(i, j) for i, j in pairs if j - i > CONFIG.max_gap])
    assert {j - i for i, j in pairs if j - i <= CONFIG.max_gap} == {1, CONFIG.max_gap}
    phase = np.diff(far, axis=1) % (n // rounds)
    assert len(far) > 2 * n
    assert (np.minimum(phase, n // rounds - phase) <= 10).all()


def test_a_video_that_never_returns_has_only_neighbours_in_time():
    """Images far apart are still similar, but less than neighbours are."""
    n = 200
    walk = unit(np.concatenate([ring(2 * n)[:n], np.ones((n, 8))], axis=1))
    pairs = video_and_loop_pairs(walk, CONFIG)
    gaps = np.diff(pairs, axis=1)
    assert set(gaps[gaps <= CONFIG.max_gap]) == {1, 2, 4, 8, 16}
    assert gaps.max() <= 1.5 * CONFIG.max_gap
    assert len(pairs) > 4.5 * n


@pytest.mark.parametrize("n", [0, 1, 5, 16, 17])
def test_a_short_video_has_only_neighbours_in_time(n: int):
    assert video_and_loop_pairs(ring(n), CONFIG) == video_pairs(n, 10, CONFIG.max_gap)


def test_what_all_images_have_in_common_is_ignored():
    """Two thirds of the images are blurred; their pairs follow the viewing direction, too."""
    n = 200
    shown = np.resize([0.03, 0.2, 1.0], (n, 1))
    descriptors = unit(np.concatenate([shown * ring(n), np.ones((n, 8))], axis=1))
    i, j = np.array(choose_pairs(CONFIG, descriptors, [CAMERA] * n, [None] * n, False)).T
    assert np.mean(np.minimum((j - i) % n, (i - j) % n) <= 25) > 0.92


@pytest.mark.parametrize("sequential", [True, False])
def test_equal_images_are_paired(sequential: bool):
    n = 40
    same = np.repeat(ring(1), n, axis=0)
    pairs = choose_pairs(CONFIG, same, [CAMERA] * n, [None] * n, sequential)
    assert len(components(n, pairs)) == 1 and len(pairs) > 3 * n


def test_nearly_equal_images_are_not_the_only_partners():
    """Each place is photographed 20 times almost equally; its neighbours are paired with it too."""
    place = np.repeat(np.arange(30), 20)
    descriptors = ring(30)[place] + 1e-3 * np.random.default_rng(0).standard_normal((600, 32))
    i, j = np.array(retrieval_pairs(unit(descriptors), 10)).T
    assert np.mean(place[i] != place[j]) > 0.1


def test_similar_images_are_paired():
    n = 200
    i, j = np.array(retrieval_pairs(ring(n), 10)).T
    steps = np.minimum((j - i) % n, (i - j) % n)
    assert np.median(steps) < 10 and steps.max() <= 25


def test_components_are_joined_where_they_are_most_similar():
    """Two rooms have only a door in common, which one image of each shows."""
    one, other = np.zeros((40, 65)), np.zeros((40, 65))
    one[:, :32], other[:, 32:64] = ring(40), ring(40)
    one[7, 64] = other[9, 64] = 0.5
    descriptors = unit(np.concatenate([one, other]))
    pairs = retrieval_pairs(descriptors, 6)
    assert len(components(80, pairs)) == 1
    assert (7, 49) in pairs


def test_not_all_products_are_in_memory_at_once():
    import tracemalloc

    n = 3000
    descriptors = unit(np.random.default_rng(0).standard_normal((n, 8)))
    tracemalloc.start()
    retrieval_pairs(descriptors, 4)
    assert tracemalloc.get_traced_memory()[1] < n * n * 4
    tracemalloc.stop()


def test_overlapping_pairs_show_the_same():
    n = 200
    T = np.stack(training_views(n))
    pairs = overlapping_pairs(T, [CAMERA] * n, CONFIG)
    middle = CONFIG.depth_m * CAMERA.rays(np.array([319.5, 239.5]))
    for i, j in pairs:
        T_j_i = invert(T[j]) @ T[i]
        assert rotation_angle(T_j_i[:3, :3]) < np.pi / 2  # 60 deg between axes, and some roll
        assert transform(T_j_i, middle)[2] > 0
    assert len(components(n, pairs)) == 1
    assert pairs_per_image(n, pairs).min() >= 2


def test_overlapping_pairs_have_short_and_long_baselines():
    _, poses = drive(12.0, 30.0)
    T = np.stack(poses)
    pairs = overlapping_pairs(T, [CAMERA] * len(T), CONFIG)
    baselines = np.array([np.linalg.norm(T[i, :3, 3] - T[j, :3, 3]) for i, j in pairs])
    assert len(components(len(T), pairs)) == 1
    assert np.mean(baselines < 0.1 * CONFIG.depth_m) > 0.1
    assert np.mean(baselines > 0.2 * CONFIG.depth_m) > 0.2


def test_images_of_a_robot_that_stands_still_are_paired():
    T = np.stack([facing(1e-4 * k) for k in range(50)])
    pairs = overlapping_pairs(T, [CAMERA] * 50, CONFIG)
    assert len(pairs) > 4 * 50 and len(components(50, pairs)) == 1


def test_images_back_to_back_or_far_apart_are_not_paired():
    T = np.stack([facing(0), facing(0.3), facing(0, 180), facing(0.3, 180), facing(100)])
    pairs = overlapping_pairs(T, [CAMERA] * 5, CONFIG)
    assert pairs == [(0, 1), (2, 3)]
    assert components(5, pairs) == [[0, 1], [2, 3], [4]]


def test_a_small_overlap_joins_two_components():
    """Between 10 and 55 deg the overlap is below the minimum of a pair, but above 0."""
    yaws = [0, 5, 10, 55, 60, 65]
    T = np.stack([facing(0.01 * k, yaw) for k, yaw in enumerate(yaws)])
    pairs = overlapping_pairs(T, [CAMERA] * 6, CONFIG)
    assert (2, 3) in pairs and (0, 5) not in pairs
    assert len(components(6, pairs)) == 1


def test_portrait_and_landscape_images_are_paired_by_overlap():
    """The portrait image shows more above and below."""
    portrait = Camera(480, 640, 525.0, 525.0, 239.5, 319.5)
    cameras = [CAMERA, portrait, CAMERA, portrait]
    T = np.stack([facing(0), facing(0.2), facing(50), facing(50.2)])
    assert overlapping_pairs(T, cameras, CONFIG) == [(0, 1), (2, 3)]
    assert overlapping_pairs(T, cameras, replace(CONFIG, min_overlap=0.95)) == [(0, 1), (2, 3)]


@pytest.mark.parametrize(
    ("n", "known", "sequential", "expected"),
    [
        (8, True, True, list(combinations(range(8), 2))),
        (
            40,
            True,
            True,
            overlapping_and_similar_pairs(
                np.stack(training_views(40)), [CAMERA] * 40, centred(ring(40)), CONFIG
            ),
        ),
        (40, False, True, video_and_loop_pairs(centred(ring(40)), CONFIG)),
        (40, False, False, retrieval_pairs(centred(ring(40)), 10)),
    ],
)
def test_the_automatic_method_depends_on_known_poses_and_order(
    n: int, known: bool, sequential: bool, expected: list
):
    poses: list = training_views(n)
    if not known:
        poses[3] = None
    assert choose_pairs(CONFIG, ring(n), [CAMERA] * n, poses, sequential) == expected


def test_overlap_without_all_poses_is_refused():
    poses = [None, *training_views(39)]
    config = replace(CONFIG, method="overlap")
    with pytest.raises(ReconstructionError, match="1 of 40 images have no pose"):
        choose_pairs(config, ring(40), [CAMERA] * 40, poses, True)


@pytest.mark.parametrize(
    "wrong",
    [
        {"method": "guess"},
        {"per_image": 1},
        {"max_gap": 0},
        {"depth_m": 0.0},
        {"depth_m": np.nan},
        {"min_overlap": 1.5},
        {"max_angle_deg": 0.0},
    ],
)
def test_invalid_settings_are_refused(wrong: dict):
    with pytest.raises(ReconstructionError, match="expected"):
        replace(CONFIG, **wrong)


def test_components_are_sorted_by_size():
    assert components(6, [(4, 5), (1, 3), (0, 1)]) == [[0, 1, 3], [4, 5], [2]]
    assert components(2, []) == [[0], [1]]
