"""Options that were renamed: the old spelling is an error that gives the new one.

Folders store the first names of options, so that those of earlier versions are resumed.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mote_localization.errors import MoteError

# Old name -> new name, as fields of the configuration classes.
RENAMED = {
    "fix_statistics": "freeze_batch_norm",
    "trunk_rate": "backbone_rate",
    "augment.novel": "augment.novel_view_fraction",
    "augment.novel_shift": "augment.novel_view_shift",
    "augment.novel_turn_deg": "augment.novel_view_rotation_deg",
    "pairs.reach": "pairs.max_gap",
}
# Flags and values that another flag replaces, as users write them.
_REPLACED = {
    ("--adjust-poses",): "--poses refine",
    ("--calibrated-by",): "part of every training",
    ("--calibration-from",): "part of every training",
    ("--poses", "estimate"): "--poses sfm (structure from motion) or --poses dust3r",
}
_FIRST_NAMES = {new.split(".")[-1]: old.split(".")[-1] for old, new in RENAMED.items()}


def refuse_renamed(names: Iterable[str], prefix: str = "", where: str = "") -> None:
    """Raise an error for an option under its old name.

    Args:
        names: Names as fields (`fix_statistics`).
        prefix: Characters before a name as users write it, for example `--`.
        where: Begins the message, for example with a file's name.

    Raises:
        MoteError: One of the names is an old one; the message gives the new one.
    """
    for name in names:
        if name in RENAMED:
            old, new = (f"{prefix}{one}" for one in (name, RENAMED[name]))
            if prefix == "--":
                old, new = (one.replace("_", "-") for one in (old, new))
            raise MoteError(f"{where}found {old}, which is now {new}: same meaning, same values")


def refuse_renamed_flags(arguments: Sequence[str]) -> None:
    """Raise an error for a command line flag under its old name; see `refuse_renamed`."""
    words = [word for argument in arguments for word in argument.split("=", 1)]
    for old, new in _REPLACED.items():
        if any(tuple(words[i : i + len(old)]) == old for i in range(len(words))):
            raise MoteError(f"found {' '.join(old)}, which is now {new}")
    flags = (word[2:] for word in words if word.startswith("--"))
    refuse_renamed((flag.replace("-", "_") for flag in flags), prefix="--")


def first_names(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options, nested ones too, under the names of their first release."""
    return {
        _FIRST_NAMES.get(name, name): first_names(value) if isinstance(value, Mapping) else value
        for name, value in options.items()
    }
