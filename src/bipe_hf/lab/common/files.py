"""Files that hold JSON."""

import json
from pathlib import Path

from ...model.errors_bipe import InputError, InputNotFoundError


def read_json(path: Path) -> dict:
    """The JSON object in a file."""
    if not path.is_file():
        raise InputNotFoundError(f"file not found: {path}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} must hold a JSON object, got {type(content).__name__}")
    return content
