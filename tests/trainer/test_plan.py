"""Plans of submaps: what frames see together, and how they are divided."""

import logging
from dataclasses import replace

import numpy as np
import pytest
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from benchmarks.bench_plan import median_split
from benchmarks.plain_building import Building, PlanFrame, PlanScene
from distill_training.submaps.bisection import bisect, cut_fraction
from distill_training.submaps.covisibility import covisibility_graph, incidence
from distill_training.submaps.partition import PartitionConfig, overlap_frames, partition
from distill_training.submaps.place import Place, read_place
from distill_training.submaps.planning import make_plan
from mote_localization.errors import ConfigError, SceneError

BUILDING = Building(corridors=2, rooms=3)
FRAMES = 480
CONFIG = PartitionConfig(frames=90, area=60.0)


@pytest.fixture(scope="module")
def scene() -> PlanScene:
    return BUILDING.scene(BUILDING.drive(FRAMES))


@pytest.fixture(scope="module")
def place(scene) -> Place:
    return read_place(scene)


@pytest.fixture(scope="module")
def part_n(place) -> np.ndarray:
    return partition(place.covisible_nn, place.area_n, CONFIG)


def rooms_of(position_n3: np.ndarray) -> np.ndarray:
    """Return the room (n,) of each position; -1: a corridor."""
    room_n = np.full(len(position_n3), -1)
    x, y = position_n3[:, 0], position_n3[:, 1]
    for k, (x0, y0, x1, y1) in enumerate(BUILDING.rooms):
        room_n[(x > x0) & (x < x1) & (y > y0) & (y < y1)] = k
    return room_n


def changed(scene: PlanScene, k: int, **values: object) -> PlanScene:
    """Return a scene with another value of a frame."""
    frames = list(scene.frames("train"))
    frames[k] = replace(frames[k], **values)  # type: ignore[type-var]
    return PlanScene(frames)  # type: ignore[arg-type]


def moved(scene: PlanScene, by_m: float, prefix: str) -> list[PlanFrame]:
    """Return frames of the same building at another place."""
    shift = np.eye(4)
    shift[0, 3] = by_m
    return [
        replace(frame, name=prefix + frame.name, T_map_cam=shift @ frame.known_pose())
        for frame in scene.frames("train")
        if isinstance(frame, PlanFrame)
    ]


def test_a_wall_separates_the_frames_of_two_rooms():
    closed = Building(corridors=1, rooms=2, doors=False)
    sides = [closed.drive(40, [way]) for way in (1, 3)]  # rooms with a common wall
    with pytest.raises(SceneError, match="form 2 parts that see nothing in common"):
        read_place(closed.scene(np.concatenate(sides)))
    without_depth = closed.scene(np.concatenate(sides), with_depth=False)
    assert len(read_place(without_depth).names) == 80  # walls are not known


def test_parts_are_balanced_connected_and_not_larger_than_allowed(place, part_n):
    sizes = np.bincount(part_n)
    assert sizes.max() <= CONFIG.frames and sizes.max() <= 1.5 * sizes.min()
    assert np.bincount(part_n, place.area_n).max() <= 1.5 * CONFIG.area
    for part in range(len(sizes)):
        members = np.flatnonzero(part_n == part)
        assert connected_components(place.covisible_nn[members][:, members])[0] == 1
    assert (np.diff(np.unique(part_n, return_index=True)[1]) > 0).all()  # by their first frames


def test_walls_are_respected_and_less_is_cut_than_by_positions(place, part_n):
    cut = cut_fraction(place.covisible_nn, part_n)
    baseline = median_split(place.positions_n3[:, :2], int(part_n.max()) + 1)
    assert cut < 0.1 and cut < cut_fraction(place.covisible_nn, baseline) / 2
    room_n = rooms_of(place.positions_n3)
    whole = [np.bincount(part_n[room_n == k]).max() / (room_n == k).sum() for k in range(12)]
    assert np.median(whole) > 0.95


def test_the_area_is_the_floor_that_is_seen_and_limits_submaps(place):
    floor_m2 = 12 * 20.0 + 2 * 2 * 12.0 + 2 * 14.0
    assert float(place.area_n.sum()) == pytest.approx(floor_m2, rel=0.15)  # cells of half a metre
    by_area = partition(place.covisible_nn, place.area_n, PartitionConfig(10_000, area=30.0))
    assert np.bincount(by_area, place.area_n).max() <= 1.5 * 30.0


def test_the_overlap_holds_the_frames_outside_that_see_most_of_a_part(place, part_n):
    chosen = overlap_frames(place.covisible_nn, part_n, 0.2)
    for part, frames in enumerate(chosen):
        inside_n = part_n == part
        shared_n = place.covisible_nn @ inside_n / place.covisible_nn.sum(axis=1)
        assert 0 < len(frames) <= round(0.2 * inside_n.sum()) and not inside_n[frames].any()
        others = shared_n[~inside_n & ~np.isin(np.arange(FRAMES), frames)]
        assert shared_n[frames].min() >= others.max() - 1e-5 and shared_n[frames].min() > 0


