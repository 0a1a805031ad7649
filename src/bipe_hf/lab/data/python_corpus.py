"""The text that every Python installation holds: its documentation (prose) and its standard library (code)."""

import os
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from ...model.errors_bipe import InputNotFoundError


# Left out: what is not Python's own, tests, generated tables, and files that say how and where this Python was built
# (they differ between machines). Files under 200 bytes are stubs.
_SKIPPED_FOLDERS = {
    "__pycache__",
    "dist-packages",
    "encodings",
    "idle_test",
    "pydoc_data",
    "site-packages",
    "test",
    "tests",
}
_SKIPPED_FILES = {"html/entities.py", "stringprep.py"}
_SKIPPED_PREFIXES = ("_sysconfigdata", "config-")
_SMALLEST_FILE = 200


def python_installation() -> dict[str, str]:
    """Where this Python keeps its standard library, and its version: arguments of [`read_python`].

    Raises:
        FileNotFoundError: there is no documentation or there are no sources in it.
    """
    stdlib = Path(sysconfig.get_path("stdlib"))
    try:
        import pydoc_data.topics  # noqa: F401
    except ImportError as error:
        raise InputNotFoundError("this Python comes without pydoc_data; name another source of text") from error
    if not (stdlib / "os.py").is_file():
        raise InputNotFoundError(f"this Python keeps no .py files in {stdlib}; name another source of text")
    return {"stdlib": str(stdlib), "python": sys.version}


def read_python(stdlib: str, python: str, version: int) -> Iterator[dict[str, str]]:
    """Documents `{"text", "name"}` in the order of their names. The last two arguments only tell caches apart."""
    from pydoc_data.topics import topics

    for topic in sorted(topics):
        yield {"text": topics[topic], "name": f"pydoc:{topic}"}
    for name in _python_files(Path(stdlib)):
        try:
            yield {"text": Path(stdlib, name).read_text(encoding="utf-8"), "name": f"stdlib:{name}"}
        except UnicodeDecodeError:
            continue  # a few old modules are in Latin-1


def _python_files(stdlib: Path) -> list[str]:
    names = []
    for folder, subfolders, files in os.walk(stdlib):
        subfolders[:] = [
            name for name in subfolders if name not in _SKIPPED_FOLDERS and not name.startswith(_SKIPPED_PREFIXES)
        ]
        for file in files:
            path = Path(folder, file)
            name = path.relative_to(stdlib).as_posix()
            wanted = file.endswith(".py") and name not in _SKIPPED_FILES and not file.startswith(_SKIPPED_PREFIXES)
            if wanted and path.stat().st_size >= _SMALLEST_FILE:
                names.append(name)
    return sorted(names)
