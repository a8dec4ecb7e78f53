"""Matches the frames of two sources: a file of poses and a scene, or two files.

By name where both have names, otherwise by stamp. A name may have the folder of its image and the
suffix of its file in one source and not in the other: `seq-01/frame-000007.color.png` is
`frame-000007`, unless another frame of the same source is `frame-000007` too.
"""

from collections import defaultdict

import numpy as np

from mote_localization.errors import SceneError
from mote_localization.evaluation.pose_files import FrameKeys
from mote_localization.stamps import nearest

MAX_DIFFERENCE_S = 0.02  # between stamps of the same frame
# of stamps that were not recorded: equal ones in files that Mote wrote; those of others are chance
_NOMINAL_DIFFERENCE_S = 1e-4
_ROUNDING_S = 1e-6  # of stamps since 1970 as text
_SUFFIXES = (".png", ".jpg", ".jpeg", ".ppm", ".txt", ".color", ".pose")


def match_frames(
    wanted: FrameKeys, given: FrameKeys, max_difference_s: float = MAX_DIFFERENCE_S
) -> np.ndarray:
    """Return the index in `given` of each wanted frame, int (n,); -1: it is not there.

    A given frame belongs to one wanted frame at most.

    Args:
        wanted: Frames to find.
        given: Frames among which they are looked for.
        max_difference_s: Largest difference of stamps, seconds.

    Raises:
        SceneError: One source has names only and the other has stamps only, a name fits several
            frames, or no frame of one source is in the other.
    """
    if wanted.names is not None and given.names is not None:
        return _match_names(wanted.source, wanted.names, given.source, given.names)
    if wanted.stamps_n is None or given.stamps_n is None:
        with_names, with_stamps = (wanted, given) if wanted.names else (given, wanted)
        raise SceneError(
            f"{with_names.source}: has names of images, and {with_stamps.source} has stamps: "
            "expected names in both or stamps in both"
        )
    if not (wanted.has_times and given.has_times):
        max_difference_s = min(max_difference_s, _NOMINAL_DIFFERENCE_S)
    index_n = _match_stamps(wanted.stamps_n, given.stamps_n, max_difference_s)
    if (index_n < 0).all():
        raise SceneError(
            f"{given.source}: found stamps {_span(given.stamps_n)}, none within "
            f"{max_difference_s:g} s of one of {wanted.source}, {_span(wanted.stamps_n)}; expected "
            "stamps of the same frames"
        )
    return index_n


def _span(stamps_n: np.ndarray) -> str:
    return f"{stamps_n.min():.3f} to {stamps_n.max():.3f} s"


def _match_stamps(wanted_n: np.ndarray, given_m: np.ndarray, limit_s: float) -> np.ndarray:
    """Return the index of the nearest given stamp, where each is the other's nearest."""
    given_of_n, wanted_of_m = nearest(wanted_n, given_m), nearest(given_m, wanted_n)
    mutual_n = wanted_of_m[given_of_n] == np.arange(len(wanted_n))
    close_n = np.abs(wanted_n - given_m[given_of_n]) <= limit_s + _ROUNDING_S
    return np.where(mutual_n & close_n, given_of_n, -1)


def _match_names(
    wanted_source: str, wanted: tuple[str, ...], given_source: str, given: tuple[str, ...]
) -> np.ndarray:
    find = _NameIndex(given)
    index_n = np.full(len(wanted), -1)
    wanted_of: dict[int, str] = {}
    for i, name in enumerate(wanted):
        found = find(name)
        if len(found) > 1:
            raise SceneError(
                f"{given_source}: {given[found[0]][-60:]} and {given[found[1]][-60:]} both fit the "
                f"frame {name[-60:]} of {wanted_source}; expected names with the folder in both"
            )
        if found:
            index_n[i] = found[0]
            if found[0] in wanted_of:
                raise SceneError(
                    f"{given_source}: {given[found[0]][-60:]} fits the frames "
                    f"{wanted_of[found[0]][-60:]} and {name[-60:]} of {wanted_source}; expected "
                    "names with the folder in both"
                )
            wanted_of[found[0]] = name
    if not wanted_of:
        raise SceneError(
            f"{given_source}: no name in it is that of a frame of {wanted_source}; found "
            f"{given[0][-60:]!r}, expected names as {wanted[0][-60:]!r}"
        )
    return index_n


class _NameIndex:
    """Finds names: the same one, else the same without suffix, else with more or less folders."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self._exact = {name: [i] for i, name in enumerate(names)}
        self._plain: dict[str, list[int]] = defaultdict(list)
        self._ends: dict[str, list[int]] = defaultdict(list)
        for i, name in enumerate(names):
            plain = _plain(name)
            self._plain[plain].append(i)
            for end in _ends(plain):
                self._ends[end].append(i)

    def __call__(self, name: str) -> list[int]:
        """Return the indices of the names that fit."""
        plain = _plain(name)
        same = self._exact.get(name) or self._plain.get(plain)
        if same:
            return same
        shorter = [i for end in _ends(plain) for i in self._plain.get(end, [])]
        return self._ends.get(plain, []) + shorter


def _plain(name: str) -> str:
    """Return a name without the suffixes of image and pose files."""
    name = name.replace("\\", "/").removeprefix("./")
    while suffix := next((s for s in _SUFFIXES if name.lower().endswith(s)), ""):
        name = name[: -len(suffix)]
    return name


def _ends(name: str) -> list[str]:
    """Return a name without its first folder, its first two folders, and so on."""
    parts = name.split("/")
    return ["/".join(parts[k:]) for k in range(1, len(parts))]
