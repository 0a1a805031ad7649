"""Files of results: written as a whole or not at all, read with a check of who wrote them."""

import datetime
import json
import platform
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from ...model.errors_bipe import InputError, InputExistsError, InputNotFoundError
from ...model.travel_bipe import write_whole
from .extras import is_installed
from .files import user_path
from .messages import install_hint


def write_results(path: Path, file_format: str, content: Any, tables: Callable[[], str]) -> None:
    """Writes a dataclass as JSON and its tables beside it (suffix `.md`), each replaced as a whole or not at all.

    Without tabulate, which `tables` needs, there are no tables, and those of earlier results are removed.

    Args:
        path: of the JSON file.
        file_format: that the file names.
        content: the dataclass.
        tables: makes the text of the tables.
    """
    text = json.dumps({"format": file_format, **asdict(content)}, indent=2, allow_nan=False)
    write_whole(path, f"{text}\n")
    beside = path.with_suffix(".md")
    if is_installed("tabulate"):
        write_whole(beside, tables())
    else:
        beside.unlink(missing_ok=True)


def read_results(path: str | Path, file_format: str, kind: type, row: type, command: str = "evaluate") -> Any:
    """The dataclass that `write_results` wrote.

    Args:
        path: of the JSON file.
        file_format: that it must name.
        kind: the dataclass.
        row: dataclass of each entry of its `results`.
        command: that writes such files, for messages.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds anything else.
    """
    content = _read(path)
    if _format(content) != file_format:
        raise InputError(
            f'{path} was not written by `bipe-hf {command}`, or not for this: its "format" is not "{file_format}"'
        )
    try:
        del content["format"]
        content["results"] = [row(**fields) for fields in content["results"]]
        return kind(**content)
    except (TypeError, KeyError) as error:
        raise InputError(f"{path} does not hold what `bipe-hf {command}` writes ({error})") from error


def results_format(path: str | Path) -> str | None:
    """The format of a file of results, None where it names none; raises as `read_results` does without JSON."""
    return _format(_read(path))


def _format(content: Any) -> str | None:
    return content.get("format") if isinstance(content, dict) else None


def _read(path: str | Path) -> Any:
    path = user_path(path)
    if not path.is_file():
        raise InputNotFoundError(f"there is no results file {path}")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid JSON ({error})") from error


def moment() -> str:
    """The time as results record it."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def describe_environment(device: torch.device, dtype: str) -> dict[str, str]:
    """The versions and the machine, as an evaluation records them.

    Args:
        device: that is measured on.
        dtype: in which the model computes.
    """
    return {
        "python": platform.python_version(),
        **{package: version(package) for package in ("torch", "transformers", "bipe-hf")},
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "dtype": dtype,
    }


def in_words(environment: dict[str, str]) -> str:
    """What `describe_environment` found, in a line: `python 3.11.7, torch 2.13.0, ...`."""
    return ", ".join(f"{name} {value}" for name, value in environment.items())


def check_output(output: Path, overwrite: bool, resume: bool, beside: Sequence[str] = (".md",)) -> None:
    """Checks that results may be written to a file, and says if tables cannot.

    Args:
        output: `.json` file.
        overwrite: it may be there, and is replaced.
        resume: it may be there, and is completed.
        beside: suffixes of the files that belong to it. Without it, files of their names are somebody else's.

    Raises:
        ValueError: another suffix, both of `overwrite` and `resume`, or a folder in which nothing can be written.
        FileExistsError: a file is there that must not be replaced.
    """
    if output.suffix != ".json":
        raise InputError(f"output: {output} must end in .json (the tables go beside it, ending in .md)")
    if overwrite and resume:
        raise InputError("overwrite and resume exclude each other")
    if output.exists() and not overwrite and not resume:
        raise InputExistsError(f"output: {output} exists (--overwrite replaces it, --resume completes it)")
    for file in map(output.with_suffix, beside):
        if file.exists() and not overwrite and not output.exists():
            raise InputExistsError(
                f"output: {file} exists without {output.name}, so it is not known what it belongs to (--overwrite"
                " replaces it)"
            )
    check_writable(output.parent)
    if not is_installed("tabulate"):
        print(
            f"{output.with_suffix('.md')} is not written: tables need tabulate, which is not installed;"
            f" {install_hint('lab')}",
            file=sys.stderr,
        )


def check_writable(folder: Path) -> None:
    """Raises `ValueError` unless `folder` is there, or can be made, and files can be written in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise InputError(f"output: nothing can be written in {folder} ({error.strerror})") from error
