"""Why photographs that can be read are not used."""

from collections.abc import Sequence

import numpy as np

from distill_training.poses.image_pairs import components
from distill_training.teachers.pairwise.alignment import Alignment
from distill_training.teachers.pairwise.photo import Photo
from mote_localization.errors import ReconstructionError

_NAMED = 8  # frames named in a message
_ALONE = "stands alone: shows nothing that is seen to be in another image, too"
_APART = "hangs together with {}, but not with the rest"
_CONTRADICTED = "its given pose disagrees with what the images show"
_OUTVOTED = "what it shows disagrees with the rest"
_NO_SCALE = "taken from nearly the same spot as all that shows the same: its distances are unknown"


def among(directed: Sequence[tuple[int, int]], which_e: np.ndarray) -> list[tuple[int, int]]:
    """Return some of the directed pairs."""
    return [ends for ends, one in zip(directed, which_e, strict=True) if one]


def why_unused(
    photos: Sequence[Photo],
    images: Sequence[int],
    directed: Sequence[tuple[int, int]],
    alignment: Alignment,
    poses_known: bool,
) -> dict[str, str]:
    """Return the frames that are not aligned, and why not."""
    paired = {i for ends in among(directed, alignment.used_e) for i in ends}
    groups = components(len(photos), among(directed, alignment.sound_e))
    group_of = {i: group for group in groups for i in group}
    reasons = {}
    for i in images:
        others = [photos[j].frame.name for j in group_of[i] if j != i]
        if alignment.aligned_i[i]:
            continue
        if i in paired:
            reason = _NO_SCALE
        elif not others:
            reason = _ALONE
        elif poses_known:
            reason = _CONTRADICTED
        elif alignment.aligned_i[group_of[i]].any():
            reason = _OUTVOTED
        else:
            reason = _APART.format(_listed(others))
        reasons[photos[i].frame.name] = reason
    return reasons


def check_aligned(images: int, unused: dict[str, str]) -> None:
    """Refuse to go on with too few images.

    Args:
        images: How many there are.
        unused: The frames that are not aligned, and why not.

    Raises:
        ReconstructionError: Fewer than two are aligned, or most of the given poses are wrong: then
            those that are not found out are no better.
    """
    aligned = images - len(unused)
    wrong = sum(reason in (_CONTRADICTED, _NO_SCALE) for reason in unused.values())
    if aligned >= 2 and wrong <= aligned:
        return
    frames: dict[str, list[str]] = {}
    for name, reason in unused.items():
        frames.setdefault(reason, []).append(name)
    share = f"only {aligned} of {images}" if aligned else "no two"
    why = "; ".join(f"{_listed(names)}: {reason}" for reason, names in frames.items())
    raise ReconstructionError(
        f"{share} images could be brought together ({why}); expected photographs that show the "
        "same things from several sides, and their own poses or none"
    )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
