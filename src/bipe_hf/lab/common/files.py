"""Files that hold JSON, and files that are written as a whole."""

import json
import os
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


def write_whole(path: Path, text: str) -> None:
    """Writes a file as a whole or not at all, whenever the process is killed and whoever else writes it."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
