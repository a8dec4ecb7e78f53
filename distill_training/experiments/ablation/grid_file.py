"""Reads the YAML file of an ablation: size, depth and values are limited before they are used."""

from pathlib import Path
from typing import Any

import yaml

from distill_training.common.renamed_options import refuse_renamed
from distill_training.common.typed_values import shown
from mote_localization.errors import MoteError
from mote_localization.input_files import check_yaml, read_input

_MAX_BYTES = 256 << 10
_MAX_TEXT = 4096
_MAX_INT_BITS = 63
BUDGETS = ("epochs", "steps", "minutes")  # keys of which a layer of settings has one at most

Value = str | int | float | bool | None | list  # lists: pairs of numbers


def read_yaml(path: Path) -> object:
    """Return the content of a YAML file, which consists of plain values.

    Raises:
        MoteError: The file cannot be read, is too large, or is not plain YAML.
    """
    try:
        text = read_input(path, _MAX_BYTES)
    except OSError as error:
        raise MoteError(f"{path}: cannot be read ({error.strerror})") from error
    try:
        check_yaml(text)
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, AttributeError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error) or type(error).__name__
        first_line = str(problem).splitlines()[0][:100]
        raise MoteError(f"{path}{line}: is not valid YAML ({first_line})") from error


def as_mapping(value: object, where: str) -> dict[str, Any]:
    """Return a value that is a mapping with text as keys.

    Raises:
        MoteError: It is something else; the message begins with `where`.
    """
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise MoteError(f"{where}: found {shown(value)}, expected keys and values")
    return value


def as_settings(value: object, where: str) -> dict[str, Value]:
    """Return a mapping of settings, with underscores for hyphens in the keys.

    Raises:
        MoteError: It is something else, or gives more than one budget.
    """
    settings = {key.replace("-", "_"): v for key, v in as_mapping(value, where).items()}
    refuse_renamed(settings, where=f"{where}: ")
    for key, setting in settings.items():
        _check_plain(setting, f"{where}: {key[:40]}")
    budgets = [key for key in BUDGETS if key in settings]
    if len(budgets) > 1:
        raise MoteError(f"{where}: found {' and '.join(budgets)}, expected one of them")
    return settings


def _check_plain(value: object, where: str, depth: int = 2) -> None:
    """Check that a value is a short text, a number, or a list of them."""
    if isinstance(value, list) and depth:
        if not value:
            raise MoteError(f"{where}: found an empty list, expected one value or more")
        for item in value:
            _check_plain(item, where, depth - 1)
    elif (isinstance(value, str) and len(value) > _MAX_TEXT) or (
        isinstance(value, int) and value.bit_length() > _MAX_INT_BITS
    ):
        raise MoteError(f"{where}: found a value that is too long, expected a short one")
    elif not isinstance(value, str | int | float | None):
        raise MoteError(
            f"{where}: found {shown(value)}, expected text, a number, or a list of them"
        )
