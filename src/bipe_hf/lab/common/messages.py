"""What the program says about bad input."""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from huggingface_hub.errors import StrictDataclassError

from ...model.errors_bipe import InputError


INSTALL = "in a clone of bipe-hf: pip install '.[{extra}]'"
"""How to get an extra of pyproject.toml. The package is on no index yet; once it is, only this line changes."""


def install_hint(extra: str) -> str:
    """What to do where a library of `extra`, a group of optional requirements in pyproject.toml, is missing."""
    return INSTALL.format(extra=extra)


def first_line(error: Exception) -> str:
    """The first line of the message of an error."""
    return str(error).strip().split("\n", 1)[0]


# How transformers, and what it stands on, refuse a name, a file or a value that they were given.
REFUSALS = (OSError, ValueError, StrictDataclassError)


@contextmanager
def as_input_error(what: str, *others: type[Exception]) -> Iterator[None]:
    """Turns a refusal of a library into one line, `what` and the reason in brackets.

    For a call of a library with what a user gave, and nothing else: any error of these kinds passes for bad input.

    Args:
        what: could not be done with what was given.
        others: kinds of errors beside `REFUSALS` by which that library refuses.

    Raises:
        InputError: the library refuses.
    """
    try:
        yield
    except (*REFUSALS, *others) as error:
        raise InputError(f"{what} ({first_line(error.__cause__ or error)})") from error


def check_counts(settings: dict[str, Any], keys: Iterable[str]) -> None:
    """Raises `InputError` for values below 1.

    Args:
        settings: values by key.
        keys: those that are looked at; None is passed over.
    """
    for key in keys:
        if settings[key] is not None and settings[key] < 1:
            raise InputError(f"{key}: {settings[key]} given, at least 1 is needed")


def parsed_json(name: str, value: Any) -> Any:
    """A list or mapping that came as a flag, in JSON; any other value as it is.

    Args:
        name: of the flag, for the message.
        value: as it came.

    Raises:
        InputError: it begins like JSON and is none.
    """
    if not isinstance(value, str) or not value.startswith(("[", "{")):
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError as error:
        raise InputError(f"{name}: {value!r} is not valid JSON ({error})") from error
