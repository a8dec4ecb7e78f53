"""From what the frames of a place see to the plan of its submaps."""

from collections.abc import Mapping

import numpy as np

from distill_training.submaps.partition import PartitionConfig, overlap_frames, partition
from distill_training.submaps.place import Place
from distill_training.submaps.plan_file import (
    FORMAT,
    Settings,
    Submap,
    SubmapPlan,
    neighbours_of,
    submap_id,
)

_DIGITS = 3  # of metres and square metres


def make_plan(
    place: Place, config: PartitionConfig, recording: str, options: Mapping[str, str]
) -> SubmapPlan:
    """Return the submaps of a place.

    Args:
        place: The frames and what they see.
        config: How large submaps are.
        recording: Path of the recording, as it is written to the plan.
        options: Of the recording, those that differ from their defaults.
    """
    area_n = place.area_n
    part_n = partition(place.covisible_nn, area_n, config)
    own = [np.flatnonzero(part_n == part) for part in range(int(part_n.max()) + 1)]
    others = overlap_frames(place.covisible_nn, part_n, config.overlap)
    digits = max(2, len(str(len(own))))
    names = [f"submap-{number:0{digits}d}" for number in range(1, len(own) + 1)]
    contents = dict(zip(place.names, place.contents, strict=True))
    frames = {
        name: {place.names[k] for k in (*own_k, *other_k)}
        for name, own_k, other_k in zip(names, own, others, strict=True)
    }
    submaps = []
    for name, own_k, other_k in zip(names, own, others, strict=True):
        own_names = tuple(place.names[k] for k in own_k)
        other_names = tuple(place.names[k] for k in other_k)
        positions_k3 = place.positions_n3[np.concatenate([own_k, other_k])]
        submaps.append(
            Submap(
                name,
                submap_id(own_names, other_names, contents, config.seed),
                round(float(area_n[own_k].sum()), _DIGITS),
                rounded(place.positions_n3[own_k].mean(axis=0)),
                rounded(positions_k3.min(axis=0)),
                rounded(positions_k3.max(axis=0)),
                tuple(neighbours_of(name, frames)),
                own_names,
                other_names,
            )
        )
    settings = Settings(config.frames, config.area, config.overlap)
    return SubmapPlan(
        FORMAT,
        recording,
        dict(options),
        settings,
        config.seed,
        place.left_out,
        tuple(submaps),
        contents,
    )


def rounded(position_3: np.ndarray) -> tuple[float, float, float]:
    """Return a position in metres, to the millimetre."""
    x, y, z = (round(float(v), _DIGITS) + 0.0 for v in position_3)  # no -0.0
    return x, y, z
