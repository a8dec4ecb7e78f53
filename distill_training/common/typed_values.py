"""Values of settings, converted to the types of the fields of configuration classes."""

import math
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, get_args

import msgspec
from msgspec import Meta, inspect

from mote_localization.errors import MoteError

PositiveInt = Annotated[int, Meta(ge=1)]
NonNegativeInt = Annotated[int, Meta(ge=0)]
NonNegativeFloat = Annotated[float, Meta(ge=0)]
_SHOWN_LETTERS = 40
_SHOWN_BITS = 63  # longer whole numbers are not written out in messages


def convert_value(name: str, value: object, kind: Any, from_text: bool = False) -> Any:
    """Return a value as its field's type; numbers are finite.

    Args:
        name: Name of the field, for the message.
        value: The given value.
        kind: Type of the field, with constraints where it has any (`msgspec.Meta`).
        from_text: Convert text to numbers too.

    Raises:
        MoteError: The value is not of the type.
    """
    if from_text and isinstance(value, str):
        value = _from_text(value, kind)
    try:
        converted = msgspec.convert(value, kind, dec_hook=_convert_custom)
    except (msgspec.ValidationError, OverflowError):
        pass
    else:
        numbers = converted if isinstance(converted, tuple) else (converted,)
        if all(math.isfinite(x) for x in numbers if isinstance(x, float)):
            return converted
    raise MoteError(f"found {name} = {shown(value)}, expected {_expected(kind)}")


def shown(value: object) -> str:
    """Return a value for a message, at most 60 letters of it."""
    if isinstance(value, dict | list):
        return f"{'keys and values' if isinstance(value, dict) else 'a list'} ({len(value)})"
    if value is None:
        return "nothing"
    if isinstance(value, int) and value.bit_length() > _SHOWN_BITS:
        return "a long number"
    return repr(value[:_SHOWN_LETTERS] if isinstance(value, str) else value)[:60]


def metavar(kind: Any) -> str:
    """Return the values of a field's type as a help text shows them: `a|b`, `N`, `X`, `FILE`."""
    match _main_type(kind):
        case inspect.LiteralType():
            return "|".join(map(str, get_args(kind)))
        case inspect.IntType():
            return "N"
        case inspect.FloatType():
            return "X"
        case inspect.CustomType():
            return "FILE"
    return "TEXT"


def _from_text(text: str, kind: Any) -> object:
    """Return the number or choice that a text stands for; another text unchanged."""
    main = _main_type(kind)
    if isinstance(main, inspect.LiteralType):
        return next((choice for choice in get_args(kind) if str(choice) == text), text)
    for convert, numbers in ((int, inspect.IntType), (float, inspect.FloatType)):
        if isinstance(main, numbers):
            with suppress(ValueError):
                return convert(text)
    return text


def _convert_custom(kind: type, value: object) -> object:
    """Return a path for text; msgspec converts the other types of fields by itself."""
    return Path(value) if kind is Path and isinstance(value, str) else value


def _main_type(kind: Any) -> inspect.Type:
    """Return msgspec's description of a type; of `X | None`, that of X."""
    info = inspect.type_info(kind)
    types = info.types if isinstance(info, inspect.UnionType) else (info,)
    return next(one for one in types if not isinstance(one, inspect.NoneType))


def _expected(kind: Any) -> str:
    """Return the values of a type in words."""
    match _main_type(kind):
        case inspect.LiteralType():
            return " or ".join(map(str, get_args(kind)))
        case inspect.IntType(ge=least):
            return "a whole number" + ("" if least is None else f", {least:g} or more")
        case inspect.FloatType(ge=least):
            return "a number" + ("" if least is None else f", {least:g} or more")
        case inspect.TupleType(item_types=items):
            return f"{len(items)} numbers"
        case inspect.BoolType():
            return "true or false"
        case inspect.CustomType():
            return "a path"
    return "text"
