"""Settings of students as people write them, on a command line or in a configuration file."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from distill_training.common.renamed_options import refuse_renamed
from distill_training.students import FAMILIES
from mote_localization.errors import MoteError

Settings = dict[str, str | int | float | None]  # what JSON knows


def student_settings(family: str, given: Mapping[str, object]) -> Settings:
    """Return the settings of a student, checked against what its family takes.

    Args:
        family: Name of the family.
        given: Values by name; text becomes what the setting is of, where it can.

    Returns:
        What `create_student` takes, without what the family has of itself.

    Raises:
        MoteError: There is no such family or setting, or a value is not of the setting's type.
    """
    if family not in FAMILIES:
        raise MoteError(f"found student '{family}', expected one of {', '.join(FAMILIES)}")
    refuse_renamed(given)
    config = FAMILIES[family][1]
    kinds = {field.name: field.type for field in fields(config)}
    try:
        if unknown := sorted(given.keys() - kinds.keys()):
            raise MoteError(f"it has no setting '{unknown[0]}'")
        made, own = config(**{k: _from_text(v, kinds[k]) for k, v in given.items()}), config()
    except MoteError as error:
        takes = " ".join(f"{name}={_told(kind)}" for name, kind in kinds.items())
        raise MoteError(f"student {family}: {error}; it takes {takes}") from error
    chosen = {k: getattr(made, k) for k in sorted(given) if getattr(made, k) != getattr(own, k)}
    return {k: str(v) if isinstance(v, Path) else v for k, v in chosen.items()}


def split_settings(texts: Sequence[str]) -> dict[str, str]:
    """Return what texts of the form NAME=VALUE say, by name.

    Raises:
        MoteError: One is of another form, or a name is there twice.
    """
    settings: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        name = name.replace("-", "_")
        if not (name and equals and value) or name in settings:
            raise MoteError(f"found '{text}', expected NAME=VALUE, each name once")
        settings[name] = value
    return settings


def _from_text(value: object, kind: Any) -> object:
    """Return what a text says, of a field's type; what says nothing of it, and no text, stays."""
    if not isinstance(value, str):
        return value
    if get_origin(kind) is Literal:
        return next((choice for choice in get_args(kind) if str(choice) == value), value)
    for one in get_args(kind) or (kind,):
        if one in (int, float):
            with suppress(ValueError):
                return one(value)
    return value


def _told(kind: Any) -> str:
    """Return what a field takes, in a word."""
    if get_origin(kind) is Literal:
        return "|".join(map(str, get_args(kind)))
    words = {int: "N", float: "X", Path: "FILE", str: "TEXT"}
    kinds = [one for one in get_args(kind) or (kind,) if one is not NoneType]
    return "|".join(words.get(one, str(one)) for one in kinds)
