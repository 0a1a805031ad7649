"""What the program says about bad input."""

import difflib
import json
from typing import Any

from ...model.errors_bipe import InputError


INSTALL = "in a clone of bipe-hf: pip install '.[{extra}]'"
"""How to get an extra of pyproject.toml. The package is on no index yet; once it is, only this line changes."""


def install_hint(extra: str) -> str:
    """What to do where a library of `extra`, a group of optional requirements in pyproject.toml, is missing."""
    return INSTALL.format(extra=extra)


def first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0]


def did_you_mean(word: str, known: Any) -> str:
    """`"; did you mean x?"` where a word of `known` is close to `word`, else nothing."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def parsed_json(value: Any) -> Any:
    """A list or mapping that came as a flag, in JSON."""
    if not isinstance(value, str) or not value.startswith(("[", "{")):
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError as error:
        raise InputError(f"{value} is not valid JSON: {error}") from error
