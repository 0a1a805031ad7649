"""Files that users name, and those that hold JSON."""

import json
import re
import unicodedata
from pathlib import Path

from ...model.errors_bipe import InputError, InputNotFoundError


def user_path(path: str | Path) -> Path:
    """The path that a user gave, on the command line, in a file of settings or in Python: `~` is the home."""
    return Path(path).expanduser()


def name_of_file(text: str, also: str = "") -> str:
    """A text as part of the name of a file: its letters, digits and marks, of any script.

    What lies between them becomes a hyphen; none is left at the ends.

    Args:
        text: any.
        also: other characters that stay.
    """
    kept = [
        each if each.isalnum() or each in also or unicodedata.category(each).startswith("M") else "-"
        for each in unicodedata.normalize("NFC", text)
    ]
    return re.sub("-+", "-", "".join(kept)).strip("-")


def read_json(path: Path) -> dict:
    """The JSON object in a file.

    Raises:
        InputNotFoundError: there is no such file.
        InputError: it holds anything else.
    """
    if not path.is_file():
        raise InputNotFoundError(f"file not found: {path}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} must hold a JSON object, got {type(content).__name__}")
    return content
