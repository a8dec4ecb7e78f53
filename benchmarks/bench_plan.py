"""Measure a plan of 20,000 synthetic poses: time, memory, balance, and what is cut.

Usage: `python benchmarks/bench_plan.py`. Prints Markdown. The building has 60 rooms and three
corridors. Poses alone are divided, then poses with depth, which shows the walls. Images are black.

The baseline is a k-d tree: the centres of what the frames see are divided at their median. *Cut* is
the fraction of the co-visibility that is between submaps, *whole* the mean fraction of a room's
frames that are in one submap.
"""

import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import tyro

from benchmarks.plain_building import Building, Rectangle
from distill_training.submaps.bisection import cut_fraction
from distill_training.submaps.partition import PartitionConfig
from distill_training.submaps.place import Place, read_place
from distill_training.submaps.plan_file import SubmapPlan, write_plan
from distill_training.submaps.plan_picture import draw_plan
from distill_training.submaps.planning import make_plan
from mote_localization.command_line import one_line_errors
from mote_localization.scenes import Frame

_AHEAD_M = 1.5  # from a camera to the centre of what it sees


@dataclass(frozen=True)
class Bench:
    """Measure plans of a synthetic building."""

    poses: int = 20_000
    corridors: int = 3
    rooms: int = 10  # on each side of each corridor
    frames: int = 300  # most frames of a submap
    picture: Path | None = None  # draw the plan with depth there, too (.png)

    def run(self) -> None:
        """Print the table."""
        building = Building(self.corridors, self.rooms)
        poses_n44 = building.drive(self.poses)
        config = PartitionConfig(self.frames)
        print(
            f"{self.poses} poses, {len(building.rooms)} rooms.\n\n"
            "| | s | peak MB | submaps | frames | floor m² | cut | cut of k-d | whole | of k-d |\n"
            "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|"
        )
        for name, with_depth in (("poses alone", False), ("with depth", True)):
            scene = building.scene(poses_n44, with_depth)
            began = time.perf_counter()
            place = read_place(scene)
            plan = make_plan(place, config, "building", {})
            with TemporaryDirectory() as folder:
                write_plan(Path(folder) / "building.plan", plan)
            seconds = time.perf_counter() - began
            peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
            seen_n2 = np.array([_seen(frame) for frame in scene.frames("train")])
            used_n2 = seen_n2[[int(name.removeprefix("frame-")) for name in place.names]]
            row = _row(place, plan, building, used_n2)
            print(f"| {name} | {seconds:.1f} | {peak_mb:.0f} | {row} |", flush=True)
        if self.picture:
            draw_plan(plan, place, self.picture)


def _seen(frame: Frame) -> np.ndarray:
    """Return the horizontal centre (2,) of what a frame sees, m."""
    T_map_cam = frame.known_pose()
    return T_map_cam[:2, 3] + _AHEAD_M * T_map_cam[:2, 2]


def _row(place: Place, plan: SubmapPlan, building: Building, seen_n2: np.ndarray) -> str:
    """Return the figures of a plan as cells of a table."""
    own = {name: k for k, submap in enumerate(plan.submaps) for name in submap.own}
    part_n = np.array([own[name] for name in place.names])
    baseline_n = median_split(seen_n2, len(plan.submaps))
    sizes, areas = np.bincount(part_n), [submap.area_m2 for submap in plan.submaps]
    cuts = [cut_fraction(place.covisible_nn, labels_n) for labels_n in (part_n, baseline_n)]
    whole = [_whole(place.positions_n3, l_n, building.rooms) for l_n in (part_n, baseline_n)]
    return " | ".join(
        [
            f"{len(sizes)}",
            f"{sizes.min()} to {sizes.max()}",
            f"{min(areas):.0f} to {max(areas):.0f}",
        ]
        + [f"{value:.3f}" for value in (*cuts, *whole)]
    )


def median_split(position_n2: np.ndarray, parts: int) -> np.ndarray:
    """Return the leaf (n,) of each position in a k-d tree with a number of leaves."""
    leaf_n = np.zeros(len(position_n2), int)
    waiting = [(np.arange(len(position_n2)), parts)]
    while waiting:
        members, parts = waiting.pop()
        if parts > 1:
            at_k2 = position_n2[members]
            ordered = members[at_k2[:, np.ptp(at_k2, axis=0).argmax()].argsort(kind="stable")]
            first, others = np.split(ordered, [len(members) * (parts // 2) // parts])
            leaf_n[first] = leaf_n.max() + 1
            waiting += [(first, parts // 2), (others, parts - parts // 2)]
    return leaf_n


def _whole(position_n3: np.ndarray, part_n: np.ndarray, rooms: Sequence[Rectangle]) -> float:
    """Return the mean fraction of the frames of a room that are in one part."""
    fractions = []
    for x0, y0, x1, y1 in rooms:
        x, y = position_n3[:, 0], position_n3[:, 1]
        inside = part_n[(x > x0) & (x < x1) & (y > y0) & (y < y1)]
        fractions.append(np.bincount(inside).max() / len(inside))
    return float(np.mean(fractions))


if __name__ == "__main__":
    with one_line_errors():
        tyro.cli(Bench).run()
