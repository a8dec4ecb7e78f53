"""Settings of students from a command line or a configuration file."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path

from distill_training.common.renamed_options import refuse_renamed
from distill_training.common.typed_values import convert_value, metavar
from distill_training.students import find_family
from mote_localization.errors import MoteError

Settings = dict[str, str | int | float | None]  # values that JSON can store


def student_settings(family: str, given: Mapping[str, object]) -> Settings:
    """Return the settings of a student for `create_student`, without the family's defaults.

    Args:
        family: Name of the family.
        given: Values by name; text is converted to the setting's type.

    Raises:
        MoteError: The family or a setting is unknown, or a value is not of the setting's type.
    """
    config = find_family(family)[1]
    refuse_renamed(given)
    kinds = {field.name: field.type for field in fields(config)}
    try:
        if unknown := sorted(given.keys() - kinds.keys()):
            raise MoteError(f"it has no setting '{unknown[0][:40]}'")
        values = {
            name: convert_value(name, value, kinds[name], from_text=True)
            if isinstance(value, str)
            else value
            for name, value in given.items()
        }
        made, default = config(**values), config()
    except MoteError as error:
        takes = " ".join(f"{name}={metavar(kind)}" for name, kind in kinds.items())
        raise MoteError(f"student {family}: {error}; it takes {takes}") from error
    changed = {
        k: getattr(made, k) for k in sorted(given) if getattr(made, k) != getattr(default, k)
    }
    return {k: str(v) if isinstance(v, Path) else v for k, v in changed.items()}


def split_settings(texts: Sequence[str]) -> dict[str, str]:
    """Return the values of texts of the form NAME=VALUE, by name.

    Raises:
        MoteError: A text has another form, or a name is given twice.
    """
    settings: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        name = name.replace("-", "_")
        if not (name and equals and value) or name in settings:
            raise MoteError(f"found '{text[:60]}', expected NAME=VALUE, each name once")
        settings[name] = value
    return settings
