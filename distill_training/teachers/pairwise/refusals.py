"""Reasons why encoded images are not aligned."""

from collections import Counter
from collections.abc import Sequence

from distill_training.poses.image_pairs import components
from distill_training.teachers.pairwise.alignment import Alignment
from distill_training.teachers.pairwise.photo import Photo
from mote_localization.errors import ReconstructionError

_NAMED = 4  # frames named in a message
_NAME_LENGTH = 20  # characters of a name in a message
_UNCONNECTED = "not connected: no other image shows the same things"
_APART = "connected with {}, but not with the other images"
_CONTRADICTED = "its known pose disagrees with the images"
_INCONSISTENT = "its pairs disagree with those of the other images"
_NO_SCALE = "taken from nearly the same spot as all overlapping images: scale unknown"


def explain_unaligned(
    photos: Sequence[Photo], images: Sequence[int], alignment: Alignment, poses_known: bool
) -> dict[str, str]:
    """Return the reason for each frame that is not aligned, by name.

    `images` are those that were encoded.
    """
    paired = {i for ends in alignment.pairs(alignment.used_e) for i in ends}
    groups = components(len(photos), alignment.pairs(alignment.consistent_e))
    group_of = {i: group for group in groups for i in group}
    reasons = {}
    for i in images:
        others = [photos[j].frame.name for j in group_of[i] if j != i]
        if alignment.aligned_i[i]:
            continue
        if i in paired:
            reason = _NO_SCALE
        elif not others:
            reason = _UNCONNECTED
        elif poses_known:
            reason = _CONTRADICTED
        elif alignment.aligned_i[group_of[i]].any():
            reason = _INCONSISTENT
        else:
            reason = _APART.format(_first_names(others))
        reasons[photos[i].frame.name] = reason
    return reasons


def check_aligned(images: int, unaligned: dict[str, str]) -> None:
    """Check that enough images are aligned.

    Args:
        images: Number of encoded images.
        unaligned: The reason for each frame that is not aligned, by name.

    Raises:
        ReconstructionError: Fewer than two images are aligned, or most of the given poses are
            wrong: the other poses are then not reliable either.
    """
    aligned = images - len(unaligned)
    wrong = sum(reason in (_CONTRADICTED, _NO_SCALE) for reason in unaligned.values())
    if aligned >= 2 and wrong <= aligned:
        return
    found = f"only {aligned} of {images}" if aligned else "no two"
    reason, count = Counter(unaligned.values()).most_common(1)[0]
    names = [name for name in unaligned if unaligned[name] == reason]
    others = f"; {len(unaligned) - count} for other reasons" if count < len(unaligned) else ""
    raise ReconstructionError(
        f"{found} images could be aligned ({_first_names(names)}: {reason}{others}); expected "
        "photographs that show the same things from several sides"
    )


def _first_names(names: Sequence[str]) -> str:
    """Return a few of the names, shortened."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(name[:_NAME_LENGTH] for name in names[:_NAMED]) + more
