"""A mapping of settings, as YAML or JSON has it, read into the data class that says what is accepted."""

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any, TypeVar

from ...model.errors_bipe import InputError, did_you_mean


Kind = TypeVar("Kind")

_TYPE_NAMES = {
    list[int]: "a list of whole numbers such as [128, 256]",
    list[float]: "a list of numbers such as [0, 0.5]",
    int: "a whole number",
    int | None: "a whole number",
    str: "text",
    str | None: "text",
    float: "a number",
    float | None: "a number",
}


def read_mapping(name: str, kind: type[Kind], content: Mapping[str, Any]) -> Kind:
    """The data class of that mapping.

    Args:
        name: of the mapping, for what is said of it.
        kind: a data class whose fields have one of the types that are named in this module.
        content: values by field.

    Raises:
        ValueError: a key that is no field, a value of another type, or a field without default that is missing.
    """
    known = {field.name: field for field in fields(kind)}
    for key, value in content.items():
        if key not in known:
            raise InputError(f"{name}: unknown key {key!r}{did_you_mean(str(key), known)}")
        if not _has_type(value, known[key].type):
            raise InputError(f"{name}, {key}: {value!r} given, {_TYPE_NAMES[known[key].type]} is accepted")
    for key, field in known.items():
        if field.default is MISSING and field.default_factory is MISSING and key not in content:
            raise InputError(f"{name}: {key} is missing")
    return kind(**content)


def _has_type(value: Any, expected: Any) -> bool:
    if expected == list[int]:
        return isinstance(value, list) and bool(value) and all(type(each) is int for each in value)
    if expected == list[float]:
        return isinstance(value, list) and bool(value) and all(type(each) in (int, float) for each in value)
    if expected in (float, float | None):
        return type(value) in (int, float) or (expected is not float and value is None)
    return isinstance(value, expected) and not isinstance(value, bool)