def test_few_frames_are_one_submap():
    plan = make_plan(read_place(BUILDING.scene(BUILDING.drive(30, [1]))), CONFIG, "room", {})
    (submap,) = plan.submaps
    assert len(submap.own) == 30 and not submap.overlap and not submap.neighbours


def test_a_submap_has_at_least_one_frame_however_large_the_area():
    chain = csr_array((np.ones(4), (np.arange(4), np.arange(1, 5))), (5, 5))
    part_n = partition(csr_array(chain + chain.T), np.full(5, 100.0), PartitionConfig())
    assert sorted(part_n) == [0, 1, 2, 3, 4]


def test_where_many_frames_see_the_same_few_links_are_kept():
    rng = np.random.default_rng(0)
    seen = [np.sort(rng.choice(40, 20, replace=False)) for _ in range(1200)]
    graph = covisibility_graph(incidence(seen)[0])
    assert connected_components(graph)[0] == 1
    assert graph.nnz < 2 * 128 * 1200 and (graph != graph.T).nnz == 0
    seen_nv = incidence(seen)[0].toarray()
    row, column = graph.nonzero()
    exact = (seen_nv[row] * seen_nv[column]).sum(axis=1) / 20
    np.testing.assert_allclose(graph.data, exact, rtol=1e-5)


def test_a_chain_is_divided_in_its_weakest_link():
    weight_m = np.ones(19)
    weight_m[11] = 0.1
    chain = csr_array((weight_m, (np.arange(19), np.arange(1, 20))), (20, 20))
    first_n = bisect(csr_array(chain + chain.T), 10, 0)
    assert sorted((first_n.sum(), (~first_n).sum())) == [8, 12]
    assert len(np.unique(first_n[:12])) == len(np.unique(first_n[12:])) == 1


def test_ids_depend_on_the_frames_of_the_submap_and_the_seed_alone(scene, place):
    plan = make_plan(place, CONFIG, "building", {})
    assert make_plan(read_place(scene), CONFIG, "building", {}) == plan
    other = make_plan(read_place(changed(scene, 5, colour_3=(9, 9, 9))), CONFIG, "elsewhere", {})
    name = place.names[5]
    for before, after in zip(plan.submaps, other.submaps, strict=True):
        assert before.frames == after.frames
        assert (before.id != after.id) == (name in before.frames)
    assert any(name in submap.frames for submap in plan.submaps)
    reseeded = make_plan(place, replace(CONFIG, seed=1), "building", {})
    assert not {one.id for one in plan.submaps} & {one.id for one in reseeded.submaps}


def test_parts_that_see_nothing_in_common_are_named():
    one = BUILDING.scene(BUILDING.drive(30, [1]))
    both = PlanScene([*moved(one, 0, "a-"), *moved(one, 100, "b-"), *moved(one, 200, "c-")])
    with pytest.raises(SceneError) as raised:
        read_place(both)
    text = str(raised.value)
    assert "form 3 parts that see nothing in common, expected one" in text
    assert "30 frames (a-frame-00 to a-frame-29); 30 frames (b-frame-00 to b-frame-29)" in text
    assert len(text) < 350


def test_a_few_frames_that_cannot_be_used_are_left_out_with_a_warning(caplog):
    frames = moved(BUILDING.scene(BUILDING.drive(60, [1])), 0, "")
    frames[7] = replace(frames[7], T_map_cam=None)
    frames[3] = replace(frames[3], depth_hw=np.zeros((24, 32), np.float32))
    with caplog.at_level(logging.WARNING):
        place = read_place(PlanScene(frames))
    assert place.left_out == ("frame-03", "frame-07") and len(place.names) == 58
    assert "1 of 60 training frames have no pose and are left out (frame-07)" in caplog.text
    assert "1 of 59 training frames see nothing that others see" in caplog.text
    without = PlanScene([replace(frame, T_map_cam=None) for frame in frames])
    with pytest.raises(SceneError, match="60 of 60 training frames have no pose"):
        read_place(without)


def test_poses_in_unknown_units_are_refused():
    scene = BUILDING.scene(BUILDING.drive(20, [1]))
    scene.metric = False
    with pytest.raises(SceneError, match="not in metres"):
        read_place(scene)


@pytest.mark.parametrize(
    "values", [{"frames": 1}, {"area": float("nan")}, {"overlap": 1.5}, {"seed": -1}]
)
def test_limits_out_of_range_are_refused(values):
    with pytest.raises(ConfigError, match=f"--{next(iter(values))} "):
        PartitionConfig(**values)
